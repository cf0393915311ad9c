"""The second stage on Gaussians of the user's own: any file, anywhere, however large, upright, with or without what floats."""

import math

import numpy as np
import pytest
import torch
from second_stage import FILES, faults, made, run

from microdreamer.gaussians.captures import turn_to_y
from microdreamer.gaussians.model import GaussianModel
from microdreamer.gaussians.rotation import turned
from microdreamer.gaussians.splat_files import read_splats
from microdreamer.meshes.files import read_mesh
from microdreamer.pipeline.config import Config
from microdreamer.pipeline.subject import UNMOVED, framed_gaussians


@pytest.mark.parametrize("words", [["--from-splats", "{ply}"], ["--from-ply", "{ply}"], ["--from-ply={ply}"], ["load={ply}"]])
def test_any_ply_of_gaussians_becomes_a_mesh(tmp_path, ply, no_prior, words):
    assert run(tmp_path, *(word.format(ply=ply) for word in words), name=None) == 0
    assert made(tmp_path) == {name.replace("a_refined", "thing_refined") for name in FILES}
    mesh = read_mesh(tmp_path / "thing_refined.glb")
    assert faults(tmp_path / "thing_refined.glb") == []
    np.testing.assert_allclose(np.abs(mesh.vertices).max(0), [0.35, 0.25, 0.55], atol=0.1)


def test_gaussians_far_off_and_large_become_the_same_mesh_there(tmp_path, ply, truth, no_prior):
    parameters = {
        name: getattr(truth, name).detach() for name in ("means", "sh_dc", "sh_rest", "log_scales", "quaternions", "opacity_logits")
    }
    parameters["means"] = 20 * parameters["means"] + torch.tensor([300.0, -50.0, 7.0])
    parameters["log_scales"] = parameters["log_scales"] + math.log(20)
    GaussianModel(parameters).save_ply(tmp_path / "far.ply")
    assert run(tmp_path, "--from-ply", str(ply), "train_geo=true") == 0
    assert run(tmp_path, "--from-ply", str(tmp_path / "far.ply"), "train_geo=true", name="far") == 0
    near, far = read_mesh(tmp_path / "a_refined.glb"), read_mesh(tmp_path / "far_refined.glb")
    expected = [side * 20 + [300, -50, 7] for side in (near.vertices.min(0), near.vertices.max(0))]
    np.testing.assert_allclose([far.vertices.min(0), far.vertices.max(0)], expected, atol=0.7)
    assert far.texture[far.texture.min(-1) < 1].mean() == pytest.approx(near.texture[near.texture.min(-1) < 1].mean(), abs=0.03)


@pytest.mark.parametrize("format", ["splat", "spz", "glb"])
def test_other_files_of_gaussians_become_the_same_mesh(tmp_path, ply, truth, no_prior, format):
    truth.save(tmp_path / f"thing.{format}", format)
    assert run(tmp_path, "--from-splats", str(ply)) == 0
    assert run(tmp_path, "--from-splats", str(tmp_path / f"thing.{format}"), name="other") == 0
    one, other = (read_mesh(tmp_path / f"{name}_refined.glb") for name in ("a", "other"))
    np.testing.assert_allclose(other.vertices.max(0), one.vertices.max(0), atol=0.03)
    assert other.texture[other.texture.min(-1) < 1].mean() == pytest.approx(one.texture[one.texture.min(-1) < 1].mean(), abs=0.03)


def test_a_capture_that_lies_on_its_side_is_written_upright_in_its_place(tmp_path, truth, no_prior, caplog):
    """Z-up, of scale 7, off-centre, with floaters: the object of `truth` turned about the file's origin, and nothing else."""
    standing = truth.arrays()
    lying = turned(standing, turn_to_y("z").T)
    lying["means"] = 7 * lying["means"] + np.float32([3, 30, -20])
    lying["log_scales"] = lying["log_scales"] + np.float32(math.log(7))
    far = {name: values[:12].copy() for name, values in lying.items()}
    far["means"] += np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32) * 40
    GaussianModel.from_arrays({name: np.concatenate([lying[name], far[name]]) for name in lying}).save_ply(tmp_path / "scan.ply")
    assert run(tmp_path, "--from-splats", str(tmp_path / "scan.ply"), "up=z") == 0
    assert "12 of 312 Gaussians are faint, huge or apart" in caplog.text
    mesh = read_mesh(tmp_path / "a_refined.glb")
    center = turn_to_y("z") @ [3, 30, -20]
    np.testing.assert_allclose(np.abs(mesh.vertices - center).max(0) / 7, [0.35, 0.25, 0.55], atol=0.1)


def test_clean_false_keeps_what_floats(tmp_path, truth, no_prior):
    parameters = truth.arrays()
    apart = {name: values[:1] for name, values in parameters.items()} | {"means": np.float32([[9, 0, 0]])}
    GaussianModel.from_arrays({name: np.concatenate([parameters[name], apart[name]]) for name in parameters}).save_ply(tmp_path / "a.ply")
    model, frame = framed(tmp_path / "a.ply")
    assert len(model) == len(truth) and frame is UNMOVED
    assert len(framed(tmp_path / "a.ply", clean=False)[0]) == len(truth) + 1


def framed(path, **keys):
    parameters, up, _ = read_splats(path)
    return framed_gaussians(parameters, up, Config(**keys), torch.device("cpu"))
