"""Libraries of sentences and the networks that learn them: what is seen where one of these keys has another value."""

import json

import pytest
import torch
from launch_bench import row
from library_bench import SENTENCES, config_with, trainer_of

from microdreamer.pipeline.launch.learning import weights_at


def learner(place, kind, *words):
    return trainer_of(config_with(place.folder, kind, *words), place.patch).learner


def shape(place, kind, name, *words):
    """Of a parameter of the network."""
    return tuple(learner(place, kind, *words).model.geometry.state_dict()[name].shape)


@row("system.prompt_processor.library")
def _(place):
    file = place.folder / "others.json"
    file.write_text(json.dumps({"train": ["a sheep"], "val": ["a cow"], "test": ["a pig"]}))
    asked = []
    for words in ((), (f"system.prompt_processor.library={file}",)):
        trainer = trainer_of(config_with(place.folder, "triplane", *words), place.patch)
        trainer.step(0)
        asked += trainer.prior.asked
    assert asked[0][0] in SENTENCES and asked[1] == ["a sheep"]


@row("system.generator.sphere_bias")
def _(place):
    for bias in (0.3, 0.6):
        assert learner(place, "hyper_ingp", f"system.generator.sphere_bias={bias}").model.geometry.spec.sphere_bias == bias


@row("system.generator.color_activation")
def _(place):
    for name, highest in (("sigmoid", 1.0), ("sigmoid_mipnerf", 1.001)):
        geometry = learner(place, "triplane", f"system.generator.color_activation={name}").model.geometry
        assert float(geometry.color(torch.full((3,), 50.0)).max()) == pytest.approx(highest, abs=1e-6)


@row("system.generator.hyper_hidden")
def _(place):
    assert shape(place, "hyper_ingp", "hypernet.layers.0.weight", "system.generator.hyper_hidden=6") == (6, 12)


@row("system.generator.noise_width", "system.generator.style_width")
def _(place, key):
    names = ("space_generator.mapping.layers.0.weight", f"{key}=5")
    assert shape(place, "conv3d", *names)[1 if key.endswith("noise_width") else 0] == 5


@row("system.generator.channels", "system.generator.channel_multiplier")
def _(place, key):
    words = ("system.generator.channels=[8,8,6,4]", "system.generator.channel_multiplier=3")
    geometry = learner(place, "conv3d", *words).model.geometry
    assert geometry.spec.widths == {4: 8, 8: 8, 16: 6, 32: 12}


@row(*(f"system.generator.{name}" for name in ("width", "token_side", "layers", "attention_heads", "text", "plane_channels")))
def _(place, key):
    other = {"width": 24, "token_side": 3, "layers": 1, "attention_heads": 3, "text": "global", "plane_channels": 4}
    spec = learner(place, "triplane", f"{key}={other[key.rpartition('.')[2]]}").model.geometry.spec
    assert getattr(spec, key.rpartition(".")[2]) == other[key.rpartition(".")[2]]
    if key.endswith("plane_channels"):
        assert learner(place, "conv3d", f"{key}=4").model.geometry.spec.voxel_channels == 4


@row("system.renderer.num_proposals", "system.renderer.num_fine_samples")
def _(place, key):
    counts = []
    for words in ((), (f"{key}=20",)):
        trainer = trainer_of(config_with(place.folder, "triplane", *words), place.patch)
        seen, render = [], trainer.learner.render
        place.patch.setattr(trainer.learner, "render", lambda *given, seen=seen, render=render: seen.append(render(*given)) or seen[-1])
        trainer.step(0)
        counts.append(seen[0].detail.weights.shape[-1])
    assert counts == [12 + 6 + 1, 20 + {"system.renderer.num_proposals": 6, "system.renderer.num_fine_samples": 12}[key] + 1]


@row("system.renderer.sharpness")
def _(place):
    assert learner(place, "triplane", "system.renderer.sharpness=7").model.settings.sharpness == 7


@row("system.loss.lambda_eikonal")
def _(place):
    def rest(weight):
        trainer = trainer_of(config_with(place.folder, "triplane", f"system.loss.lambda_eikonal={weight}"), place.patch)
        return float(trainer.step(0)["loss_rest"])

    assert rest(0) == 0 < rest(1) and rest(2) == pytest.approx(2 * rest(1), rel=1e-4)
    config = config_with(place.folder, "triplane", "system.loss.lambda_eikonal=[10,1,3,20]")
    assert [float(weights_at(config, step, torch.device("cpu")).max()) for step in (0, 15, 30)] == [1, 2, 3]


@row("system.optimizer.type")
def _(place):
    for name in ("adamw", "adam", "adan"):
        for kind in ("hyper_ingp", "conv3d", "triplane"):
            assert type(learner(place, kind, f"system.optimizer.type={name}").optimizer).__name__.lower() == name


@row("system.optimizer.beta3")
def _(place):
    chosen = learner(place, "triplane", "system.optimizer.type=adan", "system.optimizer.beta3=0.7").optimizer
    assert chosen.param_groups[0]["betas"][2] == 0.7


@row("system.optimizer.lr_geometry")
def _(place):
    groups = learner(place, "triplane", "system.background.type=environment", "system.optimizer.lr_geometry=0.5").optimizer.param_groups
    assert [group["lr"] for group in groups] == [0.5, 0.001]


@row("trainer.accumulate_grad_batches")
def _(place):
    trainer = trainer_of(config_with(place.folder, "triplane", "trainer.accumulate_grad_batches=3"), place.patch)
    trainer.step(0)
    assert len(trainer.prior.asked) == 3
