"""Runs, cameras, the field and what stands behind it: what is seen where one of these keys has another value."""

import math

import pytest
import torch
from launch_bench import SIR, cameras, config_of, density, fov_y, loss, parameters, picture, rounds, row, shape, stepped, trainer_of
from recipe_bench import film

from microdreamer.fields import volume_model
from microdreamer.gaussians.model import GaussianModel
from microdreamer.pipeline.launch import run, views
from microdreamer.pipeline.launch.trainer import Trainer

ENVIRONMENT = ("system.background.type=environment",)
LIT = ("system.material.type=point_light", "system.material.ambient_only_steps=0", "system.material.diffuse_prob=1")


# ---- Runs ----


@row("name", "tag", "exp_root_dir")
def _(place, key):
    path = run.train(config_of(*place.words("name=them", "tag=it", "trainer.max_steps=1")), prior=trainer_of().prior)
    assert path == place.folder / "them" / "it" / "ckpt" / "step_1.ckpt" and path.is_file()


@row("input")
def _(place):
    image = trainer_of(f"input={picture(place.folder / 'thing_rgba.png')}").prior.given["image"]
    assert image.shape == (4, 48, 48) and trainer_of().prior.given["image"] is None


@row("elevation")
def _(place):
    """Upward here, downward in cam_utils: for the prior and for the view that the picture is compared from."""
    trainer = trainer_of(f"input={picture(place.folder / 'thing_rgba.png')}", "elevation=20")
    camera = trainer.reference(16).camera
    assert trainer.prior.given["elevation"] == -20 == float(camera.elevation)
    assert float(camera.centers[0, 1]) == pytest.approx(-2 * math.sin(math.radians(-20)), abs=1e-5)


@row("resume")
def _(place):
    first = stepped(*place.words(), steps=2)[1]
    word = f"resume={run.save(first, place.folder / 'field' / 'thing', 2)}"
    seen = []
    place.patch.setattr(Trainer, "step", lambda trainer, step: seen.append((step, parameters(trainer))) or {"loss_guidance": 0.0})
    run.train(config_of(*place.words(word, "trainer.max_steps=3")), prior=trainer_of().prior)
    assert [step for step, _ in seen] == [2]
    assert all(torch.equal(value, seen[0][1][name]) for name, value in parameters(first).items())


@row("seed")
def _(place):
    one, other = (stepped(f"seed={seed}")[1] for seed in (1, 2))
    assert not torch.equal(one.prior.seen[0].latents, other.prior.seen[0].latents)
    assert not torch.equal(*(next(iter(parameters(trainer).values())) for trainer in (one, other)))


@row("device", *(f"system.guidance.{key}" for key in ("prior", "prior_path", "precision", "prior_memory")))
def _(place, key):
    asked, prior = [], trainer_of().prior
    place.patch.setattr(run, "load_prior", lambda *given: asked.append(given) or prior)
    words = ("prior=micro", "system.guidance.prior_path=there", "system.guidance.precision=float32", "system.guidance.prior_memory=1.5")
    run.make_trainer(config_of(*words))
    assert asked == [("micro", "there", torch.device("cpu"), "float32", 1.5)]
    if key == "device":
        with pytest.raises(ValueError, match="cuda:97"):
            run.make_trainer(config_of("device=cuda:97"))


# ---- Cameras ----


@row("data.n_view")
def _(place):
    for count, gap in ((4, 90), (2, 180)):
        (batch,) = cameras(f"data.n_view={count}", "data.batch_size=4", views=1, azimuth_spacing=None)
        gaps = batch.azimuth.view(-1, count).diff(dim=1).remainder(360)
        assert torch.allclose(gaps, torch.full_like(gaps, gap), atol=1e-3)


@row("data.batch_size", "data.size", "data.resolution_milestones")
def _(place, key):
    batches = cameras("data.batch_size=[4,8]", "data.size=[16,24]", "data.resolution_milestones=[2]", steps=3)
    assert [(len(batch), batch.width) for batch in batches] == [(4, 16), (4, 16), (8, 24)]
    calls, _ = rounds(SIR, "data.batch_size=[4,8]", "data.size=[16,24]", "data.resolution_milestones=[4]", count=2)
    assert [(len(turn[0].cameras), turn[0].cameras.width) for turn in calls] == [(4, 16), (8, 24)]


@row("data.elevation_range")
def _(place):
    for low, high in ((40, 41), (-31, -30)):
        seen = [cameras(f"data.elevation_range=[{low},{high}]")[0], *(call.cameras for turn in _later_rounds(low, high) for call in turn)]
        assert all(low <= -up <= high for batch in seen for up in batch.elevation.tolist())


def _later_rounds(low, high):
    """Of SIR, with a picture taken from elsewhere; the first round has its first group where the picture was taken."""
    return rounds(SIR, f"data.elevation_range=[{low},{high}]", "elevation=15", count=3)[0][1:]


