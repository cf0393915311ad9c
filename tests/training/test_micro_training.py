"""Training of the micro prior in small: checkpoints, optimiser, batches, and a loss that falls."""

import dataclasses
import math

import pytest
import torch
from conftest import relative_l2

from microdreamer.guidance.checkpoints import load_into, load_sharded, save_sharded
from microdreamer.guidance.micro.network import SLOTS, MultiViewNetwork, NetworkConfig, Surfaces
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.shapes.packed import pack
from microdreamer.shapes.procedural.catalogue import generate
from microdreamer.training.micro_prior.bank import Bank, capped_weights, support_points
from microdreamer.training.micro_prior.batches import draw_batch, fitted_intrinsics, random_shapes, world_to_camera
from microdreamer.training.micro_prior.checkpoint import start_from
from microdreamer.training.micro_prior.loop import TrainingConfig, denoising_loss, draw_log_snr, save_prior, train
from microdreamer.training.micro_prior.optimiser import FlatOptimiser, orthogonalise

PLAIN = NetworkConfig(resolution=32, channels=(16, 32, 64), depth=(1, 1, 1, 1, 1), head_width=16, condition_width=32, text_width=32)
TINY = dataclasses.replace(PLAIN, references=SLOTS, relative_cameras=True, geometry=True)


@pytest.fixture(scope="module")
def bank_and_words():
    meshes = procedural_pack(12)
    vocabulary = Vocabulary.from_captions([captions[0] for captions in meshes.captions], 100)
    return Bank.build(meshes, torch.ones(12), vocabulary, TINY.text_tokens, "cpu", places=True), vocabulary


def procedural_pack(count):
    shapes = [generate(seed) for seed in range(count)]
    return pack(
        [(s.vertices, s.faces, s.corner_colors, s.corner_normals) for s in shapes],
        [str(k) for k in range(count)],
        [[s.caption] for s in shapes],
    )


def test_sharded_weights_round_trip(tmp_path):
    state = {f"layer{k}": torch.randn(100, 10).to(torch.bfloat16) for k in range(5)}
    files = save_sharded(state, tmp_path, shard_bytes=5000)
    assert len(files) == 3 and all(file.stat().st_size < 5500 for file in files)
    loaded = load_sharded(tmp_path)
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[key], state[key]) for key in state)


def test_a_changed_byte_of_sharded_weights_is_noticed(tmp_path):
    first, second = save_sharded({f"layer{k}": torch.randn(100, 10) for k in range(2)}, tmp_path, shard_bytes=5000)
    data = second.read_bytes()
    second.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    with pytest.raises(ValueError, match=rf"{second.name}: damaged: .*; restore the file"):
        load_sharded(tmp_path)
    assert first.is_file()


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
    assert batch.views.shape == (48, 4, 3, 32, 32) and batch.rays.shape == (48, 4, 8, 8, 6)
    assert batch.pictures.shape == (48, 3, 32, 32) and batch.picture_rays.shape == (48, 8, 8, 6)
    assert float(batch.views.min()) >= -1 and float(batch.views.max()) == 1  # white background
    has_picture = batch.picture_camera[:, 6] == 1
    assert torch.equal(has_picture, batch.camera[:, 0, 5] == 1)
    assert bool((batch.pictures[~has_picture] == 1).all()) and 0 < int(has_picture.sum()) < 48
    same = (batch.views[:, 0] - batch.pictures).abs().amax(dim=(1, 2, 3)) == 0
    known = batch.picture_camera[:, 4] == 1
    canonical = has_picture & known & ((batch.camera[:, 0, 1] - 1).abs() < 1e-6) & (batch.camera[:, 0, 2] == batch.picture_camera[:, 2])
    # A target at the reference's camera is the reference, except for those that were degraded or taken with another lens.
    assert not bool(same[~has_picture].any()) and 0.3 < float(same[canonical].float().mean()) < 1
    assert float((batch.views < 0.9).float().mean()) > 0.03  # something is drawn


