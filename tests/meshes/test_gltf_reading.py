"""glTF as other programs write it: numbers, places and shapes, and what is said to a wrong structure."""

import numpy as np
import pytest
from gltf_squares import CENTERS, QUARTERS, SQUARE, SQUARE_FACES, SQUARE_UVS, seen, square

from microdreamer.meshes.files import read_surface
from scripts.make_mesh_files import GltfFile, binary, quarters, skinned

# ---- Numbers ----


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.uint8, np.uint16])
def test_normalised_positions_and_coordinates(tmp_path, kind):
    full = np.iinfo(kind).max
    file = GltfFile()
    file.use("KHR_mesh_quantization", required=True)
    low = 0 if np.iinfo(kind).min == 0 else -1
    positions = ((SQUARE + 0.5) * (1 - low) + low) * full
    uvs = (np.uint8(SQUARE_UVS * 255), "normalized")
    material = file.material(file.texture(quarters()))
    file.node([file.primitive((positions.round().astype(kind), "normalized"), SQUARE_FACES, material, TEXCOORD_0=uvs)])
    surface = read_surface(file.write(tmp_path / "a.glb"))
    np.testing.assert_allclose(np.ptp(surface.vertices[:, :2], axis=0), 1 - low, atol=1e-9)
    middle = (1 + low) / 2
    points = [(x * (1 - low) + middle, y * (1 - low) + middle) for x, y in CENTERS]
    np.testing.assert_allclose(seen(surface, points), list(QUARTERS.values()), atol=1)


def test_the_lowest_integer_is_minus_one(tmp_path):
    file = GltfFile()
    positions = np.int16([[-32768, 0, 0], [32767, 0, 0], [0, 32767, 0]])
    file.node([file.primitive((positions, "normalized"), [[0, 1, 2]])])
    assert read_surface(file.write(tmp_path / "a.glb")).vertices.min() == -1


def test_integers_that_are_not_normalised_stay_as_they_are(tmp_path):
    file = GltfFile()
    file.node([file.primitive(np.int16(SQUARE * 2000), SQUARE_FACES)], scale=[0.0005, 0.0005, 0.0005])
    np.testing.assert_allclose(read_surface(file.write(tmp_path / "a.glb")).vertices, SQUARE, atol=1e-9)


@pytest.mark.parametrize("based", [True, False])
def test_sparse_accessors_change_what_lies_below_or_zeros(tmp_path, based):
    file = GltfFile()
    part = file.primitive(SQUARE, SQUARE_FACES)
    accessor = file.json["accessors"][part["attributes"]["POSITION"]]
    rows, values = file.view(np.uint16([1, 2]).tobytes()), file.view(np.float32([[2, -0.5, 0], [3, 4, 0]]).tobytes())
    accessor["sparse"] = {"count": 2, "indices": {"bufferView": rows, "componentType": 5123}, "values": {"bufferView": values}}
    if not based:
        del accessor["bufferView"]
    file.node([part])
    wanted = SQUARE.copy() if based else 0 * SQUARE
    wanted[1:3] = [[2, -0.5, 0], [3, 4, 0]]
    np.testing.assert_allclose(read_surface(file.write(tmp_path / "a.glb")).vertices, wanted)


def test_interleaved_attributes_are_taken_apart(tmp_path):
    file = GltfFile()
    part = file.primitive(SQUARE, SQUARE_FACES, file.material(file.texture(quarters())))
    rows = np.concatenate([SQUARE, SQUARE_UVS], axis=1).astype("<f4")
    view = file.view(rows.tobytes(), byteStride=20)
    names = (("POSITION", "VEC3", 0), ("TEXCOORD_0", "VEC2", 12))
    for name, kind, offset in names:
        part["attributes"][name] = file.add("accessors", bufferView=view, byteOffset=offset, componentType=5126, count=4, type=kind)
    file.node([part])
    np.testing.assert_allclose(seen(read_surface(file.write(tmp_path / "a.glb")), CENTERS), list(QUARTERS.values()), atol=1)


# ---- Shape ----


def placed(path, **node):
    file = GltfFile()
    file.node([file.primitive(SQUARE, SQUARE_FACES)], **node)
    return read_surface(file.write(path / "a.glb"))


