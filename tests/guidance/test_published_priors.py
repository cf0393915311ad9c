"""MVDream, ImageDream, Zero123 behind the one interface: targets and pipelines equal to the reference implementations."""

import itertools
import json

import numpy as np
import pytest
import torch
from conftest import DEVICES, relative_l2
from safetensors import safe_open
from safetensors.torch import load_file

from cam_utils import Cameras, orbit_cameras
from microdreamer.distillation import sir
from microdreamer.distillation.schedules import plan_rounds
from microdreamer.guidance import load_prior, samplers
from microdreamer.guidance.directions import directions
from microdreamer.guidance.published.imagedream import ImageDreamPrior
from microdreamer.guidance.published.inference import ChannelsLastGroupNorm, for_inference
from microdreamer.guidance.published.latent import Parts, clip_pixels, picture_on_white
from microdreamer.guidance.published.multiview_unet import MultiViewUNet, MultiViewUNetConfig
from microdreamer.guidance.published.mvdream import FRONT, MVDreamPrior, camera_matrices
from microdreamer.guidance.published.pretrained import CameraProjection
from microdreamer.guidance.published.settings import settings_from
from microdreamer.guidance.published.unet import UNet, UNetConfig
from microdreamer.guidance.published.zero123 import Zero123Condition, Zero123Prior, camera_numbers


def tensors_and_notes(path):
    with safe_open(path, "pt") as file:
        notes = {key: json.loads(value) if key != "weights" else value for key, value in (file.metadata() or {}).items() if key != "note"}
    return load_file(path), notes


def multiview_prior(parity, name, image_size, device="cpu"):
    weights, notes = tensors_and_notes(parity(f"priors/mvunet_{name}_weights.safetensors"))
    network = MultiViewUNet(MultiViewUNetConfig(**{**notes["config"], "image_size": image_size})).eval().requires_grad_(False)
    network.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
    prior = {"mvdream": MVDreamPrior, "imagedream": ImageDreamPrior}[name](network.to(device))
    prior.shared_elevation = False  # the reference drew an elevation for each view
    return prior


def zero123_prior(parity, name, device="cpu"):
    weights, notes = tensors_and_notes(parity("priors/zero123_small_weights.safetensors"))
    modules = {
        "unet": UNet(settings_from(UNetConfig, notes["unet_config"])),
        "clip_camera_projection": CameraProjection(**notes["proj_config"]),
    }
    for prefix, module in modules.items():
        module.load_state_dict({key.removeprefix(f"{prefix}."): t.float() for key, t in weights.items() if key.startswith(f"{prefix}.")})
        module.eval().requires_grad_(False).to(device)
    return Zero123Prior(name, modules["unet"], modules["clip_camera_projection"])


def cameras_at(poses: torch.Tensor, turn: float) -> Cameras:
    """Cameras that stand where the OpenGL poses [V,4,4] do, with azimuths less by `turn` degrees."""
    position = poses[:, :3, 3].double()
    radius = position.norm(dim=-1)
    elevation = torch.rad2deg(torch.asin(-position[:, 1] / radius))
    return orbit_cameras(elevation, torch.rad2deg(torch.atan2(position[:, 0], position[:, 2])) - turn, radius)


