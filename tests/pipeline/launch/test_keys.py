"""Every key of launch.py's configuration reaches its piece: `TABLE` has what is seen where the key has another value.

A key without a row fails.
"""

import functools
import importlib.machinery
import math
import sys
import types

import pytest
import torch
from launch_bench import config_of, picture, trainer_of
from PIL import Image
from recipe_bench import film

from microdreamer.distillation import objective
from microdreamer.fields import volume_model
from microdreamer.gaussians.model import GaussianModel
from microdreamer.meshes.files import read_mesh
from microdreamer.pipeline.launch import run
from microdreamer.pipeline.launch.config import SCHEMA
from microdreamer.pipeline.launch.learners import weights_at
from microdreamer.pipeline.launch.trainer import Trainer

TABLE = {}
STILL = tuple(f"system.optimizer.lr_{part}=0" for part in ("encoding", "density", "feature", "background"))
ENVIRONMENT = ("system.background.type=environment",)
LIT = ("system.material.type=point_light", "system.material.ambient_only_steps=0", "system.material.diffuse_prob=1")
SIR = "system.guidance.objective=sir"
ROUNDS = (SIR, "system.sir.denoise_steps=10", "system.sir.t_start=0.8", "system.sir.t_end=0.4", "system.sir.inv_r=1")


def row(*keys):
    """Decorator: the function shows that each of `keys` reaches its piece."""

    def enter(function):
        for key in keys:
            assert key not in TABLE
            TABLE[key] = functools.partial(function, key=key) if len(keys) > 1 else function
        return function

    return enter


def test_every_key_has_a_row():
    assert set(TABLE) == set(SCHEMA.fields)


@pytest.mark.parametrize("key", sorted(SCHEMA.fields))
def test_a_key_reaches_its_piece(tmp_path, monkeypatch, key):
    TABLE[key](Place(tmp_path, monkeypatch))


