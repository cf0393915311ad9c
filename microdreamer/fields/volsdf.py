"""Volume rendering of signed distance fields, as the text-to-3D networks of ScaleDreamer are trained with it.

Yariv, Gu, Kasten and Lipman, "Volume rendering of neural implicit surfaces" (2021): the density is the cumulative distribution of
Laplace's distribution at the distance. Two passes: even intervals find where the surface is, finer ones look there. Distances are
negative inside. Leading dimensions B are of fields that are rendered together, one cache each; N rays, S intervals a ray.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from microdreamer.fields.hash_field import box_range
from microdreamer.fields.importance_sampling import importance_sampling
from microdreamer.fields.normals import STEP, difference_gradient

MAX_SHARPNESS = 80.0  # the inverse deviation is taken no larger
VARIANCE_SCALE = 10.0  # of the stored logarithm of the inverse deviation
MAX_ALPHA = 1 - 1e-6  # alphas are linear in the density, so that a sharp field would pass 1 and turn what follows negative


class SignedDistanceField(Protocol):
    """What is rendered: positions [...,P,3] to signed distances [...,P], and to both distances and colours [...,P,3]."""

    def sdf(self, points: Tensor) -> Tensor: ...

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]: ...


class VolsdfRendering(NamedTuple):
    """color [...,N,3] premultiplied by alpha [...,N]; depth [...,N], weighted but not divided by alpha; z_variance [...,N] around it.

    For the regularisers, of all intervals [...,N,S]: weights, starts, lengths, sdf, and the field's gradient [...,N,S,3] with normal
    [...,N,3], the weighted unit normals; the last two None unless asked for.
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor
    z_variance: Tensor
    weights: Tensor
    starts: Tensor
    lengths: Tensor
    sdf: Tensor
    gradient: Tensor | None
    normal: Tensor | None


def inverse_deviation(stored: Tensor) -> Tensor:
    """The sharpness that published checkpoints store as `variance._inv_std`: exp(10 stored); 0.340119 stands for 30."""
    return (VARIANCE_SCALE * stored).exp()


def volsdf_density(sdf: Tensor, sharpness: Tensor | float) -> Tensor:
    """Density at signed distances: `sharpness` k deep inside, k/2 on the surface, none far outside. Equation 2, with beta = 1/k."""
    k = sharpness.to(sdf).clamp_max(MAX_SHARPNESS) if isinstance(sharpness, Tensor) else min(sharpness, MAX_SHARPNESS)
    return k * (0.5 + 0.5 * sdf.sign() * torch.expm1(-sdf.abs() * k))


def transmittance(optical_depth: Tensor) -> Tensor:
    """The share of light that reaches each interval's start: [...,S] from what each interval takes of its logarithm."""
    return torch.exp(-(optical_depth.cumsum(-1) - optical_depth))


def weights_of(alpha: Tensor) -> Tensor:
    """What intervals of opacities [...,S] contribute, front to back: [...,S], never below 0 nor more than 1 in sum."""
    alpha = alpha.clamp_max(MAX_ALPHA)
    return alpha * transmittance(-torch.log1p(-alpha))


def render_volsdf(
    field: SignedDistanceField,
    origins: Tensor,
    directions: Tensor,
    *,
    sharpness: Tensor | float = 30.0,
    radius: float = 1.0,
    proposals: int = 128,
    samples: int = 64,
    near: Tensor | float | None = None,
    far: Tensor | float | None = None,
    jitter: tuple[Tensor, Tensor] | None = None,
    with_normals: bool = False,
    normal_step: float = STEP,
) -> VolsdfRendering:
    """Rays [...,N,3] (unit directions) through the field's box [-radius, radius]^3.

    Each is looked at in `proposals` even intervals without gradients, then in `samples` more where the surface shows; all edges
    together make S = proposals + samples + 1 intervals. `near` and `far`, numbers or [...,N], replace the distances where a ray enters
    and leaves the box; a ray that misses it shows nothing. jitter: in [0,1], for both passes, [...,N] each: how far along the ray's
    even intervals are moved, by up to one, and where in its share each finer sample lies.
    """
    low, high = (torch.full_like(origins[..., :1, :], side * radius) for side in (-1, 1))
    entered, left = box_range(origins, directions, low, high)
    near = entered if near is None else torch.as_tensor(near, dtype=origins.dtype, device=origins.device).expand(entered.shape)
    far = left if far is None else torch.as_tensor(far, dtype=origins.dtype, device=origins.device).expand(left.shape)
    with torch.no_grad():
        edges = _edges(field, origins, directions, near, far, sharpness, proposals, samples, jitter)
    starts, lengths = edges[..., :-1], edges[..., 1:] - edges[..., :-1]
    middles = starts + lengths / 2
    shape = middles.shape
    points = _points(origins, directions, middles)
    sdf, colors = field(points)
    weights = weights_of(lengths * volsdf_density(sdf, sharpness).reshape(shape))
    depth = (weights * middles).sum(-1)
    gradient = normal = None
    if with_normals:
        gradient = difference_gradient(field.sdf, points, sdf, radius, normal_step).reshape(*shape, 3)
        normal = (weights[..., None] * normalize(gradient, dim=-1)).sum(-2)
    return VolsdfRendering(
        (weights[..., None] * colors.reshape(*shape, 3)).sum(-2),
        weights.sum(-1),
        depth,
        (weights * (middles - depth[..., None]).square()).sum(-1),
        weights,
        starts,
        lengths,
        sdf.reshape(shape),
        gradient,
        normal,
    )


def _points(origins: Tensor, directions: Tensor, distances: Tensor) -> Tensor:
    """Positions [...,N S,3] at distances [...,N,S] along rays [...,N,3]."""
    return (origins[..., None, :] + distances[..., None] * directions[..., None, :]).flatten(-3, -2)


def _edges(
    field: SignedDistanceField,
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    sharpness: Tensor | float,
    proposals: int,
    samples: int,
    jitter: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """The edges [...,N,S+1] of a ray's intervals: even ones, and finer ones where those found the surface."""
    places = torch.arange(proposals + 1, device=near.device, dtype=near.dtype) / proposals
    if jitter is not None:
        places = (places + (jitter[0][..., None] - 0.5) / proposals).clamp(0, 1)
    even = near[..., None] + (far - near)[..., None] * places
    lengths = even[..., 1:] - even[..., :-1]
    sdf = field.sdf(_points(origins, directions, even[..., :-1] + lengths / 2)).reshape(lengths.shape)
    reached = transmittance(lengths * volsdf_density(sdf, sharpness))
    cdf = torch.cat([1 - reached, torch.ones_like(reached[..., :1])], dim=-1)
    flat = even.expand(cdf.shape).reshape(-1, proposals + 1), cdf.reshape(-1, proposals + 1)
    _, fine = importance_sampling(*flat, samples, None if jitter is None else jitter[1].reshape(-1))
    return torch.cat([even, fine.reshape(*even.shape[:-1], samples + 1)], dim=-1).sort(dim=-1).values
