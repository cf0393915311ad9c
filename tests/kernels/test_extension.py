"""How the compiled kernels are found, chosen, and told what they share with their plain-PyTorch twins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from microdreamer.kernels import adam, extension
from scripts.write_kernel_constants import CONSTANTS, HEADER, camel_case, header

ROOT = Path(__file__).resolve().parents[2]
needs_kernels = pytest.mark.skipif(not extension.load(), reason="the extension is not built")


def test_the_header_of_constants_is_what_the_twins_say(monkeypatch):
    hint = "run python scripts/write_kernel_constants.py, and build again"
    assert HEADER.read_text() == header(), hint
    monkeypatch.setattr(adam, "MAX_TENSORS", 17)
    assert "constexpr int kMaxTensors = 17;" in header()


def test_constants_have_one_home():
    """No C++ file gives a value of its own to a name that the header of constants gives one in the same namespace."""
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu") and path != HEADER]
    texts = {path: path.read_text() for path in sources}
    for namespace, (_, names) in CONSTANTS.items():
        for name in (camel_case(name) for name, _ in names):
            users = [path for path, text in texts.items() if name in text and f"namespace {namespace} {{" in text]
            assert users, f"{namespace}::{name} is used nowhere"
            assert not [path for path in users if f" {name} = " in texts[path]]


def test_the_file_for_a_processor(tmp_path):
    assert extension.built_file(tmp_path, "AVX2") is None
    baseline = tmp_path / "_C.abi3.so"
    for name in ("_C.abi3.so", "_C.abi3.so.tmp", "_C.pyi", "_Core.so"):
        (tmp_path / name).touch()
    assert {extension.built_file(tmp_path, name) for name in ("DEFAULT", "AVX2", "AVX512", "SVE256")} == {baseline}
    wide = tmp_path / "_C_avx2.abi3.so"
    wide.touch()
    assert [extension.built_file(tmp_path, name) for name in ("DEFAULT", "AVX2", "AVX512", "SVE256")] == [baseline, wide, wide, baseline]


def run_python(code: str, **variables: str) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WHICH = """
import torch
from microdreamer.kernels import extension
extension.load()
print(*(path.rpartition("/")[2] for path in torch.ops.loaded_libraries if "microdreamer" in path))
"""


@needs_kernels
def test_the_capability_that_pytorch_is_held_to_holds_for_the_kernels():
    if not (built := sorted((ROOT / "microdreamer" / "kernels").glob("_C_avx2.*"))):
        pytest.skip("one file for this very processor was built")
    assert run_python(WHICH, ATEN_CPU_CAPABILITY="default").startswith("_C.")
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        assert run_python(WHICH, ATEN_CPU_CAPABILITY="avx2") == built[0].name


SMALL_RUN = """
import torch
from microdreamer.kernels.gaussian_raster import rasterize_gaussians
draw = torch.Generator().manual_seed(0)
means, scales = torch.randn(200, 3, generator=draw) * 0.4, torch.rand(200, 3, generator=draw) * 0.1 + 0.02
rotations = torch.nn.functional.normalize(torch.randn(200, 4, generator=draw), dim=-1)
opacities, weights = torch.rand(200, generator=draw), torch.randn(3, 48, 48, generator=draw)
camera = torch.eye(4)[None].clone()
camera[0, 2, 3] = 3
found = []
for compiled in (True, False):
    leaves = [part.clone().requires_grad_() for part in (means, scales, rotations, opacities)]
    seen = rasterize_gaussians(*leaves, colors=leaves[0].sigmoid(), world_to_camera=camera, intrinsics=torch.tensor([[60.0, 60, 24, 24]]),
                               width=48, height=48, background=torch.ones(3), compiled=compiled)
    gradients = torch.autograd.grad((seen.image * weights).sum() + seen.depth.sum() + seen.alpha.square().sum(), leaves)
    found.append([seen.image.detach(), *gradients])
print(max(float((a - b).norm() / b.norm()) for a, b in zip(*found)))
"""


@needs_kernels
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_each_file_and_each_width_of_vectors_agrees_with_the_twin(capability):
    """Pictures and gradients, with PyTorch held to a processor's instructions: 8 floats at a time, or 16 with AVX-512."""
    if capability == "avx512" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("this processor has no AVX-512")
    assert float(run_python(SMALL_RUN, ATEN_CPU_CAPABILITY=capability)) < 1e-4


SUM_OF_TENSORS = """
import ctypes, torch
from microdreamer.kernels import extension
fields = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
class Information(ctypes.Structure):
    _fields_ = fields
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Information
extension.load()
before = torch.empty(8 << 20, dtype=torch.uint8)  # 8 MiB
mapped = [mallinfo2().hblkhd >= 8 << 20]
assert extension.keep_freed_memory()
after = torch.empty(8 << 20, dtype=torch.uint8)
print(mapped[0], mallinfo2().hblkhd < 16 << 20)
"""


@needs_kernels
@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_memory_is_kept_from_when_a_program_asks_for_it():
    """A block of 8 MiB is mapped from the system, as glibc does by default, until `keep_freed_memory` is called."""
    assert run_python(SUM_OF_TENSORS) == "True True"


def test_a_choice_that_cannot_be_had_says_so(monkeypatch):
    monkeypatch.setattr(extension, "available", lambda device: False)
    with pytest.raises(RuntimeError, match="compiled=True but there is no compiled cpu kernel; build it with"):
        extension.use_compiled("cpu", asked=True)
    monkeypatch.setenv("USE_CUDA_GAUSS", "1")
    with pytest.raises(RuntimeError, match="USE_CUDA_GAUSS=1 but there is no compiled cuda kernel"):
        extension.use_compiled("cuda", "USE_CUDA_GAUSS")
    monkeypatch.setenv("USE_CUDA_GAUSS", "yes")
    with pytest.raises(ValueError, match=r"USE_CUDA_GAUSS=yes: expected 0 .* 1 .* or unset"):
        extension.use_compiled("cpu", "USE_CUDA_GAUSS")
    monkeypatch.delenv("USE_CUDA_GAUSS")
    assert not extension.use_compiled("cpu", "USE_CUDA_GAUSS")
    assert not extension.use_compiled("cpu", asked=False)


LOADING_AT_ONCE = """
import threading
from microdreamer.kernels import extension
barrier, results = threading.Barrier(8), []
def work():
    barrier.wait()
    from microdreamer.kernels.tokens import layer_norm
    import torch
    x = torch.ones(1, 2, 4)
    results.append(float(layer_norm(x, x[0, 0], x[0, 0]).sum()))
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(results)
"""


@needs_kernels
def test_loading_from_several_threads_at_once():
    assert run_python(LOADING_AT_ONCE) == str([8.0] * 8)


@needs_kernels
def test_a_library_older_than_the_sources_is_told():
    with pytest.raises(RuntimeError, match="older than these sources, they lack flatten_the_earth; build it with"):
        extension.register("flatten_the_earth", fake=lambda x: x)
    assert extension.load()  # what came with the library still works
