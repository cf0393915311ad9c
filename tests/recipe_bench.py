"""Runs of both programs on one object with a prior that knows it, and what is seen of a run."""

import contextlib
import dataclasses
import functools
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from fake_priors import Call, OraclePrior, coloured_ellipsoid
from PIL import Image
from torch import Tensor

from cam_utils import Cameras, orbit_cameras
from microdreamer.gaussians.model import PARAMETERS, GaussianModel
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.meshes.files import read_mesh
from microdreamer.meshes.mesh import Mesh
from microdreamer.pipeline import commands

RESOLUTION = 32
FIRST = ("total_steps=2", "denoise_steps=4", "init_steps=4", "steps_min=2", "steps_max=2", "num_pts=600", "cfg=1", "eta=1")
SMALL = ("device=cpu", "video_frames=0", "video_size=32", "mesh_resolution=16", "mesh_faces=300", "texture_size=64")
SECOND = ("refine_size=32", "refine_steps=2", "refine_denoise_steps=5", "refine_cfg=1", "geometry_steps=2")
STILL = ("position_lr_init=0", "position_lr_final=0", "feature_lr=0", "opacity_lr=0", "scaling_lr=0", "rotation_lr=0", "density_end_iter=0")
ALONE = ("lambda_sd=0", "ref_loss=0", "ref_mask_loss=0", "density_end_iter=0")  # with one of these above 0, what it does is seen
MOVES = {"position": "means", "feature": "sh_dc", "opacity": "opacity_logits", "scaling": "log_scales", "rotation": "quaternions"}


# ---- What is seen of a run ----


class Witness(OraclePrior):
    """Remembers how it was loaded and conditioned, and each of its calls."""

    def __init__(self, truth):
        super().__init__(truth, RESOLUTION)
        self.loaded, self.given, self.seen, self.shared = None, None, [], set()

    def condition(self, image=None, prompt=None, negative_prompt=None, elevation=0.0):
        super().condition(image, prompt, negative_prompt, elevation)
        self.given = {"image": image, "prompt": prompt, "negative_prompt": negative_prompt, "elevation": elevation}

    def predict_noise(self, latents, t, cameras, condition, guidance_scale):
        noise = super().predict_noise(latents, t, cameras, condition, guidance_scale)
        self.seen.append(Call(t, guidance_scale, cameras, latents, noise))
        self.shared.add(self.features.interval if self.features else 1)
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


def make_bench(folder: Path) -> Bench:
    """A bench in `folder`."""
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
