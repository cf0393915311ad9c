"""From a field's features to colour. P is a number of points."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import normalize

from microdreamer.fields.activations import COLOR_ACTIVATIONS, activation

MODES = ("albedo", "textureless", "diffuse")


class NoMaterial(nn.Module):
    """The features are the colour, by way of an activation: [P,3] in [0,1]."""

    needs_normals = False

    def __init__(self, color_activation: str = "sigmoid") -> None:
        super().__init__()
        self._activation = activation(color_activation, COLOR_ACTIVATIONS)

    def forward(
        self, features: Tensor, positions: Tensor | None = None, normals: Tensor | None = None, light_positions: Tensor | None = None
    ) -> Tensor:
        return self._activation(features[..., :3])


class Shading(NamedTuple):
    """What of a surface is shown: its `albedo`, the light on a white one (`textureless`), or both (`diffuse`).

    `diffuse` in [0,1] is the share of the light that comes from the point, the rest is the same from all around.
    """

    mode: str = "albedo"
    diffuse: float | Tensor = 0.0

    @property
    def needs_normals(self) -> bool:
        return self.mode != "albedo"


ALBEDO = Shading()


@dataclasses.dataclass(frozen=True)
class ShadingPolicy:
    """How shading varies in training: albedo alone for the first steps, later a mode and a light at random (DreamFusion, section 3.2)."""

    ambient_only_steps: int = 5000
    diffuse_prob: float = 0.75  # of any shading
    textureless_prob: float = 0.5  # of a white surface, where there is shading
    soft_shading: bool = True  # the point's share of the light is drawn too
    diffuse: float = 0.9  # the share otherwise

    def __call__(self, step: int, draws: Tensor) -> Shading:
        """The shading of a step, by three numbers in [0,1): of the light, of shading or not, of the white surface."""
        light, shaded, textureless = draws.tolist()
        share = light if self.soft_shading else self.diffuse
        if step < self.ambient_only_steps or shaded > self.diffuse_prob:
            return Shading("albedo", share)
        return Shading("textureless" if textureless < self.textureless_prob else "diffuse", share)


class PointLightDiffuse(nn.Module):
    """A matt surface under a point light and light from all around (Lambert; threestudio's material of that name)."""

    needs_normals = True

    def __init__(self, color_activation: str = "sigmoid") -> None:
        super().__init__()
        self._activation = activation(color_activation, COLOR_ACTIVATIONS)

    def forward(
        self,
        features: Tensor,
        positions: Tensor | None = None,
        normals: Tensor | None = None,
        light_positions: Tensor | None = None,
        shading: Shading = ALBEDO,
    ) -> Tensor:
        """Colours [P,3] of points with features [P,>=3], positions, unit normals and the positions of their lights [P,3].

        Without a `shading`, the albedo. Raises ValueError for one that needs what is not given, or of an unknown mode.
        """
        if shading.mode not in MODES:
            raise ValueError(f"shading {shading.mode!r}: expected one of {', '.join(MODES)}")
        albedo = self._activation(features[..., :3])
        if shading.mode == "albedo":
            return albedo
        if positions is None or normals is None or light_positions is None:
            raise ValueError(
                f"shading {shading.mode!r}: expected positions, normals and light_positions [P,3] of the points, one is missing"
            )
        facing = (normals * normalize(light_positions - positions, dim=-1)).sum(-1, keepdim=True).clamp_min(0)
        light = facing * shading.diffuse + (1 - shading.diffuse)
        return light.expand_as(albedo) if shading.mode == "textureless" else albedo * light
