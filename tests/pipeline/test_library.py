"""The library calls: quiet, stoppable, from any thread, and without a change of what they were given."""

import copy
import json
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_priors import OraclePrior, coloured_ellipsoid
from PIL import Image

import microdreamer
from cam_utils import orbit_cameras
from microdreamer import Config, Stopped, UserError
from microdreamer.meshes.files import read_mesh

SMALL = {
    "total_steps": 2,
    "denoise_steps": 4,
    "init_steps": 10,
    "steps_min": 4,
    "steps_max": 4,
    "num_pts": 200,
    "video_frames": 0,
    "video_size": 32,
    "mesh_resolution": 32,
    "texture_size": 64,
    "refine_size": 32,
    "refine_steps": 2,
    "geometry_steps": 2,
    "iters_refine": 1,
}


@pytest.fixture
def prior():
    return OraclePrior(coloured_ellipsoid(), 32)


def front(prior: OraclePrior) -> np.ndarray:
    """The object's front as straight RGBA, uint8 [48,48,4]."""
    shown = prior.truth.render(orbit_cameras(0, 0, width=48, height=48), torch.zeros(3))
    rgba = torch.cat([shown.image / shown.alpha.clamp_min(1e-3), shown.alpha], dim=1)[0].clamp(0, 1)
    return (rgba * 255).byte().permute(1, 2, 0).numpy()


def test_a_result_is_made_saved_and_refined_without_a_word(prior, tmp_path, capsys):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    config = microdreamer.load_config(None, [f"{key}={value}" for key, value in SMALL.items()])
    before = copy.deepcopy(config)
    result = microdreamer.reconstruct(front(prior), "an egg", config, prior=prior)
    assert config == before and result.complete and result.record["prior_evaluations"] == prior.evaluations > 0
    refined = microdreamer.refine(result, prior=prior)
    assert not list(tmp_path.iterdir())  # nothing is written before it is asked for
    assert result.save(tmp_path, "egg") == tmp_path / "egg" and refined.save(tmp_path, "egg") == tmp_path / "egg_refined"
    coarse, fine = (read_mesh(tmp_path / f"egg_{kind}.glb") for kind in ("model", "refined"))
    assert len(coarse.faces) == len(fine.faces) == len(result.mesh.faces)
    assert json.loads((tmp_path / "egg.json").read_text())["input_view_psnr_db"] == result.record["input_view_psnr_db"] > 12
    assert capsys.readouterr() == ("", "")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_files_and_objects_are_refined_alike(prior, tmp_path):
    """Whatever form a mesh or Gaussians are handed over in: the object, or the path of its file."""
    config = {**SMALL, "iters_refine": 0, "prompt": "an egg"}
    result = microdreamer.reconstruct(front(prior), config={**SMALL, "total_steps": 1}, prior=prior)
    result.save(tmp_path, "egg")
    for form in (tmp_path / "egg_model.glb", str(tmp_path / "egg_model.obj"), result.mesh):
        refined = microdreamer.refine(form, config=config, prior=prior)
        assert refined.gaussians is None and refined.mesh.has_texture
    for form in (tmp_path / "egg_model.ply", result.gaussians):
        refined = microdreamer.refine(form, config=config, prior=prior)
        assert len(refined.gaussians) == len(result.gaussians) and refined.mesh.has_texture


