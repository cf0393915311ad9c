"""A prior that knows the object: every answer is what its true views ask for, so that what is still missed is the fit's fault."""

from __future__ import annotations

import torch
from torch import Tensor

from cam_utils import Cameras
from microdreamer.guidance.base import Prior
from microdreamer.guidance.micro.network import Surfaces
from microdreamer.guidance.wrapped import WrappedPrior
from microdreamer.shapes.geometry import PlacePainter, camera_depth, render_albedo
from microdreamer.shapes.packed import PackedMeshes
from microdreamer.shapes.render import over_white, render_views


class TruePrior(WrappedPrior):
    """Stands in for `prior`: its levels, sizes and demands on cameras, but the views of object `index` of `meshes` for answers.

    The noise in latents x at level t is (x - sqrt(a) x0) / sqrt(1 - a) with the true views' latents x0, whatever it was conditioned
    on, so that sampling from any level ends at the truth. `meshes` are on the prior's device.
    """

    def __init__(self, prior: Prior, meshes: PackedMeshes, index: int):
        super().__init__(prior)
        self.references = 1  # whatever it is shown, it knows more
        self.tells_surfaces = True
        self.meshes, self.index = meshes, index
        self._painter = PlacePainter(meshes)
        self._seen: tuple[Cameras, Tensor] | None = None  # cameras last asked for, and the latents of what they see

    def condition(self, image: Tensor | None = None, prompt: str | None = None, negative_prompt=None, elevation: float = 0.0) -> None:
        self.check_condition(image, prompt)

    @torch.no_grad()
    def predict_noise(self, latents: Tensor, t: int, cameras: Cameras, condition: object, guidance_scale: float | None) -> Tensor:
        self.check_cameras(cameras)
        self.evaluations += 1 if guidance_scale in (None, 1.0) else 2
        if self._seen is None or self._seen[0] is not cameras:
            views = over_white(render_views(self.meshes, self.index, cameras.resized(self.resolution, self.resolution)))
            self._seen = cameras, self.encode(views)
        alpha = self.schedule.alpha(t)
        return (latents - alpha**0.5 * self._seen[1]) / (1 - alpha) ** 0.5

    @torch.no_grad()
    def predict_surfaces(self, latents: Tensor, t: int, cameras: Cameras, condition: object) -> tuple[Tensor, Surfaces]:
        self.check_cameras(cameras)
        self.evaluations += 1
        seen_by = cameras.resized(self.resolution, self.resolution)
        shown = render_views(self.meshes, self.index, seen_by)
        index = torch.full((len(cameras),), self.index, device=self.device)
        pose = index, torch.eye(3, 4, device=self.device).repeat(len(cameras), 1, 1)
        lens = seen_by.world_to_camera[:, :3].float().contiguous(), seen_by.intrinsics.float()
        places, seen = self._painter.render(*pose, *lens, self.resolution)
        albedo = over_white(render_albedo(self.meshes, *pose, None, *lens, self.resolution))
        return over_white(shown), Surfaces(camera_depth(places, lens[0]), shown[:, 3:] * seen, albedo)