class Place:
    """A folder of the test's own, and what is done there."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.patch = folder, monkeypatch

    def words(self, *words):
        return (f"exp_root_dir={self.folder}", *words)

    def saved(self, *words):
        """A checkpoint of an untrained run, as the word that takes it."""
        trainer = trainer_of(*self.words(*words))
        return f"resume={run.save(trainer, run.run_folder(trainer.config), 1)}"

    def tested(self, *words):
        return run.test(config_of(*self.words(self.saved(), *words)))

    def exported(self, *words):
        return run.export(config_of(*self.words(self.saved(), *words)))

    def film_cameras(self, *words):
        """Those that a film is rendered from."""
        kept, made = [], run.film_cameras
        self.patch.setattr(run, "film_cameras", lambda *given: kept.append(made(*given)) or kept[-1])
        self.tested(*words)
        return kept[0]


def stepped(*words, steps=1, **attributes):
    """What a trainer found in each of its first steps, and the trainer."""
    trainer = trainer_of(*words, **attributes)
    return [trainer.step(step) for step in range(steps)], trainer


def loss(*words, name="loss_guidance"):
    return float(stepped(*words)[0][0][name])


def cameras(*words, steps=1, **attributes):
    """Those of the prior's first call in each step."""
    trainer = stepped(*words, steps=steps, **attributes)[1]
    return [call.cameras for call in trainer.prior.seen[:: len(trainer.prior.seen) // steps]]


def fov_y(batch):
    return torch.rad2deg(2 * torch.atan(batch.height / 2 / batch.intrinsics[:, 1]))


def rounds(*words, count=1):
    """The prior's calls in each of the first rounds of SIR, and the trainer."""
    trainer, found = trainer_of(*words), []
    for index in range(count):
        before = len(trainer.prior.seen)
        trainer.round(index)
        found.append(trainer.prior.seen[before:])
    return found, trainer


def parameters(trainer):
    return {name: value.detach().clone() for name, value in trainer.learner.model.named_parameters()}


def moved(*words, step=0):
    """Parts of the field that one step changes."""
    trainer = trainer_of(*words)
    before = parameters(trainer)
    trainer.step(step)
    after = parameters(trainer)
    return {name for name in before if not torch.equal(before[name], after[name])}


def shape(*words):
    return {name: tuple(value.shape) for name, value in trainer_of(*words).learner.model.state_dict().items() if hasattr(value, "shape")}


def density(*words, at=(0.0, 0.0, 0.0)):
    """Of an untrained field at a point."""
    with torch.no_grad():
        return float(trainer_of(*words).learner.model.geometry.density(torch.tensor([at])))


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
    (tiles,) = run.frames(trainer.learner.model, trainer.config, 1, 16, torch.device("cpu"))
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


# ---- What the prior teaches ----


@row("system.guidance.objective")
def _(place):
    kinds = {kind: type(trainer_of(f"system.guidance.objective={kind}").objective) for kind in ("x0sds", "sds", "asd", "sir")}
    assert kinds == {"x0sds": objective.X0SDS, "sds": objective.SDS, "asd": objective.ASD, "sir": type(None)}


@row("system.guidance.guidance_scale")
def _(place):
    for kind in ("x0sds", "sds", "asd"):
        assert loss(f"system.guidance.objective={kind}", "system.guidance.guidance_scale=3") != loss(f"system.guidance.objective={kind}")
    assert {call.scale for call in rounds(SIR, "system.guidance.guidance_scale=3")[0][0]} == {3.0}


@row("system.guidance.min_step_percent", "system.guidance.max_step_percent")
def _(place, key):
    words = ("system.guidance.min_step_percent=[0,0.375,0.125,2]", "system.guidance.max_step_percent=[0,0.8,0.6,2]")
    found = stepped(*words, steps=3)[0]
    assert [(int(step["min_step"]), int(step["max_step"])) for step in found] == [(375, 800), (250, 700), (125, 600)]


@row("system.guidance.recon_std_rescale")
def _(place):
    words = ("system.guidance.guidance_scale=5", "system.guidance.objective=x0sds")
    assert loss(*words, "system.guidance.recon_std_rescale=0") != loss(*words, "system.guidance.recon_std_rescale=1")


@row("system.guidance.weighting_strategy", "system.guidance.grad_clip")
def _(place, key):
    for kind in ("sds", "asd"):
        word = f"system.guidance.objective={kind}"
        words = (word, "system.guidance.min_step_percent=0", "system.guidance.plus_random=false")
        if key.endswith("grad_clip"):
            assert loss(*words, "system.guidance.grad_clip=1e-6") < 1e-6 < loss(*words, "system.guidance.grad_clip=0")
        else:
            assert len({loss(*words, f"system.guidance.weighting_strategy={name}") for name in ("sds", "uniform", "fantasia3d")}) == 3


def levels(*words):
    """Of the two predictions of ASD."""
    seen = stepped("system.guidance.objective=asd", "system.guidance.min_step_percent=0", *words)[1].prior.seen
    return [min(call.t for call in seen), max(call.t for call in seen)]


@row("system.guidance.plus_ratio", "system.guidance.plus_random")
def _(place, key):
    for ratio in (0.1, 0.5):
        t, later = levels("system.guidance.plus_random=false", f"system.guidance.plus_ratio={ratio}")
        assert later == int(t + ratio * t)
    t, random = levels("system.guidance.plus_random=true", "system.guidance.plus_ratio=0.5")
    assert t < random < later


@row("system.guidance.guidance_perp_neg")
def _(place):
    kept, whole = [], objective.asd_loss

    def watched(*given, perp, **more):
        kept.append(perp)
        return whole(*given, perp=None, **more)

    place.patch.setattr(objective, "asd_loss", watched)
    for strength in (0, -0.5, -1):
        stepped("system.guidance.objective=asd", f"system.guidance.guidance_perp_neg={strength}", by_direction=True)
    assert kept[0] is None
    assert float(kept[1].weights.abs().max()) > 0 and torch.allclose(2 * kept[1].weights, kept[2].weights)


# ---- Rounds of SIR ----


@row("system.sir.total_steps")
def _(place):
    assert len(trainer_of(SIR, "system.sir.total_steps=5").rounds) == 5


@row("system.sir.denoise_steps")
def _(place):
    (calls,), trainer = rounds(SIR, "system.sir.denoise_steps=6")
    assert [call.t for call in calls] == trainer.prior.schedule.levels(6)[::-1]


@row("system.sir.t_start", "system.sir.t_end")
def _(place, key):
    """Of 10 levels, the second round starts so far down as t_start says, the third at half of the way to t_end."""
    for start, end in ((0.8, 0.4), (0.5, 0.2), (0.8, 0.2)):
        words = (*ROUNDS, f"system.sir.t_start={start}", f"system.sir.t_end={end}")
        calls, trainer = rounds(*words, count=3)
        tops = [9 - math.trunc(10 * (1 - start) + share * 10 * (start - end)) for share in (0, 0.5)]
        assert [turn[0].t for turn in calls[1:]] == [trainer.prior.schedule.levels(10)[top] for top in tops]


@row("system.sir.inv_r")
def _(place):
    plain, inverted = (rounds(*ROUNDS, f"system.sir.inv_r={share}", count=2)[0][1] for share in (1, 0.5))
    assert not any(call.scale is None for call in plain) and any(call.scale is None for call in inverted)


@row("system.sir.eta")
def _(place):
    for eta in (0.0, 1.0):
        (calls,), trainer = rounds(SIR, f"system.sir.eta={eta}")
        here, there = calls[:2]
        fresh = there.latents - trainer.prior.schedule.step(here.latents, here.noise, here.t, there.t)
        assert (float(fresh.abs().max()) < 1e-4) is (eta == 0)


@row("system.sir.init_steps", "system.sir.steps_min", "system.sir.steps_max", "system.sir.steps_schedule")
def _(place, key):
    words = (SIR, "system.sir.init_steps=7", "system.sir.steps_min=2", "system.sir.steps_max=9", "system.sir.total_steps=4")

    def counts(schedule):
        return [len(turn.steps) for turn in trainer_of(*words, f"system.sir.steps_schedule={schedule}").rounds]

    assert counts("fixed") == [7, 9, 9, 9]
    rising = counts("linear")
    assert rising[0] == 7 and 2 <= rising[1] < rising[2] < rising[3] <= 9
    assert counts("linear_down")[1:] != rising[1:]


@row("system.sir.ref_loss", "system.sir.ref_mask_loss")
def _(place, key):
    """Alone, each moves the field toward the picture."""
    file = picture(place.folder / "thing_rgba.png")

    def change(color, mask):
        words = (f"system.sir.ref_loss={color}", f"system.sir.ref_mask_loss={mask}", "system.loss.lambda_guidance=0")
        trainer = trainer_of(SIR, f"input={file}", "system.optimizer.weight_decay=0", *words)
        before = parameters(trainer)
        trainer.round(0)
        return {name for name, value in parameters(trainer).items() if not torch.equal(value, before[name])}

    assert change(0, 0) == set() and change(*((1, 0) if key.endswith("ref_loss") else (0, 1)))


# ---- Losses ----


@row("system.loss.lambda_guidance")
def _(place):
    without_decay = "system.optimizer.weight_decay=0"
    assert not moved("system.loss.lambda_guidance=0", without_decay) and moved("system.loss.lambda_guidance=0.1", without_decay)
    for weight, still in ((0, True), (1, False)):
        trainer = trainer_of(SIR, f"system.loss.lambda_guidance={weight}", without_decay)
        before = parameters(trainer)
        trainer.round(0)
        assert all(torch.equal(value, before[name]) for name, value in parameters(trainer).items()) is still


@row(*(f"system.loss.lambda_{name}" for name in ("sparsity", "opaque", "orient", "z_variance")))
def _(place, key):
    words = ("system.geometry.normal_type=analytic",)
    one, two = (loss(*words, f"{key}={weight}", name="loss_rest") for weight in (1, 2))
    assert one > 0 == loss(*words, name="loss_rest") and two == pytest.approx(2 * one, rel=1e-4)
    config = config_of(*words, f"{key}=[10,1,3,20]")
    values = [float(weights_at(config, step, torch.device("cpu")).max()) for step in (0, 15, 30)]
    assert values == [1, 2, 3]


@row("system.loss.ref_loss", "system.loss.ref_mask_loss")
def _(place, key):
    file = picture(place.folder / "thing_rgba.png")
    other = {"ref_loss": "ref_mask_loss", "ref_mask_loss": "ref_loss"}[key.rpartition(".")[2]]

    def alone(weight):
        return loss(f"input={file}", f"{key}={weight}", f"system.loss.{other}=0", name="loss_rest")

    assert alone(1) > 0 == alone(0) and alone(2) == pytest.approx(2 * alone(1), rel=1e-4)


# ---- Learning ----


@row(*(f"system.optimizer.lr_{part}" for part in ("encoding", "density", "feature", "background")))
def _(place, key):
    part = {"encoding": "geometry.encoding", "density": "geometry.density_network", "feature": "geometry.feature_network"}
    names = moved(*ENVIRONMENT, *STILL, f"{key}=0.01")
    assert names and all(name.startswith(part.get(key.rpartition("_")[2], "background")) for name in names)
    assert not moved(*ENVIRONMENT, *STILL)


def averages(name, *words):
    """Adam's averages of the density network's gradients after a step."""
    trainer = stepped(*words)[1]
    parameter = next(iter(trainer.learner.model.geometry.density_network.parameters()))
    return trainer.learner.optimizer.state[parameter][name]


@row("system.optimizer.beta1", "system.optimizer.beta2")
def _(place, key):
    name, factor = ("exp_avg", 5) if key.endswith("beta1") else ("exp_avg_sq", 50)
    torch.testing.assert_close(averages(name, f"{key}=0.5"), factor * averages(name), rtol=1e-4, atol=0)


@row("system.optimizer.eps")
def _(place):
    def reach(eps):
        trainer = trainer_of(f"system.optimizer.eps={eps}", "system.optimizer.weight_decay=0")
        before = parameters(trainer)
        trainer.step(0)
        return max(float((value - before[name]).abs().max()) for name, value in parameters(trainer).items())

    assert reach(1e-15) == pytest.approx(0.01, rel=0.01) and reach(1) < 0.005


@row("system.optimizer.weight_decay")
def _(place):
    trainer = trainer_of("system.optimizer.weight_decay=0.5", "system.loss.lambda_guidance=0", "system.optimizer.lr_encoding=0.02")
    before = parameters(trainer)["geometry.encoding.params"]
    trainer.step(0)
    torch.testing.assert_close(parameters(trainer)["geometry.encoding.params"], before * (1 - 0.02 * 0.5))


@row("system.use_recompute")
def _(place):
    calls, whole = [], volume_model.checkpoint
    place.patch.setattr(volume_model, "checkpoint", lambda *given, **more: calls.append(1) or whole(*given, **more))
    plain = parameters(stepped()[1])
    assert not calls
    again = parameters(stepped("system.use_recompute=true")[1])
    assert calls and all(torch.equal(value, again[name]) for name, value in plain.items())


@row("trainer.max_steps")
def _(place):
    assert run.train(config_of(*place.words("trainer.max_steps=2")), prior=trainer_of().prior).name == "step_2.ckpt"


@row("trainer.precision")
def _(place):
    settings = [trainer_of(f"trainer.precision={kind}").learner.model.settings for kind in ("32", "16-mixed")]
    assert [chosen.half_precision for chosen in settings] == [False, True]


@row("trainer.checkpoint_every", "trainer.preview_every")
def _(place, key):
    saved, shown, save = [], [], run.save
    place.patch.setattr(run, "save", lambda trainer, folder, step: saved.append(step) or save(trainer, folder, step))
    place.patch.setattr(run, "write_preview", lambda trainer, folder: shown.append(1))
    for words, steps in ((("trainer.max_steps=5",), [2, 4, 5]), ((SIR, "tag=rounds"), [1, 2, 3])):
        saved.clear()
        shown.clear()
        run.train(config_of(*place.words(*words, "trainer.checkpoint_every=2", "trainer.preview_every=3")), prior=trainer_of().prior)
        assert saved == steps and len(shown) == {5: 2, 3: 3}[steps[-1]]


@row("trainer.enable_tensorboard")
def _(place):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            written.append((name, step))

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = SummaryWriter
    place.patch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    for words in (("trainer.max_steps=1",), (SIR, "tag=rounds")):
        run.train(config_of(*place.words("trainer.enable_tensorboard=true", *words)), prior=trainer_of().prior)
    assert ("loss_guidance", 1) in written and any(name == "loss_fit" for name, _ in written)
    place.patch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        run.train(config_of(*place.words("trainer.enable_tensorboard=true", "tag=none")), prior=trainer_of().prior)


# ---- Export ----


@row("export.resolution", "export.faces")
def _(place, key):
    counts = [
        len(read_mesh(f"{place.exported(*words)}.glb").faces)
        for words in (("export.faces=100000", "export.resolution=32"), ("export.faces=100000",), ("export.faces=120",))
    ]
    assert counts[0] > 2 * counts[1] and counts[2] <= 120 < counts[1]


@row("export.threshold")
def _(place):
    """The blob's density falls from the middle, so that a higher threshold lies further in."""
    extents = [abs(read_mesh(f"{place.exported(f'export.threshold={value}')}.glb").vertices).max() for value in ("2", "6", "auto")]
    assert extents[1] < extents[0] - 0.1 and extents[2] > 0.05


@row("export.texture_size")
def _(place):
    assert Image.open(f"{place.exported('export.texture_size=96')}_albedo.png").size == (96, 96)


@row("export.unwrap")
def _(place):
    def parametrize(*_):
        raise ValueError("this is xatlas")

    fake = types.ModuleType("xatlas")
    fake.__spec__ = importlib.machinery.ModuleSpec("xatlas", None)
    fake.parametrize = fake.Atlas = fake.ChartOptions = fake.PackOptions = parametrize
    place.patch.setitem(sys.modules, "xatlas", fake)
    with pytest.raises(ValueError, match="this is xatlas"):
        place.exported("export.unwrap=xatlas")


@row("export.mesh_format")
def _(place):
    for kind, expected in (("obj", {".obj", ".mtl", ".png"}), ("glb", {".glb"}), ("all", {".obj", ".mtl", ".png", ".glb"})):
        stem = place.exported(f"export.mesh_format={kind}", f"tag={kind}")
        assert {path.suffix for path in stem.parent.iterdir()} == expected
