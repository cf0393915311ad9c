"""What the prior is asked, from where, and how the Gaussians follow: what is seen where one of these keys has another value."""

import math

import numpy as np
import pytest
import torch
from fake_priors import OraclePrior
from PIL import Image
from recipe_bench import ALONE, MOVES, RESOLUTION, STILL, film, heights, row, sheet_tile

from cam_utils import orbit_cameras, turntable
from microdreamer.gaussians.model import PARAMETERS, GaussianModel
from microdreamer.guidance.published.latent import Parts
from microdreamer.guidance.published.mvdream import MVDreamPrior

# What the prior is asked for


@row("input")
def _(bench):
    image = bench.first(f"input={bench.picture}").prior.given["image"]
    expected = np.asarray(Image.open(bench.picture)) / np.float32(255)
    assert np.array_equal(image.permute(1, 2, 0), expected)
    assert bench.first().prior.given["image"] is None


@row("prompt", "prompt_suffix", "negative_prompt")
def _(bench, key):
    given = bench.first("prompt=a hen", "prompt_suffix=, 3d asset", "negative_prompt=blurry").prior.given
    expected = {"prompt": "a hen, 3d asset", "negative_prompt": "blurry"}["prompt" if key == "prompt_suffix" else key]
    assert given["negative_prompt" if key == "negative_prompt" else "prompt"] == expected


