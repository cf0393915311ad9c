"""Builds csrc/ into microdreamer/kernels: CPU kernels where there is a C++ compiler, CUDA kernels where nvcc and a CUDA PyTorch are.

What is built runs on any processor of the architecture: on x86-64 there are two files, `_C` and `_C_avx2` for processors with AVX2 and
FMA, of which microdreamer/kernels/extension.py loads the right one. A wheel has weights/ and configs/ inside the package.

Environment: USE_CUDA=0/1 skips or demands the CUDA part, TORCH_CUDA_ARCH_LIST names the GPU architectures (default: this machine's),
NATIVE=1 builds one file for this very processor, DEBUG=1 builds with -g -O0, KERNELS=0 builds nothing.
"""

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
OBJECTS = Path("build", "kernels")  # of all ways to install, so that a second one compiles nothing again
DATA = ("weights", "configs")
ON_WINDOWS = sys.platform == "win32"
AVX2_FLAGS = ["/arch:AVX2"] if ON_WINDOWS else ["-mavx2", "-mfma", "-mf16c"]  # what PyTorch asks of a processor that it calls AVX2

# An isolated build does not see this environment's packages, but the kernels must fit the PyTorch that is to load them; and ninja
# may be in an environment that is not activated (another ninja than last time would compile everything again).
sys.path += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])


def say(message: str) -> None:
    print(f"microdreamer kernels: {message}", file=sys.stderr, flush=True)


class BuildPackage(build_py):
    """The package with the folders of `DATA` inside, without what an earlier build left behind."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        for folder in DATA:
            shutil.copytree(ROOT / folder, Path(self.build_lib, "microdreamer", folder))


def host_flags() -> list[str]:
    optimised = ["-O0", "-g"] if os.environ.get("DEBUG") == "1" else ["-O3", "-g0"]  # Python may ask for -g
    flags = ["/std:c++20", "/O2"] if ON_WINDOWS else ["-std=c++20", *optimised, "-fno-math-errno"]
    # Without it at::parallel_for runs on one thread. PyTorch has loaded its OpenMP runtime already, so none is linked.
    return flags + (["-fopenmp"] if sys.platform == "linux" else ["/openmp"] if ON_WINDOWS else [])


def op_sources() -> list[str]:
    """As many files as processors, each of which includes its share of the ops: half of an op's compiling is PyTorch's headers."""
    ops = [path.removeprefix("csrc/") for path in (*sources_in("csrc", ".cpp"), *sources_in("csrc/course", "ops.cpp"))]
    count = min(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1), len(ops))
    (ROOT / OBJECTS).mkdir(parents=True, exist_ok=True)
    sources = []
    for index in range(count):
        source, text = OBJECTS / f"ops_{index + 1}_of_{count}.cpp", "".join(f'#include "{name}"\n' for name in ops[index::count])
        if not (ROOT / source).exists() or (ROOT / source).read_text() != text:
            (ROOT / source).write_text(text)
        sources.append(source.as_posix())
    return sources


def sources_in(folder: str, suffix: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob(f"*{suffix}"))


def extension_arguments() -> dict:
    """Keyword arguments for setup() that build the extension, or none where nothing can be built."""
    if os.environ.get("KERNELS") == "0":
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    except ImportError:
        say("not built: PyTorch is not visible to the build; install torch first, then `pip install --no-build-isolation -e .`")
        return {}
    if not shutil.which(os.environ.get("CXX", "c++")) and not ON_WINDOWS:
        say("not built: no C++ compiler found (install g++ or set CXX); the plain-PyTorch versions will run, slower")
        return {}

    wanted = os.environ.get("USE_CUDA", "")
    has_cuda = torch.version.cuda is not None and CUDA_HOME is not None
    if wanted == "1" and not has_cuda:
        why = "this PyTorch is a CPU build" if torch.version.cuda is None else "nvcc was not found (set CUDA_HOME)"
        raise SystemExit(f"USE_CUDA=1 but {why}")
    with_cuda = has_cuda and wanted != "0"
    if with_cuda:
        if torch.cuda.is_available() and "TORCH_CUDA_ARCH_LIST" not in os.environ:
            major, minor = torch.cuda.get_device_capability()
            os.environ["TORCH_CUDA_ARCH_LIST"] = f"{major}.{minor}"
        say(f"building for CPU and CUDA {torch.version.cuda}")
    else:
        reason = "USE_CUDA=0" if wanted == "0" else "a CPU build of PyTorch" if torch.version.cuda is None else "no nvcc"
        say(f"building for CPU only ({reason})")

    shared = op_sources() + ([*sources_in("csrc/cuda", ".cu"), *sources_in("csrc/course", ".cu")] if with_cuda else [])
    if os.environ.get("NATIVE") == "1" and not ON_WINDOWS:
        variants = {"_C": ["-march=native"]}
    elif platform.machine() in ("x86_64", "AMD64"):
        variants = {"_C": [], "_C_avx2": AVX2_FLAGS}
    else:
        variants = {"_C": []}

    class BuildKernels(BuildExtension):
        """The variants one after the other: each compiles csrc/cpu with its own flags, the first one what they share."""

        def run(self) -> None:
            if self.inplace:
                for path in (ROOT / "microdreamer" / "kernels").glob("_C*"):
                    path.unlink()
            super().run()

        def build_extension(self, ext) -> None:
            name = ext.name.rpartition(".")[2]
            self.build_temp = str(OBJECTS / name)
            if name != "_C":
                ext.extra_objects = self.compiler.object_filenames(shared, output_dir=str(OBJECTS / "_C"))
            super().build_extension(ext)

    def extension(name: str, flags: list[str]):
        return (CUDAExtension if with_cuda else CppExtension)(
            f"microdreamer.kernels.{name}",
            [*sources_in("csrc/cpu", ".cpp"), *sources_in("csrc/course", "cpu.cpp")] + (shared if name == "_C" else []),
            include_dirs=[str(ROOT / "csrc")],
            define_macros=[("MD_WITH_CUDA", None)] if with_cuda else [],
            extra_compile_args={"cxx": host_flags() + flags, "nvcc": ["-std=c++20", "-O3", "--expt-relaxed-constexpr"]},
            py_limited_api=True,  # nothing of Python is used: one file, and one wheel, for all its versions
        )

    return {
        "ext_modules": [extension(name, flags) for name, flags in variants.items()],
        "cmdclass": {"build_ext": BuildKernels.with_options(use_ninja=shutil.which("ninja") is not None)},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


arguments = extension_arguments()
setup(**{**arguments, "cmdclass": {**arguments.get("cmdclass", {}), "build_py": BuildPackage}})
