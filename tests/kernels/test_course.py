"""The course's steps of the density grid agree with its twin, and each of its mistakes is found by the check that the course names."""

import re
from pathlib import Path

import pytest
import torch
from conftest import DEVICES

from benchmarks.extract_fields import object_like_gaussians
from microdreamer.kernels import course, extension
from microdreamer.kernels.course import MISTAKES, STEPS, extract_fields, extract_fields_reference

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not extension.load(), reason="the compiled kernels are not built")
GRID = (9, 3, 1.5)  # 729 points: not whole blocks of 256, nor whole tiles of 4x8x8


def wide_set(device):
    """More Gaussians than are fetched at a time, wide for a coarse grid; the first reaches no point of it."""
    means, covs, opacities = object_like_gaussians(600, device)
    means[0] = 5.0
    return means, 20 * covs, opacities


def off_by(variant, arguments, grid):
    expected = extract_fields_reference(*(part.double() for part in arguments), *grid)
    return float((extract_fields(*arguments, *grid, variant) - expected).abs().max()) / max(1.0, float(expected.max()))


def opcheck(variant, device):
    torch.library.opcheck(torch.ops.microdreamer.course_extract_fields.default, (*wide_set(device), *GRID, variant))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", STEPS)
@pytest.mark.parametrize("grid", [GRID, (32, 16, 1.5), (20, 4, 0.5), (2, 1, 1.5)])
def test_every_step_matches_the_twin(variant, grid, device):
    assert off_by(variant, wide_set(device), grid) < 1e-5
    few = object_like_gaussians(40, device)
    assert off_by(variant, few, grid) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", STEPS[1:])
def test_prepared_steps_take_flat_and_indefinite_covariances(variant, device):
    """They go the library's way there; brute force inverts in float32, which is why it is not the library's."""
    covs = torch.tensor([[0.01, 0, 0, 0.01, 0, 0], [0.01, 0, 0, -0.02, 0, 0.03], [0.01, 0.02, 0, 0.01, 0, 0.01]], device=device)
    means, opacities = torch.zeros(3, 3, device=device), torch.ones(3, device=device)
    assert off_by(variant, (means, covs, opacities), (32, 4, 1.5)) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", STEPS)
def test_steps_take_no_gaussians(variant, device):
    none = torch.zeros(0, device=device)
    assert extract_fields(none.reshape(0, 3), none.reshape(0, 6), none, 8, 4, variant=variant).abs().max() == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", STEPS)
def test_steps_are_what_their_schema_says(variant, device):
    opcheck(variant, device)
    arguments = wide_set(device)
    assert torch.equal(*(extract_fields(*arguments, *GRID, variant) for _ in range(2)))


# ---- Mistakes: each is found by one check and passes another ----


@pytest.mark.parametrize("device", DEVICES)
def test_the_wrong_grid_passes_opcheck_and_is_found_by_the_twin(device):
    opcheck("wrong_grid", device)
    assert off_by("wrong_grid", wide_set(device), GRID) > 0.01


@pytest.mark.parametrize("device", DEVICES)
def test_writing_into_the_input_passes_the_twin_and_is_found_by_opcheck(device):
    assert off_by("wrong_input", wide_set(device), GRID) < 1e-5
    with pytest.raises(Exception, match="mutated"):
        opcheck("wrong_input", device)
    opacities = wide_set(device)[2]
    extract_fields(*wide_set(device)[:2], opacities, *GRID, "wrong_input")
    assert opacities[0] == 0 and opacities[1:].min() > 0


def test_the_missing_barrier_is_found_by_the_twin_on_the_cpu():
    """There a warp always runs ahead of the next; on a GPU it may go well for years, and compute-sanitizer's racecheck tells."""
    opcheck("wrong_barrier", "cpu")
    assert off_by("wrong_barrier", wide_set("cpu"), GRID) > 0.01
    first = [part[:30] for part in wide_set("cpu")]  # a single warp fetches all of them; the others still read too early
    assert off_by("wrong_barrier", first, GRID) < 1e-5


def test_the_missing_bound_is_an_error_on_the_cpu():
    with pytest.raises(IndexError, match="wrong_bound: invalid write: thread 217 of block 2 writes voxel 729 of a field of 729"):
        extract_fields(*wide_set("cpu"), *GRID, "wrong_bound")
    assert off_by("wrong_bound", wide_set("cpu"), (32, 16, 1.5)) < 1e-5  # whole blocks: nobody notices


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or not extension.available("cuda"), reason="needs CUDA kernels and a GPU")
def test_the_missing_bound_stays_within_its_own_memory_on_a_gpu():
    assert off_by("wrong_bound", wide_set("cuda"), GRID) < 1e-5  # no test of values sees it: compute-sanitizer's memcheck does
    with pytest.raises(ValueError, match="would write into memory of others at this resolution; take 9"):
        extract_fields(*wide_set("cuda"), 7, 7, 1.5, "wrong_bound")  # 343 floats, three pieces of 128, and two blocks of 256


# ---- What it stands beside ----


def test_bad_arguments_are_told():
    arguments = wide_set("cpu")
    with pytest.raises(ValueError, match=r"variant: expected one of brute_force, prepared, shared, culled, .*, got tiled"):
        extract_fields(*arguments, *GRID, "tiled")
    with pytest.raises(ValueError, match="num_blocks: expected a divisor of the resolution 9, got 2"):
        extract_fields(*arguments, 9, 2)
    arguments[1][3, 0] = float("nan")
    with pytest.raises(ValueError, match="covs: expected finite values"):
        extract_fields(*arguments, *GRID)


def test_without_kernels_it_says_how_to_build_them(monkeypatch):
    monkeypatch.setattr(extension, "available", lambda _: False)
    with pytest.raises(RuntimeError, match="the course's steps are compiled ones and there is no cpu kernel; build it with"):
        extract_fields(*wide_set("cpu"), *GRID)


def test_the_op_has_a_kernel_for_each_device_and_knows_every_variant():
    text = (ROOT / "csrc" / "course" / "ops.cpp").read_text()
    assert {name: text.count(f'm.impl("{name}"') for name in re.findall(r'"(course_\w+)\(', text)} == {"course_extract_fields": 2}
    assert set(re.findall(r'\{"(\w+)", Variant', text)) == {*STEPS, *MISTAKES}


def test_nothing_of_the_library_uses_the_course():
    """Wrong kernels are for the course alone."""
    own = ROOT / "microdreamer" / "kernels" / "course.py"
    users = [
        path
        for path in (ROOT / "microdreamer").rglob("*.py")
        if path != own and re.search(r"kernels(\.| import .*)course\b", path.read_text())
    ]
    assert users == [] and course.__name__ == "microdreamer.kernels.course"
    assert "course_extract_fields" not in "".join(path.read_text() for path in (ROOT / "microdreamer").rglob("*.py") if path != own)
