"""`microdreamer mesh`: files of Gaussians to textured levels of detail, where and as large as they are, and to STL."""

import numpy as np
import pytest
import trimesh
from splat_scenes import ball

from microdreamer.gaussians.splat_files import WRITERS
from microdreamer.meshes.files import read_mesh
from microdreamer.metrics.meshes import mesh_quality
from microdreamer.pipeline import cli
from microdreamer.pipeline.meshing import mesh_levels

SMALL = ["mesh_resolution=48", "texture_size=256", "device=cpu"]


@pytest.fixture
def splats(tmp_path):
    """A ball of 5 units around (10, 20, -30), red above and blue below."""
    parameters = ball(3000)
    parameters["means"] = parameters["means"] / 0.4 * 5 + np.array([10, 20, -30], np.float32)
    parameters["log_scales"] = parameters["log_scales"] + np.float32(np.log(5 / 0.4))
    WRITERS["ply"](tmp_path / "ball.ply", parameters)
    return tmp_path / "ball.ply"


def top_and_bottom(mesh):
    """Mean colours of the texture at the top and at the bottom."""
    uv = mesh.uvs[mesh.uv_faces].mean(1)
    side = len(mesh.texture)
    colors = mesh.texture[np.clip(((1 - uv[:, 1]) * side).astype(int), 0, side - 1), np.clip((uv[:, 0] * side).astype(int), 0, side - 1)]
    height = mesh.vertices[mesh.faces].mean(1)[:, 1]
    return colors[height > 22].mean(0), colors[height < 18].mean(0)


def test_levels_are_closed_textured_and_of_the_faces_asked_for(splats, tmp_path, capsys):
    words = [str(splats), "--lod", "2000,500,120", "--size-mm", "60", f"outdir={tmp_path / 'out'}", *SMALL]
    assert cli.main(["mesh", *words]) == 0
    assert "(" in capsys.readouterr().err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    levels = ["ball_mesh.glb", "ball_mesh_lod1.glb", "ball_mesh_lod2.glb"]
    assert names == {*levels, "ball_mesh.obj", "ball_mesh.mtl", "ball_mesh_albedo.png", "ball_mesh.stl"}
    for name, faces, side in zip(levels, (2000, 500, 120), (256, 128, 64), strict=True):
        mesh = read_mesh(tmp_path / "out" / name)
        welded = mesh_quality(*trimesh_of(mesh))
        assert faces * 0.95 <= len(mesh.faces) <= faces and len(mesh.texture) == side
        assert welded.is_watertight, name
        reach = np.linalg.norm(mesh.vertices - [10, 20, -30], axis=1)
        assert reach.min() > 4.2 and reach.max() < 6.0
        top, bottom = top_and_bottom(mesh)
        assert top[0] > top[2] + 0.3 and bottom[2] > bottom[0] + 0.3
    printed = trimesh.load(tmp_path / "out" / "ball_mesh.stl")
    assert printed.is_watertight and printed.extents.max() == pytest.approx(60, rel=1e-4) and printed.bounds[0][2] == 0


def trimesh_of(mesh):
    """Vertices and faces, one vertex where several lie at one place."""
    places, faces = np.unique(mesh.vertices, axis=0, return_inverse=True)
    return places, faces.reshape(-1)[mesh.faces]


def test_the_first_level_is_the_mesh_of_the_library(splats):
    import microdreamer

    config = dict(word.split("=") for word in SMALL)
    (mesh,) = mesh_levels(splats, [2000], config)
    other = microdreamer.mesh_from_gaussians(splats, config | {"mesh_faces": 2000})
    assert np.array_equal(mesh.vertices, other.vertices) and np.array_equal(mesh.texture, other.texture)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.ply"], "none.ply"),
        (["{splats}", "--lod", "100,200"], "numbers of faces that fall"),
        (["{splats}", "--lod", "100,3"], "4 or more"),
        (["{splats}", "--lod", "a"], "with commas between"),
        (["{splats}", "--size-mm", "0"], "size_mm=0"),
        (["{splats}", "mesh_faecs=3"], "nearest valid key is 'mesh_faces'"),
        ([], "no such file"),
        (["{text}"], "text.ply"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leaves_nothing(splats, tmp_path, words, message, capsys):
    (tmp_path / "text.ply").write_text("no splats")
    given = [word.format(splats=splats, text=tmp_path / "text.ply") for word in words]
    assert cli.main(["mesh", *given, f"outdir={tmp_path / 'out'}", *SMALL]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "out").exists()
