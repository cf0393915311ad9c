"""What the prior teaches, rounds, losses, learning and files: what is seen where one of these keys has another value."""

import importlib.machinery
import math
import sys
import types

import pytest
import torch
from launch_bench import SIR, config_of, loss, moved, parameters, picture, rounds, row, stepped, trainer_of
from PIL import Image

from microdreamer.distillation import objective
from microdreamer.fields import volume_model
from microdreamer.meshes.files import read_mesh
from microdreamer.pipeline.launch import run
from microdreamer.pipeline.launch.learning import weights_at

STILL = tuple(f"system.optimizer.lr_{part}=0" for part in ("encoding", "density", "feature", "background"))
ENVIRONMENT = ("system.background.type=environment",)
ROUNDS = (SIR, "system.sir.denoise_steps=10", "system.sir.t_start=0.8", "system.sir.t_end=0.4", "system.sir.inv_r=1")


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
