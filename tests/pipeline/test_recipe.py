"""Every configuration key reaches its piece: from the command line to what a run does and leaves, on a prior that knows the object.

`TABLE` has a row for each key: what is seen where the key has another value. A key without a row fails.
"""

import contextlib
import dataclasses
import functools
import gzip
import importlib.machinery
import io
import json
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from fake_priors import OraclePrior, coloured_ellipsoid
from PIL import Image
from torch import Tensor

from cam_utils import Cameras, orbit_cameras, turntable
from microdreamer.fields import conversion
from microdreamer.gaussians.model import PARAMETERS, GaussianModel
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.guidance.published.latent import Parts
from microdreamer.guidance.published.mvdream import MVDreamPrior
from microdreamer.kernels.spherical_harmonics import color_to_sh
from microdreamer.meshes.files import read_mesh
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.model import MeshModel
from microdreamer.pipeline import commands
from microdreamer.pipeline import config as configuration

RESOLUTION = 32
FIRST = ("total_steps=2", "denoise_steps=4", "init_steps=4", "steps_min=2", "steps_max=2", "num_pts=600", "cfg=1", "eta=1")
SMALL = ("device=cpu", "video_frames=0", "video_size=32", "mesh_resolution=16", "mesh_faces=300", "texture_size=64")
SECOND = ("refine_size=32", "refine_steps=2", "refine_denoise_steps=5", "refine_cfg=1", "geometry_steps=2")
STILL = ("position_lr_init=0", "position_lr_final=0", "feature_lr=0", "opacity_lr=0", "scaling_lr=0", "rotation_lr=0", "density_end_iter=0")
ALONE = ("lambda_sd=0", "ref_loss=0", "ref_mask_loss=0", "density_end_iter=0")  # with one of these above 0, what it does is seen
MOVES = {"position": "means", "feature": "sh_dc", "opacity": "opacity_logits", "scaling": "log_scales", "rotation": "quaternions"}


# ---- What is seen of a run ----


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of the prior."""

    t: int
    scale: float | None
    cameras: Cameras
    latents: Tensor
    noise: Tensor


class Witness(OraclePrior):
    """Remembers how it was loaded and conditioned, and each of its calls."""

    def __init__(self, truth):
        super().__init__(truth, RESOLUTION)
        self.loaded, self.given, self.seen = None, None, []

    def condition(self, image=None, prompt=None, negative_prompt=None, elevation=0.0):
        super().condition(image, prompt, negative_prompt, elevation)
        self.given = {"image": image, "prompt": prompt, "negative_prompt": negative_prompt, "elevation": elevation}

    def predict_noise(self, latents, t, cameras, condition, guidance_scale):
        noise = super().predict_noise(latents, t, cameras, condition, guidance_scale)
        self.seen.append(Call(t, guidance_scale, cameras, latents, noise))
        return noise


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run returned and said, what its prior saw, how it grew, and what it left."""

    code: int
    said: str
    prior: Witness
    growths: list[dict]
    folder: Path
    name: str = "a"

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.name}{suffix}"

    @property
    def record(self) -> dict:
        return json.loads(self.path(".json").read_text())

    @property
    def gaussians(self) -> GaussianModel:
        return GaussianModel.load_ply(self.path("_model.ply")).requires_grad_(False)

    @property
    def mesh(self) -> Mesh:
        return read_mesh(self.path("_model.glb" if self.name == "a" else ".glb"))

    def rounds(self) -> list[list[Call]]:
        """The prior's calls, round by round: a round ends at the lowest level of the sampler."""
        lowest, found = min(call.t for call in self.prior.seen), [[]]
        for call in self.prior.seen:
            found[-1].append(call)
            if call.t == lowest and call.scale is not None:
                found.append([])
        return found[:-1]

    def changed(self, start: GaussianModel) -> set[str]:
        """The parameters in which the Gaussians differ from those they started as."""
        end = self.gaussians
        assert len(end) == len(start)
        return {name for name in PARAMETERS if not torch.equal(getattr(end, name), getattr(start, name))}


