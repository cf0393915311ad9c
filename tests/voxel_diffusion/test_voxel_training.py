"""The 3D U-Net, its loss, gradient norms, training, and runs that are stopped and resumed."""

import dataclasses
import json
import zipfile

import pytest
import torch
from conftest import DEVICES

from microdreamer.voxel_diffusion import primitives
from microdreamer.voxel_diffusion.checkpoints import ScheduleConfig, as_dict, load_denoiser, resume, save_checkpoint
from microdreamer.voxel_diffusion.denoiser import Denoiser, to_signed
from microdreamer.voxel_diffusion.importance import load_importance, measure_importance, plot, save_importance
from microdreamer.voxel_diffusion.network import PREDICTIONS, NetworkConfig, VoxelUNet, timestep_embedding
from microdreamer.voxel_diffusion.timesteps import NAMES, make_sampler
from microdreamer.voxel_diffusion.training import Trainer, TrainingConfig, average_decay, rate_at, turn_and_mirror

T = 10
TINY = NetworkConfig(size=8, channels=8, multipliers=(1, 2), timesteps=T)
SCHEDULE = ScheduleConfig("linear", T)


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch):
    """PyTorch's default on a GPU, TF32 convolutions, rounds to 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def spheres(count=6, size=8):
    return torch.stack([torch.from_numpy(primitives.draw("sphere", size, 0, i)) for i in range(count)]).to(torch.uint8)


def make_trainer(name="uniform", device="cpu", network=TINY, **options):
    schedule = SCHEDULE.make()
    sampler = make_sampler(name, schedule, device, top=4, every=2, probe=2, norms=torch.arange(T).float())
    config = TrainingConfig(batch=4, warmup=3, **options)
    return Trainer(network, schedule, sampler, spheres().to(device), config, device)


def lively(network):
    """Random weights where the blocks start from zero, so that everything depends on everything."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.05)
    return network


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("patch", "attention", "blocks"), [(1, False, 1), (2, True, 2), (4, False, 1)])
def test_network_shapes_and_reach(device, patch, attention, blocks):
    config = NetworkConfig(size=16, patch=patch, channels=8, multipliers=(1, 2), blocks=blocks, attention=attention, timesteps=T)
    network = lively(VoxelUNet(config)).to(device)
    x = torch.randn(2, 1, 16, 16, 16, device=device)
    t = torch.tensor([0, 9], device=device)
    output = network(x, t)
    assert output.shape == x.shape
    assert not torch.allclose(network(x, t.flip(0)), output)  # the time matters
    torch.testing.assert_close(network(x[:1], t[:1]), output[:1], rtol=1e-4, atol=1e-5)  # samples do not mix
    assert all(p.grad is None for p in network.parameters())
    output.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_folding_keeps_places():
    """A network that is the identity on blocks gives back its input: folding and unfolding fit together."""
    from microdreamer.voxel_diffusion.network import _fold, _unfold

    x = torch.randn(2, 1, 8, 8, 8)
    folded = _fold(x, 2)
    assert folded.shape == (2, 8, 4, 4, 4) and torch.equal(_unfold(folded, 2), x)
    assert torch.equal(folded[1, :, 1, 2, 3], x[1, 0, 2:4, 4:6, 6:8].reshape(8))


def test_untrained_network_predicts_zero():
    assert not bool(VoxelUNet(TINY)(torch.randn(1, 1, 8, 8, 8), torch.tensor([3])).any())


def test_time_embedding_spreads_ten_steps_as_a_thousand():
    ten, thousand = torch.arange(10), torch.arange(0, 1000, 100)
    torch.testing.assert_close(timestep_embedding(ten, 10, 16), timestep_embedding(thousand, 1000, 16))
    distances = torch.cdist(timestep_embedding(ten, 10, 16), timestep_embedding(ten, 10, 16))
    assert float((distances + 10 * torch.eye(10)).min()) > 0.3


