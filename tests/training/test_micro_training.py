"""Training of the micro prior in small: checkpoints, optimiser, batches, and a loss that falls."""

import math

import pytest
import torch
from conftest import relative_l2

from microdreamer.guidance.checkpoints import load_into, load_sharded, save_sharded
from microdreamer.guidance.micro.network import MultiViewNetwork, NetworkConfig
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.shapes.packed import pack
from microdreamer.shapes.procedural.catalogue import generate
from microdreamer.training.micro_prior.batches import Bank, draw_batch, random_shapes, support_points, world_to_camera
from microdreamer.training.micro_prior.loop import TrainingConfig, denoising_loss, draw_log_snr, save_prior, train
from microdreamer.training.micro_prior.optimiser import FlatOptimiser, orthogonalise

TINY = NetworkConfig(resolution=32, channels=(16, 32, 64), depth=(1, 1, 1, 1, 1), head_width=16, condition_width=32, text_width=32)


@pytest.fixture(scope="module")
def bank_and_words():
    shapes = [generate(seed) for seed in range(12)]
    meshes = pack(
        [(s.vertices, s.faces, s.corner_colors, s.corner_normals) for s in shapes],
        [str(k) for k in range(12)],
        [[s.caption] for s in shapes],
    )
    vocabulary = Vocabulary.from_captions([s.caption for s in shapes], 100)
    return Bank.build(meshes, 8, 0.75, vocabulary, TINY.text_tokens, "cpu"), vocabulary


def test_sharded_weights_round_trip(tmp_path):
    state = {f"layer{k}": torch.randn(100, 10).to(torch.bfloat16) for k in range(5)}
    files = save_sharded(state, tmp_path, shard_bytes=5000)
    assert len(files) == 3 and all(file.stat().st_size < 5500 for file in files)
    loaded = load_sharded(tmp_path)
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[key], state[key]) for key in state)


def test_foreign_weights_name_the_first_wrong_key():
    network = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match="weight is missing"):
        load_into(network, {"bias": torch.zeros(2)}, "file")
    with pytest.raises(ValueError, match="unexpected extra"):
        load_into(network, {"bias": torch.zeros(2), "extra": torch.zeros(1), "weight": torch.zeros(2, 3)}, "file")


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 6, 20), (3, 20, 6)])
def test_orthogonalise_flattens_singular_values(shape):
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_flat_optimiser_takes_over_parameters_and_gradients():
    network = MultiViewNetwork(TINY)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimiser = FlatOptimiser(network, weight_decay=0.0, clip_norm=1.0)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    for p in network.parameters():
        assert p.data_ptr() >= optimiser.flat.data_ptr() and p.grad.shape == p.shape
    optimiser.gradient.normal_()
    optimiser.set_rates(1e-3, 1e-3, 1, 0.99)
    optimiser.step()
    assert float(optimiser.gradient.abs().max()) == 0
    moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(before)
    state = optimiser.averaged_state()
    assert {name: tuple(t.shape) for name, t in state.items()} == {name: tuple(t.shape) for name, t in before.items()}


def test_adam_part_equals_torch(tmp_path):
    network = MultiViewNetwork(TINY)
    twin = MultiViewNetwork(TINY)
    twin.load_state_dict(network.state_dict())
    optimiser = FlatOptimiser(network, weight_decay=0.0, clip_norm=1e9)
    name = "stem.weight"
    parameter = dict(twin.named_parameters())[name]
    adam = torch.optim.Adam([parameter], 1e-2, FlatOptimiser.BETAS)
    for step in range(1, 4):
        optimiser.gradient.normal_(generator=torch.Generator().manual_seed(step))
        parameter.grad = dict(network.named_parameters())[name].grad.clone()
        optimiser.set_rates(1e-2, 1e-2, step, 0.99)
        optimiser.step()
        adam.step()
    assert relative_l2(dict(network.named_parameters())[name].detach(), parameter.detach()) < 1e-5


