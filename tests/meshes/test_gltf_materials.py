"""glTF as other programs write it: textures, colours, coordinates and what is seen through, as the specification says."""

import numpy as np
import pytest
from gltf_squares import CENTERS, QUARTERS, SQUARE, SQUARE_FACES, SQUARE_UVS, seen, square

from microdreamer.images.colour import linear_to_srgb, srgb_to_linear
from microdreamer.meshes.baking import baked
from microdreamer.meshes.files import read_mesh, read_surface
from scripts.make_mesh_files import GltfFile, box, checks, leaf, quarters, several_materials


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