@row("data.fovy_range", "data.camera_distance_range", "data.relative_radius")
def _(place, key):
    for relative in ("true", "false"):
        words = ("data.fovy_range=[20,30]", "data.camera_distance_range=[0.9,1.1]", f"data.relative_radius={relative}")
        batches = [cameras(*words)[0], rounds(SIR, *words)[0][0][0].cameras]
        for batch in batches:
            angle = fov_y(batch)
            assert float(angle.min()) >= 20 and float(angle.max()) <= 30
            distance = batch.radius * (torch.tan(torch.deg2rad(angle) / 2) if relative == "true" else 1)
            assert float(distance.min()) > 0.899 and float(distance.max()) < 1.101
    view = trainer_of(f"input={picture(place.folder / 'a_rgba.png')}", *words).reference(16).camera
    assert float(view.radius) == pytest.approx(1.0) and float(fov_y(view)) == pytest.approx(25)


@row("data.eval_elevation", "data.eval_camera_distance", "data.eval_fovy", "data.eval_size", "data.n_test_views")
def _(place, key):
    words = ("data.eval_elevation=35", "data.eval_camera_distance=2.5", "data.eval_fovy=33", "data.eval_size=24", "data.n_test_views=3")
    batch = place.film_cameras(*words)
    assert batch.elevation.tolist() == [-35] * 3 and batch.azimuth.tolist() == [0, 120, 240] and batch.radius.tolist() == [2.5] * 3
    assert fov_y(batch).tolist() == pytest.approx([33] * 3, abs=1e-3) and batch.width == 24
    shown = film(next(place.folder.rglob("*.mp4")))
    assert shown.shape == (3, 3, 24, 3 * 24)  # colour, opacity, depth


# ---- The prompt ----


@row("system.prompt_processor.prompt", "system.prompt_processor.negative_prompt")
def _(place, key):
    given = trainer_of("prompt=a hen", "system.prompt_processor.negative_prompt=blurry").prior.given
    assert (given["prompt"], given["negative_prompt"]) == ("a hen", "blurry")


# ---- The field ----


@row("system.geometry.type", "system.geometry.num_pts")
def _(place, key):
    model = trainer_of("system.geometry.type=gaussians", "system.geometry.num_pts=77").learner.model
    assert isinstance(model, GaussianModel) and len(model) == 77
    assert isinstance(trainer_of().learner.model, volume_model.VolumeModel)


@row("system.geometry.densify_grad_threshold")
def _(place):
    asked = []
    place.patch.setattr(GaussianModel, "densify_and_prune", lambda model, **given: asked.append(given["grad_threshold"]))
    words = ("system.geometry.type=gaussians", "trainer.max_steps=100", "system.geometry.densify_grad_threshold=0.125")
    assert trainer_of(*words).learner.prepare(50) and asked == [0.125]


@row("system.geometry.radius")
def _(place):
    def seen(radius):
        rendering = trainer_of(f"system.geometry.radius={radius}").learner.render(cameras()[0], None, ())
        return float(rendering.alpha[:, :, 4, 4].detach().abs().max()), float(rendering.alpha[:, :, 8, 8].detach().min())

    assert seen(1.0)[0] > 0 == seen(0.2)[0] and seen(0.2)[1] > 0


@row(*(f"system.geometry.{key}" for key in ("n_levels", "n_features_per_level", "log2_hashmap_size", "base_resolution", "per_level_scale")))
def _(place, key):
    words = ("n_levels=3", "n_features_per_level=1", "log2_hashmap_size=10", "base_resolution=6", "per_level_scale=1.5")
    other = {"n_levels": 2, "n_features_per_level": 2, "log2_hashmap_size": 8, "base_resolution": 5, "per_level_scale": 1.2}

    def entries(*more):
        return {
            name: sizes for name, sizes in shape(*(f"system.geometry.{word}" for word in (*words, *more))).items() if "encoding" in name
        }

    assert entries() != entries(f"{key.rpartition('.')[2]}={other[key.rpartition('.')[2]]}")


@row("system.geometry.n_neurons")
def _(place):
    def widths(count):
        sizes = shape(f"system.geometry.n_neurons={count}")
        return {size for name, dims in sizes.items() if "_network" in name for size in dims}

    assert 24 in widths(24) and 24 not in widths(8) and 8 in widths(8)


@row("system.geometry.density_activation")
def _(place):
    softplus, exp, trunc = (density(f"system.geometry.density_activation={kind}") for kind in ("softplus", "exp", "trunc_exp"))
    assert softplus == pytest.approx(math.log1p(exp), rel=1e-4) and trunc == pytest.approx(exp) and exp > softplus


@row("system.geometry.density_bias", "system.geometry.blob_scale", "system.geometry.blob_std")
def _(place, key):
    """Large raw densities pass softplus as they are."""
    there = (0.25, 0.0, 0.0)
    none = density("system.geometry.density_bias=none")
    assert none < 1 and density() == pytest.approx(10, abs=0.5)
    assert density("system.geometry.blob_scale=20") == pytest.approx(20, abs=0.5)
    assert density(at=there) == pytest.approx(5, abs=0.5) and density("system.geometry.blob_std=1", at=there) == pytest.approx(7.5, abs=0.5)
    gaussian = density("system.geometry.density_bias=blob_dreamfusion", at=there)
    assert gaussian == pytest.approx(10 * math.exp(-0.5 * 0.25**2 / 0.5**2), abs=0.5)