def test_recentred_objects_fill_the_reference_picture(bank_and_words):
    bank, _ = bank_and_words
    support = bank.support[torch.arange(12)]
    camera = world_to_camera(torch.linspace(0, 330, 12), torch.full((12,), 20.0))
    to_world = random_shapes(support, camera, *torch.ones(2, 12, dtype=torch.bool))
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
    batch.surfaces = None
    loss, parts = denoising_loss(lambda *_: batch.views + off[:, None, None, None, None], batch, log_snr, TrainingConfig())
    weights = [4 + math.exp(-14), 5.0, 7.0, 9.0]
    expected = sum(weight * error**2 for weight, error in zip(weights, (0.1, 0.3, 0.5, 0.7), strict=True)) / 4
    assert float(loss) == pytest.approx(expected, rel=1e-5) and parts.tolist() == [float(loss)]


def test_the_network_sees_views_noised_to_the_level_it_is_told(bank_and_words):
    bank, _ = bank_and_words
    batch = draw_batch(bank, 4, TINY.resolution)
    seen, batch.surfaces = [], None
    for level in (-14.0, 14.0):
        denoising_loss(lambda noisy, *_: (seen.append(noisy), batch.views)[1], batch, torch.full((4,), level), TrainingConfig())
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


@pytest.mark.parametrize("unrolled", [0.0, 0.5])  # where the run is cut, its second half has begun
def test_resumed_training_equals_an_uninterrupted_one(bank_and_words, tmp_path, unrolled):
    _, vocabulary = bank_and_words

    def run(folder, **options):
        torch.manual_seed(3)
        network = MultiViewNetwork(TINY)
        bank = Bank.build(procedural_pack(6), torch.ones(6), vocabulary, TINY.text_tokens, "cpu", deform_seed=0, places=True)
        reports = []

        def report(metrics):
            reports.append(metrics)
            if metrics["step"] == options.get("stop"):
                raise KeyboardInterrupt

        config = TrainingConfig(
            steps=options.get("steps", 9),
            batch=2,
            warmup_steps=2,
            compile=False,
            graph=False,
            deform_steps=4,
            several_share=0.5,
            unrolled_share=unrolled,
            unrolled_objects=1,
        )
        file = folder / "training.safetensors"
        return train(network, bank, config, report, checkpoint_minutes=0, state_file=file, resume=options.get("resume", False)), reports

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("microdreamer.training.micro_prior.loop.REPORT_STEPS", 3)
        (whole, progress), reports = run(tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", stop=9)  # its last checkpoint is of step 6
        torch.randn(5)
        (resumed, again), rest = run(tmp_path / "cut", resume=True)
        assert [r["step"] for r in rest] == [9] and rest[0]["loss"] == reports[-1]["loss"]
        assert again["samples"] == progress["samples"] == 18
        for name, tensor in whole.state().items():
            assert torch.equal(tensor, resumed.state()[name]), name
        with pytest.raises(ValueError, match="steps was 9, now 10"):
            run(tmp_path / "cut", resume=True, steps=10)
        with pytest.raises(FileNotFoundError, match="no run to resume"):
            run(tmp_path / "nowhere", resume=True)
        file = tmp_path / "cut" / "training.safetensors"
        data = file.read_bytes()
        file.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
        with pytest.raises(ValueError, match=r"damaged: .* start the run anew without --resume"):
            run(tmp_path / "cut", resume=True)
        file.write_bytes(data[:1000])
        with pytest.raises(ValueError, match="truncated"):
            run(tmp_path / "cut", resume=True)


def test_starting_from_older_weights_matches_words_by_spelling(tmp_path):
    old, new = MultiViewNetwork(TINY), MultiViewNetwork(TINY)
    save_prior(tmp_path, old, old.state_dict(), Vocabulary(["box", "red"]), {})
    fresh = new.text.words.detach().clone()
    assert start_from(new, Vocabulary(["a", "box", "car", "red"]), tmp_path) == 2
    half = old.text.words.detach().to(torch.bfloat16).float()
    assert torch.equal(new.text.words[[0, 2, 4]], half[[0, 1, 2]]) and torch.equal(new.text.words[[1, 3]], fresh[[1, 3]])
    assert torch.equal(new.stem.weight, old.stem.weight.to(torch.bfloat16).float())
    with pytest.raises(FileNotFoundError, match="no micro prior there"):
        start_from(new, Vocabulary(["a"]), tmp_path / "nowhere")


def test_older_weights_start_a_network_with_more_parts_as_they_were(bank_and_words, tmp_path):
    bank, vocabulary = bank_and_words
    old, new = MultiViewNetwork(PLAIN), MultiViewNetwork(TINY)
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter)).copy_(parameter.to(torch.bfloat16))
    save_prior(tmp_path, old, old.state_dict(), vocabulary, {})
    start_from(new, vocabulary, tmp_path)
    batch = draw_batch(bank, 4, TINY.resolution)
    given = (batch.rays, batch.camera, batch.pictures, batch.picture_rays, batch.picture_camera, batch.tokens)
    clean, surfaces = new(batch.views, torch.zeros(4), *given, 4)
    torch.testing.assert_close(clean, old(batch.views, torch.zeros(4), *given), rtol=0, atol=5e-6)
    assert not bool(surfaces.depth.any())  # the head begins at 0, on features that are those of the colours
    assert torch.equal(new.geometry_up.first.weight, old.up_fine[0].first.weight)


