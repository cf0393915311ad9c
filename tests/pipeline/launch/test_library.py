"""Generators learn a library of sentences by launch.py: whose turn it is, what is learnt, and that runs go on where they stopped."""

import csv

import pytest
import torch
from library_bench import SENTENCES, DrawnStores, Listener, config_with, kinds, trainer_of

from microdreamer.core.errors import UserError
from microdreamer.generators.conv3d import Conv3dGenerator
from microdreamer.generators.hyper_ingp import HyperIngp
from microdreamer.generators.triplane_transformer import TriplaneTransformer
from microdreamer.pipeline.launch import checkpoint, run
from microdreamer.pipeline.launch.trainer import Shard, reseed

ALL_PARTS = ("system.loss.lambda_eikonal=1", "system.loss.lambda_sparsity=1", "system.background.type=environment")
KINDS = pytest.mark.parametrize("kind", kinds())


def parameters(trainer):
    return {name: tensor.clone() for name, tensor in trainer.learner.model.state_dict().items()}


@KINDS
def test_a_step_learns_and_says_how(tmp_path, monkeypatch, kind):
    trainer = trainer_of(config_with(tmp_path, kind, *ALL_PARTS), monkeypatch)
    before = parameters(trainer)
    for step in range(2):
        found = trainer.step(step)
    assert {"loss_guidance", "loss_rest", "t", "grad_norm"} <= found.keys()
    assert all(torch.isfinite(value).all() for value in found.values()) and found["loss_rest"] > 0
    after = parameters(trainer)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    still = {name for name in before if name.endswith(("noise_const", "w_avg"))}
    assert moved == before.keys() - still, sorted(before.keys() - still - moved)


@KINDS
def test_resumed_and_unbroken_runs_end_in_the_same_bits(tmp_path, monkeypatch, kind):
    words = ("data.batch_size=8", "trainer.max_steps=4", "trainer.checkpoint_every=2", "trainer.preview_every=100")
    config = config_with(tmp_path, kind, *words)
    monkeypatch.setattr(run, "SentenceStore", DrawnStores)
    whole = checkpoint.load(run.train(config, prior=Listener()))
    part = config_with(tmp_path, kind, *words, "tag=second", f"resume={run.run_folder(config) / 'ckpt' / 'step_2.ckpt'}")
    resumed = checkpoint.load(run.train(part, prior=Listener()))
    for name, tensor in whole["learner"]["model"].items():
        assert torch.equal(tensor, resumed["learner"]["model"][name]), name


@KINDS
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "adan"])
def test_each_optimizer_learns(tmp_path, monkeypatch, kind, optimizer):
    trainer = trainer_of(config_with(tmp_path, kind, f"system.optimizer.type={optimizer}"), monkeypatch)
    before = parameters(trainer)
    assert type(trainer.learner.optimizer).__name__.lower() == optimizer
    trainer.step(0)
    assert any(not torch.equal(before[name], tensor) for name, tensor in parameters(trainer).items())


def test_rays_that_miss_the_box_have_no_say_in_its_distances(tmp_path, monkeypatch):
    """A ball's distances grow by one a unit, except at its middle, so that next to nothing is left, in a wide picture too."""
    for fov_y in (49.1, 120.0):
        words = ("system.loss.lambda_eikonal=1", f"data.fovy_range=[{fov_y},{fov_y}]", "data.elevation_range=[30,30]")
        trainer = trainer_of(config_with(tmp_path, "hyper_ingp", *words), monkeypatch)
        assert float(trainer.step(0)["loss_rest"]) < 0.05  # an untrained hash grid says next to nothing


@KINDS
@pytest.mark.gpu
def test_a_captured_step_learns_what_a_plain_one_does(tmp_path, monkeypatch, kind):
    """Up to the order of sums on a GPU, which Adam makes larger where gradients are small."""
    words = ("device=cuda", "trainer.precision=32", "system.optimizer.type=adam", "system.optimizer.eps=1e-3", *ALL_PARTS)
    found = []
    for captured in (True, False):
        trainer = trainer_of(config_with(tmp_path, kind, *words), monkeypatch)
        trainer._graphs.enabled &= captured
        start = parameters(trainer)
        for step in range(6):
            trainer.step(step)
        assert bool(trainer._graphs._captured) is captured
        found.append({name: tensor - start[name] for name, tensor in parameters(trainer).items()})
        trainer.close()
    apart, moved = (
        torch.stack([change.norm() for change in changes]).norm()
        for changes in ([found[0][name] - change for name, change in found[1].items()], found[1].values())
    )
    assert float(moved) > 0 and float(apart) < 0.05 * float(moved)


def test_sentences_take_turns(tmp_path, monkeypatch):
    trainer = trainer_of(config_with(tmp_path, "triplane", "data.batch_size=8"), monkeypatch)
    for step in range(5):  # two sentences a step: two epochs
        trainer.step(step)
    asked = [sentence for condition in trainer.prior.asked for sentence in condition]
    assert sorted(asked[:5]) == sorted(asked[5:]) == sorted(SENTENCES) and asked[:5] != asked[5:]


