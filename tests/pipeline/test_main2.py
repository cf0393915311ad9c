"""The second stage, with a prior that knows the object: files, record, repeatability, Ctrl-C, meshes of the user's own, wrong input."""

import json
import math
import os
import signal

import numpy as np
import pytest
import torch
import trimesh
from fake_priors import OraclePrior, coloured_ellipsoid
from PIL import Image
from splat_scenes import ball, changed, columns, ply_bytes

from cam_utils import orbit_cameras
from microdreamer.gaussians.captures import turn_to_y
from microdreamer.gaussians.model import GaussianModel
from microdreamer.gaussians.rotation import turned
from microdreamer.gaussians.splat_files import read_splats
from microdreamer.images.colour import linear_to_srgb
from microdreamer.meshes.baking import baked
from microdreamer.meshes.files import read_mesh, read_surface, write_glb, write_obj
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel
from microdreamer.metrics.meshes import asset_faults
from microdreamer.pipeline import commands, reconstruction, refinement
from microdreamer.pipeline.config import Config
from microdreamer.pipeline.subject import UNMOVED, framed_gaussians
from scripts.make_mesh_files import GltfFile, cut_out_leaves, several_materials

FIRST = [
    "total_steps=2",
    "denoise_steps=4",
    "init_steps=12",
    "steps_min=6",
    "steps_max=6",
    "num_pts=200",
    "cfg=1",
    "eta=1",
]
SMALL = [
    "video_frames=2",
    "video_size=32",
    "mesh_resolution=32",
    "mesh_faces=600",
    "texture_size=128",
    "refine_size=32",
    "refine_steps=2",
    "refine_denoise_steps=5",
    "refine_cfg=1",
    "geometry_steps=3",
]
MESH_FILES = {"a_refined.obj", "a_refined.mtl", "a_refined_albedo.png", "a_refined.glb"}
FILES = MESH_FILES | {"a_refined.mp4", "a_refined_views.png", "a_refined.json"}
EXACT = ("a_refined.obj", "a_refined.mtl", "a_refined_albedo.png", "a_refined.glb", "a_refined_views.png")


@pytest.fixture(scope="module")
def truth():
    return coloured_ellipsoid()


