"""Mesh files, films, sheets, and writing whole or not at all."""

import dataclasses
import errno
import io
import json
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from microdreamer.core.errors import one_line
from microdreamer.core.files import atomic_write, try_writing
from microdreamer.images.colour import linear_to_srgb, srgb_to_linear
from microdreamer.images.writing import encoded_png, to_bytes, write_sheet, write_video
from microdreamer.meshes import files
from microdreamer.meshes.files import read_mesh, texture_path, write_glb, write_mesh, write_obj, write_ply
from microdreamer.meshes.formats.gltf_document import Document
from microdreamer.meshes.mesh import Mesh
from scripts.validate_glb import find_validator, issues

WRITERS = {"obj": write_obj, "glb": write_glb, "ply": write_ply}
AWKWARD_NAME = "ein Würfel, 立方体 №1"


@pytest.fixture
def mesh():
    sphere = trimesh.creation.icosphere(3)
    colors = np.random.default_rng(0).random((len(sphere.vertices), 3))
    colors[:2] = [[0, 0, 0], [1, 1, 1]]
    return Mesh(sphere.vertices, sphere.faces, colors)


# ---- Meshes ----


@pytest.mark.parametrize("suffix", WRITERS)
def test_mesh_round_trip(tmp_path, mesh, suffix):
    path = tmp_path / f"{AWKWARD_NAME}.{suffix}"
    WRITERS[suffix](mesh, path)
    again = read_mesh(path)
    np.testing.assert_array_equal(again.faces, mesh.faces)
    np.testing.assert_allclose(again.vertices, mesh.vertices, atol=1e-6)
    np.testing.assert_allclose(again.vertex_colors, mesh.vertex_colors, atol=1 / 255)
    assert {file.suffix for file in tmp_path.iterdir()} == ({".obj", ".mtl"} if suffix == "obj" else {f".{suffix}"})


def test_trimesh_reads_the_obj_with_its_colours(tmp_path, mesh):
    write_obj(mesh, tmp_path / "a b.obj")
    loaded = trimesh.load(tmp_path / "a b.obj", force="mesh")
    assert loaded.vertices.shape == mesh.vertices.shape and loaded.faces.shape == mesh.faces.shape and loaded.is_watertight
    assert loaded.visual.kind == "vertex"
    np.testing.assert_allclose(loaded.visual.vertex_colors[:, :3] / 255, mesh.vertex_colors, atol=1 / 255)
    lines = (tmp_path / "a b.obj").read_text(encoding="utf-8").splitlines()
    assert "mtllib a b.mtl" in lines and (tmp_path / "a b.mtl").read_text().startswith("newmtl")


def test_trimesh_reads_the_ply_with_its_colours(tmp_path, mesh):
    write_ply(mesh, tmp_path / "a.ply")
    loaded = trimesh.load(tmp_path / "a.ply", process=False)
    np.testing.assert_array_equal(loaded.vertices, mesh.vertices)
    np.testing.assert_array_equal(loaded.faces, mesh.faces)
    np.testing.assert_allclose(loaded.visual.vertex_colors[:, :3] / 255, mesh.vertex_colors, atol=0.51 / 255)
    header = (tmp_path / "a.ply").read_bytes().partition(b"end_header")[0].decode()
    assert "property float nz" in header and f"element face {len(mesh.faces)}" in header
    write_ply(Mesh(mesh.vertices, mesh.faces), tmp_path / "plain.ply")
    assert (trimesh.load(tmp_path / "plain.ply", process=False).visual.vertex_colors[:, :3] == 255).all()
    with pytest.raises(ValueError, match=r"expected a name ending in \.ply"):
        write_ply(mesh, tmp_path / "a.obj")


def test_trimesh_reads_the_glb_with_linear_colours(tmp_path, mesh):
    write_glb(mesh, tmp_path / "a.glb")
    (loaded,) = trimesh.load_scene(tmp_path / "a.glb").geometry.values()
    assert loaded.vertices.shape == mesh.vertices.shape and loaded.faces.shape == mesh.faces.shape and loaded.is_watertight
    colors = loaded.visual.vertex_attributes["color"]
    np.testing.assert_allclose(colors, srgb_to_linear(mesh.vertex_colors), atol=1e-6)
    np.testing.assert_allclose(loaded.vertex_normals, mesh.normals, atol=1e-5)