def test_nodes_are_placed_by_matrix_and_by_parts_alike(tmp_path):
    turn = [0.0, 0.0, float(np.sin(np.pi / 4)), float(np.cos(np.pi / 4))]
    by_parts = placed(tmp_path, translation=[1, 2, 3], rotation=turn, scale=[2, 3, 4])
    by_matrix = placed(tmp_path, matrix=[0, 2, 0, 0, -3, 0, 0, 0, 0, 0, 4, 0, 1, 2, 3, 1])
    np.testing.assert_allclose(by_parts.vertices, [[2.5, 1, 3], [2.5, 3, 3], [-0.5, 3, 3], [-0.5, 1, 3]], atol=1e-6)
    np.testing.assert_allclose(by_matrix.vertices, by_parts.vertices, atol=1e-6)


def test_mirrored_nodes_are_turned_over(tmp_path):
    surface = placed(tmp_path, scale=[-1, 1, 1])
    a, b, c = surface.vertices[surface.faces[0]]
    assert np.cross(b - a, c - a)[2] > 0


def test_children_instances_and_copies(tmp_path):
    file = GltfFile()
    mesh = file.add("meshes", primitives=[file.primitive(SQUARE, SQUARE_FACES)])
    child = file.node(in_scene=False, mesh=mesh, translation=[1, 0, 0])
    rows = file.accessor(np.float32([[0, 0, 0], [0, 0, 7]]))
    file.node(children=[child], scale=[10, 1, 1])
    file.node(mesh=mesh, extensions={"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": rows}}})
    surface = read_surface(file.write(tmp_path / "a.glb"))
    assert len(surface.faces) == 6
    np.testing.assert_allclose(surface.vertices.max(0), [15, 0.5, 7])


def test_the_default_scene_alone_is_shown(tmp_path):
    file = GltfFile()
    first = file.node([file.primitive(SQUARE, SQUARE_FACES)], in_scene=False)
    second = file.node([file.primitive(SQUARE * 3, SQUARE_FACES)], in_scene=False)
    file.json["scenes"] = [{"nodes": [first]}, {"nodes": [second]}]
    file.json["scene"] = 1
    assert read_surface(file.write(tmp_path / "a.glb")).vertices.max() == 1.5
    del file.json["scene"]
    assert read_surface(file.write(tmp_path / "a.glb")).vertices.max() == 0.5
    del file.json["scenes"]
    assert len(read_surface(file.write(tmp_path / "a.glb")).faces) == 4


@pytest.mark.parametrize(("mode", "order"), [(5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])])
def test_strips_and_fans_are_wound_as_triangles_are(tmp_path, mode, order):
    for indexed in (True, False):
        file = GltfFile()
        part = file.primitive(SQUARE if indexed else SQUARE[order], [order] if indexed else None, mode=mode)
        file.node([part])
        surface = read_surface(file.write(tmp_path / "a.glb"))
        a, b, c = surface.vertices[surface.faces].transpose(1, 0, 2)
        areas = np.cross(b - a, c - a)[:, 2] / 2
        assert len(areas) == 2 and areas.min() > 0 and areas.sum() == pytest.approx(1)


def test_points_and_lines_are_left_out_with_a_line(tmp_path):
    file = GltfFile()
    file.node([file.primitive(SQUARE, SQUARE_FACES), file.primitive(SQUARE * 9, None, mode=0), file.primitive(SQUARE * 9, None, mode=1)])
    surface = read_surface(file.write(tmp_path / "a.glb"))
    assert len(surface.faces) == 2 and surface.notes == ["points and lines are left out"]


def test_morph_targets_have_their_default_weights(tmp_path):
    file = GltfFile()
    part = file.primitive(SQUARE, SQUARE_FACES)
    part["targets"] = [{"POSITION": file.accessor(np.float32(np.tile([0, 0, 2.0], (4, 1))))}]
    number = file.node([part])
    file.json["meshes"][0]["weights"] = [0.5]
    assert (read_surface(file.write(tmp_path / "a.glb")).vertices[:, 2] == 1).all()
    file.json["nodes"][number]["weights"] = [0.25]
    assert (read_surface(file.write(tmp_path / "a.glb")).vertices[:, 2] == 0.5).all()


