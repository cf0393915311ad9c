"""How many kernels there are, on which devices, and which of them have a twin in plain PyTorch: as the sources say, and the README."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from microdreamer.kernels import extension

ROOT = Path(__file__).resolve().parents[2]
CPU_ONLY = {
    *("place_masks", "is_closed_manifold", "simplify_closed_mesh"),  # packing and collapse, which go step by step
    *("modulated_norm", "gated_add", "squared_relu", "normed_heads"),  # on a GPU a small network is captured as a whole
}
WITHOUT_TWIN = {"mesh_simplify.py"}  # the package fast_simplification takes its place
TWINS = {"adam.py": r"super\(\)\.step\(\)"}  # PyTorch's own; elsewhere it is called *_reference


def ops() -> tuple[set[str], dict[str, set[str]]]:
    """The ops that take tensors, as csrc declares them; and by device those that have a kernel."""
    declared, kernels = set(), {"CPU": set(), "CUDA": set()}
    for path in sorted((ROOT / "csrc").glob("ops*.cpp")):
        text = path.read_text(encoding="utf-8")
        declared |= {name for name, given in re.findall(r'm\.def\(\s*"(\w+)\((.*?)->', text, re.DOTALL) if "Tensor" in given}
        for device, found in kernels.items():
            for block in re.findall(rf"TORCH_LIBRARY_IMPL\(microdreamer, {device}, m\) \{{(.*?)\}}\s*$", text, re.DOTALL | re.MULTILINE):
                found |= set(re.findall(r'm\.impl\(\s*"(\w+)"', block))
    return declared, kernels


def test_every_op_has_a_kernel_for_each_device():
    declared, kernels = ops()
    assert declared == kernels["CPU"] and declared - kernels["CUDA"] == CPU_ONLY


def test_every_module_of_kernels_has_its_twins():
    """Each forward op is called in one module, beside a function of plain PyTorch."""
    forward = {name for name in ops()[0] if not name.endswith("_bwd")}
    homes = {}
    for path in sorted((ROOT / "microdreamer" / "kernels").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        called = set(re.findall(r"torch\.ops\.microdreamer\.(\w+)\(", text)) & forward
        homes |= {name: path.name for name in called}
        if called and path.name not in WITHOUT_TWIN:
            assert re.search(TWINS.get(path.name, r"def \w+_reference\b"), text), f"{path.name}: no twin"
    assert set(homes) == forward


@pytest.mark.skipif(not extension.load(), reason="the extension is not built")
def test_a_derivative_of_a_backward_pass_is_there_or_refused():
    """Else PyTorch takes the gradient for a constant and only warns."""
    for path in (ROOT / "microdreamer" / "kernels").glob("*.py"):
        importlib.import_module(f"microdreamer.kernels.{path.stem}")
    extension.load()
    backward = sorted(name for name in ops()[0] if name.endswith("_bwd"))
    found = {name: torch._C._dispatch_has_kernel_for_dispatch_key(f"microdreamer::{name}", "Autograd") for name in backward}
    assert backward and all(found.values()), found


def test_the_readme_counts_them():
    declared, kernels = ops()
    backward = {name for name in declared if name.endswith("_bwd")}
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.search(r"(\d+) operations for the CPU, (\d+) of them backward passes, (\d+) of them for CUDA too", text)
    assert found and [int(count) for count in found.groups()] == [len(declared), len(backward), len(kernels["CUDA"])]
