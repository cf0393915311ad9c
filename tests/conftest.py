"""Shared fixtures: the devices to test on, and golden files, which a checkout may not have."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

# Test processes beside each other (`pytest -n 2`) share the processors out, and what they start inherits that: threads that wait for
# each other's processors take several times as long. Before PyTorch, which reads it once.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))))

import numpy as np
import pytest
import torch

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else ["cpu"]

# They assert what tests would.
pytest.register_assert_rewrite("launch_bench", "launch_rows_learnt", "launch_rows_seen")
pytest.register_assert_rewrite("recipe_bench", "recipe_results", "recipe_rounds", "second_stage")

# Golden tensors and the CC0 objects are not part of the repository; they lie beside it where they exist.
SHARED = Path(os.environ.get("MD_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def _shared_file(folder: str) -> Callable[[str], Path]:
    def find(name: str) -> Path:
        path = SHARED / folder / name
        if not path.exists():
            pytest.skip(f"{folder}/{name} is not on this machine (set MD_SHARED to the folder that holds it)")
        return path

    return find


@pytest.fixture(scope="session")
def parity() -> Callable[[str], Path]:
    """`parity("kernels/knn.npz")` -> the golden file, or skips the test where there is none."""
    return _shared_file("parity")


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("objects/val.npz")` -> a file of the evaluation data, or skips the test where there is none."""
    return _shared_file("data")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_checkpoint("mvdream")` -> a folder in the published layout with a miniature of that prior: random weights, 64x64 pixels."""
    from microdreamer.guidance.published.random_weights import write_checkpoint

    @functools.cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        write_checkpoint(name, folder, tiny=True)
        return folder

    return make


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test draw from the legacy generator


def relative_l2(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """|actual - expected| / |expected|, in float64."""
    actual, expected = actual.double().cpu(), expected.double().cpu()
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-30))


def assert_gradients_repeat(gradients: Callable[[], tuple[torch.Tensor, ...]]) -> None:
    """That gradients are the same bits again, on one thread too, where deterministic ones are asked for, and close to the fast ones."""
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    try:
        first = gradients()
        torch.set_num_threads(1)
        second = gradients()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for exact, fast in zip(first, gradients(), strict=True):
        assert relative_l2(fast, exact) < 1e-5
