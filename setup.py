"""Builds csrc/ into microdreamer/kernels/_C: CPU kernels where there is a C++ compiler, CUDA kernels where nvcc and a CUDA PyTorch are.

Environment: USE_CUDA=0/1 skips or demands the CUDA part, TORCH_CUDA_ARCH_LIST names the architectures (default: this machine's),
PORTABLE=1 leaves out -march=native, DEBUG=1 builds with -g -O0.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def say(message: str) -> None:
    print(f"microdreamer kernels: {message}", file=sys.stderr, flush=True)


def extension_arguments() -> dict:
    """Keyword arguments for setup() that build the extension, or none where nothing can be built."""
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    except ImportError:
        say("not built: PyTorch is not visible to the build; install torch first, then `pip install --no-build-isolation -e .`")
        return {}
    if not shutil.which(os.environ.get("CXX", "c++")) and sys.platform != "win32":
        say("not built: no C++ compiler found (install g++ or set CXX); the plain-PyTorch versions will run, slower")
        return {}

    wanted = os.environ.get("USE_CUDA", "")
    has_cuda = torch.version.cuda is not None and CUDA_HOME is not None
    if wanted == "1" and not has_cuda:
        why = "this PyTorch is a CPU build" if torch.version.cuda is None else "nvcc was not found (set CUDA_HOME)"
        raise SystemExit(f"USE_CUDA=1 but {why}")
    with_cuda = has_cuda and wanted != "0"

    debug = os.environ.get("DEBUG") == "1"
    native = os.environ.get("PORTABLE") != "1" and sys.platform != "win32"
    host_flags = ["/std:c++20", "/O2"] if sys.platform == "win32" else ["-std=c++20", "-O0" if debug else "-O3", "-fno-math-errno"]
    host_flags += ["-g"] if debug else []
    host_flags += ["-march=native"] if native else []
    # Without it at::parallel_for runs on one thread. PyTorch has loaded its OpenMP runtime already, so none is linked.
    host_flags += ["-fopenmp"] if sys.platform == "linux" else ["/openmp"] if sys.platform == "win32" else []
    sources = sorted(str(path.relative_to(ROOT)) for folder in ("csrc", "csrc/cpu") for path in (ROOT / folder).glob("*.cpp"))
    include_dirs = [str(ROOT / "csrc")]
    if with_cuda:
        if torch.cuda.is_available() and "TORCH_CUDA_ARCH_LIST" not in os.environ:
            major, minor = torch.cuda.get_device_capability()
            os.environ["TORCH_CUDA_ARCH_LIST"] = f"{major}.{minor}"
        sources += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc/cuda").glob("*.cu"))
        extension = CUDAExtension(
            "microdreamer.kernels._C",
            sources,
            include_dirs=include_dirs,
            define_macros=[("MD_WITH_CUDA", None)],
            extra_compile_args={"cxx": host_flags, "nvcc": ["-std=c++20", "-O3", "--expt-relaxed-constexpr"]},
        )
        say(f"building for CPU and CUDA {torch.version.cuda}")
    else:
        extension = CppExtension("microdreamer.kernels._C", sources, include_dirs=include_dirs, extra_compile_args=host_flags)
        reason = "USE_CUDA=0" if wanted == "0" else "a CPU build of PyTorch" if torch.version.cuda is None else "no nvcc"
        say(f"building for CPU only ({reason})")
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=shutil.which("ninja") is not None)}}


setup(**extension_arguments())
