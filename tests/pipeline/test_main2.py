"""The second stage, with a prior that knows the object: files, record, repeatability, Ctrl-C, wrong input."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image
from second_stage import EXACT, FILES, faults, made, quads, record, run, striped
from splat_scenes import ball, changed, columns, ply_bytes

from microdreamer.meshes.files import read_mesh, write_glb, write_obj
from microdreamer.meshes.mesh import Mesh
from microdreamer.pipeline import commands, refinement

# ---- The mesh of stage 1 ----


@pytest.mark.parametrize("geometry", [True, False])
def test_stage_2_follows_stage_1(out, picture, prior, geometry):
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run(out, f"input={picture}", "iters_refine=2", f"train_geo={geometry}") == 0
    assert made(out) == FILES
    assert {name: (out / name).read_bytes() for name in before} == before
    coarse = read_mesh(out / "a_model.glb")
    for suffix in ("obj", "glb"):
        assert faults(out / f"a_refined.{suffix}") == []
        refined = read_mesh(out / f"a_refined.{suffix}")
        assert refined.texture.shape == (128, 128, 3) and len(refined.faces) == len(coarse.faces)
        assert not np.array_equal(refined.texture, coarse.texture)
        moved = np.abs(np.sort(refined.vertices, axis=0) - np.sort(coarse.vertices, axis=0)).max()
        assert (moved > 1e-4) == geometry
    found = record(out)
    assert found["complete"] is True and found["faces"] == len(coarse.faces) and found["texture_size"] == 128
    assert found["vertices"] == len(read_mesh(out / "a_refined.obj").vertices)
    assert found["prior_evaluations"] == prior.evaluations == 2  # of the 5 levels one is left; two rounds
    assert found["input_view_psnr_db"] > 14
    assert set(found["seconds"]) == {"load", "mesh", "refine", "write", "video"}
    assert found["config"]["input"] == str(picture) and found["seed"] == 0
    assert Image.open(out / "a_refined_views.png").size == (4 * 32 + 12, 2 * 32 + 4)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(stage_1, tmp_path, picture, prior):
    for folder, seed in (("one", 5), ("two", 5), ("three", 6)):
        (tmp_path / folder).mkdir()
        for name in ("a_model.glb", "a_model.ply"):
            os.link(stage_1 / name, tmp_path / folder / name)
        assert run(tmp_path / folder, f"input={picture}", "train_geo=true", f"seed={seed}") == 0
    for name in EXACT:
        one, two, three = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two", "three"))
        assert one == two, name
        assert one != three or name.endswith(".mtl"), name


def test_a_run_is_repeated_from_its_own_record(out, picture, prior, tmp_path):
    assert run(out, f"input={picture}", "seed=3") == 0
    first = (out / "a_refined.glb").read_bytes()
    (tmp_path / "again.yaml").write_text(json.dumps(record(out)["config"]))  # JSON is YAML
    assert commands.refine(["--quiet", f"--config={tmp_path / 'again.yaml'}"]) == 0
    assert (out / "a_refined.glb").read_bytes() == first


@pytest.mark.parametrize("missing", [("a_model.glb",), ("a_model.obj", "a_model.mtl", "a_model_albedo.png"), ("a_model.ply",)])
def test_one_mesh_file_of_stage_1_is_enough(out, picture, prior, missing):
    for name in missing:
        (out / name).unlink()
    assert run(out, f"input={picture}", "mesh_format=glb") == 0
    assert made(out) == FILES - {"a_refined.obj", "a_refined.mtl", "a_refined_albedo.png"}


def test_an_untextured_mesh_of_stage_1_is_unwrapped(out, picture, prior):
    mesh = read_mesh(out / "a_model.glb")
    write_glb(Mesh(mesh.vertices, mesh.faces), out / "a_model.glb")
    assert run(out, f"input={picture}", "iters_refine=0") == 0
    assert record(out)["input_view_psnr_db"] > 14 and faults(out / "a_refined.glb") == []


def test_gaussians_alone_are_enough_to_go_by(out, no_prior):
    assert run(out, "train_geo=true") == 0
    assert made(out) == FILES and record(out)["prior_evaluations"] == 0 and record(out)["input_view_psnr_db"] is None


# ---- Ctrl-C ----


def test_ctrl_c_leaves_an_earlier_result_as_it_was(out, picture, prior, capsys):
    assert run(out, f"input={picture}") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    predict, seen = prior.predict_noise, prior.evaluations
    prior.predict_noise = lambda *arguments: (signal.raise_signal(signal.SIGINT), predict(*arguments))[1]
    handler = signal.getsignal(signal.SIGINT)
    capsys.readouterr()
    assert run(out, f"input={picture}", "seed=1", "refine_strength=0") == 130
    assert prior.evaluations == seen + 1  # of five: it stops between two steps of the sampler too
    assert "nothing was written" in capsys.readouterr().err and signal.getsignal(signal.SIGINT) is handler
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_ctrl_c_twice_ends_at_once(out, picture, prior):
    def press(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    prior.predict_noise = press
    assert run(out, f"input={picture}") == 130 and not made(out)


# ---- Wrong input ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prompt=a"], "there is no mesh of that name; run main.py first"),
        (["--from-mesh"], "--from-mesh: expected a file"),
        (["--from-ply="], "--from-ply: expected a file"),
        (["--from-splats"], "--from-splats: expected a file"),
        (
            ["--from-splats", "{faint}"],
            "faint.ply: expected Gaussians of an opacity of at least 0.01; the largest is 0.00091; the 3D filter",
        ),
        (["--from-splats", "{cube}", "up=w"], "up=w: expected one of auto, x, -x, y, -y, z, -z"),
        (["--from-mesh", "none.glb", "prompt=a"], "none.glb: no such file"),
        (["--from-mesh", "{cube}"], "nothing to refine the mesh by"),
        (["--from-ply", "none.ply"], "none.ply: no such file"),
        (["--from-ply", "{cube}"], "cube.obj"),
        (["--from-ply", "a.ply", "--from-mesh", "{cube}"], "pass one of them"),
        (["--from-mesh", "{cube}", "prompt=a", "refine_views=6"], "refine_views=6: the micro prior takes a multiple of 4 views"),
        (["--from-mesh", "{cube}", "prompt=a", "refine_strength=1"], "refine_strength=1: leaves none of 5 denoising steps; lower it"),
        (["--from-mesh", "{cube}", "prompt=a", "refine_strength=1.5"], "expected a number from 0 to 1"),
        (["--from-mesh", "{cube}", "prompt=a", "device=tpu"], "device=tpu"),
        (["--from-mesh", "{cube}", "prompt=a", "save_path=../a"], "expected a plain name"),
        (["--from-mesh", "{cube}", "prompt=a", "input=none.png"], "none.png: no such file"),
    ],
)
def test_wrong_words_are_one_line_exit_code_2_and_no_file(tmp_path, prior, capsys, words, message):
    cube, faint = quads(tmp_path / "cube.obj"), tmp_path / "faint.ply"
    faint.write_bytes(ply_bytes(columns(changed(ball(), opacity_logits=np.full(1500, -7.0))) | {"filter_3D": np.zeros(1500)}))
    assert run(tmp_path / "out", *(word.format(cube=cube, faint=faint) for word in words)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("main2.py: ") and message in said
    assert not (tmp_path / "out").exists() and prior.evaluations == 0


def test_what_is_wrong_is_found_before_the_mesh_is_made(tmp_path, prior, ply, monkeypatch, capsys):
    monkeypatch.setattr(refinement, "load_subject", lambda *_: pytest.fail("the long part began"))
    for word in ("refine_views=6", "refine_strength=1"):
        assert run(tmp_path, f"load={ply}", "prompt=a", word) == 2
    monkeypatch.setenv("USE_CUDA_GAUSS", "2")
    assert run(tmp_path, f"load={ply}", "prompt=a") == 2
    assert "USE_CUDA_GAUSS=2" in capsys.readouterr().err


def bad_mesh(folder, name):
    """Paths of meshes that cannot be refined."""
    path = folder / name
    if name == "empty.obj":
        path.touch()
    elif name == "no faces.obj":
        path.write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\n")
    elif name == "nan.obj":
        quads(path, extra="v nan 0 0\nf 1 2 9\n")
    elif name == "infinite.obj":
        quads(path, extra="v 1e39 0 0\nf 1 2 9\n")
    elif name == "no such corner.obj":
        quads(path, extra="f 1 2 10\n")
    elif name == "a point.obj":
        path.write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    elif name == "folded faces.obj":
        path.write_text("v 0 0 0\nv 1 1 1\nf 1 2 1\n")
    elif name == "no texture, ünnamed.obj":
        write_obj(striped([[0, 0], [1, 0], [1, 1], [0, 1]]), path)
        path.with_name(f"{path.stem}_albedo.png").unlink()
    elif name == "truncated.glb":
        write_glb(striped([[0, 0], [1, 0], [1, 1], [0, 1]]), path)
        path.write_bytes(path.read_bytes()[:-100])
    elif name == "a picture.glb":
        Image.new("RGB", (4, 4)).save(folder / "a.png")
        path.write_bytes((folder / "a.png").read_bytes())
    elif name == "a folder.obj":
        path.mkdir()
    elif name == "unknown.xyzzy":
        path.write_text("mesh")
    return path


@pytest.mark.parametrize(
    "name",
    [
        "empty.obj",
        "no faces.obj",
        "nan.obj",
        "infinite.obj",
        "no such corner.obj",
        "a point.obj",
        "folded faces.obj",
        "no texture, ünnamed.obj",
        "truncated.glb",
        "a picture.glb",
        "a folder.obj",
        "unknown.xyzzy",
    ],
)
def test_a_wrong_mesh_is_one_line_exit_code_2_and_no_file(tmp_path, prior, capsys, name):
    path = bad_mesh(tmp_path, name)
    assert run(tmp_path / "out", "--from-mesh", str(path), "prompt=a") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("main2.py: ") and name in said
    assert not (tmp_path / "out").exists() and prior.evaluations == 0
