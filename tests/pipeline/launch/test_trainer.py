"""The training loop: it goes to the object that the prior knows, goes on as if never stopped, and shares its work."""

import dataclasses
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from fake_priors import OraclePrior, coloured_ellipsoid
from launch_bench import SMALL

from microdreamer.metrics.pictures import psnr
from microdreamer.pipeline.launch import run
from microdreamer.pipeline.launch.config import load_launch_config
from microdreamer.pipeline.launch.trainer import Shard, film_cameras, reseed

ALL = [(kind, objective) for kind in ("field", "gaussians") for objective in ("x0sds", "sds", "asd", "sir")]


def config_of(*words):
    return load_launch_config(None, [*SMALL, *words])


def trainer_of(*words, shard=None):
    config = config_of(*words)
    prior = OraclePrior(coloured_ellipsoid(), resolution=16)
    return run.make_trainer(config, prior, shard) if shard else run.make_trainer(config, prior)


def advance(trainer, first, last):
    for index in range(first, last):
        trainer.round(index) if trainer.objective is None else trainer.step(index)


def flat(state, place=""):
    if isinstance(state, torch.Tensor):
        yield place, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from flat(value, f"{place}.{key}")
    elif isinstance(state, (list, tuple)):
        for index, value in enumerate(state):
            yield from flat(value, f"{place}.{index}")


@pytest.mark.parametrize(("kind", "objective"), ALL)
def test_a_resumed_run_ends_in_the_bits_of_the_unbroken_one(tmp_path, kind, objective):
    words = [f"system.geometry.type={kind}", f"system.guidance.objective={objective}"]
    if objective != "sir":  # over the border of two stages
        words += ["data.size=[16,24]", "data.batch_size=[4,8]", "data.resolution_milestones=[4]"]
    end = 3 if objective == "sir" else 6
    unbroken = trainer_of(*words)
    advance(unbroken, 0, end)
    first = trainer_of(*words)
    advance(first, 0, end - 2)
    path = run.save(first, tmp_path, end - 2)
    second = trainer_of(*words)
    assert run.restore(second, path) == end - 2
    advance(second, end - 2, end)
    wanted, got = dict(flat(unbroken.learner.state())), dict(flat(second.learner.state()))
    assert wanted.keys() == got.keys()
    for name, tensor in wanted.items():
        assert torch.equal(tensor, got[name]), name


@pytest.mark.parametrize(("kind", "objective"), ALL)
def test_every_objective_brings_every_representation_toward_the_object(kind, objective):
    rounds = ("system.sir.total_steps=4", "system.sir.init_steps=12", "system.sir.steps_max=8")
    steps = 30 if kind == "field" else 60
    trainer = trainer_of(f"system.geometry.type={kind}", f"system.guidance.objective={objective}", f"trainer.max_steps={steps}", *rounds)
    cameras = film_cameras(trainer.config, 6, 16, torch.device("cpu"))
    truth = trainer.prior.truth.render(cameras, torch.ones(3)).image

    def score():
        trainer.learner.model.eval()
        with torch.no_grad():
            seen = trainer.learner.model.render(cameras, 1.0).image
        trainer.learner.model.train()
        return float(psnr(seen, truth).mean())

    before = score()
    advance(trainer, 0, len(trainer.rounds) or steps)
    assert score() > before + 1


def test_a_reference_picture_is_learnt():
    from microdreamer.images.reference import Reference

    trainer = trainer_of("system.loss.lambda_guidance=0", "trainer.max_steps=40")
    cameras = film_cameras(trainer.config, 6, 16, torch.device("cpu"))[0]
    seen = trainer.prior.truth.render(cameras, torch.ones(3))
    trainer._picture = lambda size: Reference(cameras, seen.image, seen.alpha)
    losses = [float(trainer.step(step)["loss_rest"]) for step in range(40)]
    assert losses[-1] < 0.3 * losses[0]


def gradients(trainer, step):
    """What one step would learn from, in place of learning."""
    kept = {}

    def update(rendering):
        for name, parameter in trainer.learner.model.named_parameters():
            if parameter.grad is not None:
                kept[name] = parameter.grad.clone()
                parameter.grad = None

    trainer.learner.update = update
    trainer.step(step)
    return kept