def test_glb_keeps_the_rules_of_the_format(tmp_path, mesh):
    write_glb(mesh, tmp_path / "a.glb")
    data = (tmp_path / "a.glb").read_bytes()
    magic, version, length, json_length = struct.unpack_from("<4sIII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data)) and json_length % 4 == 0
    document = json.loads(data[20 : 20 + json_length])
    assert document["buffers"][0]["byteLength"] == len(data) - 28 - json_length
    position = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    np.testing.assert_allclose([position["min"], position["max"]], [mesh.vertices.min(0), mesh.vertices.max(0)])
    assert document["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0  # the format's default is metal


def material_of(path):
    data = path.read_bytes()
    document = json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])
    return document["materials"][0], document


@pytest.mark.parametrize("kind", ["mesh", "textured"])
def test_a_glb_is_shown_without_light(tmp_path, request, kind):
    """Its colours hold the light of the picture; where a reader does not know that, it gets a matt surface."""
    write_glb(request.getfixturevalue(kind), tmp_path / "a.glb")
    material, document = material_of(tmp_path / "a.glb")
    assert material["extensions"] == {"KHR_materials_unlit": {}} and document["extensionsUsed"] == ["KHR_materials_unlit"]
    assert "extensionsRequired" not in document
    base = material["pbrMetallicRoughness"]
    assert (base["metallicFactor"], base["roughnessFactor"]) == (0, 1) and "emissiveFactor" not in material


@pytest.mark.parametrize("kind", ["mesh", "textured"])
def test_a_glb_of_colours_without_light_is_lit(tmp_path, request, kind):
    bare, shaded = request.getfixturevalue(kind), tmp_path / "shaded.glb"
    write_glb(bare, shaded)
    write_glb(dataclasses.replace(bare, shaded=False), tmp_path / "a.glb")
    material, document = material_of(tmp_path / "a.glb")
    assert "extensions" not in material and "extensionsUsed" not in document
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    lit, unlit = read_mesh(tmp_path / "a.glb"), read_mesh(shaded)
    for name in ("vertices", "faces", "vertex_colors", "texture"):
        np.testing.assert_array_equal(getattr(lit, name), getattr(unlit, name))


def test_open_surfaces_are_shown_from_both_sides(tmp_path, mesh):
    write_glb(mesh, tmp_path / "closed.glb")
    write_glb(Mesh(mesh.vertices, mesh.faces[1:], mesh.vertex_colors), tmp_path / "open.glb")
    assert "doubleSided" not in material_of(tmp_path / "closed.glb")[0] and material_of(tmp_path / "open.glb")[0]["doubleSided"]


def test_coordinates_beyond_the_texture_repeat_it(tmp_path, textured):
    for shift, wrap in ((0, 33071), (1, 10497)):
        textured.uvs = textured.uvs + np.float32(shift)
        write_glb(textured, tmp_path / "a.glb")
        assert material_of(tmp_path / "a.glb")[1]["samplers"][0]["wrapS"] == wrap


def test_the_khronos_validator_finds_nothing(tmp_path, mesh, textured):
    validator = find_validator()
    if validator is None:
        pytest.skip("needs node and the npm package gltf-validator in NODE_PATH")
    lonely = Mesh([*mesh.vertices, [5, 5, 5]], mesh.faces, [*mesh.vertex_colors, [1, 0, 0]])  # a vertex without a face has no normal
    paths = [tmp_path / f"{number}.glb" for number in range(4)]
    for path, shown in zip(paths, (mesh, textured, lonely, Mesh(mesh.vertices, mesh.faces[1:])), strict=True):
        write_glb(shown, path)
    for report in issues(validator, paths):
        assert (report["numErrors"], report["numWarnings"]) == (0, 0), report["messages"]


def test_normals_of_files_are_of_length_one(tmp_path, mesh):
    write_glb(Mesh([*mesh.vertices, [5, 5, 5]], mesh.faces), tmp_path / "a.glb")
    normals = Document(tmp_path / "a.glb").accessor(1)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)