def test_samples_with_several_pictures_repeat_them(bank_and_words):
    bank, _ = bank_and_words
    torch.manual_seed(4)
    batch = draw_batch(bank, 24, 32, several=20)
    assert len(batch.pictures) == 4 + 20 * SLOTS
    slots, camera = batch.pictures[4:].unflatten(0, (20, SLOTS)), batch.picture_camera[4:].unflatten(0, (20, SLOTS))
    different = set()
    for pictures, features in zip(slots, camera, strict=True):
        if features[0, 6] == 0:  # no picture: white ones, from azimuth 0
            assert bool((pictures == 1).all()) and bool((features == features[0]).all())
            continue
        assert bool((features[:, 4] == 1).all()) and float(features[0, 0]) == 0 and float(features[0, 1]) == 1
        same = [next(j for j in range(SLOTS) if torch.equal(pictures[j], pictures[k])) for k in range(SLOTS)]
        assert same in ([0, 1, 0, 1], [0, 1, 2, 0], [0, 1, 2, 3])
        assert all(torch.equal(features[k], features[same[k]]) for k in range(SLOTS))
        different.add(max(same))
    assert different == {1, 2, 3}


def test_a_further_picture_is_fitted_to_its_frame(bank_and_words):
    bank, _ = bank_and_words
    points = bank.support[:5]
    camera = world_to_camera(torch.linspace(0, 200, 5), torch.full((5,), 10.0))
    fill = torch.linspace(0.65, 0.95, 5)
    fx, fy, cx, cy = fitted_intrinsics(points, camera, 64, fill).T[..., None]
    seen = points @ camera[:, :, :3].mT + camera[:, None, :, 3]
    x, y = seen[..., 0] / seen[..., 2] * fx + cx, seen[..., 1] / seen[..., 2] * fy + cy
    box = torch.stack([x.amin(1), x.amax(1), y.amin(1), y.amax(1)], dim=1)
    torch.testing.assert_close(box[:, ::2] + box[:, 1::2], torch.full((5, 2), 64.0), rtol=0, atol=1e-3)
    torch.testing.assert_close((box[:, 1::2] - box[:, ::2]).amax(dim=1), 64 * fill, rtol=0, atol=1e-3)