def test_processes_share_the_sentences_of_a_step(tmp_path, monkeypatch):
    config = config_with(tmp_path, "triplane", "data.batch_size=16")
    asked = {}
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        trainer = trainer_of(config, monkeypatch, Shard(rank, world))
        monkeypatch.setattr("microdreamer.pipeline.launch.learning.share_gradients", lambda parameters: None)
        trainer.step(0)
        asked[rank, world] = trainer.prior.asked[0]
    together = asked[0, 1]
    assert asked[0, 2] == together[::2] and asked[1, 2] == together[1::2]


def test_a_step_of_several_passes_has_the_gradient_of_them_all(tmp_path, monkeypatch):
    config = config_with(tmp_path, "triplane", "trainer.accumulate_grad_batches=3", "system.loss.lambda_sparsity=1")
    gradients = []

    def watched():
        trainer = trainer_of(config, monkeypatch)
        named = list(trainer.learner.model.geometry.named_parameters())
        monkeypatch.setattr(trainer.learner, "update", lambda rendering: gradients.append({name: p.grad.clone() for name, p in named}))
        return trainer

    trainer = watched()
    trainer.step(0)
    assert len(gradients) == 1 and len({str(asked) for asked in trainer.prior.asked}) == 3  # other sentences in each
    together, total = gradients.pop(), None
    for index in range(3):
        trainer = watched()
        reseed(trainer.generator, config.seed, 0, 0)
        trainer._pass(0, index)
        trainer.learner.update(None)
        alone = gradients.pop()
        total = alone if total is None else {name: total[name] + gradient for name, gradient in alone.items()}
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, total[name], rtol=1e-4, atol=1e-7, msg=name)


def test_a_pass_counts_for_its_share_of_the_step(tmp_path, monkeypatch):
    """Whatever their number, passes give the mean of what each would alone: the learning rate means the same."""
    found = []
    for passes in (1, 3):
        config = config_with(tmp_path, "triplane", f"trainer.accumulate_grad_batches={passes}", "system.loss.lambda_sparsity=1")
        trainer = trainer_of(config, monkeypatch)
        monkeypatch.setattr(trainer.learner, "update", lambda rendering: None)
        reseed(trainer.generator, config.seed, 0, 0)
        trainer._pass(0, 0)
        found.append({name: parameter.grad for name, parameter in trainer.learner.model.geometry.named_parameters()})
    for name, gradient in found[0].items():
        assert float((3 * found[1][name] - gradient).norm()) < 1e-5 * float(gradient.norm()), name


def test_preview_and_pull_of_each_sentence(tmp_path, monkeypatch):
    config = config_with(tmp_path, "conv3d", "trainer.max_steps=5", "trainer.preview_every=5")
    monkeypatch.setattr(run, "SentenceStore", DrawnStores)
    run.train(config, prior=Listener())
    folder = run.run_folder(config)
    assert folder.name == "words" and (folder / "save" / "preview.png").is_file()
    rows = list(csv.DictReader((folder / "save" / "sentences.csv").open()))
    assert {row["sentence"] for row in rows} == set(SENTENCES)
    pulls = [float(row["pull"]) for row in rows]
    assert pulls == sorted(pulls, reverse=True) and min(pulls) > 0


REFUSED = {
    "a library's field": (("system.geometry.type=field",), "library"),
    "no library": (("system.prompt_processor.library=null",), "library"),
    "rounds": (("system.guidance.objective=sir",), "sir"),
    "one sentence": (("prompt=a red car",), "leave it out"),
    "a picture": (("input=x.png",), "no picture"),
    "light": (("system.material.type=point_light",), "material"),
    "stages": (("data.resolution_milestones=[5]", "data.size=[8,8]", "data.batch_size=[4,4]"), "resolution_milestones"),
    "a field's regulariser": (("system.loss.lambda_orient=1",), "lambda_orient"),
    "heads that do not divide": (("system.generator.attention_heads=5",), "attention_heads"),
}


@pytest.mark.parametrize("words, named", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(tmp_path, monkeypatch, words, named):
    with pytest.raises(UserError, match=named) as caught:
        trainer_of(config_with(tmp_path, "triplane", *words), monkeypatch)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [("system.optimizer.type=adan",), ("system.background.type=prompt",), ("system.loss.lambda_eikonal=1",)])
def test_what_only_generators_have_is_refused_of_fields(words):
    from launch_bench import config_of

    with pytest.raises(UserError, match=words[0].split("=")[0]):
        config_of(*words)


def test_kinds_are_the_networks_they_name(tmp_path, monkeypatch):
    for kind, made in (("hyper_ingp", HyperIngp), ("conv3d", Conv3dGenerator), ("triplane", TriplaneTransformer)):
        assert type(trainer_of(config_with(tmp_path, kind), monkeypatch).learner.model.geometry) is made


def test_a_fields_checkpoint_is_no_networks(tmp_path, monkeypatch):
    from launch_bench import trainer_of as field_of

    field = field_of(f"exp_root_dir={tmp_path}")
    field.step(0)
    path = run.save(field, run.run_folder(field.config), 1)
    config = config_with(tmp_path, "hyper_ingp", f"resume={path}")
    monkeypatch.setattr(run, "SentenceStore", DrawnStores)
    for use in (run.trained, lambda config: run.train(config, prior=Listener())):
        with pytest.raises(UserError, match=r"was trained with system\.geometry") as caught:
            use(config)
        assert "\n" not in str(caught.value) and not (tmp_path / "sentences").exists()
