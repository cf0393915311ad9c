"""Surfaces of several materials: how their textures are looked up, when they are one mesh, and how they are baked."""

import dataclasses

import numpy as np
import pytest
import trimesh

from microdreamer.images.colour import linear_to_srgb, srgb_to_linear
from microdreamer.meshes.baking import baked
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.surface import CLAMP, MIRROR, REPEAT, Material, Surface, Texture
from scripts.make_mesh_files import checks

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
FACES = np.array([[0, 1, 2], [0, 2, 3]])
NOISE = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)


def square(material, uvs=SQUARE[:, :2], colors=None):
    return Surface.plain(SQUARE, FACES, material, uvs=uvs[FACES], colors=None if colors is None else colors[FACES])


def test_centres_of_texels_are_the_texels():
    rows, columns = np.mgrid[:32, :64]
    uv = np.stack([(columns.reshape(-1) + 0.5) / 64, 1 - (rows.reshape(-1) + 0.5) / 32], axis=1)
    for wrap in (REPEAT, MIRROR, CLAMP):
        found = Texture(NOISE, wrap=(wrap, wrap)).sample(uv)
        np.testing.assert_allclose(linear_to_srgb(found[:, :3].astype(float)) * 255, NOISE.reshape(-1, 3), atol=0.01)
        assert (found[:, 3] == 1).all()


def test_what_one_sample_stands_for_is_averaged_in_linear_light():
    blocks = srgb_to_linear(NOISE / 255).reshape(4, 8, 8, 8, 3).mean((1, 3))
    rows, columns = np.mgrid[:4, :8]
    uv = np.stack([(columns.reshape(-1) + 0.5) / 8, 1 - (rows.reshape(-1) + 0.5) / 4], axis=1)
    found = Texture(NOISE).sample(uv, np.full(32, 8.0))
    np.testing.assert_allclose(found[:, :3], blocks.reshape(-1, 3), atol=1e-6)


@pytest.mark.parametrize("wrap", [REPEAT, MIRROR, CLAMP])
def test_coordinates_far_away(wrap):
    """Repeats are alike, mirrored ones alternate, clamped ones show the border."""
    texture = Texture(NOISE, wrap=(wrap, CLAMP))
    u = np.array([0.3, 1000.3, -999.7, 1000.7, -0.3])
    found = texture.sample(np.stack([u, np.full(5, 0.5)], axis=1))[:, :3]
    if wrap == REPEAT:
        wanted = texture.sample(np.array([[0.3, 0.5], [0.3, 0.5], [0.3, 0.5], [0.7, 0.5], [0.7, 0.5]]))
    elif wrap == MIRROR:
        wanted = texture.sample(np.array([[0.3, 0.5], [0.3, 0.5], [0.3, 0.5], [0.7, 0.5], [0.3, 0.5]]))
    else:
        wanted = texture.sample(np.array([[0.3, 0.5], [1, 0.5], [0, 0.5], [1, 0.5], [0, 0.5]]))
    np.testing.assert_allclose(found, wanted[:, :3], atol=1e-4)


def test_one_texture_is_one_mesh_and_what_changes_it_is_not():
    material = Material(texture=Texture(NOISE))
    assert square(material).to_mesh().has_texture
    tinted = dataclasses.replace(material, color=np.array([0.5, 1, 1, 1]))
    np.testing.assert_allclose(
        srgb_to_linear(square(tinted).to_mesh().texture[..., 0]), 0.5 * srgb_to_linear(NOISE[..., 0] / 255), atol=1e-6
    )
    even = np.full((4, 4), 0.25)
    assert square(material, colors=even).to_mesh().has_texture  # the same colour at all corners is a factor
    assert square(material, colors=np.linspace(0, 1, 16).reshape(4, 4)).to_mesh() is None
    assert square(dataclasses.replace(material, emission=np.ones(3))).to_mesh() is None
    two = Surface.joined([square(material), square(tinted)])
    assert two.to_mesh() is None
    same = Surface.joined([square(material), square(Material(texture=Texture(NOISE.copy())))])
    assert same.to_mesh().has_texture
    for wrap, is_one in ((REPEAT, True), (MIRROR, False), (CLAMP, False)):
        beyond = square(Material(texture=Texture(NOISE, wrap=(wrap, wrap))), uvs=3 * SQUARE[:, :2])
        assert (beyond.to_mesh() is not None) == is_one


def test_a_mesh_comes_back_from_its_surface():
    box = trimesh.creation.box()
    colors = np.random.default_rng(1).random((8, 3))
    again = Surface.of_mesh(Mesh(box.vertices, box.faces, colors)).to_mesh()
    np.testing.assert_array_equal(again.faces, box.faces)
    np.testing.assert_allclose(again.vertex_colors, colors, atol=1e-6)
    textured = Mesh(SQUARE, FACES, uvs=SQUARE[:, :2], uv_faces=FACES, texture=NOISE / 255)
    again = Surface.of_mesh(textured).to_mesh()
    np.testing.assert_allclose(again.texture, textured.texture, atol=1e-6)
    np.testing.assert_array_equal(again.uvs[again.uv_faces], textured.uvs[textured.uv_faces])


def test_colours_that_differ_between_faces_repeat_their_vertices():
    surface = square(Material())
    surface.colors[1, :, :3] = [1, 0, 0]
    mesh = surface.to_mesh()
    assert len(mesh.vertices) == 6
    np.testing.assert_allclose(mesh.vertex_colors[mesh.faces], [[[1, 1, 1]] * 3, [[1, 0, 0]] * 3])


def test_fine_checks_become_their_mean_light_when_baked_small():
    """One-texel checks of black and white on a texture that is far finer than the atlas: half the light, sRGB 188."""
    surface = square(Material(texture=Texture(checks((0, 0, 0), (255, 255, 255), 512, 512))))
    mesh = baked(surface, 32)
    used = mesh.texture[(mesh.texture > 0).any(-1)]
    np.testing.assert_allclose(used * 255, 187.5, atol=1)


def test_baking_keeps_every_face_and_refuses_none():
    surface = Surface.joined([square(Material(texture=Texture(NOISE))), square(Material(color=np.array([1, 0, 0, 1.0])))])
    surface.vertices[4:] += [0, 0, 1]
    assert len(baked(surface, 64).faces) == 4
    degenerate = Surface.plain(SQUARE, [[0, 1, 1]])
    with pytest.raises(ValueError, match="faces that have an area, found none"):
        baked(degenerate, 64)