@row("system.geometry.normal_type")
def _(place):
    found = {}
    for kind in ("none", "analytic", "finite_difference"):
        trainer = trainer_of(f"system.geometry.normal_type={kind}")
        found[kind] = trainer.learner.render(cameras()[0], None, trainer.learner.draw(4, 16)).normal
    assert found["none"] is None
    error = (found["analytic"] - found["finite_difference"]).detach().abs().max()
    assert 1e-6 < float(error) < 0.5
    (tiles,) = views.frames(trainer.learner.model, trainer.config, 1, 16, torch.device("cpu"))
    assert "normal" in tiles


@row("system.geometry.dir_encoding")
def _(place):
    points = torch.tensor([[0.1, 0.2, 0.3]]).expand(2, 3)
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    for kind, same in (("none", True), ("sh4", False)):
        geometry = trainer_of(f"system.geometry.dir_encoding={kind}").learner.model.geometry
        features = geometry(points, directions).features
        assert torch.equal(features[0], features[1]) is same


@row("system.renderer.num_samples_per_ray")
def _(place):
    def samples(count):
        trainer = trainer_of(f"system.renderer.num_samples_per_ray={count}")
        return len(trainer.learner.render(cameras()[0], None, trainer.learner.draw(4, 16)).detail.weights)

    assert 1.8 < samples(96) / samples(48) < 2.2


@row("system.renderer.grid_resolution")
def _(place):
    assert trainer_of("system.renderer.grid_resolution=8").learner.model.occupancy.values.numel() == 8**3


# ---- What stands behind, and light ----


def backgrounds(*words):
    """Of a training render of an empty field, [4,3,16,16]."""
    trainer, around = trainer_of(*words), cameras()[0]
    trainer.learner.model.occupancy.occupied.zero_()
    with torch.no_grad():
        return trainer.learner.render(around, None, trainer.learner.draw(4, 16)).image


@row("system.background.type", "system.background.encoding")
def _(place, key):
    solid, harmonics = backgrounds(), backgrounds(*ENVIRONMENT)
    assert float(solid.std()) == 0 and float(harmonics.std()) > 0
    names = [shape(*ENVIRONMENT, f"system.background.encoding={kind}") for kind in ("sh3", "hash")]
    assert names[0] != names[1]
    table = backgrounds(*ENVIRONMENT, "system.background.encoding=hash")
    assert not torch.equal(harmonics, table)


@row("system.background.color")
def _(place):
    assert float((backgrounds("system.background.color=0.25") - 0.25).abs().max()) < 1e-6
    model = trainer_of("system.geometry.type=gaussians", "system.background.color=0.25").learner
    corner = model.render(cameras()[0], None, ()).image[:, :, 0, 0].detach()
    assert torch.allclose(corner, torch.full_like(corner, 0.25), atol=1e-3)


@row("system.background.random_aug", "system.background.random_aug_prob", "system.background.share_aug_bg")
def _(place, key):
    on = ("system.background.random_aug=true", "system.background.random_aug_prob=1")
    for share, colours in (("true", 1), ("false", 4)):
        seen = backgrounds(*on, f"system.background.share_aug_bg={share}")
        assert len({tuple(colour) for colour in seen.mean((2, 3)).tolist()}) == colours and float(seen.mean()) < 0.9
    assert float(backgrounds("system.background.random_aug=true", "system.background.random_aug_prob=0").min()) == 1
    assert float(backgrounds("system.background.random_aug=false", "system.background.random_aug_prob=1").min()) == 1


@row("system.material.type")
def _(place):
    assert loss(*LIT) != loss("system.material.ambient_only_steps=0", "system.material.diffuse_prob=1")


def shadings(*words, step=0, count=24):
    """(light's share, shaded or not, white or not) of several training renders."""
    trainer = trainer_of(*LIT, *words)
    trainer.learner.prepare(step)
    return [tuple(trainer.learner.draw(1, 2)[4].tolist()) for _ in range(count)]


@row("system.material.ambient_only_steps")
def _(place):
    word = "system.material.ambient_only_steps=5"
    assert not any(shaded for _, shaded, _ in shadings(word, step=4)) and all(shaded for _, shaded, _ in shadings(word, step=5))


@row("system.material.diffuse_prob")
def _(place):
    shares = [sum(shaded for _, shaded, _ in shadings(f"system.material.diffuse_prob={share}")) for share in (0, 0.5, 1)]
    assert shares[0] == 0 < shares[1] < 24 == shares[2]


@row("system.material.textureless_prob")
def _(place):
    shares = [sum(white for _, _, white in shadings(f"system.material.textureless_prob={share}")) for share in (0, 0.5, 1)]
    assert shares[0] == 0 < shares[1] < 24 == shares[2]


@row("system.material.soft_shading")
def _(place):
    assert len({light for light, _, _ in shadings("system.material.soft_shading=false")}) == 1
    assert len({light for light, _, _ in shadings("system.material.soft_shading=true")}) == 24