def test_a_skin_places_its_mesh_and_the_node_does_not(tmp_path):
    """The tower is bent by its upper joint: its top goes to where the joint takes it, all within about a unit of the origin."""
    surface = read_surface(skinned(tmp_path / "tower.glb"))
    top = surface.vertices[-4:].mean(0)
    angle = -0.8  # twice the half angle of the quaternion
    wanted = np.array([0, -0.4, 0]) + 0.01 * np.array([-40 * np.sin(angle), 40 + 40 * np.cos(angle), 0])
    np.testing.assert_allclose(top, wanted, atol=1e-6)
    np.testing.assert_allclose(surface.vertices[:4].mean(0), [0, -0.4, 0], atol=1e-6)


# ---- What is wrong with it ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda j: j["asset"].update(version="1.0"), "it is glTF 1.0, expected 2.0"),
        (lambda j: j.pop("asset"), "it has no 'asset'"),
        (lambda j: j["nodes"][0].update(mesh=7), r"it names meshes\[7\], which is not there"),
        (lambda j: j["nodes"][0].update(children=[0]), "stands in the scene twice"),
        (lambda j: j["accessors"][0].update(count=400), "400 elements are announced"),
        (lambda j: j["bufferViews"][0].update(byteLength=10**9), "it is cut short"),
        (lambda j: j["meshes"][0]["primitives"][0]["attributes"].pop("POSITION"), "lacks 'POSITION'"),
        (lambda j: j["meshes"][0]["primitives"][0].update(mode=1), "found no triangles"),
        (lambda j: j["nodes"][0].update(translation=[1e39, 0, 0]), "values are not finite"),
        (lambda j: j["nodes"][0].update(scale="large"), r"nodes\[0\] is not placed by numbers"),
        (lambda j: j["meshes"][0].update(primitives=5), "not a mesh that can be read"),
        (lambda j: j["scenes"].clear(), r"scenes\[0\], which is not there"),
    ],
)
def test_a_wrong_structure_is_one_line(tmp_path, change, message):
    file = GltfFile()
    file.node([file.primitive(SQUARE, SQUARE_FACES)])
    change(file.json)
    with pytest.raises(ValueError, match=message) as caught:
        read_surface(file.write(tmp_path / "a.glb"))
    assert "\n" not in str(caught.value) and "a.glb" in str(caught.value)


def test_a_face_that_names_no_vertex_is_told(tmp_path):
    file = GltfFile()
    file.node([file.primitive(SQUARE, [[0, 1, 9]])])
    with pytest.raises(ValueError, match="a face names vertex 9 of 4"):
        read_surface(file.write(tmp_path / "a.glb"))


def test_cut_and_foreign_files(tmp_path):
    data = square(path=tmp_path).read_bytes()
    cases = {"cut.glb": data[:-30], "head.glb": data[:16], "text.glb": b"hello", "array.gltf": b"[1]", "old.glb": b"glTF\x01" + data[5:]}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as caught:
            read_surface(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_binary_file_of_another_name_is_known_by_how_it_begins(tmp_path):
    data = square(path=tmp_path).read_bytes()
    (tmp_path / "mesh.gltf").write_bytes(data)
    (tmp_path / "mesh.bin").write_bytes(data)
    assert len(read_surface(tmp_path / "mesh.gltf").faces) == len(read_surface(tmp_path / "mesh.bin").faces) == 2


def test_chunks_of_an_unknown_kind_are_passed_over(tmp_path):
    file = GltfFile()
    file.node([file.primitive(SQUARE, SQUARE_FACES)])
    document = {**file.json, "buffers": [{"byteLength": len(file.blob)}]}
    data = binary(document, bytes(file.blob)) + b"\x04\x00\x00\x00ABCDxyz!"
    data = data[:8] + len(data).to_bytes(4, "little") + data[12:]
    (tmp_path / "a.glb").write_bytes(data)
    assert len(read_surface(tmp_path / "a.glb").faces) == 2