def one_process(rank, world, port, words, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    trainer = trainer_of(*words, shard=Shard(rank, world))
    for step in range(2):
        trainer.step(step)
    torch.save({name: value.detach() for name, value in trainer.learner.model.named_parameters()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_learn_from_the_mean_of_their_gradients(tmp_path):
    words = ("data.batch_size=8", "trainer.max_steps=2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_process, (2, port, words, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)  # they stay one model

    # The same by hand: each half's gradients, their mean, one step of the optimiser.
    whole = trainer_of(*words)
    for step in range(2):
        halves = []
        for rank in range(2):
            half = trainer_of(*words, shard=Shard(rank, 2))
            half.learner.load(whole.learner.state())
            halves.append(gradients(half, step))
        reseed(whole.generator, whole.config.seed, step, 0)
        whole.learner.prepare(step)
        for name, parameter in whole.learner.model.named_parameters():
            if name in halves[0]:
                parameter.grad = (halves[0][name] + halves[1][name]) / 2
        whole.learner.optimizer.step()
        whole.learner.optimizer.zero_grad(set_to_none=True)
    for name, parameter in whole.learner.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), first[name], rtol=1e-4, atol=1e-6)


def test_shards_are_the_parts_of_one_batch():
    words = ("data.batch_size=12", "data.n_view=4")
    trainers = [trainer_of(*words, shard=Shard(rank, 3)) for rank in range(3)]
    for trainer in trainers:
        reseed(trainer.generator, 5)
    parts = [trainer.cameras(0) for trainer in trainers]
    alone = trainer_of(*words)
    reseed(alone.generator, 5)
    batch = alone.cameras(0)
    assert torch.equal(torch.cat([part.azimuth for part in parts]), batch.azimuth)
    assert all(len(part) == 4 for part in parts)
    with pytest.raises(ValueError, match="3 groups do not divide among 2 processes"):
        trainer_of(*words, shard=Shard(0, 2))


def test_gaussians_in_rounds_learn_at_rates_of_the_rounds_steps():
    trainer = trainer_of("system.geometry.type=gaussians", "system.guidance.objective=sir", "trainer.max_steps=10000")
    assert trainer.learner.max_steps == 9 and trainer.config.trainer.max_steps == 10_000


def test_near_seeds_give_unlike_draws():
    generator, seen = torch.Generator(), set()
    for seed in range(20):
        for step in range(20):
            reseed(generator, seed, step)
            seen.add(float(torch.rand((), generator=generator)))
    assert len(seen) == 400
    reseed(generator, 3, 4)
    assert float(torch.rand((), generator=generator)) in seen


def test_checkpoints_of_another_make_are_refused(tmp_path):
    trainer = trainer_of()
    path = run.save(trainer, tmp_path, 1)
    other = trainer_of("system.geometry.n_neurons=8")
    with pytest.raises(ValueError, match=r"trained with system\.geometry\.n_neurons=16, now 8"):
        run.restore(other, path)
    gaussians = trainer_of("system.geometry.type=gaussians")
    with pytest.raises(ValueError, match=r"trained with system\.geometry\.type=field, now gaussians"):
        run.restore(gaussians, path)
    assert dataclasses.asdict(trainer.config) == run.stored_config(path)


@pytest.mark.parametrize("kind", ["field", "gaussians"])
def test_sparsity_empties_every_representation(kind):
    trainer = trainer_of(f"system.geometry.type={kind}", "system.loss.lambda_guidance=0", "system.loss.lambda_sparsity=100", "data.size=16")
    cameras = film_cameras(trainer.config, 2, 16, torch.device("cpu"))

    def opacity():
        with torch.no_grad():
            return float(trainer.learner.render(cameras, 1.0, trainer.learner.draw(2, 16)).alpha.mean())

    before = opacity()
    advance(trainer, 0, 6)
    assert opacity() < 0.97 * before


@pytest.mark.parametrize("objective", ["x0sds", "sds", "asd"])
def test_directions_end_where_the_published_configurations_end_them(objective):
    thresholds = trainer_of(f"system.guidance.objective={objective}").objective.thresholds
    assert dataclasses.astuple(thresholds) == (30, 30, 60)