def test_colour_conversion_goes_there_and_back():
    values = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-7)
    assert srgb_to_linear(np.array([0.5]))[0] == pytest.approx(0.21404, abs=1e-5)


def test_normals_look_outward_and_weigh_by_area(mesh):
    np.testing.assert_allclose(mesh.normals, mesh.vertices, atol=0.02)
    corner = Mesh([[0, 0, 0], [3, 0, 0], [0, 1, 0], [0, 0, 1], [5, 5, 5]], [[0, 1, 2], [0, 2, 3]], np.ones((5, 3)))
    np.testing.assert_allclose(corner.normals[0], np.array([1, 0, 3]) / np.sqrt(10), atol=1e-6)
    assert not corner.normals[4].any()


def test_a_scene_of_moved_parts_is_read_as_one_mesh(tmp_path):
    scene = trimesh.Scene()
    for step in range(2):
        scene.add_geometry(trimesh.creation.box(), transform=trimesh.transformations.translation_matrix([3 * step, 0, 0]))
    scene.export(tmp_path / "scene.glb")
    loaded = read_mesh(tmp_path / "scene.glb")
    assert len(loaded.faces) == 24 and np.ptp(loaded.vertices[:, 0]) == pytest.approx(4)
    assert (loaded.vertex_colors == 1).all()


def test_bad_meshes_are_refused(tmp_path, mesh):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_mesh(tmp_path / "missing.obj")
    (tmp_path / "cut.glb").write_bytes(b"glTF\x02\x00\x00\x00")
    (tmp_path / "empty.obj").write_text("v 0 0 0\n")
    for name in ("cut.glb", "empty.obj"):
        with pytest.raises(ValueError, match=name) as caught:
            read_mesh(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"expected a name ending in \.glb"):
        write_glb(mesh, tmp_path / "a.obj")
    with pytest.raises(ValueError, match="expected 3 rows"):
        Mesh(np.zeros((3, 3)), [[0, 1, 2]], np.zeros((2, 3)))


# ---- Textured meshes ----


