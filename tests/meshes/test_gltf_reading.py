"""glTF as other programs write it: what the specification says that a file shows."""

import base64
import json

import numpy as np
import pytest
from PIL import Image

from microdreamer.images.colour import linear_to_srgb, srgb_to_linear
from microdreamer.meshes.baking import baked
from microdreamer.meshes.files import read_mesh, read_surface
from scripts.make_mesh_files import GltfFile, binary, box, checks, leaf, quarters, several_materials, skinned

QUARTERS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (30, 60, 220), "yellow": (230, 210, 30)}
SQUARE = np.float32([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
SQUARE_FACES = [[0, 1, 2], [0, 2, 3]]
SQUARE_UVS = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])


def square(material=None, uvs=SQUARE_UVS, suffix="glb", path=None, file=None, **more):
    """A file with a square in the plane z = 0 that faces +Z."""
    file = file or GltfFile()
    more = {"TEXCOORD_0": uvs, **more} if uvs is not None else more
    file.node([file.primitive(SQUARE, SQUARE_FACES, material(file) if callable(material) else material, **more)])
    return file.write(path / f"square.{suffix}")


def seen(surface, points):
    """sRGB bytes [N,3] that a surface shows at points (x, y) of its front, looked at along -Z."""
    found = []
    for x, y in points:
        best = None
        for number, face in enumerate(surface.faces):
            a, b, c = surface.vertices[face][:, :2]
            total = np.linalg.det([b - a, c - a])
            if total <= 1e-12:
                continue
            weights = [
                np.linalg.det([b - (x, y), c - (x, y)]),
                np.linalg.det([c - (x, y), a - (x, y)]),
                np.linalg.det([a - (x, y), b - (x, y)]),
            ]
            weights = np.array(weights) / total
            if weights.min() >= -1e-9:
                depth = weights @ surface.vertices[face][:, 2]
                if best is None or depth > best[0]:
                    best = depth, number, weights
        color = surface.shade(np.array([best[1]]), best[2][None])[0, :3]
        found.append(linear_to_srgb(color.astype(float)) * 255)
    return np.array(found)


CENTERS = [(-0.25, 0.25), (0.25, 0.25), (-0.25, -0.25), (0.25, -0.25)]  # of the quarters of a square, as `quarters` has them


def test_a_plain_texture_stands_upright(tmp_path):
    path = square(lambda file: file.material(file.texture(quarters())), path=tmp_path)
    np.testing.assert_allclose(seen(read_surface(path), CENTERS), list(QUARTERS.values()), atol=1)
    mesh = read_mesh(path)
    np.testing.assert_array_equal(np.rint(mesh.texture * 255), quarters())  # texel by texel as it was


@pytest.mark.parametrize("suffix", ["glb", "gltf"])
def test_two_textures_are_baked_into_one(tmp_path, suffix):
    """Both parts look as their own textures after baking, texel by texel."""
    file = GltfFile()
    colors = [((200, 20, 20), (240, 240, 240)), ((20, 40, 200), (240, 220, 40))]
    for x, pair in zip((-0.45, 0.45), colors, strict=True):
        positions, faces, uvs = box((x, 0, 0), 0.35)
        file.node([file.primitive(positions, faces, file.material(file.texture(checks(*pair))), TEXCOORD_0=uvs)])
    surface = read_surface(file.write(tmp_path / f"two.{suffix}"))
    assert surface.to_mesh() is None
    mesh = baked(surface, 512)
    assert mesh.has_texture and len(mesh.faces) == 24
    rng = np.random.default_rng(0)
    face, weights = rng.integers(0, 24, 3000), rng.dirichlet([1, 1, 1], 3000)
    wanted = linear_to_srgb(surface.shade(face, weights)[:, :3].astype(float)) * 255
    uv = np.einsum("nkc,nk->nc", mesh.uvs[mesh.uv_faces[face]], weights)
    found = mesh.texture[((1 - uv[:, 1]) * 512).astype(int).clip(0, 511), (uv[:, 0] * 512).astype(int).clip(0, 511)] * 255
    error = np.abs(found - wanted).mean(1)
    assert error.mean() < 12 and (error > 60).mean() < 0.06  # at the checks' edges alone


