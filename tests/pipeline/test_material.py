"""Colours without light: what the prior tells of renders is taken out of the texture, everywhere on the surface."""

import dataclasses
import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from fake_priors import DIM, OraclePrior, coloured_ellipsoid
from recipe_bench import FIRST, SECOND, SMALL

import microdreamer
from cam_utils import orbit_cameras
from microdreamer import UserError
from microdreamer.guidance.micro.network import Surfaces
from microdreamer.images.reference import Reference
from microdreamer.meshes.baking import bake, texels_of, unwrapped, with_gain
from microdreamer.meshes.mesh import Mesh
from microdreamer.pipeline import commands
from microdreamer.pipeline.material import MOST_GAIN, without_light

SIZE = 96


@pytest.fixture(scope="module")
def ball():
    """A sphere of one colour."""
    shape = trimesh.creation.icosphere(3, 0.6)
    mesh = Mesh(shape.vertices, shape.faces, np.full((len(shape.vertices), 3), [0.6, 0.4, 0.2]))
    return bake(unwrapped(mesh, SIZE), SIZE)


class LampPrior(OraclePrior):
    """Believes of whatever it is shown that a lamp above lit it: the lower a place, the darker its true colour seems."""

    tells_surfaces = True

    def predict_surfaces(self, latents, t, cameras, condition):
        shown = self.decode(latents)
        self.shown = shown, cameras
        pixels = (torch.arange(self.resolution) + 0.5) / self.resolution * 2 - 1
        gain = (1.0 - 0.4 * pixels)[None, None, :, None]  # of a place by its row: brighter without light where it lies low
        return shown, Surfaces(torch.full_like(shown[:, :1], 2.0), torch.ones_like(shown[:, :1]), (shown / gain).clamp(0, 1))


def test_a_gain_that_is_the_same_all_round_is_the_textures(ball):
    cameras = orbit_cameras([0.0] * 4 + [-35.0] * 4, [0, 90, 180, 270] * 2, width=64, height=64)
    views = Reference(cameras, torch.full((8, 3, 64, 64), 0.5), torch.ones(8, 1, 64, 64))
    dimmed = with_gain(ball, views)
    inside = texels_of(ball, SIZE).inside.numpy()
    np.testing.assert_allclose(dimmed.texture[inside], np.broadcast_to([0.3, 0.2, 0.1], (inside.sum(), 3)), atol=1e-5)
    np.testing.assert_allclose(ball.texture[inside][0], [0.6, 0.4, 0.2], atol=1e-5)  # the mesh given is left alone


def test_places_that_no_view_sees_have_the_gain_of_their_neighbours(ball):
    """One view from the front sees green light; the sides and the back are as green, and nothing is black or white."""
    camera = orbit_cameras(0.0, 0.0, width=64, height=64)
    gain = torch.tensor([0.5, 1.5, 0.5])[None, :, None, None].expand(1, 3, 64, 64)
    dimmed = with_gain(ball, Reference(camera, gain, torch.ones(1, 1, 64, 64)))
    inside = texels_of(ball, SIZE).inside.numpy()
    np.testing.assert_allclose(dimmed.texture[inside], np.broadcast_to([0.3, 0.6, 0.1], (inside.sum(), 3)), atol=1e-5)
    assert with_gain(ball, Reference(camera, gain, torch.zeros(1, 1, 64, 64))) is ball  # seen by none: as it was


def test_what_the_prior_takes_for_light_is_divided_out(ball):
    prior = LampPrior(coloured_ellipsoid(), 64)
    bare = without_light(ball, prior, None, torch.Generator().manual_seed(0))
    shown, cameras = prior.shown
    assert len(cameras) % prior.views == 0 and float(shown.min()) < 0.3  # it was shown the ball, on white
    assert not bare.shaded and ball.shaded
    texels = texels_of(ball, SIZE)
    red, height = torch.from_numpy(bare.texture)[texels.inside][:, 0], texels.positions[:, 1]
    high, low = red[(height > 0.2) & (height < 0.4)].median(), red[(height < -0.2) & (height > -0.4)].median()
    assert float(low) > 1.15 * float(high)


