"""The shipped prior: what it must know, how it is conditioned, and that damaged weights are refused."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from conftest import relative_l2

from cam_utils import orbit_cameras, orbit_poses, turntable
from microdreamer.core.paths import shipped_folder
from microdreamer.guidance.micro.network import MultiViewNetwork, NetworkConfig, camera_features, fold, pixel_rays, unfold
from microdreamer.guidance.micro.prior import END, END_WITH_SKIP, LOG_SNR_SHIFT, MIN_LOG_SNR, MicroPrior, choose_dtype, tan_half
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.kernels import extension, modulation
from microdreamer.shapes.packed import load_packed
from microdreamer.training.micro_prior.metrics import score_objects

WEIGHTS = shipped_folder("weights") / "micro_prior"

TINY = NetworkConfig(resolution=32, channels=(16, 32, 64), depth=(1, 1, 1, 1, 1), head_width=16, condition_width=32, text_width=32)


@pytest.fixture(scope="module")
def prior():
    return MicroPrior.load()


@pytest.fixture
def picture():
    return torch.rand(4, 64, 64, generator=torch.Generator().manual_seed(1))


def random_network(config=TINY) -> MultiViewNetwork:
    """A network whose zero-initialised layers were redrawn, so that every path matters."""
    network = MultiViewNetwork(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


def network_inputs(batch=2):
    side = TINY.resolution // 4
    azimuth = torch.tensor([0.0, 90.0, 180.0, 270.0]).expand(batch, 4)
    up, ones = torch.full((batch, 4), 15.0), torch.ones(batch, 4)
    rays = pixel_rays(azimuth, up, 2.0, tan_half(), side)
    camera = camera_features(azimuth, up, is_reference=False, known=ones, present=ones)
    reference_camera = camera_features(azimuth[:, 0], up[:, 0], is_reference=True, known=ones[:, 0], present=ones[:, 0])
    views, picture = torch.randn(batch, 4, 3, 32, 32), torch.rand(batch, 3, 32, 32)
    tokens = torch.randint(0, 50, (batch, TINY.text_tokens))
    return views, torch.tensor([-6.0, -1.0]), picture, rays, camera, reference_camera, tokens


def test_cached_reference_equals_the_joint_pass():
    network = random_network()
    views, log_snr, picture, rays, camera, reference_camera, tokens = network_inputs()
    cache = network.encode_reference(picture[:, None], rays[:, :1], reference_camera[:, None], tokens)
    cached = network.denoise(views, log_snr, rays, camera, cache)
    place = rays[:, 0], reference_camera
    joint = network(views, log_snr, rays, camera, picture, *place, tokens)
    torch.testing.assert_close(cached, joint, rtol=0, atol=2e-6)
    assert (
        float((joint - network(views, log_snr, rays, camera, picture.flip(-1), *place, tokens)).abs().max()) > 1e-3
    )  # the picture matters
    assert float((joint - network(views, log_snr, rays, camera, picture, *place, tokens.flip(-1))).abs().max()) > 1e-4  # and the caption


@pytest.mark.parametrize("more", [{}, {"relative_cameras": True, "geometry": True}], ids=["plain", "relative"])
@pytest.mark.parametrize("bfloat16", [False, True])
@torch.no_grad()
def test_the_cpus_kernels_give_what_plain_pytorch_gives(more, bfloat16, monkeypatch):
    """What every pass of a sampler runs: the reference on its own, then its targets, with what the network tells of surfaces."""
    if not extension.load():
        pytest.skip("the extension is not built")
    network = random_network(dataclasses.replace(TINY, **more))
    views, log_snr, picture, rays, camera, reference_camera, tokens = network_inputs()

    def told() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            cache = network.encode_reference(picture[:, None], rays[:, :1], reference_camera[:, None], tokens)
            clean = network.denoise(views, log_snr, rays, camera, cache, geometry=bool(more))
        return [clean[0], clean[1].depth, clean[1].coverage, clean[1].albedo] if more else [clean]

    ours = told()
    monkeypatch.setattr(modulation, "_compiled", lambda x: False)
    for one, other in zip(ours, told(), strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert not torch.equal(one, other) and relative_l2(one, other) < (0.02 if bfloat16 else 1e-5)


def test_order_of_views_does_not_matter():
    network = random_network()
    views, log_snr, picture, rays, camera, reference_camera, tokens = network_inputs()
    cache = network.encode_reference(picture[:, None], rays[:, :1], reference_camera[:, None], tokens)
    order = [2, 0, 3, 1]
    there = network.denoise(views, log_snr, rays, camera, cache)[:, order]
    torch.testing.assert_close(there, network.denoise(views[:, order], log_snr, rays[:, order], camera[:, order], cache), rtol=0, atol=2e-6)


def test_fold_and_unfold_are_inverse():
    x = torch.randn(2, 4, 6, 3)
    assert torch.equal(unfold(fold(x)), x)


def test_rays_are_those_of_the_cameras():
    azimuth, up, side = torch.tensor([30.0]), torch.tensor([20.0]), 8
    direction, moment = pixel_rays(azimuth, up, 2.0, tan_half(), side)[0].split(3, dim=-1)
    pose = orbit_poses(-up, azimuth, 2.0)[0].float()
    torch.testing.assert_close(moment[3, 5], torch.linalg.cross(pose[:3, 3], direction[3, 5]), rtol=0, atol=1e-6)
    camera = orbit_cameras(-20.0, 30.0, 2.0, width=side, height=side)
    point = pose[:3, 3] + 1.7 * direction[3, 5]
    seen = camera.world_to_camera[0, :3, :3] @ point + camera.world_to_camera[0, :3, 3]
    fx, fy, cx, cy = camera.intrinsics[0]
    assert (float(fx * seen[0] / seen[2] + cx), float(fy * seen[1] / seen[2] + cy)) == pytest.approx((5.5, 3.5), abs=1e-4)


def test_schedule_covers_where_shape_is_decided(prior):
    assert prior.schedule.log_snr(999) == pytest.approx(MIN_LOG_SNR, abs=1e-6)
    assert prior.schedule.log_snr(0) == pytest.approx(END_WITH_SKIP, abs=1e-6)
    assert LOG_SNR_SHIFT == -4.0


def test_a_network_without_a_skip_samples_on_to_less_noise():
    for skip, end in ((True, END_WITH_SKIP), (False, END)):
        network = MultiViewNetwork(dataclasses.replace(TINY, skip=skip))
        assert MicroPrior(network, Vocabulary(["a"])).schedule.log_snr(0) == pytest.approx(end, abs=1e-6)


def test_branches_are_counted_and_never_wasted(prior, picture):
    condition = prior.condition(picture, "a red car")
    cameras, latents = turntable(4, width=128, height=128), torch.randn(4, 3, 128, 128)
    before = prior.evaluations
    null = prior.predict_noise(latents, 600, cameras, condition, None)
    conditional = prior.predict_noise(latents, 600, cameras, condition, 1.0)
    assert prior.evaluations == before + 2
    guided = prior.predict_noise(latents, 600, cameras, condition, 2.5)
    assert prior.evaluations == before + 4
    torch.testing.assert_close(guided, null + 2.5 * (conditional - null), rtol=0, atol=2e-4)


def test_groups_of_views_are_independent(prior, picture):
    condition = prior.condition(picture)
    cameras = orbit_cameras([0.0] * 4 + [-20.0] * 4, [0, 90, 180, 270, 45, 135, 225, 315], width=128, height=128)
    latents = torch.randn(8, 3, 128, 128)
    both = prior.predict_clean(latents, 700, cameras, condition, 1.0)
    for part in (slice(0, 4), slice(4, 8)):
        torch.testing.assert_close(both[part], prior.predict_clean(latents[part], 700, cameras[part], condition, 1.0), rtol=0, atol=1e-5)


def test_bfloat16_is_close_to_float32(prior, picture):
    cameras, latents = turntable(4, width=128, height=128), torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    half = MicroPrior.load(precision="bfloat16")
    exact = prior.predict_clean(latents, 600, cameras, prior.condition(picture, "a red box"), 1.0)
    rounded = half.predict_clean(latents, 600, cameras, half.condition(picture, "a red box"), 1.0)
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).square().mean().sqrt()) < 0.008  # 0.0037 of values in [-1,1]


def test_precision_is_chosen_by_what_the_processor_can(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    expected = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    assert choose_dtype(torch.device("cpu"), "auto") == expected
    assert choose_dtype(torch.device("cpu"), "float32") == choose_dtype(torch.device("cuda"), "auto") == torch.float32
    with pytest.raises(ValueError, match=r"precision=float16.*pass precision=auto"):
        choose_dtype(torch.device("cpu"), "float16")
    with pytest.raises(ValueError, match="precision=bfloat16"):
        choose_dtype(torch.device("cuda"), "bfloat16")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for allowed, chosen in (("ALL", torch.bfloat16), ("AVX512_CORE_AMX", torch.bfloat16), ("avx2", torch.float32)):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
        assert choose_dtype(torch.device("cpu"), "auto") == chosen


def test_encode_and_decode_are_inverse(prior):
    images = torch.rand(4, 3, 128, 128)
    torch.testing.assert_close(prior.decode(prior.encode(images)), images)


def test_wrong_cameras_and_words_are_refused(prior, caplog):
    condition, latents = prior.condition(None, "a tree"), torch.randn(4, 3, 128, 128)
    with pytest.raises(ValueError, match="90 degrees apart"):
        prior.predict_noise(latents, 500, orbit_cameras(0.0, [0, 80, 180, 270]), condition, 1.0)
    with pytest.raises(ValueError, match="one elevation"):
        prior.predict_noise(latents, 500, orbit_cameras([0.0, 0, 0, 9], [0, 90, 180, 270]), condition, 1.0)
    with pytest.raises(ValueError, match="knows none of these words"):
        prior.condition(None, "xylophonic quuxes")
    prior.condition(None, "a quuxish tree")
    assert "does not know quuxish" in caplog.text


def test_damaged_weights_are_refused_in_one_line(tmp_path):
    shard = sorted(WEIGHTS.glob("*.safetensors"))[0].name
    folder = tmp_path / "weights"
    shutil.copytree(WEIGHTS, folder)

    def restored():
        shutil.copy(WEIGHTS / shard, folder / shard)
        shutil.copy(WEIGHTS / "config.json", folder / "config.json")

    whole = (folder / shard).read_bytes()
    (folder / shard).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{shard}.*truncated"):
        MicroPrior.load(folder)
    (folder / shard).unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard}.*missing"):
        MicroPrior.load(folder)
    restored()
    stored = json.loads((folder / "config.json").read_text())
    stored["network"]["channels"] = [64, 192, 384]
    (folder / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="has shape"):
        MicroPrior.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not a micro prior's configuration"):
        MicroPrior.load(folder)
    with pytest.raises(FileNotFoundError, match="no micro prior there"):
        MicroPrior.load(tmp_path / "nowhere")


def test_shipped_weights_fit_the_repository():
    files = list(WEIGHTS.glob("*.safetensors"))
    sizes = [file.stat().st_size for file in files]
    assert files and max(sizes) <= 16 * 2**20 and sum(sizes) <= 48 * 2**20


def test_vocabulary_round_trip():
    vocabulary = Vocabulary.from_captions(["a red car", "a blue car", "the zebra"], limit=4)
    assert vocabulary.words == ["a", "blue", "car", "red"]
    tokens, unknown = vocabulary.encode("A RED, red zebra!", 5)
    assert tokens == [1, 4, 4, 0, 0] and unknown == ["zebra"]
    assert vocabulary.encode("car " * 9, 5)[0] == [3] * 5


def speckle(pictures: torch.Tensor) -> float:
    """Noise left in sampled input views: RMS distance from white more than 8 pixels away from the true object.

    pictures [objects,2,4,3,R,R], sampled and true, as `score_objects` returns them. What the object looks like, and where the
    network guesses its sides, has no part in it.
    """
    sampled, truth = pictures[:, 0, 0], pictures[:, 1, 0]
    is_object = (truth < 1).any(dim=1, keepdim=True).float()
    is_far = torch.nn.functional.max_pool2d(is_object, 17, stride=1, padding=8) == 0
    return float((sampled - 1)[is_far.expand_as(sampled)].square().mean().sqrt())


def check_gates(table: dict, pictures: torch.Tensor) -> None:
    """The prior repeats its input, leaves no noise in it, and knows more of the two sides than the input tells."""
    # 0.0058 for every object tried; 0.0078, 0.0096, 0.0124 and 0.0145 where sampling goes on to a log-SNR of -1, 0, 2 and 6.
    assert speckle(pictures) < 0.0075
    sampled, copied = table["sampled"], table["copy"]
    assert sampled["psnr_0"] > 27.0
    assert sampled["iou_0"] > 0.85
    for kind, margin in (("psnr", 0.5), ("iou", 0.0)):
        mean = {name: (row[f"{kind}_90"] + row[f"{kind}_270"]) / 2 for name, row in (("sampled", sampled), ("copy", copied))}
        assert mean["sampled"] > mean["copy"] + margin


@pytest.mark.parametrize("precision", ["float32", pytest.param("auto", marks=pytest.mark.slow)])
def test_own_objects_from_a_picture(precision):
    """Objects of test_data, which training has not seen."""
    if precision == "auto" and choose_dtype(torch.device("cpu"), precision) == torch.float32:
        pytest.skip("no products of bfloat16 on this processor: auto is float32")
    prior = MicroPrior.load(precision=precision)
    meshes = load_packed(WEIGHTS.parent.parent / "test_data" / "objects_small.npz")
    table, pictures = score_objects(prior, meshes, range(len(meshes)))
    check_gates(table, pictures)
    assert pictures.shape == (len(meshes), 2, 4, 3, 128, 128)


@pytest.mark.slow
def test_validation_objects_from_a_picture(prior, shared_data):
    check_gates(*score_objects(prior, load_packed(shared_data("objects/val.npz")), range(93)))


def test_sentences_colour_what_is_drawn(prior):
    from microdreamer.guidance.samplers import ddim_sample

    cameras, levels = turntable(4, elevation=-15, width=128, height=128), prior.schedule.levels(6)[::-1]
    colours = {}
    for word in ("red", "green", "blue"):
        generator = torch.Generator().manual_seed(0)
        latents = ddim_sample(prior, (4, 3, 128, 128), cameras, prior.condition(None, f"a {word} box"), levels, 4.0, 1.0, generator)
        views = prior.decode(latents).clamp(0, 1)
        inside = (views.amin(dim=1) < 0.9)[:, None].expand_as(views)
        colours[word] = [float(views[:, k][inside[:, k]].mean()) for k in range(3)]
    assert not math.isnan(sum(map(sum, colours.values())))
    for channel, word in enumerate(("red", "green", "blue")):
        assert max(colours, key=lambda name: colours[name][channel] - sum(colours[name]) / 3) == word