@dataclasses.dataclass(frozen=True)
class Bench:
    """Runs of both programs on one object: its picture, and Gaussians near it to start from."""

    folder: Path
    truth: GaussianModel
    picture: Path
    ply: Path
    start: GaussianModel

    @functools.cached_property
    def _runs(self) -> dict:
        return {}

    def _run(self, program, words: tuple[str, ...], folder: Path, name: str) -> Run:
        prior, growths = Witness(self.truth), []
        grow = GaussianModel.densify_and_prune

        def load(*given):
            prior.loaded = given
            return prior

        def watched(model, **settings):
            growths.append(settings | {"before": len(model)})
            grow(model, **settings)
            growths[-1]["after"] = len(model)

        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
            patch.setattr(MicroPrior, "load", load)
            patch.setattr(GaussianModel, "densify_and_prune", watched)
            code = program(["--quiet", *words])
        return Run(code, said.getvalue(), prior, growths, folder, name)

    def first(self, *words: str, fails: bool = False) -> Run:
        """Stage 1; the same words give the same run."""
        if words not in self._runs:
            folder = self.folder / f"run_{len(self._runs)}"
            self._runs[words] = self._run(
                commands.make, (f"outdir={folder}", "save_path=a", *FIRST, *SMALL, "prompt=an egg", *words), folder, "a"
            )
        run = self._runs[words]
        assert run.code == (2 if fails else 0), run.said
        return run

    def from_start(self, *words: str) -> Run:
        """Stage 1 from the Gaussians `start`, without growth."""
        return self.first(f"load={self.ply}", "density_end_iter=0", *words)

    def second(self, *words: str) -> Run:
        """Stage 2."""
        key = ("second", *words)
        if key not in self._runs:
            folder = self.folder / f"run_{len(self._runs)}"
            self._runs[key] = self._run(commands.refine, (f"outdir={folder}", "save_path=a", *SMALL, *SECOND, *words), folder, "a_refined")
        run = self._runs[key]
        assert run.code == 0, run.said
        return run

    def cube(self) -> str:
        """`mesh=` a grey cube."""
        path = self.folder / "cube.obj"
        corners = [(x, y, z) for x in (-0.4, 0.4) for y in (-0.4, 0.4) for z in (-0.4, 0.4)]
        faces = [(1, 2, 4, 3), (5, 7, 8, 6), (1, 5, 6, 2), (3, 4, 8, 7), (1, 3, 7, 5), (2, 6, 8, 4)]
        lines = [*("v {} {} {}".format(*corner) for corner in corners), *("f {} {} {} {}".format(*face) for face in faces)]
        path.write_text("\n".join(lines) + "\n")
        return f"mesh={path}"


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    folder = tmp_path_factory.mktemp("recipe")
    truth = coloured_ellipsoid()
    shown = truth.render(orbit_cameras(0, 0, width=48, height=48), torch.zeros(3))
    rgba = torch.cat([shown.image / shown.alpha.clamp_min(1e-3), shown.alpha], dim=1)[0].clamp(0, 1)
    Image.fromarray((rgba * 255).byte().permute(1, 2, 0).numpy()).save(folder / "thing_rgba.png")
    generator = torch.Generator().manual_seed(1)
    parameters = {name: getattr(truth, name).detach().clone() for name in PARAMETERS}
    parameters["means"] += 0.01 * torch.randn(parameters["means"].shape, generator=generator)
    parameters["sh_dc"] += 0.3 * torch.randn(parameters["sh_dc"].shape, generator=generator)
    parameters["log_scales"] = math.log(0.04) + 0.4 * torch.rand(parameters["log_scales"].shape, generator=generator)  # no spheres
    parameters["opacity_logits"] -= 1.5
    start = GaussianModel(parameters).requires_grad_(False)
    start.save_ply(folder / "start.ply")
    return Bench(folder, truth, folder / "thing_rgba.png", folder / "start.ply", start)


def sheet_tile(run: Run, suffix: str, index: int, size: int = 32) -> Tensor:
    """Picture `index` [3,S,S] of a sheet of views."""
    sheet = torch.from_numpy(np.array(Image.open(run.path(suffix)).convert("RGB"))).permute(2, 0, 1) / 255
    row, column = divmod(index, 4)
    step = size + 4
    return sheet[:, row * step : row * step + size, column * step : column * step + size]


def film(path: Path) -> Tensor:
    """Frames [T,3,H,W] of a film."""
    frames = imageio_ffmpeg.read_frames(str(path))
    width, height = next(frames)["size"]
    return (
        torch.stack([torch.frombuffer(bytearray(frame), dtype=torch.uint8).view(height, width, 3) for frame in frames]).permute(0, 3, 1, 2)
        / 255
    )


def heights(cameras: Cameras) -> list[float]:
    return sorted(set(cameras.elevation.tolist()))


# ---- The table ----

TABLE: dict[str, Callable[[Bench], None]] = {}


def row(*keys: str):
    """Decorator: the function shows that each of `keys` reaches its piece."""

    def enter(function):
        for key in keys:
            assert key not in TABLE
            TABLE[key] = functools.partial(function, key=key) if len(keys) > 1 else function
        return function

    return enter


def all_keys(schema: type, prefix: str = "") -> set[str]:
    found = set()
    for field in dataclasses.fields(schema):
        if dataclasses.is_dataclass(field.default_factory):
            found |= all_keys(field.default_factory, f"{prefix}{field.name}.")
        else:
            found.add(prefix + field.name)
    return found


