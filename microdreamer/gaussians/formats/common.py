"""What every format of Gaussians is read into, and the conversions that several of them share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Y00 = 0.5 / np.sqrt(np.pi)  # the constant harmonic: a base colour is Y00 * coefficient + 0.5


class RawSplats(NamedTuple):
    """N Gaussians as a file states them, before anything is judged: values may be infinite or NaN.

    means [N,3]; sh [N,K,3], K = (degree + 1)^2 harmonics of colour; log_scales [N,3]; quaternions [N,4] wxyz of any length;
    opacity_logits [N]; up: the axis that the file says is up ("y", "-z", ...), None where it does not say; remarks: lines for
    the user about how the file was understood.
    """

    means: np.ndarray
    sh: np.ndarray
    log_scales: np.ndarray
    quaternions: np.ndarray
    opacity_logits: np.ndarray
    up: str | None = None
    remarks: tuple[str, ...] = ()


def logit(probability: np.ndarray) -> np.ndarray:
    """The inverse of the sigmoid, in float64; -inf and inf at 0 and 1, NaN outside."""
    with np.errstate(divide="ignore", invalid="ignore"):
        probability = np.asarray(probability, np.float64)
        return np.log(probability) - np.log1p(-probability)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)) in float64; 0 and 1 at -inf and inf."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def log(values: np.ndarray) -> np.ndarray:
    """The natural logarithm in float64: -inf at 0, NaN below."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(np.asarray(values, np.float64))


def coefficients_of(colors: np.ndarray) -> np.ndarray:
    """Harmonics [N,1,3] of degree 0 that give base colours [N,3] in [0,1]."""
    return (((np.asarray(colors, np.float64) - 0.5) / Y00).astype(np.float32))[:, None]


def base_colors(sh_dc: np.ndarray) -> np.ndarray:
    """Base colours [N,3] in float64, not clamped, of harmonics [N,1,3] of degree 0."""
    return sh_dc[:, 0].astype(np.float64) * Y00 + 0.5


def unit_quaternions(quaternions: np.ndarray) -> np.ndarray:
    """quaternions [N,4] scaled to length 1, in float64; (1, 0, 0, 0) for those of length zero."""
    quaternions = np.asarray(quaternions, np.float64)
    lengths = np.linalg.norm(quaternions, axis=1, keepdims=True)
    return np.where(lengths > 0, quaternions / np.where(lengths > 0, lengths, 1), [1.0, 0.0, 0.0, 0.0])


def completed(three: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Unit quaternions [N,4] of their three other components [N,3], in order, and the place [N] of the largest, which is positive."""
    last = np.sqrt(np.clip(1 - (three**2).sum(1), 0, None))
    places = np.arange(4) - (np.arange(4) > largest[:, None])  # where each component stands among the three
    return np.where(np.arange(4) == largest[:, None], last[:, None], np.take_along_axis(three, np.clip(places, 0, 2), axis=1))


def smallest_three(quaternions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `completed` for unit quaternions [N,4]: signs are chosen so that the largest component is positive."""
    largest = np.abs(quaternions).argmax(1)
    signs = np.where(np.take_along_axis(quaternions, largest[:, None], axis=1) < 0, -1.0, 1.0)
    others = np.argsort(np.arange(4) == largest[:, None], axis=1, kind="stable")[:, :3]
    return np.take_along_axis(quaternions * signs, others, axis=1), largest