def test_batches_show_what_they_say(bank_and_words):
    bank, _ = bank_and_words
    batch = draw_batch(bank, 48, 32)
    assert batch.views.shape == (48, 4, 3, 32, 32) and batch.rays.shape == (48, 5, 8, 8, 6)
    assert float(batch.views.min()) >= -1 and float(batch.views.max()) == 1  # white background
    has_picture = batch.camera[:, 4, 6] == 1
    assert torch.equal(has_picture, batch.camera[:, 0, 5] == 1)
    assert bool((batch.picture[~has_picture] == 1).all()) and 0 < int(has_picture.sum()) < 48
    same = (batch.views[:, 0] - batch.picture).abs().amax(dim=(1, 2, 3)) == 0
    canonical = has_picture & ((batch.camera[:, 0, 1] - 1).abs() < 1e-6) & (batch.camera[:, 0, 2] == batch.camera[:, 4, 2])
    assert bool(same[canonical].all()) and int(canonical.sum()) > 0  # a target at the reference's camera is the reference
    assert float((batch.views < 0.9).float().mean()) > 0.03  # something is drawn


def test_recentred_objects_fill_the_reference_picture(bank_and_words):
    bank, _ = bank_and_words
    support = bank.support[torch.arange(12)]
    camera = world_to_camera(torch.linspace(0, 330, 12), torch.full((12,), 20.0))
    to_world = random_shapes(support, camera, torch.ones(12, dtype=torch.bool))
    points = support @ to_world[:, :, :3].mT + to_world[:, None, :, 3]
    assert float(points.norm(dim=-1).max()) < 1.3
    seen = points @ camera[:, :, :3].mT + camera[:, None, :, 3]
    flat = seen[..., :2] / seen[..., 2:]
    middle = (flat.amin(1) + flat.amax(1)) / 2
    assert float(middle.abs().max()) < 0.09  # of a half width of 0.457


def test_support_points_reach_as_far_as_the_mesh(bank_and_words):
    bank, _ = bank_and_words
    reach = support_points(bank.meshes).norm(dim=-1).amax(dim=1)
    assert torch.allclose(reach, torch.full_like(reach, 0.8), atol=0.06)


def test_noise_levels_follow_the_shifted_cosine():
    draws = draw_log_snr(20000, torch.zeros(()))
    assert float((draws < -4).float().mean()) == pytest.approx(0.5, abs=0.01)
    coarse = draw_log_snr(20000, torch.ones(()))
    assert float(coarse.max()) <= -2.99 and float(coarse.min()) >= -14


def test_loss_weighs_noise_levels_by_their_capped_signal_to_noise_ratio(bank_and_words):
    """A network that is off by 0.1 (2 b + 1) in sample b: the mean of (min(SNR, 5) + 4) times that error squared."""
    bank, _ = bank_and_words
    batch = draw_batch(bank, 4, TINY.resolution)
    off = 0.1 * (2 * torch.arange(4.0) + 1)
    log_snr = torch.tensor([-14.0, 0.0, math.log(3), 6.0])
    loss = denoising_loss(lambda *_: batch.views + off[:, None, None, None, None], batch, log_snr)
    weights = [4 + math.exp(-14), 5.0, 7.0, 9.0]
    expected = sum(weight * error**2 for weight, error in zip(weights, (0.1, 0.3, 0.5, 0.7), strict=True)) / 4
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_network_sees_views_noised_to_the_level_it_is_told(bank_and_words):
    bank, _ = bank_and_words
    batch = draw_batch(bank, 4, TINY.resolution)
    seen = []
    for level in (-14.0, 14.0):
        denoising_loss(lambda noisy, *_: (seen.append(noisy), batch.views)[1], batch, torch.full((4,), level))
    assert float(seen[0].std()) == pytest.approx(1.0, abs=0.02) and abs(float((seen[0] * batch.views).mean())) < 0.02
    torch.testing.assert_close(seen[1], batch.views, rtol=0, atol=5 * math.exp(-7))


def test_training_lowers_the_loss_and_its_result_loads(bank_and_words, tmp_path):
    bank, vocabulary = bank_and_words
    network = MultiViewNetwork(TINY)
    losses = []
    config = TrainingConfig(steps=400, batch=8, warmup_steps=10, muon_rate=5e-3, adam_rate=5e-3, compile=False, graph=False)
    optimiser, progress = train(network, bank, config, lambda metrics: losses.append(metrics["loss"]))
    assert progress["samples"] == 3200 and losses[-1] < 0.8 * losses[0]
    save_prior(tmp_path, network, optimiser.averaged_state(), vocabulary, progress)
    prior = MicroPrior.load(tmp_path)
    assert prior.resolution == 32 and len(prior.vocabulary) == len(vocabulary)