@pytest.mark.parametrize("device", DEVICES)
def test_checkpointing_and_layout_change_nothing(device):
    network = lively(VoxelUNet(TINY)).to(device)
    plain = Denoiser(network, SCHEDULE.make())
    x0, noise, t = to_signed(spheres(2)).to(device), torch.randn(2, 1, 8, 8, 8, device=device), torch.tensor([2, 7], device=device)

    def gradients(denoiser):
        loss = denoiser.losses(x0, t, noise).mean()
        return [loss, *torch.autograd.grad(loss, list(network.parameters()))]

    expected = gradients(plain)
    network.checkpointing = True
    for own, value in zip(gradients(plain), expected, strict=True):
        torch.testing.assert_close(own, value)
    network.checkpointing = False
    for own, value in zip(gradients(Denoiser(network, SCHEDULE.make(), channels_last=True)), expected, strict=True):
        torch.testing.assert_close(own, value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 10}, "size=10: expected a multiple of 8"),
        ({"size": 16, "patch": 4}, "size=16: expected a multiple of 32"),
        ({"predict": "x"}, "predict=x: expected one of x0, v, eps"),
        ({"channels": 12}, "channels=12"),
        ({"multipliers": ()}, "multipliers"),
        ({"blocks": 0}, "blocks"),
    ],
)
def test_bad_networks(options, message):
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**options)


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_loss_and_prediction_agree_with_their_definition(predict):
    network = lively(VoxelUNet(dataclasses.replace(TINY, predict=predict)))
    denoiser = Denoiser(network, SCHEDULE.make())
    x0, noise, t = to_signed(spheres(3)), torch.randn(3, 1, 8, 8, 8), torch.tensor([0, 4, 9])
    alpha = SCHEDULE.make().alphas_cumprod[t].float()[:, None, None, None, None]
    noisy = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
    output = network(noisy, t)
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * x0
    target = {"x0": x0, "eps": noise, "v": velocity}[predict]
    torch.testing.assert_close(denoiser.losses(x0, t, noise), ((output - target) ** 2).flatten(1).mean(1))
    clean = {
        "x0": output,
        "eps": (noisy - (1 - alpha).sqrt() * output) / alpha.sqrt(),
        "v": alpha.sqrt() * noisy - (1 - alpha).sqrt() * output,
    }[predict].clamp(-1, 1)
    torch.testing.assert_close(denoiser.predict_x0(noisy[1:2], 4), clean[1:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(denoiser.predict_x0(noisy, t), clean, rtol=1e-4, atol=1e-5)  # a level each
    errors = denoiser.level_losses(spheres(3), [4])
    assert float(errors) == pytest.approx(float((denoiser.predict_x0(*noised(denoiser, 4)) - x0).square().mean()))


def noised(denoiser, t):
    """The grids and the level that `level_losses` looks at."""
    noise = torch.randn(3, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    return denoiser.add_noise(to_signed(spheres(3)), noise, torch.full((3,), t)), t


def test_level_losses_are_repeatable_means():
    denoiser = Denoiser(lively(VoxelUNet(TINY)), SCHEDULE.make())
    first = denoiser.level_losses(spheres(), [0, 5, 9], batch=4)
    assert torch.equal(first, denoiser.level_losses(spheres(), [0, 5, 9], batch=4))
    alone = denoiser.level_losses(spheres(), [5], batch=6)
    assert float(first[1]) == pytest.approx(float(alone[0]), rel=0.05)  # other noise, the same quantity
    assert first.shape == (3,) and len(set(first.tolist())) == 3


def test_gradient_norms_against_autograd_by_hand():
    trainer = make_trainer()
    lively(trainer.denoiser.network)
    grids = spheres(3)
    torch.manual_seed(7)
    norms = trainer.gradient_norms(grids, [1, 8])
    torch.manual_seed(7)
    noise = torch.randn(3, 1, 8, 8, 8)
    for t, norm in zip((1, 8), norms, strict=True):
        alpha = float(SCHEDULE.make().alphas_cumprod[t])
        x0 = grids[:, None].float() * 2 - 1
        output = trainer.denoiser.network(alpha**0.5 * x0 + (1 - alpha) ** 0.5 * noise, torch.full((3,), t))
        trainer.denoiser.network.zero_grad()
        ((output - x0) ** 2).mean().backward()
        by_hand = sum(float((p.grad.double() ** 2).sum()) for p in trainer.parameters) ** 0.5
        assert float(norm) == pytest.approx(by_hand, rel=1e-4)


def test_gradient_norms_by_finite_differences():
    """The derivative of the loss along its own gradient is the norm."""
    trainer = make_trainer()
    lively(trainer.denoiser.network).double()
    trainer.denoiser.signal, trainer.denoiser.noise_level = trainer.denoiser.signal.double(), trainer.denoiser.noise_level.double()
    x0 = to_signed(spheres(2)).double()
    noise, t = torch.randn_like(x0), torch.tensor([6, 6])

    def loss():
        noisy = trainer.denoiser.add_noise(x0, noise, t)
        return (trainer.denoiser.network(noisy, t) - x0).square().mean()

    # The embedding makes float32 of t; everything after it is float64 here.
    trainer.denoiser.network.embed.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    gradients = torch.autograd.grad(loss(), trainer.parameters)
    norm = sum(float((g**2).sum()) for g in gradients) ** 0.5
    step = 1e-5
    with torch.no_grad():
        values = []
        for sign in (1, -2):
            for p, g in zip(trainer.parameters, gradients, strict=True):
                p.add_(g / norm, alpha=sign * step)
            values.append(float(loss()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(norm, rel=1e-5)


def test_measuring_leaves_the_run_alone():
    trainer = make_trainer()
    trainer.step()
    before = [p.detach().clone() for p in trainer.parameters]
    grads = [p.grad.clone() for p in trainer.parameters]
    trainer.gradient_norms(spheres(2), [0, 9])
    assert all(torch.equal(p, b) for p, b in zip(trainer.parameters, before, strict=True))
    assert all(torch.equal(p.grad, g) for p, g in zip(trainer.parameters, grads, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_training_lowers_the_loss_and_the_average_follows(device):
    trainer = make_trainer(device=device, rate=3e-3, ema=0.9)
    before = trainer.denoiser.level_losses(spheres().to(device), list(range(T))).mean()
    for _ in range(40):
        trainer.step()
    with trainer.averaged() as denoiser:
        averaged = denoiser.level_losses(spheres().to(device), list(range(T))).mean()
        weights = [p.detach().clone() for p in trainer.parameters]
    after = trainer.denoiser.level_losses(spheres().to(device), list(range(T))).mean()
    assert float(before) == pytest.approx(1, abs=1e-3)  # the untrained network predicts zero
    assert after < 0.6 * before and averaged < 0.6 * before
    assert any(not torch.equal(p, w) for p, w in zip(trainer.parameters, weights, strict=True))  # the trained weights are back


def test_rate_rises_and_falls():
    config = TrainingConfig(rate=2.0, warmup=4, decay=100)
    assert [rate_at(step, TrainingConfig(rate=2.0, warmup=4)) for step in (0, 1, 3, 4, 500)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    assert rate_at(50, config) == pytest.approx(1.0) and rate_at(99, config) < 1e-3 and rate_at(100, config) == rate_at(400, config) == 0
    rates = [rate_at(step, config) for step in range(4, 101)]
    assert rates == sorted(rates, reverse=True)


def test_rate_is_the_optimiser_s():
    trainer = make_trainer(rate=1e-2, decay=4)
    for step in range(4):
        trainer.step()
        assert trainer.optimizer.param_groups[0]["lr"] == rate_at(step, trainer.config)


def test_memory_of_the_average_grows_with_the_run():
    """A tenth of the steps so far, until the decay's own memory is reached."""
    config = TrainingConfig(ema=0.999)
    for steps in (100, 1000):
        kept = 1.0
        for step in range(steps, 2 * steps):
            kept *= average_decay(step, config)
        assert 0 < kept < 0.01  # nothing of the first half is left after the second
    assert average_decay(0, config) == 0.1 and average_decay(10**6, config) == 0.999


def test_turns_and_mirrors_are_the_eight_of_a_square():
    grid = torch.rand(5, 5, 5)
    square = [grid.rot90(k, (0, 2)) for k in range(4)]
    expected = square + [g.flip(0) for g in square]
    seen = turn_and_mirror(grid.expand(200, 5, 5, 5))
    found = [sum(torch.equal(own, other) for own in seen) for other in expected]
    assert sum(found) == 200 and min(found) > 5  # y stays up


def test_augmented_training_sees_turned_grids():
    trainer = make_trainer(augment=True)
    turns = [g.rot90(k, (0, 2)) for grid in spheres() for g in (grid, grid.flip(0)) for k in range(4)]
    are_new = []
    for _ in range(3):
        trainer.step()
        assert all(any(torch.equal(grid, turn) for turn in turns) for grid in trainer._x)
        are_new += [not any(torch.equal(grid, own) for own in spheres()) for grid in trainer._x]
    assert any(are_new)


def test_average_is_the_recursion():
    trainer = make_trainer(ema=0.8)
    expected = trainer.parameters[0].detach().clone()
    for step in range(4):
        trainer.step()
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * trainer.parameters[0].detach()
    torch.testing.assert_close(trainer.average[0], expected)


def test_weights_of_the_strategy_scale_the_gradient():
    """With weight 0 nothing is learnt; weight decay is off so that nothing else moves."""
    trainer = make_trainer(weight_decay=0.0)
    trainer.sampler.weights.zero_()
    before = [p.detach().clone() for p in trainer.parameters]
    losses = trainer.step()
    assert bool((losses > 0).all())  # what is observed is not weighted
    assert all(torch.equal(p, b) for p, b in zip(trainer.parameters, before, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_resumed_run_gives_the_losses_of_an_unbroken_one(tmp_path, name):
    unbroken = make_trainer(name)
    expected = [unbroken.step().clone() for _ in range(7)]
    first = make_trainer(name)
    for _ in range(3):
        first.step()
    save_checkpoint(tmp_path / "checkpoint.pt", first, SCHEDULE)
    torch.manual_seed(99)
    second = make_trainer(name)
    second.step()  # whatever it was before, the checkpoint decides
    resume(tmp_path / "checkpoint.pt", second, SCHEDULE)
    assert second.steps == 3
    for step in range(3, 7):
        assert torch.equal(second.step(), expected[step])
    assert all(torch.equal(a, b) for a, b in zip(second.average, unbroken.average, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_resuming_on_the_gpu(tmp_path):
    """A run that was stopped goes on with the same random numbers; a checkpoint of the CPU is taken up as well."""
    first = make_trainer(device="cuda")
    for _ in range(3):
        first.step()
    save_checkpoint(tmp_path / "c.pt", first, SCHEDULE)
    expected = [float(first.step().mean()) for _ in range(3)]
    second = make_trainer(device="cuda")
    resume(tmp_path / "c.pt", second, SCHEDULE)
    got = [float(second.step().mean()) for _ in range(3)]
    assert got == pytest.approx(expected, rel=1e-3)
    assert second.steps == 6
    on_cpu = make_trainer()
    on_cpu.step()
    save_checkpoint(tmp_path / "cpu.pt", on_cpu, SCHEDULE)
    third = make_trainer(device="cuda")
    resume(tmp_path / "cpu.pt", third, SCHEDULE)
    assert bool(torch.isfinite(third.step()).all()) and third.steps == 2


def test_restart_is_a_new_run():
    trainer = make_trainer()
    first = [trainer.step().clone() for _ in range(3)]
    trainer.restart(make_sampler("uniform", SCHEDULE.make()))
    again = [trainer.step().clone() for _ in range(3)]
    assert all(torch.allclose(a, b) for a, b in zip(first, again, strict=True))


def test_the_network_that_is_called_may_have_no_length():
    """A compiled module says no to len(), which a test for truth would ask for."""

    class Compiled(torch.nn.Module):
        def __len__(self):
            raise TypeError("no len()")

        def forward(self, x, t):
            return x

    x0, t = to_signed(spheres(2)), torch.tensor([3, 3])
    denoiser = Denoiser(VoxelUNet(TINY), SCHEDULE.make())
    noise = torch.randn_like(x0)
    expected = (denoiser.add_noise(x0, noise, t) - x0).square().flatten(1).mean(1)
    torch.testing.assert_close(denoiser.losses(x0, t, noise, Compiled()), expected)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("bf16", [False, True])
def test_compiled_steps_match_plain_ones(bf16):
    plain, compiled = make_trainer(device="cuda", bf16=bf16), make_trainer(device="cuda", bf16=bf16, compile=True)
    for _ in range(5):
        torch.manual_seed(1)
        plain.step()
        torch.manual_seed(1)
        compiled.step()
    values = [t.denoiser.level_losses(spheres().cuda(), list(range(T))).mean() for t in (plain, compiled)]
    assert float(values[0]) == pytest.approx(float(values[1]), rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", [{"bf16": True}, {"bf16": True, "channels_last": True}, {"channels_last": True}])
def test_ways_to_execute_give_the_gradient_of_the_cpu(options):
    """The gradient as a whole: bf16 rounds to 8 bits, so its direction is held to a cosine only."""
    x0, noise, t = to_signed(spheres(4)), torch.randn(4, 1, 8, 8, 8), torch.tensor([1, 4, 7, 9])
    vectors, network = [], lively(VoxelUNet(TINY))
    for device, own in (("cpu", {}), ("cuda", options)):
        network = network.to(device)
        loss = Denoiser(network, SCHEDULE.make(), **own).losses(x0.to(device), t.to(device), noise.to(device)).mean()
        vectors.append(torch.cat([g.flatten().cpu() for g in torch.autograd.grad(loss, list(network.parameters()))]))
    assert float(torch.cosine_similarity(*vectors, dim=0)) > (0.99 if "bf16" in options else 0.99999)


def test_checkpoint_gives_the_averaged_network(tmp_path):
    trainer = make_trainer("fixed")
    for _ in range(4):
        trainer.step()
    save_checkpoint(tmp_path / "c.pt", trainer, SCHEDULE)
    denoiser, about = load_denoiser(tmp_path / "c.pt")
    assert about["steps"] == 4 and about["trained"] == [6, 7, 8, 9]
    x = torch.randn(1, 1, 8, 8, 8)
    with trainer.averaged() as averaged:
        torch.testing.assert_close(denoiser.predict_x0(x, 5), averaged.predict_x0(x, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": dataclasses.replace(TINY, channels=16)}, "channels=8 there, 16 here"),
        ({"rate": 0.5}, "rate=0.0005 there, 0.5 here"),
        ({"decay": 20}, "decay=0 there, 20 here"),
        ({"augment": True}, "augment=False there, True here"),
        ({"name": "importance"}, "timesteps='uniform' there, 'importance' here"),
    ],
)
def test_checkpoint_of_another_configuration(tmp_path, change, message):
    save_checkpoint(tmp_path / "c.pt", make_trainer(), SCHEDULE)
    with pytest.raises(ValueError, match=rf"c\.pt: a checkpoint of another configuration .*{message}"):
        resume(tmp_path / "c.pt", make_trainer(**change), SCHEDULE)


def test_checkpoint_of_another_schedule(tmp_path):
    save_checkpoint(tmp_path / "c.pt", make_trainer(), SCHEDULE)
    with pytest.raises(ValueError, match="kind='linear' there, 'cosine' here"):
        resume(tmp_path / "c.pt", make_trainer(), ScheduleConfig("cosine", T))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_damaged_checkpoint(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.pt: not a checkpoint"):
        load_denoiser(tmp_path / "c.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: not a checkpoint of this program"):
        load_denoiser(tmp_path / "other.pt")
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        load_denoiser(tmp_path / "none.pt")


def test_a_changed_byte_of_a_tensor_is_noticed(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, make_trainer(), SCHEDULE)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    place = largest.header_offset + 200 + largest.file_size // 2  # within its content: headers take less than 200 bytes
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(ValueError, match=r"c\.pt: damaged: a byte of .* changed .*; take a copy of it, or train anew"):
        load_denoiser(path)


def test_interrupted_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    trainer, path = make_trainer(), tmp_path / "c.pt"
    save_checkpoint(path, trainer, SCHEDULE)
    before = path.read_bytes()
    trainer.step()

    def full(self, data):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left") as error:
        save_checkpoint(path, trainer, SCHEDULE)
    assert error.value.filename == str(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("levels", [0, 4])
def test_importance_file_round_trip(tmp_path, levels):
    trainer = make_trainer()
    lively(trainer.denoiser.network)
    measured, norms = measure_importance(trainer, 2, levels)
    assert len(measured) == len(norms) == (levels or T) and measured[-1] == T - 1 and bool((norms > 0).all())
    path = tmp_path / "importance.json"
    save_importance(path, measured, norms, as_dict(SCHEDULE), 2)
    loaded = load_importance(path, as_dict(SCHEDULE))
    torch.testing.assert_close(loaded[measured], norms)
    assert path.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="measured for the schedule"):
        load_importance(path, as_dict(ScheduleConfig("cosine", T)))
    path.write_text(json.dumps({"norms": [1, 2]}))
    with pytest.raises(ValueError, match="not a file of timestep importance"):
        load_importance(path, as_dict(SCHEDULE))
    with pytest.raises(ValueError, match="levels=11"):
        measure_importance(trainer, 1, 11)


def test_plot_has_bars_of_the_right_height():
    picture = plot([0.0, 1.0, 2.0, 4.0])
    blue = [[picture.getpixel((x, y)) for y in range(picture.height)].count((90, 140, 200)) for x in (100, 260, 420, 580)]
    assert blue[0] <= 1 and blue[3] == pytest.approx(2 * blue[2], abs=3) and blue[2] == pytest.approx(2 * blue[1], abs=3)


def test_bad_trainers():
    with pytest.raises(ValueError, match=r"grids \[6, 8, 8, 8\]: expected at least one of \[16, 16, 16\]"):
        make_trainer(network=dataclasses.replace(TINY, size=16))
    with pytest.raises(ValueError, match="made for T=1000, the schedule has T=10"):
        make_trainer(network=dataclasses.replace(TINY, timesteps=1000))
