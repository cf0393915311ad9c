"""Packs of meshes survive the disk, and files of other programs become packs in the project's conventions."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from microdreamer.images.colour import linear_to_srgb
from microdreamer.shapes.mesh_files import read_mesh
from microdreamer.shapes.packed import TENSORS, PackedMeshes, concatenate, load_folder, load_packed, pack
from scripts.make_mesh_files import quantised, several_materials

trimesh = pytest.importorskip("trimesh")


def random_pack(counts=((5, 7), (0, 0), (9, 4)), prefix="object") -> PackedMeshes:
    rng = np.random.default_rng(0)
    meshes = [
        (
            rng.normal(size=(v, 3)).astype(np.float32),
            rng.integers(0, max(v, 1), (f, 3)),
            rng.integers(0, 256, (f, 3, 3)),
            rng.integers(-127, 128, (f, 3, 3)),
        )
        for v, f in counts
    ]
    ids = [f"{prefix}_{i}" for i in range(len(counts))]
    return pack(meshes, ids, [[f"a thing {i}", "a thing"] for i in range(len(counts))], ["prop"] * len(counts))


def assert_same(a: PackedMeshes, b: PackedMeshes) -> None:
    for name in TENSORS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert (a.ids, a.captions, a.categories, a.max_faces) == (b.ids, b.captions, b.categories, b.max_faces)


def test_round_trip_through_a_file(tmp_path):
    packed, other = random_pack(), random_pack(prefix="other")
    packed.save(tmp_path / "a.npz")
    other.save(tmp_path / "b.npz")
    assert_same(load_packed(tmp_path / "a.npz"), packed)
    assert_same(load_packed([tmp_path / "a.npz", tmp_path / "b.npz"]), concatenate([packed, other]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz", "index.json"]


def test_mesh_subset_and_concatenate_agree():
    packed = random_pack()
    vertices, faces, colors, normals = packed.mesh(2)
    assert vertices.shape == (9, 3) and faces.shape == (4, 3) and colors.shape == normals.shape == (4, 3, 3)
    assert float(colors.max()) <= 1 and float(normals.abs().max()) <= 1
    assert_same(concatenate([packed.subset([0]), packed.subset([1, 2])]), packed)
    assert torch.equal(packed.subset([2, 0]).mesh(0)[0], vertices)
    assert len(packed.subset([])) == 0
    assert packed.to("cpu").device == torch.device("cpu") and len(packed) == 3 and packed.max_faces == 7
    with pytest.raises(IndexError, match="mesh 3: there are 3"):
        packed.mesh(3)


def test_shared_objects_are_in_the_conventions(shared_data):
    packed = load_packed(shared_data("objects/val.npz"))
    assert len(packed) == 93 and all(packed.captions) and all(packed.categories)
    for i in range(0, len(packed), 10):
        vertices = packed.mesh(i)[0]
        assert float(vertices.norm(dim=-1).max()) == pytest.approx(0.8, abs=2e-3)
        torch.testing.assert_close(vertices.amax(0), -vertices.amin(0), rtol=0, atol=2e-3)


def test_what_is_not_a_pack_is_said_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_packed(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.npz: not a readable"):
        load_packed(tmp_path / "text.npz")
    random_pack().save(tmp_path / "good.npz")
    arrays = dict(np.load(tmp_path / "good.npz"))
    for name in ("ids", "colors"):
        np.savez(tmp_path / "lacks.npz", **{k: v for k, v in arrays.items() if k != name})
        with pytest.raises(ValueError, match=f"lacks the array {name}"):
            load_packed(tmp_path / "lacks.npz")

    def broken(match: str, **changes) -> None:
        np.savez(tmp_path / "broken.npz", **{**arrays, **changes})
        with pytest.raises(ValueError, match=match):
            load_packed(tmp_path / "broken.npz")

    broken("object_2 has vertices that are not finite", vertices=np.where(np.arange(14)[:, None] == 6, np.nan, arrays["vertices"]))
    broken("object_0 has faces that name vertices", faces=arrays["faces"] + (np.arange(11)[:, None] == 1) * 5)
    broken("face_offset should rise from 0 to 11", face_offset=arrays["face_offset"][::-1].copy())
    broken(r"faces is int32 \[11, 2\], expected int32 \[n, 3\]", faces=arrays["faces"][:, :2])
    broken("11 faces but 10 colors", colors=arrays["colors"][:10])
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json: expected a JSON object"):
        load_packed(tmp_path / "good.npz")


def test_vertex_and_face_colours_come_through(tmp_path):
    box = trimesh.creation.box((2.0, 1.0, 1.0))
    box.apply_translation((5, 5, 5))
    box.visual.face_colors = np.tile([[200, 40, 90, 255]], (12, 1))
    box.export(tmp_path / "box.ply")
    vertices, faces, colors, normals = read_mesh(tmp_path / "box.ply")
    assert vertices.shape == (8, 3) and faces.shape == (12, 3)
    assert np.linalg.norm(vertices, axis=1).max() == pytest.approx(0.8, abs=1e-6)
    np.testing.assert_allclose(vertices.max(0), -vertices.min(0), atol=1e-6)
    assert (colors == [200, 40, 90]).all()
    edges = vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]
    face_normals = np.cross(*edges)
    face_normals /= np.linalg.norm(face_normals, axis=-1, keepdims=True)
    np.testing.assert_allclose(normals / 127.0, np.repeat(face_normals[:, None], 3, axis=1), atol=1e-6)


def textured_square(path, pixels: np.ndarray, factor=(255, 255, 255, 255)) -> None:
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(pixels), baseColorFactor=list(factor))
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    visual = trimesh.visual.TextureVisuals(uv=0.05 + 0.9 * corners[:, :2], material=material)
    trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False).export(path)


def test_texture_is_carried_by_corners(tmp_path):
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, :, 0] = 60
    stripes[:4, :, 0] = 240  # a bright band at the top of the picture, which is the top of the square
    textured_square(tmp_path / "square.glb", stripes)
    vertices, faces, colors, _ = read_mesh(tmp_path / "square.glb", face_limit=2000)
    assert 2 < len(faces) <= 2000
    heights = vertices[faces][..., 1]
    assert set(colors[heights > 0.37][:, 0].tolist()) == {240}  # the band begins at 0.31, half a texel is 0.04
    assert set(colors[heights < 0.25][:, 0].tolist()) == {60}
    area = (
        np.linalg.norm(
            np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]]), axis=-1
        ).sum()
        / 2
    )
    assert area == pytest.approx((0.8 * 2**0.5) ** 2, rel=1e-5)
    assert_no_cracks(vertices, faces, border=4 * 0.8 * 2**0.5)
    assert len(read_mesh(tmp_path / "square.glb", face_limit=11)[1]) <= 11


def assert_no_cracks(vertices, faces, border: float) -> None:
    """Every edge belongs to two faces, except for a border of the given length."""
    edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1), axis=-1).reshape(-1, 2)
    unique, uses = np.unique(edges, axis=0, return_counts=True)
    assert uses.max() == 2
    single = unique[uses == 1]
    length = np.linalg.norm(vertices[single[:, 0]] - vertices[single[:, 1]], axis=-1).sum()
    assert length == pytest.approx(border, rel=1e-5)


def test_even_texture_needs_no_splitting_and_takes_its_factor(tmp_path):
    textured_square(tmp_path / "even.glb", np.full((4, 4, 3), 255, np.uint8), factor=(255, 0, 255, 255))
    _, faces, colors, _ = read_mesh(tmp_path / "even.glb")
    assert len(faces) == 2 and (colors == [255, 0, 255]).all()


def test_several_materials_and_quantised_numbers_come_through(tmp_path):
    _, faces, colors, _ = read_mesh(several_materials(tmp_path / "house.glb"), face_limit=4000)
    found = {tuple(color) for color in colors.reshape(-1, 3).tolist()}
    door = tuple(np.rint(255 * linear_to_srgb(np.array([0.05, 0.25, 0.08]))).astype(int).tolist())
    assert len(faces) > 1000 and {(190, 80, 60), (220, 210, 200), (60, 70, 110), (110, 120, 170), door} <= found
    vertices, _, colors, _ = read_mesh(quantised(tmp_path / "box.glb"), face_limit=4000)
    np.testing.assert_allclose(np.ptp(vertices, axis=0) / np.ptp(vertices[:, 0]), [1, 0.75, 1], atol=1e-3)
    assert {(220, 30, 30), (30, 180, 30), (30, 60, 220), (230, 210, 30)} <= {tuple(color) for color in colors.reshape(-1, 3).tolist()}


def test_folder_with_captions(tmp_path):
    box = trimesh.creation.box()
    for name in ("a", "b", "c"):
        box.export(tmp_path / f"{name}.glb")
    (tmp_path / "sub").mkdir()
    box.export(tmp_path / "sub" / "d.obj")
    (tmp_path / "a.txt").write_text("a box\na gray box\n")
    (tmp_path / "captions.json").write_text(json.dumps({"b.glb": "a crate", "c": ["a cube", "a die"]}))
    packed = load_folder(tmp_path)
    assert packed.ids == ["a", "b", "c", "sub/d"]
    assert packed.captions == [["a box", "a gray box"], ["a crate"], ["a cube", "a die"], []]
    assert packed.max_faces == 12


def test_bad_folders_and_files_are_said_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_folder(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"no mesh in this folder; expected files ending in \.glb"):
        load_folder(tmp_path)
    (tmp_path / "bad.glb").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"bad\.glb: neither binary glTF nor JSON"):
        load_folder(tmp_path)
    (tmp_path / "nan.obj").write_text("v 0 0 0\nv 1 0 nan\nv 0 1 0\nf 1 2 3\n")
    with pytest.raises(ValueError, match=r"nan\.obj: vertices: 1 values are not finite"):
        read_mesh(tmp_path / "nan.obj")
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\n")
    with pytest.raises(ValueError, match=r"points\.obj: expected a mesh, found no triangles"):
        read_mesh(tmp_path / "points.obj")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_mesh(tmp_path / "missing.glb")
    with pytest.raises(ValueError, match="2 ids"):
        pack([], ["a", "b"])