def test_surfaces_of_a_batch_are_those_of_its_views(bank_and_words):
    """Coverage, albedo and depth say the same of where there is an object as the view does; it is within 1 of the centre."""
    bank, _ = bank_and_words
    torch.manual_seed(0)
    batch = draw_batch(bank, 8, 64)
    told = len(batch.seen)
    assert told == 4 and batch.surfaces.depth.shape == (4, 4, 1, 64, 64) and batch.surfaces.albedo.shape == (4, 4, 3, 64, 64)
    inside = batch.seen > 0
    assert float(batch.surfaces.coverage[inside].mean()) > 0.9  # a pixel's centre is covered
    outside = (batch.views[:told] == 1).all(dim=2, keepdim=True) & (batch.surfaces.coverage == -1)
    assert float((outside & inside).sum()) < 0.005 * float(inside.sum())  # slivers between the samples of a pixel
    assert bool((batch.surfaces.albedo[outside.expand(-1, -1, 3, -1, -1)] == 1).all())
    assert -1 < float(batch.surfaces.depth[inside].min()) < 0 < float(batch.surfaces.depth[inside].max()) < 1


def test_surfaces_have_weights_of_their_own(bank_and_words):
    bank, _ = bank_and_words
    batch = draw_batch(bank, 4, TINY.resolution)
    truth, told = batch.surfaces, len(batch.seen)
    answer = Surfaces(truth.depth + 0.2, truth.coverage + 0.3, truth.albedo + 0.4)
    config = TrainingConfig(depth_weight=2.0, coverage_weight=3.0, albedo_weight=5.0)
    loss, parts = denoising_loss(lambda *_: (batch.views, answer), batch, torch.full((4,), -14.0), config)
    share = float(batch.seen.mean(dim=(1, 2, 3, 4)).mean())
    assert told == 2 and parts.tolist() == pytest.approx([0, 4 * 2 * 0.04 * share, 4 * 3 * 0.09, 4 * 5 * 0.16], rel=1e-4)
    assert float(loss) == pytest.approx(float(parts.sum()))


def test_a_network_that_tells_surfaces_needs_a_bank_that_has_them(bank_and_words):
    bank = dataclasses.replace(bank_and_words[0], painter=None)
    with pytest.raises(ValueError, match="places=True"):
        train(MultiViewNetwork(TINY), bank, TrainingConfig(steps=1, compile=False, graph=False), lambda _: None)
    assert len(draw_batch(bank_and_words[0], 1, 32).seen) == 1  # however small the batch, one sample tells its surfaces


def test_a_run_stops_when_told_and_goes_on(bank_and_words, tmp_path, monkeypatch):
    bank, _ = bank_and_words
    monkeypatch.setattr("microdreamer.training.micro_prior.loop.REPORT_STEPS", 2)

    def run(folder, **options):
        torch.manual_seed(3)
        config = TrainingConfig(steps=4, batch=2, compile=False, graph=False)
        file = folder / "training.safetensors"
        return train(MultiViewNetwork(TINY), bank, config, lambda _: None, state_file=file, **options)

    whole, _ = run(tmp_path / "whole")
    _, progress = run(tmp_path / "cut", should_stop=lambda: True)
    assert progress["steps"] == 2 and progress["of"] == 4
    resumed, progress = run(tmp_path / "cut", resume=True)
    assert progress["steps"] == 4 and torch.equal(resumed.average, whole.average)


def test_no_pack_is_drawn_more_often_than_its_cap():
    packs = ["large"] * 70 + ["middle"] * 20 + ["small"] * 10
    shares = capped_weights(packs, torch.ones(100), 0.4)
    assert float(shares.sum()) == pytest.approx(1)
    assert [float(shares[a:b].sum()) for a, b in ((0, 70), (70, 90), (90, 100))] == pytest.approx([0.4, 0.4, 0.2])
    assert torch.allclose(capped_weights(packs, torch.ones(100), 1.0), torch.full((100,), 0.01, dtype=torch.float64))
    assert float(capped_weights(packs, torch.ones(100), 0.1)[:70].sum()) == pytest.approx(1 / 3)  # three packs cannot hold to a tenth


def test_objects_are_drawn_by_their_weights(bank_and_words):
    _, vocabulary = bank_and_words
    bank = Bank.build(procedural_pack(3), torch.tensor([1.0, 0.0, 3.0]), vocabulary, TINY.text_tokens, "cpu")
    counts = torch.bincount(bank.draw(4000), minlength=3)
    assert counts[1] == 0 and float(counts[2]) / 4000 == pytest.approx(0.75, abs=0.03)