@pytest.fixture(scope="module")
def picture(truth, tmp_path_factory):
    """The object's front as an RGBA file."""
    shown = truth.render(orbit_cameras(0, 0, width=48, height=48), torch.zeros(3))
    rgba = torch.cat([shown.image / shown.alpha.clamp_min(1e-3), shown.alpha], dim=1)[0].clamp(0, 1)
    path = tmp_path_factory.mktemp("picture") / "thing_rgba.png"
    Image.fromarray((rgba * 255).byte().permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def ply(truth, tmp_path_factory):
    path = tmp_path_factory.mktemp("ply") / "thing.ply"
    truth.save_ply(path)
    return path


@pytest.fixture
def prior(monkeypatch, truth):
    prior = OraclePrior(truth, 32)
    monkeypatch.setattr(reconstruction, "load_prior", lambda *_: prior)
    return prior


@pytest.fixture
def no_prior(monkeypatch):
    def load_prior(*_):
        raise AssertionError("no prior is needed")

    monkeypatch.setattr(reconstruction, "load_prior", load_prior)


@pytest.fixture(scope="module")
def stage_1(picture, truth, tmp_path_factory):
    """The folder that stage 1 leaves."""
    folder = tmp_path_factory.mktemp("stage_1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction, "load_prior", lambda *_: OraclePrior(truth, 32))
        assert commands.make(["--quiet", f"outdir={folder}", "save_path=a", *FIRST, *SMALL, f"input={picture}"]) == 0
    return folder


@pytest.fixture
def out(stage_1, tmp_path):
    """What stage 1 leaves, in a folder of the test's own."""
    folder = tmp_path / "out"
    folder.mkdir()
    for path in stage_1.iterdir():
        os.link(path, folder / path.name)
    return folder


def run(folder, *words, name="a"):
    named = [f"save_path={name}"] if name else []
    return commands.refine(["--quiet", f"outdir={folder}", *named, *SMALL, *words])


def made(folder):
    return {path.name for path in folder.iterdir() if "_refined" in path.name}


def faults(path):
    """What is wrong with a written mesh, as the evaluation judges it."""
    mesh = read_mesh(path)
    return asset_faults(mesh.vertices, mesh.faces, mesh.normals, mesh.uvs, mesh.uv_faces, mesh.texture)


def record(folder, name="a"):
    return json.loads((folder / f"{name}_refined.json").read_text())


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


# ---- Gaussians of the user's own ----


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


# ---- Meshes of the user's own ----


def quads(path, center=(0, 0, 0), half=0.5, extra=""):
    """An OBJ cube of six quads, without texture coordinates."""
    corners = [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    faces = [(1, 2, 4, 3), (5, 7, 8, 6), (1, 5, 6, 2), (3, 4, 8, 7), (1, 3, 7, 5), (2, 6, 8, 4)]
    lines = ["v {} {} {}".format(*(np.array(corner) * half + center)) for corner in corners]
    path.write_text("\n".join([*lines, *("f {} {} {} {}".format(*face) for face in faces)]) + f"\n{extra}")
    return path


def test_quads_without_texture_coordinates_and_a_prompt(tmp_path, prior):
    path = quads(tmp_path / "ein Würfel, 立方体 №1.obj")
    assert run(tmp_path / "out", "--from-mesh", str(path), "prompt=a box", name=None) == 0
    assert made(tmp_path / "out") == {name.replace("a_refined", f"{path.stem}_refined") for name in FILES}
    refined = tmp_path / "out" / f"{path.stem}_refined.glb"
    assert faults(refined) == []
    mesh = read_mesh(refined)
    assert len(mesh.faces) == 12 and len(mesh.vertices) == 8
    assert float(mesh.texture.std()) > 0.01  # the prior's colours are on it


@pytest.mark.parametrize(("center", "half"), [((1000, -300, 20), 40), ((0, 0, 0), 0.002), ((0.4, 0.5, 0), 0.5)])
def test_a_mesh_of_another_place_and_size_is_refined_alike_and_stays_there(tmp_path, prior, center, half):
    """A unit cube at the origin is in the cameras' view as it is; others are taken there and back."""
    assert run(tmp_path, f"mesh={quads(tmp_path / 'near.obj', half=0.456)}", "prompt=a box") == 0
    assert run(tmp_path, f"mesh={quads(tmp_path / 'far.obj', center, half)}", "prompt=a box", name="far") == 0
    near, far = read_mesh(tmp_path / "a_refined.obj"), read_mesh(tmp_path / "far_refined.obj")
    low, high = np.array(center) - half, np.array(center) + half
    np.testing.assert_allclose([far.vertices.min(0), far.vertices.max(0)], [low, high], rtol=1e-6, atol=1e-4 * half)
    assert np.abs(far.texture - near.texture).mean() < 0.02
    assert float(near.texture.std()) > 0.01


def test_a_mesh_of_about_unit_size_keeps_its_very_vertices(tmp_path, prior):
    path = quads(tmp_path / "a.obj", center=(0.01, 0.02, 0.0), half=0.4)
    assert run(tmp_path, f"mesh={path}", "prompt=a box") == 0
    before, after = (np.unique(read_mesh(file).vertices, axis=0) for file in (path, tmp_path / "a_refined.glb"))
    np.testing.assert_array_equal(after, before)


def soup(mesh):
    """The mesh with three vertices for every face."""
    corners = mesh.faces.reshape(-1)
    colors = None if mesh.vertex_colors is None else mesh.vertex_colors[corners]
    return Mesh(mesh.vertices[corners], np.arange(len(corners)).reshape(-1, 3), colors)


def test_vertices_repeated_at_seams_of_normals_are_joined(tmp_path, prior):
    ball = trimesh.creation.icosphere(2, 0.5)
    write_glb(soup(Mesh(ball.vertices, ball.faces)), tmp_path / "soup.glb")
    assert run(tmp_path, f"mesh={tmp_path / 'soup.glb'}", "prompt=a ball") == 0
    mesh = read_mesh(tmp_path / "a_refined.glb")
    assert len(mesh.vertices) == len(ball.vertices) and len(mesh.faces) == len(ball.faces)
    assert len(mesh.uvs) < 2 * len(ball.vertices)  # charts of many faces, not one each


def test_hard_edges_between_vertex_colours_stay(tmp_path, prior):
    ball = trimesh.creation.icosphere(1, 0.5)
    mesh = soup(Mesh(ball.vertices, ball.faces))
    shades = np.where(np.arange(len(ball.faces)) % 2, 0.8, 0.2).astype(np.float32)
    mesh.vertex_colors = np.repeat(shades, 9).reshape(-1, 3)
    write_glb(mesh, tmp_path / "soup.glb")
    assert run(tmp_path, f"mesh={tmp_path / 'soup.glb'}", "prompt=a ball", "iters_refine=0", "texture_size=512") == 0
    found = read_mesh(tmp_path / "a_refined.glb")
    middles = found.uvs[found.uv_faces].mean(1)
    texels = found.texture[((1 - middles[:, 1]) * 512).astype(int), (middles[:, 0] * 512).astype(int)]
    np.testing.assert_allclose(np.sort(texels[:, 0]), np.sort(shades), atol=0.03)


def test_vertices_without_faces_do_not_matter(tmp_path, prior):
    path = quads(tmp_path / "a.obj", half=0.456)
    assert run(tmp_path / "one", f"mesh={path}", "prompt=a box") == 0
    path.write_text(path.read_text() + "v 1e6 0 0\nv 0 -7e3 0\n")
    assert run(tmp_path / "two", f"mesh={path}", "prompt=a box") == 0
    one, two = (read_mesh(tmp_path / folder / "a_refined.glb") for folder in ("one", "two"))
    assert len(two.vertices) == 8
    np.testing.assert_array_equal(one.vertices, two.vertices)
    np.testing.assert_array_equal(one.texture, two.texture)


def striped(uvs, texture=None):
    """A square that faces +Z, with a texture whose columns go from black to red."""
    if texture is None:
        texture = np.zeros((32, 64, 3), np.float32)
        texture[..., 0] = np.linspace(0.1, 0.9, 64)
    vertices, faces = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], [[0, 1, 2], [0, 2, 3]]
    return Mesh(vertices, faces, uvs=uvs, uv_faces=faces, texture=texture)


@pytest.mark.parametrize("suffix", ["obj", "glb"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_texture_that_repeats_looks_the_same(tmp_path, prior, suffix, times):
    """Texture coordinates outside of [0,1]: moved there where a shift will do, unwrapped anew where faces repeat the texture."""
    corners = np.array([[0, 0], [times, 0], [times, 1], [0, 1]], np.float32)
    shift = np.array([-2.0, 5.0], np.float32)
    path = tmp_path / f"square.{suffix}"
    (write_obj if suffix == "obj" else write_glb)(striped(corners + shift), path)
    assert run(tmp_path, f"mesh={path}", "prompt=a card", "iters_refine=0", "texture_size=256") == 0
    found = read_mesh(tmp_path / "a_refined.glb")
    assert found.uvs.min() >= -1e-5 and found.uvs.max() <= 1 + 1e-5
    assert found.texture.shape == ((32, 64, 3) if times == 1 else (256, 256, 3))
    camera = orbit_cameras(0, 0, 2, fov_y=53.13010235, width=128, height=128)
    plain = np.linspace(0.1, 0.9, 64)
    expected = striped([[0, 0], [1, 0], [1, 1], [0, 1]], np.tile(np.stack([plain, 0 * plain, 0 * plain], -1)[None], (32, times, 1)))
    with torch.no_grad():
        seen, wanted = (MeshModel(mesh).render(camera).image[0, :, 40:88, 40:88] for mesh in (found, expected))
    assert float((seen - wanted).abs().mean()) < 0.02


def test_the_prior_paints_a_white_mesh(tmp_path, prior, truth):
    ball = trimesh.creation.icosphere(3)
    write_obj(Mesh(ball.vertices * [0.37, 0.27, 0.57], ball.faces), tmp_path / "egg.obj")
    assert run(tmp_path, f"mesh={tmp_path / 'egg.obj'}", "prompt=an egg", "refine_steps=60", "texture_lr=0.2") == 0
    cameras = orbit_cameras(0.0, [10.0, 100.0, 190.0, 280.0], width=64, height=64)
    with torch.no_grad():
        wanted = truth.render(cameras)
        found = MeshModel(read_mesh(tmp_path / "a_refined.glb")).render(cameras)
    inside = ((wanted.alpha > 0.95) & (found.alpha > 0.95)).expand(-1, 3, -1, -1)
    colors, expected = found.image[inside], wanted.image[inside]
    assert float((colors - expected).abs().mean()) < 0.5 * float((expected - expected.mean()).abs().mean())


def test_the_record_names_the_mesh(tmp_path, prior):
    assert run(tmp_path, "--from-mesh", str(quads(tmp_path / "a.obj")), "prompt=a box") == 0
    assert record(tmp_path)["config"]["mesh"] == str(tmp_path / "a.obj")


def test_several_materials_become_one_texture(tmp_path, prior, caplog):
    """Walls, roof and door of a house keep their looks, seen from in front and above."""
    path = several_materials(tmp_path / "house.glb")
    assert run(tmp_path, "--from-mesh", str(path), "prompt=a house", "iters_refine=0", "texture_size=1024") == 0
    found = read_mesh(tmp_path / "a_refined.glb")
    assert found.texture.shape == (1024, 1024, 3) and not caplog.records
    middles, uvs = found.vertices[found.faces].mean(1), found.uvs[found.uv_faces].mean(1)
    colors = found.texture[((1 - uvs[:, 1]) * 1024).astype(int), (uvs[:, 0] * 1024).astype(int)] * 255
    door = np.abs(middles - [0, -0.3, 0.37]).max(1) < 0.08
    assert door.any() and np.abs(colors[door] - linear_to_srgb(np.array([0.05, 0.25, 0.08])) * 255).max() < 3
    camera = orbit_cameras(-20, 20, 2, fov_y=45, width=96, height=96)
    with torch.no_grad():
        seen, wanted = (MeshModel(mesh).render(camera).image for mesh in (found, baked(read_surface(path), 1024)))
    assert float((seen - wanted).abs().mean()) < 0.01


def test_what_a_file_lacks_is_one_line_and_still_a_mesh(tmp_path, prior, caplog):
    path = quads(tmp_path / "a.obj", half=0.4, extra="mtllib gone.mtl\n")
    assert run(tmp_path, "--from-mesh", str(path), "prompt=a box", "iters_refine=0") == 0
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: its materials gone.mtl are not there; colours and textures are left out"
    ]


def test_a_cut_out_card_is_cut_and_not_black(tmp_path, prior):
    path = cut_out_leaves(tmp_path / "plant.glb")
    assert run(tmp_path, "--from-mesh", str(path), "prompt=a plant", "iters_refine=0") == 0
    found = read_mesh(tmp_path / "a_refined.glb")
    assert len(found.faces) > 100 and found.texture.max(-1).min() > 0.2


def test_a_glTF_that_needs_what_is_not_read_is_refused(tmp_path, prior, capsys):
    file = GltfFile()
    file.use("EXT_of_tomorrow", required=True)
    file.node([file.primitive(np.float32(np.eye(3)), [[0, 1, 2]])])
    assert run(tmp_path / "out", "--from-mesh", str(file.write(tmp_path / "a.glb")), "prompt=a") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "EXT_of_tomorrow" in said and not (tmp_path / "out").exists()


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
