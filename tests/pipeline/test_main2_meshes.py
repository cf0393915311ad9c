"""The second stage on meshes of the user's own: made fit, refined where they stand; textures that repeat, materials, colours."""

import numpy as np
import pytest
import torch
import trimesh
from second_stage import FILES, faults, made, quads, record, run, striped

from cam_utils import orbit_cameras
from microdreamer.images.colour import linear_to_srgb
from microdreamer.meshes.baking import baked
from microdreamer.meshes.files import read_mesh, read_surface, write_glb, write_obj
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel
from scripts.make_mesh_files import GltfFile, cut_out_leaves, several_materials


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
