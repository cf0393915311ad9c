"""Gaussians turned in space: means, axes, and the harmonics of their colours."""

from __future__ import annotations

import functools

import numpy as np
import torch

from microdreamer.gaussians.formats.common import RawSplats
from microdreamer.kernels.spherical_harmonics import sh_basis


def harmonic_rotation(turn: np.ndarray, degree: int) -> np.ndarray:
    """The real Wigner matrix [2d+1, 2d+1] of `degree` d (1 to 3): coefficients c of a colour become `matrix @ c` when it is turned.

    A turned colour shows along turn @ v what it showed along v. As the harmonics of a degree are closed under rotation, the matrix
    that takes their values at v to those at turn^T @ v follows from more directions than there are harmonics.
    """
    directions, inverse = _directions(degree)
    return inverse @ _harmonics(directions @ turn, degree)


@functools.cache
def _directions(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions [P,3] and the pseudo-inverse [2d+1,P] of the harmonics at them."""
    directions = np.random.default_rng(0).normal(size=(32, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions, np.linalg.pinv(_harmonics(directions, degree))


def _harmonics(directions: np.ndarray, degree: int) -> np.ndarray:
    """The harmonics [P, 2d+1] of one degree in float64."""
    return sh_basis(torch.from_numpy(np.ascontiguousarray(directions)), degree)[:, degree**2 :].numpy()


def turned_harmonics(sh: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Harmonics [N,K,3] of degree 0 to 3, turned."""
    turned = sh.copy()
    degree = 1
    while (degree + 1) ** 2 <= sh.shape[1]:
        band = slice(degree**2, (degree + 1) ** 2)
        turned[:, band] = np.einsum("ij,njc->nic", harmonic_rotation(turn, degree).astype(np.float32), sh[:, band])
        degree += 1
    return turned


def quaternion_of(turn: np.ndarray) -> np.ndarray:
    """The unit quaternion [4] wxyz of a rotation matrix [3,3]."""
    m = np.asarray(turn, np.float64)
    # The four squared components, and the products of each with the largest, which is safe to divide by.
    diagonal = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) @ np.diag(m) + 1
    products = np.array(
        [
            [diagonal[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], diagonal[1], m[1, 0] + m[0, 1], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[1, 0] + m[0, 1], diagonal[2], m[2, 1] + m[1, 2]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[2, 1] + m[1, 2], diagonal[3]],
        ]
    )
    row = products[diagonal.argmax()]
    return row / np.linalg.norm(row)


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The quaternion [4] `left` times each of `right` [N,4], wxyz."""
    w, v = left[0], left[1:]
    scalar = w * right[:, :1] - right[:, 1:] @ v[:, None]
    return np.concatenate([scalar, w * right[:, 1:] + right[:, :1] * v + np.cross(v, right[:, 1:])], axis=1)


def turned_raw(splats: RawSplats, turn: np.ndarray) -> RawSplats:
    """The Gaussians turned about the origin by a rotation matrix [3,3]; harmonics of degree 4 and more are left out."""
    return splats._replace(
        means=(splats.means.astype(np.float64) @ turn.T).astype(np.float32),
        sh=turned_harmonics(splats.sh[:, :16], turn),
        quaternions=product(quaternion_of(turn), splats.quaternions.astype(np.float64)).astype(np.float32),
    )


def turned(parameters: dict[str, np.ndarray], turn: np.ndarray) -> dict[str, np.ndarray]:
    """Raw parameters (see `formats.ply.write_ply`) turned about the origin by a rotation matrix [3,3]."""
    harmonics = np.concatenate([parameters["sh_dc"], parameters["sh_rest"]], axis=1)
    raw = RawSplats(parameters["means"], harmonics, parameters["log_scales"], parameters["quaternions"], parameters["opacity_logits"])
    raw = turned_raw(raw, turn)
    return parameters | {
        "means": raw.means,
        "sh_dc": np.ascontiguousarray(raw.sh[:, :1]),
        "sh_rest": np.ascontiguousarray(raw.sh[:, 1:]),
        "quaternions": raw.quaternions,
    }