@pytest.fixture
def textured():
    """A cube whose six sides are six charts, so that every vertex lies on seams."""
    box = trimesh.creation.box()
    uvs, uv_faces = [], np.zeros((12, 3), int)
    for face, corners in enumerate(box.faces):
        axis = int(np.abs(box.face_normals[face]).argmax())
        side = 2 * axis + (box.face_normals[face][axis] > 0)
        planar = np.delete(box.vertices[corners], axis, axis=1) + 0.5
        uv_faces[face] = len(uvs) + np.arange(3)
        uvs += list((planar * 0.9 + 0.05 + [side % 3, side // 3]) / [3, 2])
    texture = np.random.default_rng(1).integers(0, 256, (48, 64, 3)) / 255
    return Mesh(box.vertices, box.faces, uvs=uvs, uv_faces=uv_faces, texture=texture)


def corner_data(mesh):
    """Positions and texture coordinates of all corners, [F,3,5]."""
    return np.concatenate([mesh.vertices[mesh.faces], mesh.uvs[mesh.uv_faces]], axis=-1)


@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_textured_round_trip(tmp_path, textured, suffix):
    path = tmp_path / f"{AWKWARD_NAME}.{suffix}"
    WRITERS[suffix](textured, path)
    again = read_mesh(path)
    np.testing.assert_allclose(corner_data(again), corner_data(textured), atol=1e-6)
    np.testing.assert_array_equal(np.rint(again.texture * 255), np.rint(textured.texture * 255))
    assert len(again.vertices) == 8  # welded again, although the file repeats vertices on seams
    assert {file.suffix for file in tmp_path.iterdir()} == ({".obj", ".mtl", ".png"} if suffix == "obj" else {".glb"})


@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_trimesh_finds_texture_coordinates_and_normals(tmp_path, textured, suffix):
    path = tmp_path / f"a b.{suffix}"
    WRITERS[suffix](textured, path)
    (loaded,) = trimesh.load_scene(path, process=False).geometry.values()
    image = loaded.visual.material.image if suffix == "obj" else loaded.visual.material.baseColorTexture
    assert image.size == (64, 48) and loaded.faces.shape == (12, 3)
    np.testing.assert_allclose(loaded.visual.uv[loaded.faces], textured.uvs[textured.uv_faces], atol=1e-6)
    np.testing.assert_allclose(loaded.vertex_normals[loaded.faces], textured.normals[textured.faces], atol=1e-4)


def test_quads_and_material_colours_are_read(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\n")
    (tmp_path / "quad.obj").write_text("mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nusemtl red\nf 1 2 3 4\n")
    mesh = read_mesh(tmp_path / "quad.obj")
    assert mesh.faces.shape == (2, 3) and not mesh.has_texture
    np.testing.assert_allclose(mesh.vertex_colors, np.tile([1.0, 0, 0], (4, 1)))


def test_a_missing_texture_is_named(tmp_path, textured):
    write_obj(textured, tmp_path / "a.obj")
    texture_path(tmp_path / "a.obj").unlink()
    with pytest.raises(ValueError, match=r"a\.obj: its texture a_albedo\.png is not there"):
        read_mesh(tmp_path / "a.obj")


def test_a_texture_in_a_folder_beside_it_is_found(tmp_path, textured):
    write_obj(textured, tmp_path / "a.obj")
    (tmp_path / "textures").mkdir()
    texture_path(tmp_path / "a.obj").rename(tmp_path / "textures" / "a b.png")
    (tmp_path / "a.mtl").write_text("newmtl albedo\n\tmap_Kd\ttextures/a b.png\n")
    np.testing.assert_array_equal(np.rint(read_mesh(tmp_path / "a.obj").texture * 255), np.rint(textured.texture * 255))


@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_a_damaged_texture_is_told(tmp_path, textured, suffix):
    path = tmp_path / f"a.{suffix}"
    WRITERS[suffix](textured, path)
    file = path if suffix == "glb" else texture_path(path)
    data = file.read_bytes()
    start = data.index(b"IDAT") + 200
    file.write_bytes(data[:start] + bytes(300) + data[start + 300 :])
    with pytest.raises(ValueError, match=rf"a\.{suffix}: ") as caught:
        read_mesh(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["mtllib", "mtllib ", "mtllib none.mtl"])
def test_an_obj_without_its_materials_is_white(tmp_path, line):
    (tmp_path / "a.obj").write_text(f"{line}\nv 0 0 0\nv 1 0 0\nv 1 1 0\nf 1 2 3\n")
    assert (read_mesh(tmp_path / "a.obj").vertex_colors == 1).all()


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 nan 0\nv 1 1 0\nf 1 2 3\n")
    with pytest.raises(ValueError, match=r"a\.obj: vertices: 1 values are not finite"):
        read_mesh(tmp_path / "a.obj")


def test_arrays_that_do_not_fit_are_refused(textured):
    with pytest.raises(ValueError, match="uvs together with uv_faces"):
        Mesh(textured.vertices, textured.faces, texture=textured.texture)
    with pytest.raises(ValueError, match="uv_faces: expected 12 rows"):
        Mesh(textured.vertices, textured.faces, uvs=textured.uvs, uv_faces=textured.uv_faces[:3])
    with pytest.raises(ValueError, match="faces: expected numbers from 0 to 7"):
        Mesh(textured.vertices, textured.faces + 1).check()


# ---- Writing whole or not at all ----


def test_many_may_try_one_folder_at_once(tmp_path):
    """Each makes the folder and takes it away again, also while another is about to write in it."""
    with ThreadPoolExecutor(8) as pool:
        for trial in [pool.submit(try_writing, tmp_path / "new" / "folder" / "a.ply") for _ in range(400)]:
            trial.result()
    with pytest.raises(OSError):
        (tmp_path / "file").touch()
        try_writing(tmp_path / "file" / "a.ply")


def test_atomic_write_renames_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("bad")])
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_failed_write_names_the_file(tmp_path):
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert one_line(caught.value) == f"{tmp_path / 'a.txt'}: No space left on device"
    assert one_line(ValueError("two\n  lines")) == "two lines"


def test_a_full_disk_leaves_no_mesh(tmp_path, mesh, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_obj(mesh, tmp_path / "a.obj")
    assert not list(tmp_path.iterdir())


# ---- Films and sheets ----


def test_video_has_all_frames_and_even_sizes(tmp_path):
    path = tmp_path / f"{AWKWARD_NAME}.mp4"
    frames = torch.zeros(12, 3, 31, 45)
    frames[6:, 0] = 1.0
    write_video(path, frames, fps=24)
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    pictures = [np.frombuffer(frame, np.uint8).reshape(32, 46, 3) for frame in reader]
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and meta["fps"] == 24 and len(pictures) == 12
    assert pictures[0].max() < 40 and pictures[-1][..., 0].min() > 200 and pictures[-1][..., 1:].max() < 60
    assert list(tmp_path.iterdir()) == [path]


def test_png_files_are_whole_and_as_small_as_at_level_4():
    y, x = np.mgrid[:256, :256] / 256 - 0.5
    noise = np.random.default_rng(0).normal(0, 1.5, (256, 256, 3))
    shade = 128 + 80 * np.sin(9 * x[..., None] + [0, 1, 2]) * np.cos(7 * y[..., None]) + noise
    picture = np.where((x**2 + y**2 < 0.16)[..., None], shade, 255).astype(np.uint8)
    data, buffer = encoded_png(picture), io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=4)
    assert len(data) < 1.02 * len(buffer.getvalue())


def test_sheet_lays_pictures_out_row_by_row(tmp_path):
    images = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 3, 6, 10)
    write_sheet(tmp_path / "sheet.png", images, columns=3)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (6 + 4 + 6, 3 * 10 + 2 * 4, 3)
    assert [sheet[y, x, 0] for y, x in ((0, 0), (0, 14), (0, 28), (10, 0), (10, 14), (10, 28))] == [0, 64, 128, 191, 255, 255]
    write_sheet(tmp_path / "list.png", list(images), columns=3)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "list.png")), sheet)