def test_every_key_has_a_row():
    assert set(TABLE) == all_keys(configuration.Config)


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

    def choose(*given):
        asked.append(given)
        return "parts"

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


# Files


@row("outdir", "save_path")
def _(bench, key):
    run = bench.first("save_path=hen")
    assert (run.folder / "hen_model.ply").is_file() and (run.folder / "hen.json").is_file() and not run.path(".json").exists()


@row("density_thresh")
def _(bench):
    low, high = (np.ptp(bench.first(f"load={bench.ply}", f"density_thresh={value}", *STILL).mesh.vertices, axis=0) for value in (0.01, 2))
    assert (high < low - 0.02).all()


@row("mesh_method")
def _(bench):
    def fit_field(*_):
        raise ValueError("this is the field")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "fit_field", fit_field)
        assert "this is the field" in bench.first("mesh_method=field", fails=True).said
        assert bench.first("mesh_method=density").path("_model.glb").is_file()


@row("mesh_resolution", "mesh_faces")
def _(bench, key):
    def faces(*words):
        return len(bench.from_start(*STILL, *words).mesh.faces)

    assert faces("mesh_faces=100") <= 100 < faces() <= 600
    assert faces("mesh_faces=1000000", "mesh_resolution=64") > 2.5 * faces("mesh_faces=1000000")


@row("texture_size")
def _(bench):
    run = bench.first("texture_size=96")
    assert Image.open(run.path("_model_albedo.png")).size == (96, 96) and run.mesh.texture.shape == (96, 96, 3)


@row("unwrap")
def _(bench):
    fake = types.ModuleType("xatlas")
    fake.__spec__ = importlib.machinery.ModuleSpec("xatlas", None)

    def parametrize(*_):
        raise ValueError("this is xatlas")

    fake.parametrize = parametrize
    fake.Atlas = fake.ChartOptions = fake.PackOptions = parametrize
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "xatlas", fake)
        assert "this is xatlas" in bench.first("unwrap=xatlas", fails=True).said


@row("mesh_format")
def _(bench):
    for kind, others in (("obj", [".glb"]), ("glb", [".obj", ".mtl", "_albedo.png"])):
        run = bench.first(f"mesh_format={kind}")
        assert run.path(f"_model.{kind}").is_file() and not any(run.path(f"_model{other}").exists() for other in others)


@row("video_frames", "video_size")
def _(bench, key):
    run = bench.first("video_frames=5", "video_size=48")
    assert film(run.path(".mp4")).shape == (5, 3, 48, 48)
    assert Image.open(run.path("_views.png")).size == (4 * 48 + 12, 2 * 48 + 4)
    assert not bench.first().path(".mp4").exists()


# Stage 2


@row("mesh")
def _(bench):
    mesh = bench.second(bench.cube(), "prompt=a box").mesh
    assert len(mesh.faces) == 12 and np.abs(mesh.vertices).max() == pytest.approx(0.4, abs=0.01)


@row("iters_refine", "refine_views", "refine_size", "refine_denoise_steps", "refine_strength", "refine_cfg")
def _(bench, key):
    words = ("iters_refine=2", "refine_views=4", "refine_size=40", "refine_denoise_steps=10", "refine_strength=0.5", "refine_cfg=2.5")
    seen = bench.second(bench.cube(), "prompt=a box", *words).prior.seen
    levels = OraclePrior(bench.truth).schedule.levels(10)[:5][::-1]
    assert [call.t for call in seen] == levels * 2
    assert {(len(call.cameras), call.cameras.width, call.scale) for call in seen} == {(4, 40, 2.5)}
    assert {len(call.cameras) for call in bench.second(bench.cube(), "prompt=a box").prior.seen} == {8}


@row("texture_lr", "refine_steps")
def _(bench, key):
    """A grey texture has logits of 0, which Adam's steps move by at most the rate each."""

    def texture(*words):
        return torch.from_numpy(bench.second(bench.cube(), "prompt=a box", *words).mesh.texture)

    grey = (texture("iters_refine=0") - 0.5).abs() < 0.01

    def reach(rate, steps):
        return float(texture(f"texture_lr={rate}", f"refine_steps={steps}")[grey].logit().abs().max())

    rounding = 0.01
    assert reach(0.1, 1) <= 0.1 + rounding and reach(0.4, 1) > 2 * reach(0.1, 1) and reach(0.1, 5) > 2 * reach(0.1, 1)


