"""Every configuration key reaches its piece: from the command line to what a run does and leaves, on a prior that knows the object.

`TABLE`, of tests/recipe_bench.py, has a row for each key: what is seen where the key has another value. A key without a row fails.
"""

import dataclasses
import math

import pytest
import recipe_results  # noqa: F401 - both fill the table
import recipe_rounds  # noqa: F401
import torch
from recipe_bench import SECOND, SMALL, STILL, TABLE, film, make_bench, sheet_tile

from cam_utils import turntable
from microdreamer.gaussians.model import PARAMETERS, GaussianModel
from microdreamer.kernels.spherical_harmonics import color_to_sh
from microdreamer.meshes.model import MeshModel
from microdreamer.pipeline import commands
from microdreamer.pipeline import config as configuration


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return make_bench(tmp_path_factory.mktemp("recipe"))


def all_keys(schema: type, prefix: str = "") -> set[str]:
    found = set()
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(field.default_factory):
            found |= all_keys(field.default_factory, f"{prefix}{field.name}.")
        else:
            found.add(prefix + field.name)
    return found


def test_every_key_has_a_row():
    assert set(TABLE) == all_keys(configuration.Config)


@pytest.mark.parametrize("key", sorted(all_keys(configuration.Config)))
def test_a_key_reaches_its_piece(bench, key):
    TABLE[key](bench)


# ---- Steps of the recipe that no key names ----


def test_what_is_faint_oversized_or_floats_is_gone_in_the_end(bench):
    """Three Gaussians that do not belong to the object, each for a reason of its own, beside it; nothing learns."""
    parameters = {name: torch.cat([getattr(bench.truth, name), getattr(bench.truth, name)[:3]]).clone() for name in PARAMETERS}
    faint, long, floater = -3, -2, -1
    parameters["log_scales"] = torch.full_like(parameters["log_scales"], math.log(0.03))
    parameters["means"][-3:] = torch.tensor([[0.0, 0.7, 0.0], [0.0, -0.7, 0.0], [0.0, 0.75, 0.0]])
    parameters["opacity_logits"][faint] = -6.0
    parameters["log_scales"][long, 1] = math.log(0.15)
    parameters["sh_dc"][floater] = color_to_sh(torch.tensor(1.1))
    path = bench.folder / "with_debris.ply"
    GaussianModel(parameters).save_ply(path)
    left = bench.first(f"load={path}", *STILL).gaussians
    expected = {tuple(position) for position in bench.truth.means.tolist()}
    assert {tuple(position) for position in left.means.tolist()} == expected


@pytest.mark.parametrize("switch", ["USE_CUDA_GAUSS", "USE_CUDA_EXTRACT"])
@pytest.mark.parametrize("stage", [1, 2])
def test_a_kernel_that_is_asked_for_and_not_there_is_one_line(bench, monkeypatch, switch, stage):
    from microdreamer.kernels import extension

    monkeypatch.setenv(switch, "1")
    monkeypatch.setattr(extension, "available", lambda _: False)
    short = ("total_steps=1", "denoise_steps=1", "init_steps=1", "num_pts=60", "ref_size=16", "mesh_resolution=16", "video_size=16")
    program, words = (commands.make, short) if stage == 1 else (commands.refine, (*SECOND, bench.cube()))
    folder = bench.folder / f"no_kernel_{switch}_{stage}"
    run = bench._run(program, (f"outdir={folder}", "save_path=a", *SMALL, "prompt=an egg", *words), folder, "a")
    assert run.code == 2 and run.said.count("\n") == 1 and f"{switch}=1 but there is no compiled cpu kernel" in run.said
    assert not run.prior.seen and not folder.exists()


def test_stage_2_is_shown_from_the_pictures_elevation(bench):
    run = bench.second(bench.cube(), "prompt=a box", "elevation=-35", "video_frames=2", "video_size=64", "iters_refine=0")
    model = MeshModel(run.mesh)
    with torch.no_grad():
        right, level = (model.render(turntable(8, elevation=height, width=64, height=64)).image[0] for height in (-35.0, 0.0))
    for shown in (sheet_tile(run, "_views.png", 0, 64), film(run.path(".mp4"))[0]):
        errors = [float((shown - picture).abs().mean()) for picture in (right, level)]
        assert errors[0] < 0.01 and errors[1] > 3 * errors[0]