@row("prior", "prior_path", "precision", "prior_memory", "device")
def _(bench, key):
    if key in ("device", "precision"):
        assert bench.first("precision=bfloat16", "prior_path=somewhere").prior.loaded == ("somewhere", torch.device("cpu"), "bfloat16")
        assert "device=cuda:97" in bench.first("device=cuda:97", fails=True).said
        return
    asked = []

    class Chosen(str):
        device, dtype = torch.device("cpu"), torch.float32

    def choose(*given):
        asked.append(given)
        return Chosen("parts")

    def load(path, parts):
        raise ValueError(f"MVDream of {path} with {parts}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parts, "choose", choose)
        patch.setattr(MVDreamPrior, "load", load)
        run = bench.first("prior=mvdream", "prior_path=somewhere", "precision=float32", "prior_memory=1.5", fails=True)
        said = run.said
    assert "MVDream of somewhere with parts" in said
    assert not asked or asked == [(torch.device("cpu"), "float32", 1.5)]


@row("cfg")
def _(bench):
    assert {call.scale for call in bench.first("cfg=2.5", "inv_r=1").prior.seen} == {2.5}


@row("temperature")
def _(bench):
    """All noise of a run is the same as ever, times the temperature: what the rounds start from, and what is added on the way."""
    full, half = (bench.first("total_steps=1", "eta=1", f"temperature={value}").prior for value in (1.0, 0.5))
    torch.testing.assert_close(half.seen[0].latents, 0.5 * full.seen[0].latents)

    def fresh(prior):
        here, there = prior.seen[:2]
        return there.latents - prior.schedule.step(here.latents, here.noise, here.t, there.t, 1.0, torch.zeros_like(here.latents))

    torch.testing.assert_close(fresh(half), 0.5 * fresh(full), rtol=0, atol=1e-4)
    assert float(fresh(full).std()) > 0.01


@row("cfg_interval")
def _(bench):
    seen = bench.first("cfg=2.5", "cfg_interval=[0.3,0.6]", "inv_r=1").prior.seen
    assert {call.scale for call in seen} == {1.0, 2.5}
    assert all((call.scale == 2.5) == (300 <= call.t <= 600) for call in seen)
    words = "prompt=an egg", bench.cube(), "refine_cfg=2.5", "cfg_interval=[0.9,1]"
    assert {call.scale for call in bench.second(*words).prior.seen} == {1.0}


@row("feature_interval")
def _(bench):
    for stage, words in ((bench.first, ()), (bench.second, ("prompt=an egg", bench.cube()))):
        assert stage(*words, "feature_interval=3").prior.shared == {3} and stage(*words).prior.shared == {1}


@row("seed")
def _(bench):
    first = [bench.first(f"seed={seed}").prior.seen[0].latents for seed in (5, 6)]
    assert not torch.equal(*first)
    assert bench.first("seed=5").record["seed"] == 5


# Rounds and noise levels


@row("total_steps")
def _(bench):
    assert len(bench.first("total_steps=3").rounds()) == bench.first("total_steps=3").record["rounds"] == 3


@row("denoise_steps")
def _(bench):
    run = bench.first("denoise_steps=5", "total_steps=1")
    assert [call.t for call in run.prior.seen] == run.prior.schedule.levels(5)[::-1]


TEN_LEVELS = ("denoise_steps=10", "total_steps=3")


@row("t_start", "t_end")
def _(bench, key):
    """Of 10 levels, rounds start so far down as their share of the way from t_start to t_end says; the last at half of the way."""
    for start, end, tops in ((0.8, 0.2, (7, 4)), (0.5, 0.2, (4, 3)), (0.8, 0.4, (7, 5))):
        run = bench.first(*TEN_LEVELS, f"t_start={start}", f"t_end={end}", "inv_r=1")
        levels = run.prior.schedule.levels(10)
        whole = [9 - math.trunc(10 * (1 - start) + share * 10 * (start - end)) for share in (0, 0.5)]
        assert [calls[0].t for calls in run.rounds()[1:]] == [levels[top] for top in whole], (tops, whole)


@row("inv_r")
def _(bench):
    """Noise alone at 1; else inversion without guidance from that share of the top level up."""
    plain, inverted = (bench.first(*TEN_LEVELS, "t_start=0.8", "t_end=0.4", f"inv_r={share}").rounds()[1] for share in (1, 0.5))
    assert not any(call.scale is None for call in plain)
    rising = [call.t for call in inverted if call.scale is None]
    levels = OraclePrior(bench.truth).schedule.levels(10)
    top = levels.index(plain[0].t)
    assert rising == levels[math.trunc(plain[0].t / 1000 * 10 * 0.5) : top]


@row("eta")
def _(bench):
    for eta in (0.0, 1.0):
        run = bench.first("total_steps=1", f"eta={eta}")
        here, there = run.prior.seen[:2]
        fresh = there.latents - run.prior.schedule.step(here.latents, here.noise, here.t, there.t)
        if eta:
            sigma, direction = run.prior.schedule.sigma(here.t, there.t, 1.0), math.sqrt(1 - run.prior.schedule.alpha(there.t))
            expected = math.hypot(sigma, direction - math.sqrt(direction**2 - sigma**2))  # fresh noise, and the old one scaled down
            assert float(fresh.std()) == pytest.approx(expected, rel=0.1)
        else:
            torch.testing.assert_close(fresh, torch.zeros_like(fresh), rtol=0, atol=1e-5)


# Views


@row("batch_size_min", "batch_size_max")
def _(bench, key):
    counts = {}
    for least, most in ((4, 8), (4, 4), (8, 8)):
        words = ("total_steps=6", "denoise_steps=1", "init_steps=1", "steps_max=1", "steps_min=1")
        seen = bench.first(*words, f"batch_size_min={least}", f"batch_size_max={most}").prior.seen
        counts[least, most] = {len(call.cameras) for call in seen}
    assert counts == {(4, 8): {4, 8}, (4, 4): {4}, (8, 8): {8}}


@row("even_view")
def _(bench):
    gaps = {}
    for even in ("true", "false"):
        words = ("total_steps=4", "denoise_steps=1", "init_steps=1", "steps_max=1", "steps_min=1")
        seen = bench.first(*words, "batch_size_min=8", "batch_size_max=8", f"even_view={even}").prior.seen
        gaps[even] = {round(gap) for call in seen for gap in call.cameras.azimuth.sort().values.diff().tolist()}
    assert gaps["true"] == {45} and gaps["false"] != {45}


@row("min_ver", "max_ver")
def _(bench, key):
    """Whole degrees from min_ver up to, not with, max_ver; the first round has its first group at the picture's elevation."""
    for low, high in ((-40, -39), (38, 39)):
        first, *others = bench.first("total_steps=3", f"min_ver={low}", f"max_ver={high}").rounds()
        assert heights(first[0].cameras) == [0] and [heights(calls[0].cameras) for calls in others] == [[low]] * 2
    wide = bench.first("total_steps=6", "denoise_steps=1", "min_ver=-40", "max_ver=39").rounds()[1:]
    spread = [heights(calls[0].cameras)[0] for calls in wide]
    assert -40 <= min(spread) < 0 < max(spread) < 39


@row("radius", "fovy")
def _(bench, key):
    run = bench.first("radius=2.7", "fovy=35", "total_steps=1")
    cameras = run.prior.seen[0].cameras
    torch.testing.assert_close(cameras.centers.norm(dim=-1).double(), torch.full((4,), 2.7, dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(cameras.intrinsics[:, 1], torch.full((4,), 16 / math.tan(math.radians(17.5))), rtol=1e-5, atol=0)
    # the sheet is seen from there too
    expected = run.gaussians.render(turntable(8, radius=2.7, fov_y=35.0, width=32, height=32)).image
    assert float((sheet_tile(run, "_views.png", 3) - expected[3]).abs().mean()) < 0.01


@row("ref_size")
def _(bench):
    assert {call.cameras.width for call in bench.first("ref_size=48").prior.seen} == {48}
    assert {call.cameras.height for call in bench.first().prior.seen} == {RESOLUTION}


@row("elevation")
def _(bench):
    """The prior is told, the round from noise begins there, the picture counts as seen from there, and so do sheet and film."""
    run = bench.first(f"input={bench.picture}", "elevation=-35", "video_frames=2", "video_size=64")
    assert run.prior.given["elevation"] == -35 and heights(run.prior.seen[0].cameras) == [-35]
    looks = {name: turntable(8, elevation=height, width=64, height=64) for name, height in (("right", -35.0), ("level", 0.0))}
    model = run.gaussians
    with torch.no_grad():
        renders = {name: model.render(cameras).image for name, cameras in looks.items()}
    for shown in (sheet_tile(run, "_views.png", 0, 64), film(run.path(".mp4"))[0]):
        errors = {name: float((shown - pictures[0]).abs().mean()) for name, pictures in renders.items()}
        assert errors["right"] < 0.01 and errors["level"] > 3 * errors["right"]
    # where only the picture counts, the fit moves to it from there
    words = (f"input={bench.picture}", *ALONE, "ref_loss=1", "init_steps=40", "total_steps=1")
    expected = torch.from_numpy(np.array(Image.open(bench.picture).resize((32, 32), Image.Resampling.BOX))).permute(2, 0, 1) / 255
    expected = expected[:3] * expected[3:] + 1 - expected[3:]
    fitted = bench.from_start(*words, "elevation=-35").gaussians
    with torch.no_grad():
        shown = {height: fitted.render(orbit_cameras(height, 0, width=32, height=32)).image[0] for height in (-35.0, 0.0)}
    errors = {height: float((image - expected).abs().mean()) for height, image in shown.items()}
    assert errors[-35.0] < 0.6 * errors[0.0]


@row("azimuth")
def _(bench):
    """The picture counts as seen from there; of two each from its own side, and the prior is asked from where each is the front."""
    words = (f"input={bench.picture}", *ALONE, "ref_loss=1", "init_steps=40", "total_steps=1")
    expected = torch.from_numpy(np.array(Image.open(bench.picture).resize((32, 32), Image.Resampling.BOX))).permute(2, 0, 1) / 255
    expected = expected[:3] * expected[3:] + 1 - expected[3:]

    def errors(*more: str) -> dict[float, float]:
        model = bench.from_start(*words, *more).gaussians
        with torch.no_grad():
            shown = {turn: model.render(orbit_cameras(0, turn, width=32, height=32)).image[0] for turn in (0.0, 90.0, 270.0)}
        return {turn: float((image - expected).abs().mean()) for turn, image in shown.items()}

    once = errors("azimuth=90")
    assert once[90.0] < 0.6 * once[0.0]
    twice = errors(f"input={bench.picture},{bench.picture}", "azimuth=90,270")
    assert max(twice[90.0], twice[270.0]) < 0.6 * twice[0.0]
    run = bench.first(f"input={bench.picture},{bench.picture}", "azimuth=0,90", "total_steps=1", "denoise_steps=1")
    first, second = (call.cameras.azimuth for call in run.prior.seen)
    torch.testing.assert_close((first - second).remainder(360), torch.full_like(first, 90.0))
    assert run.record["cameras"] == [{"elevation": 0.0, "azimuth": 0.0}, {"elevation": 0.0, "azimuth": 90.0}]


# The fit


@row("init_steps", "steps_min", "steps_max", "steps_schedule")
def _(bench, key):
    words = ("total_steps=5", "denoise_steps=1")
    steps = {
        name: bench.first(*words, f"init_steps={first}", f"steps_min={low}", f"steps_max={high}", f"steps_schedule={name}").record
        for name, first, low, high in (("fixed", 7, 2, 3), ("linear", 5, 2, 10), ("linear_down", 5, 2, 10))
    }
    counts = {name: record["optimiser_steps"] for name, record in steps.items()}
    assert counts == {"fixed": 7 + 4 * 3, "linear": 5 + 2 + 4 + 6 + 8, "linear_down": 5 + 10 + 8 + 6 + 4}


@row("coarse_rounds")
def _(bench):
    """Pixels a side of what is rendered for an optimiser step, round by round; the prior still sees all pixels."""
    render, sizes = GaussianModel.render, []

    def watched(model, cameras, *given, **more):
        if torch.is_grad_enabled():
            sizes.append(cameras.width)
        return render(model, cameras, *given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GaussianModel, "render", watched)
        run = bench.first("coarse_rounds=2", "total_steps=3", "init_steps=3")
    assert sizes == [RESOLUTION // 2] * (3 + 2) + [RESOLUTION] * 2
    assert {call.latents.shape[-1] for call in run.prior.seen} == {RESOLUTION}


@row("lambda_sd", "ref_loss", "ref_mask_loss")
def _(bench, key):
    """With no weight nothing moves; the mask moves no colour, the picture and the prior's views do."""
    words = (f"input={bench.picture}", *ALONE)
    assert bench.from_start(*words).changed(bench.start) == set()
    moved = bench.from_start(*words, f"{key}=1").changed(bench.start)
    assert {"means", "log_scales", "quaternions", "opacity_logits"} <= moved
    assert ("sh_dc" in moved) == (key != "ref_mask_loss")


@row("feature_lr", "opacity_lr", "scaling_lr", "rotation_lr")
def _(bench, key):
    name = MOVES[key.removesuffix("_lr")]
    assert bench.from_start().changed(bench.start) == set(MOVES.values())
    assert bench.from_start(f"{key}=0").changed(bench.start) == set(MOVES.values()) - {name}
    slow, fast = (
        float((getattr(bench.from_start(f"{key}={rate}", "total_steps=1").gaussians, name) - getattr(bench.start, name)).abs().max())
        for rate in (0.001, 0.01)
    )
    assert 0 < slow <= 4 * 0.001 * 1.01 and 2 * slow < fast <= 4 * 0.01 * 1.01  # Adam's steps are no longer than the rate


@row("position_lr_init", "position_lr_final", "position_lr_max_steps")
def _(bench, key):
    """Rates are multiplied by 10; a fall to 0 within one step leaves positions alone, over many steps it does not."""

    def reach(*words):
        return float((bench.from_start("total_steps=1", *words).gaussians.means - bench.start.means).abs().max())

    assert reach("position_lr_init=0", "position_lr_final=0") == 0
    for name, steps in (("position_lr_init", 1_000_000), ("position_lr_final", 1)):
        other = "position_lr_final" if name == "position_lr_init" else "position_lr_init"
        slow, fast = (reach(f"{name}={rate}", f"{other}={rate / 2}", f"position_lr_max_steps={steps}") for rate in (0.0005, 0.002))
        assert 0.5 * 0.005 < slow <= 4 * 0.005 * 1.01 and 2 * slow < fast


@row("num_pts", "sh_degree", "load")
def _(bench, key):
    if key == "load":
        assert bench.from_start(*STILL).changed(bench.start) == set()
        return
    still = bench.first(*STILL, "num_pts=2500", "sh_degree=2").gaussians
    assert len(still) == 2500 and still.sh_degree == 2
    assert float(still.means.detach().norm(dim=1).max()) == pytest.approx(0.5, abs=0.01)


@row("start")
def _(bench):
    """From the prior, Gaussians lie around the object's surface; those of a ball fill it. `test_first_guess.py` has the rest."""

    def share_within(*words):
        means = bench.first(*STILL, *words).gaussians.means
        return float(((means / torch.tensor([0.35, 0.25, 0.55])).norm(dim=1) < 0.9).float().mean())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OraclePrior, "tells_surfaces", True)
        assert share_within("start=prior") < 0.1
    assert share_within("start=ball") > 0.2
    assert "start=prior" in bench.first("start=prior", "seed=1", fails=True).said


@row("preview")
def _(bench):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OraclePrior, "tells_surfaces", True)
        run = bench.first("preview=true")
    assert run.path("_preview.ply").is_file() and run.path("_preview.png").is_file()
    assert not list(bench.first().folder.glob("*preview*"))


@row("recenter")
def _(bench):
    """An object in a corner of its picture is shown to the prior in the middle, or where it is."""
    corner = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    corner.paste(Image.open(bench.picture), (0, 0))
    corner.save(bench.folder / "corner_rgba.png")
    middles = {}
    for wanted in ("true", "false"):
        alpha = bench.first(*STILL, f"input={bench.folder / 'corner_rgba.png'}", f"recenter={wanted}").prior.given["image"][3]
        rows, columns = (alpha > 0.5).nonzero().unbind(1)
        middles[wanted] = [float((axis.min() + axis.max()) / 2 / len(alpha)) for axis in (rows, columns)]
    assert middles["true"] == pytest.approx([0.5, 0.5], abs=0.02) and max(middles["false"]) < 0.3


@row("splat_format")
def _(bench):
    for name, suffixes in (("ply", []), ("splat", ["_model.splat"]), ("all", ["_model.splat", "_model.spz", "_splats.glb"])):
        run = bench.first(f"load={bench.ply}", *STILL, f"splat_format={name}")
        others = [suffix for suffix in ("_model.splat", "_model.spz", "_splats.glb") if run.path(suffix).is_file()]
        assert others == suffixes and run.path("_model.ply").is_file()
        assert all(len(GaussianModel.load(run.path(suffix))) == len(run.gaussians) for suffix in others)


@row("up", "clean")
def _(bench, key):
    """The egg, taller than deep, lies down where another axis is said to be up; a floater far away stays where nothing is cleaned."""
    if key == "up":
        sizes = {up: np.ptp(bench.second(f"load={bench.ply}", f"up={up}", "iters_refine=0").mesh.vertices, axis=0) for up in ("y", "z")}
        np.testing.assert_allclose(sizes["z"], sizes["y"][[0, 2, 1]], rtol=0.15)
        assert abs(sizes["y"][1] - sizes["y"][2]) > 0.1
        return
    parameters = {name: torch.cat([getattr(bench.start, name).detach()] * 2) for name in PARAMETERS}
    count = len(bench.start)
    parameters = {name: values[: count + 3] for name, values in parameters.items()}
    parameters["means"] = parameters["means"].clone()
    parameters["means"][count:] = torch.tensor([2.5, 0.0, 0.0])
    GaussianModel(parameters).save_ply(bench.folder / "floater.ply")
    faces = {
        clean: len(bench.second(f"load={bench.folder / 'floater.ply'}", f"clean={clean}", "iters_refine=0").mesh.faces)
        for clean in ("true", "false")
    }
    assert faces["true"] > 1.5 * faces["false"]


GROWING = ("total_steps=1", "init_steps=12", "densify_grad_threshold=1e-12")  # steps 2 to 13


@row("density_start_iter", "density_end_iter", "densification_interval", "densify_grad_threshold", "percent_dense")
def _(bench, key):
    def growths(*words):
        return bench.first(f"load={bench.ply}", *GROWING, "density_end_iter=300", "densification_interval=4", *words).growths

    if key == "density_start_iter":
        assert (len(growths()), len(growths("density_start_iter=4"))) == (3, 2)
    elif key == "density_end_iter":
        assert len(growths("density_end_iter=11")) == 2
    elif key == "densification_interval":
        assert len(growths("densification_interval=3")) == 4
    elif key == "densify_grad_threshold":
        few, many = (growths("densification_interval=12", f"densify_grad_threshold={least}")[0] for least in (1e6, 1e-12))
        assert few["after"] <= few["before"] < many["after"]
    else:
        cloned, split = (
            bench.first(f"load={bench.ply}", *GROWING, *STILL[:-1], "densification_interval=12", f"percent_dense={share}").gaussians
            for share in (1, 0)
        )
        least = float(bench.start.scales.min())
        assert float(cloned.scales.min()) == pytest.approx(least) and float(split.scales.min()) < 0.7 * least