def assert_close(actual, expected, tolerance):
    worst = float((actual.cpu() - expected).abs().max()) / float(expected.abs().max())
    assert worst < tolerance, worst


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def targets(monkeypatch, prior, golden, case, cameras, condition, top, steps, scale, eta):
    """What our SIR makes of the golden's latents with the golden's noise: `top` is t2, None for the first round."""
    levels = prior.schedule.levels(steps)
    fraction = 1 - (levels[::-1].index(top) + 0.5) / steps if top else 0.5
    first, second = plan_rounds(
        prior.schedule,
        total_steps=2,
        denoise_steps=steps,
        t_start=fraction,
        t_end=fraction,
        inv_r=0.6,
        init_steps=1,
        steps_min=1,
        steps_max=1,
    )
    drawn = iter([golden[f"{case}.in.noise_init" if top is None else f"{case}.in.noise_forward"], *golden.get(f"{case}.in.noise_eta", [])])
    for module in (sir, samplers):
        monkeypatch.setattr(module, "normal", lambda *_: next(drawn).to(prior.device))
    turn = first if top is None else second
    out = sir.refine_latents(prior, golden["in.latents"].to(prior.device), cameras.to(prior.device), condition, turn, scale, eta)
    up = max(len(turn.inversion) - 1, 0)
    assert prior.evaluations == up + 2 * len(turn.denoising)  # inversion takes the null branch alone
    return out


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["step", "init"])
def test_mvdream_targets_equal_the_reference(parity, monkeypatch, device, case):
    golden, notes = tensors_and_notes(parity("priors/mvdream_sir_io.safetensors"))
    prior = multiview_prior(parity, "mvdream", 8, device)
    cameras = cameras_at(golden["in.poses_opengl_c2w"], 90)
    assert_close(camera_matrices(cameras), golden["mid.camera16"], 1e-6)
    condition = prior.embed(torch.cat([golden["in.context_neg"], golden["in.context_pos"]]))
    top, steps = (notes["t2"], notes["denoise_steps"]) if case == "step" else (None, notes["denoise_steps_init_case"])
    out = targets(monkeypatch, prior, golden, case, cameras, condition, top, steps, notes["guidance_scale"], notes["eta"])
    assert_close(out, golden[f"{case}.out.latents"], 1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_imagedream_targets_equal_the_reference(parity, monkeypatch, device):
    golden, notes = tensors_and_notes(parity("priors/imagedream_sir_io.safetensors"))
    prior = multiview_prior(parity, "imagedream", 32, device)
    cameras = cameras_at(golden["in.poses_opengl_c2w"], 90)
    assert_close(camera_matrices(cameras), golden["mid.camera16_with_zero_fifth"][:4], 1e-6)
    condition = imagedream_condition(prior, golden)
    out = targets(
        monkeypatch, prior, golden, "step", cameras, condition, notes["t2"], notes["denoise_steps"], notes["guidance_scale"], notes["eta"]
    )
    assert_close(out, golden["step.out.latents"], 1e-4)


def imagedream_condition(prior, golden):
    text = torch.cat([golden["in.context_neg"], golden["in.context_pos"]])
    tokens, latents = golden["in.image_tokens"], golden["in.image_latents_scaled"]
    return prior.embed(text, torch.cat([tokens * 0, tokens]), torch.cat([latents * 0, latents]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "case"), [("stable_zero123", "step_stable"), ("zero123_xl", "step_xl"), ("stable_zero123", "init_stable")]
)
def test_zero123_targets_equal_the_reference(parity, monkeypatch, device, name, case):
    golden, notes = tensors_and_notes(parity("priors/zero123_sir_io.safetensors"))
    prior = zero123_prior(parity, name, device)
    elevation = notes["default_elevation_deg"]
    cameras = orbit_cameras(elevation + golden["in.elevation_offset_deg"].double(), golden["in.azimuth_deg"].double())
    condition = Zero123Condition(golden["in.clip_image_embed"].to(device), golden["in.image_latents_unscaled"].to(device), elevation)
    variant = "stable" if prior.stable else "xl"
    assert not golden["in.radius_offset"].any()
    assert_close(camera_numbers(cameras, elevation, prior.stable), golden[f"mid.{variant}.camera_vector"][:, 0], 1e-6)
    assert_close(prior.tokens(cameras.to(device), condition), golden[f"mid.{variant}.cross_attention_tokens"], 1e-5)
    top = None if case.startswith("init") else notes[f"t2_{variant}"]
    out = targets(monkeypatch, prior, golden, case, cameras, condition, top, notes["denoise_steps"], notes["guidance_scale"], notes["eta"])
    assert_close(out, golden[f"{case}.out.latents"], 1e-4)


def test_attention_to_one_token_is_as_good_as_computed(parity):
    golden, _ = tensors_and_notes(parity("priors/zero123_sir_io.safetensors"))
    network = zero123_prior(parity, "zero123_xl").network  # with queries and keys skipped
    noise = network(golden["unet.in.x"], golden["unet.in.t"], golden["unet.in.tokens"])
    assert_close(noise, golden["unet.out.eps"], 1e-5)


@pytest.fixture(params=[False, True], ids=["direct", "winograd"])
def winograd(request, monkeypatch):
    """Whether networks for inference convolve by Winograd's filtering, with miniatures large enough for it."""
    monkeypatch.setattr("microdreamer.guidance.published.inference.WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr("microdreamer.guidance.published.inference.WINOGRAD_SIDE", 2)
    return request.param


def test_the_form_for_inference_equals_the_reference(parity, winograd):
    golden, _ = tensors_and_notes(parity("priors/zero123_sir_io.safetensors"))
    network = for_inference(zero123_prior(parity, "zero123_xl").network, winograd)
    assert any(hasattr(module, "winograd") for module in network.modules()) == winograd
    layouts = []
    for module in network.modules():
        if isinstance(module, ChannelsLastGroupNorm):
            module.register_forward_hook(lambda _module, given, out: layouts.extend([given[0], out]))
    noise = network(golden["unet.in.x"], golden["unet.in.t"], golden["unet.in.tokens"])
    assert_close(noise, golden["unet.out.eps"], 1e-5)
    assert layouts and all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in layouts)


@pytest.mark.parametrize("name", ["stable_diffusion", "zero123_xl"])  # with linear and with convolutional projections
def test_the_form_for_inference_gives_the_same(tiny_checkpoint, winograd, name):
    plain, changed = (load_prior(name, str(tiny_checkpoint(name))) for _ in range(2))
    for_inference(changed.network, winograd)
    for_inference(changed.autoencoder, winograd)
    x, t = torch.randn(3, plain.network.config.in_channels, 8, 8), torch.tensor([1.0, 400, 900])
    states = torch.randn(3, 5 if name == "stable_diffusion" else 1, 32)
    expected, actual = (prior.network(x, t, states) for prior in (plain, changed))
    assert_close(actual, expected, 1e-5)
    pictures = torch.rand(2, 3, 64, 64)
    assert_close(changed.encode(pictures), plain.encode(pictures), 1e-5)
    assert_close(changed.decode(plain.encode(pictures)), plain.decode(plain.encode(pictures)), 1e-5)


def test_the_form_for_inference_of_many_views_gives_the_same(tiny_checkpoint, winograd):
    plain, changed = (load_prior("mvdream", str(tiny_checkpoint("mvdream"))) for _ in range(2))
    for_inference(changed.network, winograd)
    cameras, latents = orbit_cameras(0, [0, 90, 180, 270]), torch.randn(plain.latent_shape(4))
    condition = plain.condition(None, "a cat")
    for level in (1, 400, 900):
        expected, actual = (prior.predict_noise(latents, level, cameras, condition, 1.0) for prior in (plain, changed))
        assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize("name", ["mvdream", "imagedream"])
def test_sampling_equals_the_reference_pipeline(parity, name):
    golden, notes = tensors_and_notes(parity(f"priors/pipeline_{name}_io.safetensors"))
    prior = multiview_prior(parity, name, 8)
    # get_camera(4, elevation 0): azimuths 0, 90, ... where 90 is the front
    cameras = orbit_cameras(notes["elevation_deg"], [-90, 0, 90, 180], 1.0)
    assert_close(camera_matrices(cameras), golden["mid.camera16"][:4], 1e-6)
    text = torch.cat([golden["in.context_neg"], golden["in.context_pos"]])
    condition = imagedream_condition(prior, golden) if name == "imagedream" else prior.embed(text)
    levels = prior.schedule.levels(notes["steps"])[::-1]
    assert levels == golden["mid.timesteps"].tolist()
    latents = golden["in.latents"][:4]
    for expected, (t, t_next) in zip(golden["mid.latents_per_step"], itertools.pairwise([*levels, -1]), strict=True):
        noise = prior.predict_noise(latents, t, cameras, condition, notes["guidance_scale"])
        latents = prior.schedule.step(latents, noise, t, t_next)
        assert_close(latents, expected[:4], 1e-4)


def test_one_branch_is_what_guidance_combines(parity):
    prior = multiview_prior(parity, "imagedream", 8)
    golden, _ = tensors_and_notes(parity("priors/pipeline_imagedream_io.safetensors"))
    condition, cameras, latents = imagedream_condition(prior, golden), orbit_cameras(0, [0, 90, 180, 270]), torch.randn(4, 4, 8, 8)
    null, conditional, guided = (prior.predict_noise(latents, 500, cameras, condition, scale) for scale in (None, 1.0, 2.5))
    assert prior.evaluations == 4
    torch.testing.assert_close(guided, null + 2.5 * (conditional - null), rtol=0, atol=1e-4)
    assert float((null - conditional).abs().max()) > 1e-2


def test_two_objects_at_once_and_little_memory_change_nothing(parity):
    prior = multiview_prior(parity, "imagedream", 8)
    golden, _ = tensors_and_notes(parity("priors/pipeline_imagedream_io.safetensors"))
    condition = imagedream_condition(prior, golden)
    cameras = orbit_cameras([0.0] * 4 + [-20.0] * 4, [0, 90, 180, 270, 45, 135, 225, 315])
    latents = torch.randn(8, 4, 8, 8)
    both = prior.predict_noise(latents, 500, cameras, condition, 3.0)
    for part in (slice(0, 4), slice(4, 8)):
        assert_close(prior.predict_noise(latents[part], 500, cameras[part], condition, 3.0), both[part], 1e-5)
    prior.max_latents = 1
    assert_close(prior.predict_noise(latents, 500, cameras, condition, 3.0), both, 1e-5)


def test_views_apart_from_the_prior_s_spacing_are_refused(parity):
    prior = multiview_prior(parity, "mvdream", 8)
    prior.shared_elevation = True
    condition, latents = prior.embed(torch.randn(2, 7, 64)), torch.randn(4, 4, 8, 8)
    with pytest.raises(ValueError, match="90 degrees apart"):
        prior.predict_noise(latents, 500, orbit_cameras(0, [0, 80, 180, 270]), condition, 1.0)
    with pytest.raises(ValueError, match="one elevation"):
        prior.predict_noise(latents, 500, orbit_cameras([0, 0, 0, 9], [0, 90, 180, 270]), condition, 1.0)
    with pytest.raises(ValueError, match="4 latents and 8 cameras"):
        prior.predict_noise(latents, 500, orbit_cameras(0, list(range(0, 720, 90))), condition, 1.0)


def test_drawn_cameras_stand_as_each_prior_wants(parity):
    views = sir.ViewRange(-10.0, -20, 20, 2.0, 49.1, 64, fewest=4, most=4)
    generator = torch.Generator().manual_seed(3)
    multiview = multiview_prior(parity, "mvdream", 8)
    multiview.shared_elevation = True
    for _ in range(8):
        multiview.check_cameras(sir.draw_cameras(multiview, views, generator))
    drawn = [sir.draw_cameras(zero123_prior(parity, "zero123_xl"), views, generator) for _ in range(8)]
    assert any(len(cameras.elevation.unique()) > 1 for cameras in drawn)


def test_camera_matrices_equal_the_published_ones(parity):
    goldens = np.load(parity("priors/cameras.npz"))
    for index, (frames, up, start, span) in enumerate(goldens["get_camera.in_frames_elev_start_span"].tolist()):
        cameras = orbit_cameras(-up, [start + span * k / frames - FRONT for k in range(frames)])
        np.testing.assert_allclose(camera_matrices(cameras), goldens[f"get_camera.{index}.blender"], atol=2e-6)


def test_zero123_numbers_turn_around_the_picture():
    cameras = orbit_cameras([-30.0, 10.0], [0.0, 90.0])
    numbers = camera_numbers(cameras, elevation=-10.0, stable=True)
    expected = np.deg2rad([[-20, 0, 0, 80], [20, 0, 0, 80]])
    expected[:, 1:3] = [[0, 1], [1, 0]]
    np.testing.assert_allclose(numbers, expected, atol=1e-6)
    assert not camera_numbers(cameras, -10.0, stable=False)[:, 3].any()


def test_sentences_say_from_where_an_object_is_seen():
    cameras = orbit_cameras([0, 0, 0, 0, -70, 70], [0, 60, 180, -130, 0, 350])
    assert directions(cameras.elevation, cameras.azimuth).tolist() == [0, 1, 2, 1, 3, 0]


def test_pictures_reach_clip_as_its_own_processor_makes_them():
    transformers = pytest.importorskip("transformers")
    picture = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.avg_pool2d(picture, 5, 1, 2)
    bytes_ = (picture * 255).round().byte()
    expected = transformers.CLIPImageProcessor()(bytes_, return_tensors="pt").pixel_values
    ours = clip_pixels(bytes_[None] / 255, 224)
    assert float((ours - expected).abs().max()) < 1.5 / 255 / 0.26


def test_transparent_parts_become_white():
    rgba = torch.zeros(4, 8, 8)
    rgba[0], rgba[3, :4] = 1, 1
    white = picture_on_white(rgba, 8)[0]
    assert white[:, 0, 0].tolist() == [1, 0, 0] and white[:, 7, 7].tolist() == [1, 1, 1]


def test_winograd_weights_are_made_where_pictures_are_large_enough(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("microdreamer.guidance.published.inference.WINOGRAD_CHANNELS", 1)
    network = for_inference(load_prior("stable_diffusion", str(tiny_checkpoint("stable_diffusion"))).network, winograd=True)
    network(torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 5, 32))
    made = {name for name, module in network.named_modules() if "weights" in vars(getattr(module, "winograd", None) or object)}
    assert {"down_blocks.0.resnets.0.conv2", "up_blocks.2.upsamplers.0.conv", "up_blocks.3.resnets.0.conv1"} <= made
    assert "mid_block.resnets.0.conv1" not in made and not any("winograd" in key for key in network.state_dict())


def test_winograd_in_half_precision_rounds_little_more_than_direct_convolutions(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("microdreamer.guidance.published.inference.WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr("microdreamer.guidance.published.inference.WINOGRAD_SIDE", 2)
    exact, direct, winograd = (load_prior("stable_diffusion", str(tiny_checkpoint("stable_diffusion"))).network for _ in range(3))
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([20.0, 800.0]), torch.randn(2, 5, 32)
    expected = exact(inputs[0], inputs[1], inputs[2])
    errors = []
    for network, wanted in ((direct, False), (winograd, True)):
        x, t, states = (tensor.half() for tensor in inputs)
        errors.append(relative_l2(for_inference(network.half(), wanted)(x, t, states), expected))
    assert errors[0] != errors[1] < 1.5 * errors[0] < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["stable_diffusion", "zero123_xl", "mvdream"])
def test_half_precision_with_winograd_is_near_float32(tiny_checkpoint, monkeypatch, name):
    monkeypatch.setattr("microdreamer.guidance.published.inference.WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr("microdreamer.guidance.published.inference.WINOGRAD_SIDE", 2)
    path, draw = str(tiny_checkpoint(name)), torch.Generator().manual_seed(0)
    exact, half = load_prior(name, path), load_prior(name, path, device="cuda")
    assert any(hasattr(module, "winograd") for module in half.network.modules())
    cameras = orbit_cameras(0, [0, 90, 180, 270])
    latents, pictures = torch.randn(exact.latent_shape(4), generator=draw), torch.rand(4, 3, 64, 64, generator=draw)
    found = []
    for prior in (exact, half):
        picture, prompt = (
            (torch.ones(4, 64, 64) / 2 if "image" in prior.accepts else None),
            ("a cat" if "prompt" in prior.accepts else None),
        )
        condition, views = prior.condition(picture, prompt), cameras.to(prior.device)
        x = latents.to(prior.device)
        once, again = (prior.predict_noise(x, 500, views, condition, 1.0) for _ in range(2))
        assert torch.equal(once, again)
        found.append((once, prior.encode(pictures.to(prior.device)), prior.decode(x)))
    for expected, actual in zip(*found, strict=True):
        assert relative_l2(actual, expected) < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_winograd_waits_for_free_memory(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("microdreamer.guidance.published.inference.WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr("microdreamer.guidance.published.inference.WINOGRAD_SIDE", 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda *_: (1000, 1000))
    network = load_prior("mvdream", str(tiny_checkpoint("mvdream")), device="cuda").network
    assert not any(hasattr(module, "winograd") for module in network.modules())


def test_half_precision_is_for_graphics_cards():
    assert Parts.choose("cpu").dtype == torch.float32
    assert Parts.choose("cuda").dtype == torch.float16 and Parts.choose("cuda", "bfloat16").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="precision=float16"):
        Parts.choose("cpu", "float16")


def test_the_benchmark_runs(monkeypatch, tmp_path, capsys):
    from benchmarks import priors

    monkeypatch.setattr("sys.argv", ["priors", "--tiny", "--repeats", "1", "--priors", "mvdream", "--out", str(tmp_path / "b.json")])
    priors.main()
    rows = json.loads((tmp_path / "b.json").read_text())["priors"]["mvdream"]
    assert rows["guided, eager"]["tflop"] > 0 and rows["condition"]["median_ms"] > 0
    assert "guided, eager" in capsys.readouterr().out
