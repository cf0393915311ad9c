"""Real spherical harmonics of degree 0 to 3, in the order and with the signs that 3D Gaussian splatting files use."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_DEGREE = 3
Y00 = 0.5 / math.sqrt(math.pi)  # the constant harmonic


def degree_from_coefficients(count: int) -> int:
    """The degree d with (d + 1)^2 = `count`. Raises ValueError unless `count` is 1, 4, 9 or 16."""
    degree = math.isqrt(count) - 1
    if count != (degree + 1) ** 2 or not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"sh: expected 1, 4, 9 or 16 coefficients (degree 0 to {MAX_DEGREE}), got {count}")
    return degree


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """The (degree + 1)^2 basis values [..., K] at unit `directions` [..., 3].

    Condon-Shortley signs, m from -l to l within each l: the layout of the 3DGS PLY format (Kerbl et al. 2023; the
    polynomials are those of Sloan, "Efficient spherical harmonic evaluation", 2013).
    """
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, Y00)]
    if degree >= 1:
        c1 = math.sqrt(3 / (4 * math.pi))
        basis += [-c1 * y, c1 * z, -c1 * x]
    if degree >= 2:
        c2 = math.sqrt(15 / math.pi) / 2
        basis += [
            c2 * x * y,
            -c2 * y * z,
            math.sqrt(5 / math.pi) / 4 * (2 * z * z - x * x - y * y),
            -c2 * x * z,
            c2 / 2 * (x * x - y * y),
        ]
    if degree >= 3:
        c30, c31 = math.sqrt(7 / math.pi) / 4, math.sqrt(21 / (2 * math.pi)) / 4
        c32, c33 = math.sqrt(105 / math.pi) / 4, math.sqrt(35 / (2 * math.pi)) / 4
        basis += [
            -c33 * y * (3 * x * x - y * y),
            2 * c32 * x * y * z,
            -c31 * y * (4 * z * z - x * x - y * y),
            c30 * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -c31 * x * (4 * z * z - x * x - y * y),
            c32 * z * (x * x - y * y),
            -c33 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(basis, dim=-1)


def sh_to_color(sh: Tensor, directions: Tensor) -> Tensor:
    """Colours [..., 3] of coefficients `sh` [..., K, 3] seen along unit `directions` [..., 3]: max(0, basis . sh + 0.5)."""
    basis = sh_basis(directions, degree_from_coefficients(sh.shape[-2]))
    return ((basis[..., None] * sh).sum(-2) + 0.5).clamp_min(0)


def color_to_sh(color: Tensor) -> Tensor:
    """The degree-0 coefficients [...] that give `color` [...]; the inverse of `sh_to_color` for K = 1."""
    return (color - 0.5) / Y00


def sh_to_base_color(coefficients: Tensor) -> Tensor:
    """The view-independent part of the colour, unclamped, from degree-0 coefficients [...]."""
    return coefficients * Y00 + 0.5