def test_one_texture_with_two_factors_and_a_plain_part(tmp_path):
    file = GltfFile()
    texture = file.texture(np.full((8, 8, 3), 255, np.uint8))
    parts = []
    for z, material in enumerate(
        (file.material(texture), file.material(texture, color=[0.2, 1, 1, 1]), file.material(color=[1, 0.5, 0, 1]))
    ):
        parts.append(file.primitive(SQUARE * 0.3 + np.float32([z - 1, 0, 0]), SQUARE_FACES, material, TEXCOORD_0=SQUARE_UVS))
    file.node(parts)
    surface = read_surface(file.write(tmp_path / "three.glb"))
    wanted = linear_to_srgb(np.array([[1, 1, 1], [0.2, 1, 1], [1, 0.5, 0]])) * 255
    np.testing.assert_allclose(seen(surface, [(-1, 0), (0, 0), (1, 0)]), wanted, atol=0.5)
    assert surface.to_mesh() is None and baked(surface, 128).has_texture


def test_the_toy_house_has_all_its_materials(tmp_path):
    surface = read_surface(several_materials(tmp_path / "house.glb"))
    assert len(surface.materials) == 3 and len(surface.faces) == 12 + 6 + 12
    door = linear_to_srgb(np.array([0.05, 0.25, 0.08])) * 255
    np.testing.assert_allclose(seen(surface, [(0, -0.3)]), [door], atol=0.5)


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


# ---- Colours ----

TINT = np.array([[0.05, 0.05, 0.8, 1], [0.8, 0.05, 0.05, 1], [0.2, 0.9, 0.1, 1], [0.5, 0.5, 0.5, 1]])


