"""Large textures: made part by part, and fitted as coarser ones without losing what is finer."""

import numpy as np
import pytest
import torch
import trimesh

from cam_utils import orbit_cameras
from microdreamer.images.reference import Reference
from microdreamer.meshes import baking
from microdreamer.meshes.baking import bake, baked, unwrapped
from microdreamer.meshes.detail import add_change, coarse_logits, logits
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel
from microdreamer.meshes.surface import Material, Surface, Texture


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def ball(level: int = 3) -> Mesh:
    shape = trimesh.creation.icosphere(level)
    return Mesh(shape.vertices * 0.5, shape.faces, shape.vertices * 0.5 + 0.5)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.05, 0.95, shape).astype(np.float32)


def test_a_coarse_texture_is_the_mean_of_logits():
    fine = noise(12, 8, 3)
    assert coarse_logits(fine, 12) is None
    coarse = coarse_logits(fine, 4)
    assert coarse.shape == (4, 2, 3)  # three texels become one; of eight columns two are left, each of four
    np.testing.assert_allclose(coarse, logits(fine).reshape(4, 3, 2, 4, 3).mean((1, 3)), atol=1e-5)
    with pytest.raises(ValueError, match="most"):
        coarse_logits(fine, 0)


def test_what_does_not_change_stays_to_the_bit():
    fine = noise(64, 48, 3)
    fine[0, 0] = (0, 1, 0.5)
    changed, change = fine.copy(), np.zeros((16, 12, 3), np.float32)
    add_change(changed, change)
    np.testing.assert_array_equal(changed, fine)
    change[8, 6] = 1.0
    add_change(changed, change)
    moved = (changed != fine).any(2)
    assert moved.any() and not moved[:28].any() and not moved[:, :20].any() and not moved[44:].any() and not moved[:, 36:].any()
    assert changed[0, 0].tolist() == [0, 1, 0.5]


@pytest.mark.parametrize("band", [1 << 22, 5 * 48])
def test_an_even_change_moves_all_texels_alike_and_a_slope_is_kept(monkeypatch, band):
    monkeypatch.setattr("microdreamer.meshes.detail.BAND_TEXELS", band)
    fine = noise(64, 48, 3)
    changed = fine.copy()
    add_change(changed, np.full((16, 12, 3), 0.7, np.float32))
    np.testing.assert_allclose(changed, sigmoid(logits(fine) + 0.7), atol=1e-6)
    slope = np.broadcast_to((np.arange(16, dtype=np.float32)[:, None, None] + 0.5) / 16, (16, 12, 3))
    changed = fine.copy()
    add_change(changed, np.ascontiguousarray(slope))
    expected = sigmoid(logits(fine) + (np.arange(64)[:, None, None] + 0.5) / 64)
    np.testing.assert_allclose(changed[2:-2], expected[2:-2], atol=1e-6)  # beyond the outermost centres there is nothing to go on


def test_a_fit_of_a_coarse_texture_keeps_the_detail_and_looks_as_it_was_fitted():
    mesh = unwrapped(ball(), 256)
    checks = np.indices((256, 256)).sum(0) % 2
    mesh.texture = np.repeat(np.where(checks, 0.7, 0.3)[..., None], 3, 2).astype(np.float32)
    model = MeshModel(mesh, "cpu", most_texels=64)
    assert model.color_logits.shape == (1, 64, 64, 3)
    with torch.no_grad():
        model.color_logits[..., 0] += 1.0
    made = model.to_mesh()
    assert mesh.texture[..., 0].max() < 0.71 and made.texture.shape == (256, 256, 3)  # the source is the caller's
    np.testing.assert_allclose(made.texture[..., 0], sigmoid(logits(mesh.texture[..., 0]) + 1), atol=1e-5)
    np.testing.assert_allclose(made.texture[..., 1], mesh.texture[..., 1], atol=1e-6)
    camera = orbit_cameras(0, 30, 2, width=48, height=48)
    with torch.no_grad():  # a pixel sees many texels: the fine texture's mip levels are what the coarse one is
        coarse, fine = model.render(camera).image, MeshModel(made).render(camera).image
    assert float((coarse - fine).abs().mean()) < 0.01
    model.to_mesh(reuse_texture=True)
    assert mesh.texture[..., 0].max() > 0.8


@pytest.mark.parametrize("rows", [7, 64])
def test_a_texture_made_part_by_part_is_the_one_made_at_once(monkeypatch, rows):
    mesh = unwrapped(ball(), 128)
    camera = orbit_cameras(0, 0, 2, width=64, height=64)
    picture = Reference(camera, torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64))
    whole = bake(mesh, 128, picture=picture).texture
    monkeypatch.setattr(baking, "BAND_TEXELS", rows * 128)
    assert len(baking.bands(128)) == -(-128 // rows)
    parts = bake(mesh, 128, picture=picture).texture
    assert np.abs(parts - whole).max() < 1e-4


def test_several_materials_painted_part_by_part_are_those_painted_at_once(monkeypatch):
    shape = ball(2)
    pictures = [Texture((noise(32, 32, 3) * 255).astype(np.uint8)), Texture(np.full((4, 4, 3), (200, 30, 60), np.uint8))]
    uvs = np.random.default_rng(1).uniform(0, 1, (len(shape.faces), 3, 2))
    surface = Surface.plain(shape.vertices, shape.faces, Material(texture=pictures[0]), uvs=uvs)
    surface.materials.append(Material(texture=pictures[1]))
    surface.material[::2] = 1
    whole = baked(surface, 128).texture
    monkeypatch.setattr(baking, "BAND_TEXELS", 10 * 128)
    parts = baked(surface, 128).texture
    assert (np.abs(parts - whole).max(2) > 0.01).mean() < 0.002  # texels on edges may fall to either face