def test_pictures_in_every_form_are_the_same_picture(prior, tmp_path):
    array = front(prior)
    Image.fromarray(array).save(tmp_path / "egg_rgba.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1) / 255
    forms = [tmp_path / "egg_rgba.png", str(tmp_path / "egg_rgba.png"), Image.fromarray(array), array, array / 255.0, tensor]
    found = [microdreamer.reconstruct(form, config={**SMALL, "total_steps": 1}, prior=prior).gaussians.means for form in forms]
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_runs_in_threads_are_those_of_a_run_alone(prior):
    """Two at once, with one prior between them, and the counts of each its own."""
    alone = [microdreamer.reconstruct(prompt="an egg", config={**SMALL, "seed": seed}, prior=prior) for seed in (0, 1)]
    together: dict[int, microdreamer.Result] = {}

    def work(seed: int) -> None:
        together[seed] = microdreamer.reconstruct(prompt="an egg", config={**SMALL, "seed": seed}, prior=prior)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (0, 1):
        assert torch.equal(together[seed].gaussians.means, alone[seed].gaussians.means)
        assert together[seed].record["prior_evaluations"] == alone[seed].record["prior_evaluations"]


def test_progress_is_told_in_order_and_shows_the_object(prior):
    seen: list[microdreamer.Update] = []
    microdreamer.reconstruct(prompt="an egg", config=SMALL, prior=prior, on_progress=seen.append)
    assert [update.phase for update in seen if update.finished] == ["load", "prior", "fit", "mesh"]
    steps = [update for update in seen if not update.finished]
    assert {update.phase for update in steps} == {"prior", "fit"} and steps[-1].fraction == pytest.approx(1)
    assert all(0 <= update.fraction <= 1 and update.seconds_left >= 0 for update in steps)
    assert steps[-1].preview().shape == (1, 3, 256, 256)


def test_a_stopped_run_returns_what_it_has_or_says_that_there_is_nothing(prior):
    calls = []
    result = microdreamer.reconstruct(prompt="an egg", config=SMALL, prior=prior, should_stop=lambda: calls.append(1) or len(calls) > 12)
    assert not result.complete and result.record["complete"] is False and 0 < result.record["optimiser_steps"] < 14
    with pytest.raises(Stopped):
        microdreamer.reconstruct(prompt="an egg", config=SMALL, prior=prior, should_stop=lambda: True)
    with pytest.raises(Stopped):
        microdreamer.refine(result, prior=prior, should_stop=lambda: True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "nothing to make"),
        ({"picture": "none.png"}, "none.png"),
        ({"picture": np.zeros((4, 4), np.uint8)}, r"expected an array \[H,W,3\]"),
        ({"prompt": "a", "config": {"inptu": 3}}, "nearest valid key is 'input'"),
        ({"prompt": "a", "config": "none.yaml"}, "no such configuration file"),
    ],
)
def test_what_cannot_be_used_is_one_line(prior, words, message):
    with pytest.raises(UserError, match=message) as caught:
        microdreamer.reconstruct(prior=prior, **words)
    assert "\n" not in str(caught.value)


def test_gaussians_become_a_mesh_where_they_stand(prior, tmp_path):
    moved = coloured_ellipsoid()
    with torch.no_grad():
        moved.means.mul_(5).add_(torch.tensor([10.0, 0.0, -3.0]))
        moved.log_scales.add_(torch.tensor(5.0).log())
    config = {"mesh_resolution": 32, "texture_size": 64}
    mesh = microdreamer.mesh_from_gaussians(moved, config)
    moved.save_ply(tmp_path / "egg.ply")
    assert np.array_equal(microdreamer.mesh_from_gaussians(tmp_path / "egg.ply", config).vertices, mesh.vertices)
    np.testing.assert_allclose(mesh.vertices.mean(0), [10, 0, -3], atol=0.3)


@pytest.mark.parametrize("kind", [str, Path])
def test_files_of_either_kind_are_refined_and_name_their_results(prior, tmp_path, kind):
    prior.truth.save_ply(tmp_path / "egg.ply")
    refined = microdreamer.refine(kind(tmp_path / "egg.ply"), config=SMALL)
    assert refined.config.load == str(tmp_path / "egg.ply") and len(refined.gaussians) == len(prior.truth)
    assert refined.save(tmp_path) == tmp_path / "egg_refined"
    again = microdreamer.refine(kind(tmp_path / "egg_refined.glb"), prompt="an egg", config=SMALL | {"iters_refine": 0}, prior=prior)
    assert again.config.mesh and again.gaussians is None and len(again.mesh.faces) == len(refined.mesh.faces)
    assert np.abs(again.mesh.texture - refined.mesh.texture).max() < 0.01


def test_unwrap_has_the_shape_of_xatlas():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    vmapping, indices, uvs = microdreamer.unwrap(vertices, faces)
    assert (vmapping.dtype, indices.dtype, uvs.dtype) == (np.uint32, np.uint32, np.float32)
    assert np.array_equal(vmapping[indices], faces) and uvs.shape == (len(vmapping), 2) and 0 <= uvs.min() <= uvs.max() <= 1
    sides = [np.linalg.norm(uvs[face] - uvs[np.roll(face, 1)], axis=1) for face in indices]
    np.testing.assert_allclose(np.sort(sides[0]) / sides[0].min(), [1, 1, 2**0.5], rtol=1e-4)  # right angles stay right


def test_the_front_door_names_all_that_it_opens():
    assert isinstance(Config(), microdreamer.Config) and set(microdreamer.__all__) == set(dir(microdreamer))
    assert all(getattr(microdreamer, name) is not None for name in microdreamer.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        microdreamer.nothing  # noqa: B018