@pytest.mark.parametrize("share", [0.01, 50.0])
def test_what_is_told_of_black_or_glaring_places_is_cut(ball, share):
    class Extreme(OraclePrior):
        def predict_surfaces(self, latents, t, cameras, condition):
            shown = self.decode(latents)
            return shown, Surfaces(torch.full_like(shown[:, :1], 2.0), torch.ones_like(shown[:, :1]), share * shown)

    bare = without_light(ball, Extreme(coloured_ellipsoid(), 64), None, torch.Generator().manual_seed(0))
    inside = texels_of(ball, SIZE).inside.numpy()
    gain = MOST_GAIN if share > 1 else 1 / MOST_GAIN
    np.testing.assert_allclose(bare.texture[inside], (gain * ball.texture[inside]).clip(0, 1), atol=0.01)


def test_what_is_told_is_averaged_over_neighbouring_pixels(ball):
    """A prior whose guesses of light jump by half from pixel to pixel; light does not."""

    class Nervous(OraclePrior):
        def predict_surfaces(self, latents, t, cameras, condition):
            shown = self.decode(latents)
            pixels = torch.arange(self.resolution)
            sign = 1 - 2 * ((pixels[:, None] + pixels) % 2)
            return shown, Surfaces(torch.full_like(shown[:, :1], 2.0), torch.ones_like(shown[:, :1]), (0.8 + 0.4 * sign) * shown)

    bare = without_light(ball, Nervous(coloured_ellipsoid(), 64), None, torch.Generator().manual_seed(0))
    inside = texels_of(ball, SIZE).inside.numpy()
    gain = (bare.texture / ball.texture.clip(0.05))[inside]
    assert float(gain.std()) < 0.02 and float(gain.mean()) == pytest.approx(0.8, abs=0.02)


def test_the_glb_of_a_run_is_lit_and_its_pictures_are_not_changed(surface_prior, tmp_path):
    for name in ("shaded", "albedo"):
        words = ["--quiet", *FIRST, *SMALL, "prompt=an egg", "save_path=a", f"outdir={tmp_path / name}", f"material={name}"]
        assert commands.make(words) == 0
        assert commands.refine([*words, *SECOND]) == 0
    for stem in ("a_model", "a_refined"):
        materials = {name: material_of(tmp_path / name / f"{stem}.glb") for name in ("shaded", "albedo")}
        assert "extensions" in materials["shaded"] and "extensions" not in materials["albedo"]
    for name in ("a_model.ply", "a_views.png"):
        assert (tmp_path / "albedo" / name).read_bytes() == (tmp_path / "shaded" / name).read_bytes()
    for name in ("a.json", "a_refined.json"):
        asked = {which: json.loads((tmp_path / which / name).read_text())["prior_evaluations"] for which in ("shaded", "albedo")}
        assert asked["albedo"] == asked["shaded"] + 1  # what light is taken out by was asked of the prior too


def material_of(path):
    data = path.read_bytes()
    return json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])["materials"][0]


@pytest.mark.parametrize("moves", [True, False])
def test_stage_2_starts_from_colours_in_their_light_again(surface_prior, moves):
    """Light is taken out once: of a mesh that stage 1 has made so, the texture is painted anew first."""
    settings = {"total_steps": 1, "denoise_steps": 2, "init_steps": 4, "video_frames": 0, "mesh_resolution": 32, "texture_size": 64}
    settings |= {"refine_size": 32, "refine_steps": 1, "geometry_steps": 1, "iters_refine": 0, "train_geo": moves, "material": "albedo"}
    refined = {}
    for name in ("shaded", "albedo"):
        result = microdreamer.reconstruct(prompt="an egg", prior=surface_prior, config=settings | {"material": name})
        again = dataclasses.replace(result.config, material="albedo")
        refined[name] = microdreamer.refine(result, config=again, prior=surface_prior).mesh.texture
    np.testing.assert_allclose(refined["albedo"], refined["shaded"], atol=1e-5)
    bright = microdreamer.refine(
        result, config=dataclasses.replace(again, material="shaded", train_geo=True), prior=surface_prior
    ).mesh.texture
    inside = bright.min(axis=2) < 0.95
    assert np.median(refined["albedo"][inside] / bright[inside].clip(0.05)) == pytest.approx(DIM, abs=0.05)


def test_without_a_prior_to_ask_it_is_one_line(tmp_path):
    ply = tmp_path / "egg.ply"
    coloured_ellipsoid().save(ply)
    for make in (
        lambda: microdreamer.mesh_from_gaussians(ply, {"material": "albedo"}),
        lambda: microdreamer.refine(ply, config={"material": "albedo"}),
    ):
        with pytest.raises(UserError, match="material=albedo: expected a picture or a sentence"):
            make()