def test_bytes_are_clamped_and_rounded():
    images = torch.tensor([-1.0, 0.5, 2.0]).reshape(1, 3, 1, 1)
    assert to_bytes(images).tolist() == [[[[0, 128, 255]]]]
    assert images.reshape(-1).tolist() == [-1.0, 0.5, 2.0]  # its own pictures stay as they are


def test_bad_media_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ending in \.mp4"):
        write_video(tmp_path / "a.gif", torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "a.mp4", torch.zeros(0, 3, 8, 8))
    with pytest.raises(ValueError, match=r"expected shape \[N,3,H,W\]"):
        write_video(tmp_path / "a.mp4", torch.zeros(2, 8, 8, 3))
    with pytest.raises(ValueError, match="got 0 and 2"):
        write_sheet(tmp_path / "a.png", [], 2)
    with pytest.raises(ValueError, match="different sizes"):
        write_sheet(tmp_path / "a.png", [torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)], 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wanted", ["all", "obj", "glb"])
def test_both_formats_at_once_are_each_by_itself(textured, tmp_path, monkeypatch, wanted):
    """And the texture is encoded once, beside what is formatted meanwhile; what fails there is raised."""
    write_obj(textured, tmp_path / "solo.obj")
    write_glb(textured, tmp_path / "solo.glb")
    calls = []
    encode = files.encoded_texture
    monkeypatch.setattr(files, "encoded_texture", lambda mesh: (calls.append(threading.current_thread()), encode(mesh))[1])
    write_mesh(textured, tmp_path / "both", wanted)
    assert len(calls) == 1 and calls[0] is not threading.main_thread()
    for name in ("both.obj", "both.mtl", "both_albedo.png", "both.glb"):
        path = tmp_path / name
        assert path.exists() == (wanted in ("all", "glb" if path.suffix == ".glb" else "obj"))
        if path.exists():
            alone = path.with_name(name.replace("both", "solo")).read_bytes()
            assert path.read_bytes().replace(b"both", b"solo") == alone
    monkeypatch.setattr(files, "encoded_texture", lambda mesh: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_mesh(textured, tmp_path / "broken", wanted)


def test_a_mesh_without_texture_is_written_too(tmp_path):
    write_mesh(Mesh(np.eye(3), [[0, 1, 2]]), tmp_path / "bare", "all")
    assert (tmp_path / "bare.obj").exists() and (tmp_path / "bare.glb").exists() and not (tmp_path / "bare_albedo.png").exists()
