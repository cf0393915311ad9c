"""Spherical harmonics: orthonormal, with the published values."""

import numpy as np
import torch

from microdreamer.kernels.spherical_harmonics import color_to_sh, sh_basis, sh_to_base_color, sh_to_color


def test_spherical_harmonics_are_orthonormal():
    # Gauss-Legendre in z and even steps in azimuth integrate products of degree 6 exactly.
    nodes, node_weights = np.polynomial.legendre.leggauss(8)
    azimuth = 2 * np.pi * np.arange(16) / 16
    z, angle = (torch.tensor(grid).reshape(-1) for grid in np.meshgrid(nodes, azimuth, indexing="ij"))
    weights = torch.tensor(node_weights).repeat_interleave(16) * 2 * torch.pi / 16
    radius = (1 - z * z).sqrt()
    basis = sh_basis(torch.stack([radius * angle.cos(), radius * angle.sin(), z], -1), 3)
    torch.testing.assert_close(basis.T @ (weights[:, None] * basis), torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12)


def test_spherical_harmonics_have_the_published_values():
    """The 16 of 3DGS files along (0.36, -0.48, 0.8), by the published polynomials in float64: constants, order and signs."""
    expected = [0.282094791774, 0.234529205713, 0.390882009522, -0.175896904285]
    expected += [-0.188792368806, 0.419538597347, 0.290160240032, -0.314653948011, -0.055064440902]
    expected += [0.044862194229, -0.399598125831, 0.482640364234, 0.059708213214, -0.361980273176, -0.116549453367, 0.119292652837]
    found = sh_basis(torch.tensor([0.36, -0.48, 0.8], dtype=torch.float64), 3)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-11)


def test_base_color_round_trip():
    color = torch.rand(5, 3)
    torch.testing.assert_close(sh_to_base_color(color_to_sh(color)), color)
    seen = sh_to_color(color_to_sh(color)[:, None], torch.nn.functional.normalize(torch.randn(5, 3), dim=-1))
    torch.testing.assert_close(seen, color)