@pytest.mark.parametrize("suffix", ["glb", "gltf"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ["f4", "u1", "u2"])
def test_vertex_colours_are_linear_whatever_their_type(tmp_path, kind, channels, suffix):
    values = TINT[:, :channels]
    stored = values.astype(kind) if kind == "f4" else ((values * np.iinfo(kind).max).round().astype(kind), "normalized")
    mesh = read_mesh(square(path=tmp_path, suffix=suffix, COLOR_0=stored))
    np.testing.assert_allclose(mesh.vertex_colors, linear_to_srgb(TINT[:, :3]), atol=1 / 128 if kind == "u1" else 1e-4)


def test_vertex_colours_texture_and_factor_are_multiplied_in_linear_light(tmp_path):
    texture, factor = np.full((4, 4, 3), 128, np.uint8), [0.5, 1, 0.25, 1]
    path = square(lambda file: file.material(file.texture(texture), color=factor), path=tmp_path, COLOR_0=np.float32(TINT))
    points = SQUARE[:, :2] * 0.9998
    wanted = linear_to_srgb(srgb_to_linear(np.array(128 / 255)) * TINT[:, :3] * factor[:3]) * 255
    np.testing.assert_allclose(seen(read_surface(path), points), wanted, atol=0.5)


def test_vertex_colours_are_blended_in_linear_light_when_baked(tmp_path):
    path = square(path=tmp_path, COLOR_0=np.float32([[0, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]]))
    np.testing.assert_allclose(seen(read_surface(path), [(0, 0)]), [[188, 188, 188]], atol=0.5)  # half the light


def test_specular_glossiness_and_unlit_and_emission(tmp_path):
    def old(file):
        texture = {"index": file.texture(quarters())}
        return file.add(
            "materials", extensions={"KHR_materials_pbrSpecularGlossiness": {"diffuseTexture": texture, "diffuseFactor": [1, 1, 1, 1]}}
        )

    def unlit(file):
        return file.material(file.texture(quarters()), extensions={"KHR_materials_unlit": {}}, emissiveFactor=[1, 1, 1])

    def emissive(file):
        return file.add("materials", emissiveFactor=[1, 1, 1], emissiveTexture={"index": file.texture(quarters())})

    def emissive_on_black(file):
        return file.material(color=[0, 0, 0, 1], emissiveFactor=[1, 1, 1], emissiveTexture={"index": file.texture(quarters())})

    def both_the_same(file):
        texture = file.texture(quarters())
        return file.material(texture, emissiveFactor=[1, 1, 1], emissiveTexture={"index": texture})

    for material in (old, unlit, emissive, emissive_on_black, both_the_same):
        surface = read_surface(square(material, path=tmp_path))
        np.testing.assert_allclose(seen(surface, CENTERS), list(QUARTERS.values()), atol=1, err_msg=material.__name__)


def test_emission_is_added_and_a_lone_factor_is_the_colour(tmp_path):
    glow = lambda file: file.material(color=[0.2, 0.2, 0.2, 1], emissiveFactor=[0.5, 0, 0])  # noqa: E731
    wanted = linear_to_srgb(np.array([[0.7, 0.2, 0.2]])) * 255
    np.testing.assert_allclose(seen(read_surface(square(glow, path=tmp_path)), [(0, 0.1)]), wanted, atol=0.5)
    neon = lambda file: file.add("materials", emissiveFactor=[1, 0, 0])  # noqa: E731
    np.testing.assert_allclose(seen(read_surface(square(neon, path=tmp_path)), [(0, 0.1)]), [[255, 0, 0]], atol=0.5)


# ---- Coordinates ----


def test_the_second_set_of_coordinates(tmp_path):
    material = lambda file: file.material({"index": file.texture(quarters()), "texCoord": 1})  # noqa: E731
    path = square(material, uvs=np.zeros((4, 2), np.float32), path=tmp_path, TEXCOORD_1=SQUARE_UVS)
    np.testing.assert_allclose(seen(read_surface(path), CENTERS), list(QUARTERS.values()), atol=1)


def transformed(path, **moved):
    def material(file):
        file.use("KHR_texture_transform")
        return file.material({"index": file.texture(quarters()), "extensions": {"KHR_texture_transform": moved}})

    return seen(read_surface(square(material, path=path)), CENTERS)


def test_texture_transform_moves_and_scales(tmp_path):
    found = transformed(tmp_path, offset=[0.5, 0], scale=[0.5, 0.5])
    np.testing.assert_allclose(found, [QUARTERS["green"]] * 4, atol=1)


def test_texture_transform_turns_the_coordinates_counter_clockwise(tmp_path):
    """By a quarter turn about the upper left: (1, 0) goes to (0, -1), which is (0, 1) of the next repeat; the picture turns clockwise."""
    found = transformed(tmp_path, rotation=float(np.pi / 2))
    np.testing.assert_allclose(found, [QUARTERS[name] for name in ("blue", "red", "yellow", "green")], atol=1)


def test_texture_transform_scales_before_it_turns(tmp_path):
    """(u, v) goes to (v, -u / 2), which is in the lower half of the picture; in the other order it would go to (v / 2, -u)."""
    found = transformed(tmp_path, rotation=float(np.pi / 2), scale=[0.5, 1])
    np.testing.assert_allclose(found, [QUARTERS[name] for name in ("blue", "blue", "yellow", "yellow")], atol=1)


WRAPS = {"clamp": 33071, "mirror": 33648, "repeat": 10497}


@pytest.mark.parametrize("across", WRAPS)
@pytest.mark.parametrize("down", WRAPS)
def test_wrap_modes(tmp_path, across, down):
    """A square that shows coordinates from -1 to 2 in both directions: nine pictures, of which the middle one is whole."""
    sampler = {"wrapS": WRAPS[across], "wrapT": WRAPS[down]}
    uvs = SQUARE_UVS * 3 - 1
    path = square(lambda file: file.material(file.texture(quarters(), sampler)), uvs=uvs, path=tmp_path)
    values = [-0.75, -0.25, 0.25, 0.75, 1.25, 1.75]

    def half(value, mode):
        if mode == "clamp":
            return int(value > 0.5)
        folded = abs((value + 1) % 2 - 1) if mode == "mirror" else value % 1
        return int(folded > 0.5)

    surface, names = read_surface(path), [["red", "green"], ["blue", "yellow"]]
    points = [((u + 1) / 3 - 0.5, 0.5 - (v + 1) / 3) for u in values for v in values]
    wanted = [QUARTERS[names[half(v, down)][half(u, across)]] for u in values for v in values]
    np.testing.assert_allclose(seen(surface, points), wanted, atol=1)


def test_hard_texels_stay_hard(tmp_path):
    texture = np.uint8([[[255, 0, 0], [0, 0, 255]]])
    material = lambda file: file.material(file.texture(texture, {"magFilter": 9728}))  # noqa: E731
    path = square(material, path=tmp_path)
    np.testing.assert_allclose(seen(read_surface(path), [(-0.02, 0), (0.02, 0.01)]), [[255, 0, 0], [0, 0, 255]])
    mesh = read_mesh(path)
    assert mesh.texture.shape[1] >= 256 and len(np.unique(mesh.texture.reshape(-1, 3), axis=0)) == 2


# ---- What is seen through ----


@pytest.mark.parametrize("mode", ["MASK", "BLEND"])
def test_transparent_texels_do_not_become_black(tmp_path, mode):
    path = square(lambda file: file.material(file.texture(leaf()), alphaMode=mode), path=tmp_path)
    mesh = read_mesh(path)
    assert mesh.texture[..., 1].min() > 0.4  # green all over, as the leaf is
    assert read_surface(path).notes


def test_opaque_materials_ignore_alpha(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 200
    mesh = read_mesh(square(lambda file: file.material(file.texture(pixels)), path=tmp_path))
    assert (np.rint(mesh.texture * 255) == [200, 0, 0]).all()


def test_faces_of_which_nothing_is_seen_are_left_out(tmp_path):
    file = GltfFile()
    glass = file.material(color=[1, 1, 1, 0], alphaMode="BLEND")
    file.node([file.primitive(SQUARE * 5, SQUARE_FACES, glass), file.primitive(SQUARE, SQUARE_FACES, file.material(color=[1, 0, 0, 1]))])
    surface = read_surface(file.write(tmp_path / "a.glb"))
    assert len(surface.faces) == 2 and np.abs(surface.vertices[surface.faces]).max() == 0.5
    assert surface.notes == ["transparent parts are cut away, and what shines through became opaque"]


@pytest.mark.parametrize("mode", ["MASK", "BLEND"])
@pytest.mark.parametrize("repeat", [1, 3])
def test_cards_are_cut_along_their_picture(tmp_path, mode, repeat):
    path = square(lambda file: file.material(file.texture(leaf()), alphaMode=mode), uvs=SQUARE_UVS * repeat, path=tmp_path)
    surface = read_surface(path)
    a, b, c = surface.vertices[surface.faces].transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    share = (leaf()[..., 3] > 0).mean()
    assert np.linalg.norm(normals, axis=1).sum() / 2 == pytest.approx(share, rel=0.03 if mode == "MASK" else 0.1)
    assert normals[:, 2].min() >= 0 and not surface.vertices[:, 2].any()
    middles = surface.uvs[..., :2].mean(1) % 1
    there = leaf()[((1 - middles[:, 1]) * 128).astype(int).clip(0, 127), (middles[:, 0] * 128).astype(int).clip(0, 127), 3] > 0
    assert normals[there, 2].sum() > 0.9 * normals[:, 2].sum()


def test_a_cut_through_opacity_at_the_vertices(tmp_path):
    """Opacity that falls from 1 to 0 along x is cut where it is a quarter."""
    colors = np.float32([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    material = lambda file: file.material(color=[1, 0, 0, 1], alphaMode="MASK", alphaCutoff=0.25)  # noqa: E731
    surface = read_surface(square(material, path=tmp_path, COLOR_0=colors))
    used = surface.vertices[surface.faces].reshape(-1, 3)
    assert used[:, 0].max() == pytest.approx(0.25, abs=1e-6) and used[:, 0].min() == -0.5


def test_a_file_that_is_all_transparent_is_refused(tmp_path):
    path = square(lambda file: file.material(color=[1, 1, 1, 0], alphaMode="BLEND"), path=tmp_path)
    with pytest.raises(ValueError, match="all of it is transparent"):
        read_surface(path)


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


# ---- Extensions and pictures ----


def test_what_is_required_and_not_known_is_named(tmp_path):
    file = GltfFile()
    file.use("NASA_warp_drive", required=True)
    with pytest.raises(ValueError, match=r"square\.glb: it needs the glTF extension NASA_warp_drive"):
        read_surface(square(file=file, path=tmp_path))


@pytest.mark.parametrize("required", [True, False])
def test_gaussians_are_told_where_they_belong(tmp_path, required):
    file = GltfFile()
    file.use("KHR_gaussian_splatting", required)
    file.node([file.primitive(SQUARE, None, mode=0)])
    with pytest.raises(ValueError, match=r"a\.glb: it holds Gaussians, no mesh; pass it as --from-ply"):
        read_surface(file.write(tmp_path / "a.glb"))


def test_what_is_ignored_is_one_line(tmp_path):
    file = GltfFile()
    for name in ("NASA_warp_drive", "KHR_materials_transmission", "KHR_lights_punctual"):
        file.use(name)
    surface = read_surface(square(file=file, path=tmp_path))
    assert surface.notes == ["glTF extensions without effect: NASA_warp_drive, KHR_materials_transmission"]


@pytest.mark.parametrize(("extension", "package"), [("KHR_draco_mesh_compression", "DracoPy"), ("EXT_meshopt_compression", "meshopt")])
def test_compressions_name_their_package(tmp_path, monkeypatch, extension, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)  # not installed
    file = GltfFile()
    part = file.primitive(SQUARE, SQUARE_FACES)
    file.use(extension, required=True)
    if package == "DracoPy":
        part["extensions"] = {extension: {"bufferView": 0, "attributes": {"POSITION": 0}}}
    else:
        packed = {"buffer": 0, "byteOffset": 0, "byteLength": 4, "byteStride": 12, "mode": "ATTRIBUTES", "count": 4}
        file.json["bufferViews"][0]["extensions"] = {extension: packed}
    file.node([part])
    with pytest.raises(ValueError, match=rf"pip install {package}"):
        read_surface(file.write(tmp_path / "a.glb"))


def test_draco_gives_the_same_mesh(tmp_path):
    DracoPy = pytest.importorskip("DracoPy")
    positions, faces, uvs = box()
    data = DracoPy.encode(positions, faces, tex_coord=uvs.astype(np.float64), preserve_order=True, quantization_bits=16)
    numbers = {len(entry["data"][0]): entry["unique_id"] for entry in DracoPy.decode(data).attributes}
    file = GltfFile()
    file.use("KHR_draco_mesh_compression", required=True)
    part = file.primitive(positions, faces, file.material(file.texture(quarters())), TEXCOORD_0=uvs)
    for accessor in file.json["accessors"]:
        del accessor["bufferView"]
    attributes = {"POSITION": numbers[3], "TEXCOORD_0": numbers[2]}
    part["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": file.view(data), "attributes": attributes}}
    file.node([part])
    surface = read_surface(file.write(tmp_path / "a.glb"))
    front = seen(surface, [(x * 0.8, y * 0.8) for x, y in CENTERS])
    np.testing.assert_allclose(np.abs(surface.vertices), 0.4, atol=1e-3)
    assert {tuple(color) for color in np.rint(front).astype(int)} == set(QUARTERS.values())


def test_draco_of_normalised_integers(tmp_path):
    DracoPy = pytest.importorskip("DracoPy")
    positions, faces, _ = box(half=1)
    data = DracoPy.encode(np.int32(positions * 32767), faces, preserve_order=True)
    file = GltfFile()
    file.use("KHR_draco_mesh_compression", required=True)
    part = file.primitive((np.int16(positions * 32767), "normalized"), faces)
    number = DracoPy.decode(data).attributes[0]["unique_id"]
    part["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": file.view(data), "attributes": {"POSITION": number}}}
    file.node([part])
    np.testing.assert_allclose(np.abs(read_surface(file.write(tmp_path / "a.glb")).vertices), 1, atol=1e-3)


def test_meshopt_gives_the_same_mesh(tmp_path):
    meshopt = pytest.importorskip("meshopt")
    file = GltfFile()
    positions, faces, _ = box()
    part = file.primitive(positions, faces)
    file.use("EXT_meshopt_compression", required=True)
    for index, (values, mode) in enumerate(((positions, "ATTRIBUTES"), (faces.reshape(-1).astype(np.uint16), "TRIANGLES"))):
        source = values.astype(np.uint32) if mode == "TRIANGLES" else values
        data = bytes(meshopt.encode_gltf_buffer(source, mode))
        stride = values.dtype.itemsize * (3 if values.ndim == 2 else 1)
        packed = {"buffer": 0, "byteLength": len(data), "byteStride": stride, "mode": mode, "count": len(values)}
        packed["byteOffset"] = file.json["bufferViews"][file.view(data)]["byteOffset"]
        file.json["bufferViews"][file.json["accessors"][index]["bufferView"]]["extensions"] = {"EXT_meshopt_compression": packed}
    file.node([part])
    surface = read_surface(file.write(tmp_path / "a.glb"))
    np.testing.assert_array_equal(surface.vertices[surface.faces].min((0, 1)), positions.min(0))
    a, b, c = surface.vertices[surface.faces].transpose(1, 0, 2)
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(6 * 0.8**2)


def test_a_picture_that_another_reader_needs_falls_back_to_the_plain_one(tmp_path):
    def material(file):
        file.use("KHR_texture_basisu")
        index = file.texture(quarters())
        ktx = file.add("images", bufferView=file.view(b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(80)), mimeType="image/ktx2")
        file.json["textures"][index]["extensions"] = {"KHR_texture_basisu": {"source": ktx}}
        return file.material(index)

    np.testing.assert_allclose(seen(read_surface(square(material, path=tmp_path)), CENTERS), list(QUARTERS.values()), atol=1)


def test_ktx2_alone_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opengl_basisu", None)

    def material(file):
        file.use("KHR_texture_basisu", required=True)
        ktx = file.add("images", bufferView=file.view(b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(80)), mimeType="image/ktx2")
        return file.material(file.add("textures", extensions={"KHR_texture_basisu": {"source": ktx}}))

    with pytest.raises(ValueError, match=r"KTX2 file, which takes a package: pip install opengl-basisu"):
        read_surface(square(material, path=tmp_path))


# `quarters(16)` as ETC1S, by Basis Universal 2.1
KTX2 = (
    "q0tUWCAyMLsNChoKAAAAAAEAAAAQAAAAEAAAAAAAAAAAAAAAAQAAAAEAAAABAAAAaAAAACwAAACUAAAAJAAAALgAAAAAAAAAkwAAAAAAAABLAQAAAAAAAAQAAAAAAAAA"
    "AAAAAAAAAAAsAAAAAAAAAAIAKACjAQIAAwMAAAgAAAAAAAAAAAA/AAAAAAAAAAAA/////x8AAABLVFh3cml0ZXIAQmFzaXMgVW5pdmVyc2FsIDIuMTAAAAQAAgAzAAAA"
    "CQAAAC8AAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAZQNwAAQAAQFB9EA1iBTAlAAAAAACADFBRAFMABAAAAEDQjLYHwASAAAAAABAUM/ZTOQusqqqqUlVVVQUUwEQA"
    "AAAAAAASQQCYAAAAAAAAQBgCogQMAAAAwsYlkghEOQIwAwAAAAAAgCQgAEjNYQU="
)


def test_ktx2_is_decoded(tmp_path):
    pytest.importorskip("opengl_basisu")

    def material(file):
        file.use("KHR_texture_basisu", required=True)
        ktx = file.add("images", bufferView=file.view(base64.b64decode(KTX2)), mimeType="image/ktx2")
        return file.material(file.add("textures", extensions={"KHR_texture_basisu": {"source": ktx}}))

    np.testing.assert_allclose(seen(read_surface(square(material, path=tmp_path)), CENTERS), list(QUARTERS.values()), atol=4)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG"])
def test_picture_formats(tmp_path, file_format):
    surface = read_surface(square(lambda file: file.material(file.texture(quarters(), file_format=file_format)), path=tmp_path))
    np.testing.assert_allclose(seen(surface, CENTERS), list(QUARTERS.values()), atol=6)


def test_files_beside_it_by_names_that_are_encoded(tmp_path):
    Image.fromarray(quarters()).save(tmp_path / "ein Bild №1.png")
    file = GltfFile()
    image = file.add("images", uri="ein%20Bild%20%E2%84%961.png")
    path = square(lambda f: f.material(f.add("textures", source=image)), suffix="gltf", path=tmp_path, file=file)
    document = json.loads(path.read_text())
    document["buffers"][0]["uri"] = "data%20file.bin"
    (tmp_path / "data file.bin").write_bytes(bytes(file.blob))
    path.write_text(json.dumps(document))
    np.testing.assert_allclose(seen(read_surface(path), CENTERS), list(QUARTERS.values()), atol=1)
    (tmp_path / "ein Bild №1.png").unlink()
    with pytest.raises(ValueError, match=r"square\.gltf: .*ein%20Bild.* is not there"):
        read_surface(path)


def test_a_sixteen_bit_picture_is_not_cut_off(tmp_path):
    Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)).save(tmp_path / "grey.png")
    file = GltfFile()
    image = file.add("images", uri="grey.png")
    path = square(lambda f: f.material(f.add("textures", source=image)), path=tmp_path, file=file)
    np.testing.assert_allclose(seen(read_surface(path), [(0, 0.1)]), [[128] * 3], atol=0.5)


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