@row("train_geo", "geometry_steps", "geom_lr")
def _(bench, key):
    def vertices(*words):  # sorted, as files may have them in another order; no coordinate so seems to move farther than it did
        return np.sort(bench.second(*words).mesh.vertices, axis=0)

    if key == "geom_lr":  # in a round, of a mesh without Gaussians
        words = (bench.cube(), "prompt=a box", "train_geo=true")
        still, moved = (np.abs(vertices(*words, f"geom_lr={rate}")) for rate in (0, 0.01))
        assert np.ptp(still) < 1e-6 < 1e-3 < np.ptp(moved)
        return
    words = (f"load={bench.ply}",)
    still, none, one, six = (
        vertices(*words, *more)
        for more in (
            (),
            ("train_geo=true", "geometry_steps=0"),
            ("train_geo=true", "geometry_steps=1"),
            ("train_geo=true", "geometry_steps=6"),
        )
    )
    assert np.allclose(still, none, atol=1e-6)
    reach = [float(np.abs(moved - still).max()) for moved in (one, six)]
    assert 1e-4 < reach[0] <= 2.1e-3 and 2 * reach[0] < reach[1] <= 12.1e-3  # 2e-3 a step at most


# Profiling


@row("profiling.mode", "profiling.scope", "profiling.rounds")
def _(bench, key):
    def ranges(*words):
        run = bench.first("total_steps=4", "profiling.mode=torch", *words)
        (path,) = (run.folder / "a_trace").iterdir() if (run.folder / "a_trace").is_dir() else run.folder.glob("*trace*/*")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        return {event["name"] for event in events if event.get("cat") == "user_annotation"}

    broad, fine = ranges("profiling.rounds=3"), ranges("profiling.rounds=1", "profiling.scope=function")
    assert {"round 1", "round 2", "round 3", "prior", "fit"} <= broad and "round 4" not in broad
    assert "round 1" in fine and "round 2" not in fine
    assert any(name.endswith("ddim_sample") for name in fine) and not any(name.endswith("ddim_sample") for name in broad)
    assert not list(bench.first().folder.glob("*trace*"))


@pytest.mark.parametrize("key", sorted(all_keys(configuration.Config)))
def test_a_key_reaches_its_piece(bench, key):
    TABLE[key](bench)


# ---- Steps of the recipe that no key names ----


def test_what_is_faint_oversized_or_floats_is_gone_in_the_end(bench):
    """Three Gaussians that do not belong to the object, each for a reason of its own, beside it; nothing learns."""
    parameters = {name: torch.cat([getattr(bench.truth, name), getattr(bench.truth, name)[:3]]).clone() for name in PARAMETERS}
    faint, long, floater = -3, -2, -1
    parameters["log_scales"] = torch.full_like(parameters["log_scales"], math.log(0.03))
    parameters["means"][-3:] = torch.tensor([[0.0, 0.7, 0.0], [0.0, -0.7, 0.0], [0.0, 0.75, 0.0]])
    parameters["opacity_logits"][faint] = -6.0
    parameters["log_scales"][long, 1] = math.log(0.15)
    parameters["sh_dc"][floater] = color_to_sh(torch.tensor(1.1))
    path = bench.folder / "with_debris.ply"
    GaussianModel(parameters).save_ply(path)
    left = bench.first(f"load={path}", *STILL).gaussians
    expected = {tuple(position) for position in bench.truth.means.tolist()}
    assert {tuple(position) for position in left.means.tolist()} == expected


@pytest.mark.parametrize("switch", ["USE_CUDA_GAUSS", "USE_CUDA_EXTRACT"])
@pytest.mark.parametrize("stage", [1, 2])
def test_a_kernel_that_is_asked_for_and_not_there_is_one_line(bench, monkeypatch, switch, stage):
    from microdreamer.kernels import extension

    monkeypatch.setenv(switch, "1")
    monkeypatch.setattr(extension, "available", lambda _: False)
    short = ("total_steps=1", "denoise_steps=1", "init_steps=1", "num_pts=60", "ref_size=16", "mesh_resolution=16", "video_size=16")
    program, words = (commands.make, short) if stage == 1 else (commands.refine, (*SECOND, bench.cube()))
    folder = bench.folder / f"no_kernel_{switch}_{stage}"
    run = bench._run(program, (f"outdir={folder}", "save_path=a", *SMALL, "prompt=an egg", *words), folder, "a")
    assert run.code == 2 and run.said.count("\n") == 1 and f"{switch}=1 but there is no compiled cpu kernel" in run.said
    assert not run.prior.seen and not folder.exists()


def test_stage_2_is_shown_from_the_pictures_elevation(bench):
    run = bench.second(bench.cube(), "prompt=a box", "elevation=-35", "video_frames=2", "video_size=64", "iters_refine=0")
    model = MeshModel(run.mesh)
    with torch.no_grad():
        right, level = (model.render(turntable(8, elevation=height, width=64, height=64)).image[0] for height in (-35.0, 0.0))
    for shown in (sheet_tile(run, "_views.png", 0, 64), film(run.path(".mp4"))[0]):
        errors = [float((shown - picture).abs().mean()) for picture in (right, level)]
        assert errors[0] < 0.01 and errors[1] > 3 * errors[0]
