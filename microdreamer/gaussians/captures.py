"""Gaussians that other programs trained on photographs, made fit for meshing: stood upright, cleaned, and placed in a frame.

Captures come Y-down, Z-up, of any size, anywhere, with a few Gaussians far from everything else ("floaters"), faint ones and huge ones. A
frame by the means' box alone would give the object what these leave of the grid: 12 floaters among 3 000 cost 98 % of the faces.
Parameters are raw ones by name, numpy arrays of N rows (see `formats.ply.write_ply`).
"""

from __future__ import annotations

import copy
import logging
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.ndimage import label
from scipy.spatial import cKDTree

from microdreamer.gaussians.formats.common import sigmoid
from microdreamer.gaussians.rotation import turned

if TYPE_CHECKING:
    from microdreamer.gaussians.model import GaussianModel

log = logging.getLogger(__name__)

Parameters = dict[str, np.ndarray]


# The frame: what of the opacity lies within, and how much of it a floater may not have.
FRAME_SHARE = 0.98
CELLS = 32  # across the frame, of the grid in which Gaussians that touch form one part
NEIGHBOURS = 2  # and no narrower than this many times the distance of nearest neighbours, except for the loneliest tenth
MAX_CELLS = 1 << 25  # a grid of all of a capture may be no larger; what lies farther out is a floater anyway
MIN_PART = 0.01  # of the opacity of all: smaller parts are floaters,
MIN_BULK = 0.5  # unless they hold more than the rest: such a set is scattered by nature
ROUNDS = 4  # of cleaning, as the frame tightens when floaters go
MIN_OPACITY = 0.01  # as at the end of stage 1
MOST_WHITE = 0.05  # of the opacity, that stage 1's filter of white floaters may take
MAX_SCALE = 0.125  # of the frame's reach: 0.1 in the frame of stage 1, whose objects reach 0.8
TYPICAL_SCALES = 4  # but never less than this many times the usual length: few wide Gaussians are no outliers
NODE = 1 / 64  # of the frame's reach, about the step of a density field of 128 nodes
LEAST_SCALE = 5e-4  # of the reach; thinner in two directions, a Gaussian's covariance has no inverse in the density's arithmetic

# A floor: the outermost 4 % of the height hold a tenth of the opacity or more, spread 1.4 times as wide as all the rest.
FLOOR_HEIGHT, FLOOR_SHARE, FLOOR_SPREAD = 0.04, 0.1, 1.4


class Extent(NamedTuple):
    """Where the bulk of a set of Gaussians is: a middle [3] and the distance from it within which nearly all of the opacity lies."""

    center: np.ndarray
    reach: float


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The least of `values` [N] up to which at least `share` of the sum of `weights` [N] lies."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][min(np.searchsorted(total, share * total[-1]), len(values) - 1)])


def opacities_of(parameters: Parameters) -> np.ndarray:
    """Opacities [N] in float64, 0 and 1 where they are so in float32."""
    return sigmoid(parameters["opacity_logits"]).astype(np.float32).astype(np.float64)


def extent_of(parameters: Parameters, share: float = FRAME_SHARE) -> Extent:
    """The extent by opacity-weighted quantiles: the middle of the box that holds `share` of the opacity on every axis, and the distance
    from it within which `share` of the opacity lies. Raises ValueError where all Gaussians that are not transparent fall into one."""
    means, weights = parameters["means"].astype(np.float64), opacities_of(parameters)
    if not weights.sum() > 0:
        raise ValueError(f"expected Gaussians that can be seen, got {len(weights)} of opacity 0")
    outside = (1 - share) / 2
    bounds = [[weighted_quantile(axis, weights, q) for q in (outside, 1 - outside)] for axis in means.T]
    center = np.mean(bounds, axis=1)
    return Extent(center, weighted_quantile(np.linalg.norm(means - center, axis=1), weights, share))


# ---- Upright ----


def upright(parameters: Parameters, up: str, stated: str | None = None) -> Parameters:
    """The Gaussians turned about the origin so that `up` ("x", "-x", ..., "-z") becomes +y; "auto" takes `up_axis`.

    A turn that "auto" takes is logged.
    """
    axis = up_axis(parameters, stated) if up == "auto" else up
    if axis == "y":
        return parameters
    if up == "auto":
        reason = "as the file says" if stated else "by its floor"
        log.warning("up=%s taken, %s; pass up=y to leave the Gaussians as they lie", axis, reason)
    return turned(parameters, turn_to_y(axis))


def turn_to_y(axis: str) -> np.ndarray:
    """The rotation matrix [3,3] that takes `axis` ("x", "-x", ..., "-z") to +y, by a quarter or half turn about one axis.

    z goes to y with x staying, as when Z-up files are read into Y-up programs; x goes to y with z staying; -y turns about x, as
    between the camera's axes of computer vision and those of graphics.
    """
    x, y, z = np.eye(3)
    rows = {"x": (-y, x, z), "-x": (y, -x, z), "y": (x, y, z), "-y": (x, -y, -z), "z": (x, z, -y), "-z": (x, -z, y)}
    return np.stack(rows[axis])


def up_axis(parameters: Parameters, stated: str | None = None) -> str:
    """The axis that is up: the one `stated` by the file, else away from the floor, else y.

    A floor is a flat end of the set: along one axis, the outermost 4 % of the height (between the quantiles that leave 0.5 % of the
    opacity out at either end) hold a tenth of the opacity or more, and lie 1.4 times as wide in both other directions as all the
    rest. Nothing is taken for a floor where two ends look like one, or none does.
    """
    if stated:
        return stated
    means, weights = parameters["means"].astype(np.float64), opacities_of(parameters)
    if len(means) < 2 or not weights.sum() > 0:
        return "y"
    floors = [
        name
        for index, letter in enumerate("xyz")
        for name, sign in ((letter, 1), (f"-{letter}", -1))
        if _is_floor(means, weights, index, sign)
    ]
    return floors[0] if len(floors) == 1 else "y"


def _is_floor(means: np.ndarray, weights: np.ndarray, axis: int, sign: int) -> bool:
    """Whether the low end of the axis, or the high end for sign -1, is a floor."""
    heights = sign * means[:, axis]
    low, high = (weighted_quantile(heights, weights, share) for share in (0.005, 0.995))
    slab = (heights >= low) & (heights <= low + FLOOR_HEIGHT * (high - low))
    rest = heights > low + FLOOR_HEIGHT * (high - low)
    if not high > low or not rest.any() or weights[slab].sum() < FLOOR_SHARE * weights.sum():
        return False
    others = [index for index in range(3) if index != axis]
    return all(_spread(means[slab, other], weights[slab]) > FLOOR_SPREAD * _spread(means[rest, other], weights[rest]) for other in others)


def _spread(values: np.ndarray, weights: np.ndarray) -> float:
    """The length that holds the middle nine tenths of the weight."""
    return weighted_quantile(values, weights, 0.95) - weighted_quantile(values, weights, 0.05)


# ---- Clean ----


def kept(parameters: Parameters) -> np.ndarray:
    """Which Gaussians [N] (bool) belong to the object: not faint, not huge, not floating apart from everything else.

    Faint: opacity below 0.01. Huge: an axis longer than 0.125 of the reach of `extent_of`, and than 4 times the usual longest axis (the
    opacity-weighted median). Floating: in a part of less than 1 % of the opacity; parts are what touches in a grid of cells a
    thirty-second of the extent wide (see `connected`). Raises ValueError where none is left.
    """
    opacities = opacities_of(parameters)
    seen = opacities >= MIN_OPACITY
    if not seen.any():
        raise ValueError(f"expected Gaussians of an opacity of at least {MIN_OPACITY}; the largest is {opacities.max():.2g}")
    longest = np.exp(parameters["log_scales"].astype(np.float64).max(1))
    extent = extent_of({name: values[seen] for name, values in parameters.items()})
    usual = weighted_quantile(longest[seen], opacities[seen], 0.5)
    staying = seen & (longest <= max(MAX_SCALE * extent.reach, TYPICAL_SCALES * usual))
    if extent.reach > 0:
        staying[staying] = connected(parameters["means"][staying], opacities[staying], extent, 2 * usual)
    return staying


def connected(means: np.ndarray, weights: np.ndarray, extent: Extent, least_cell: float) -> np.ndarray:
    """Which points [N,3] lie in a part of at least 1 % of the weight [N]; all where such parts hold less than half of it.

    Parts are cells of a grid that touch, at corners too. Cells are a thirty-second of the extent wide, or `least_cell`, or twice as wide
    as neighbours are far.
    """
    distances = cKDTree(means).query(means, k=[min(2, len(means))], workers=-1)[0][:, 0]
    cell = max(2 * extent.reach / CELLS, least_cell, NEIGHBOURS * float(np.quantile(distances, 0.9)))
    near = np.abs(means - extent.center).max(1) <= cell * (MAX_CELLS ** (1 / 3) / 2 - 2)
    staying = np.zeros(len(means), bool)
    if near.any():
        cells = np.floor((means[near].astype(np.float64) - extent.center) / cell).astype(np.int64)
        cells -= cells.min(0)
        occupied = np.zeros(cells.max(0) + 1, bool)
        occupied[tuple(cells.T)] = True
        part = label(occupied, np.ones((3, 3, 3)))[0][tuple(cells.T)]
        staying[near] = (np.bincount(part, weights[near]) >= MIN_PART * weights.sum())[part]
    is_bulk = weights[staying].sum() >= MIN_BULK * weights.sum()
    return staying if is_bulk else np.ones(len(means), bool)


def cleaned(parameters: Parameters) -> Parameters:
    """The Gaussians that belong to the object, see `kept`; how many were left out is logged. Raises ValueError where none can be seen."""
    before = len(parameters["means"])
    for _ in range(ROUNDS):
        staying = kept(parameters)
        if staying.all():
            break
        parameters = {name: values[staying] for name, values in parameters.items()}
    if count := before - len(parameters["means"]):
        log.warning("%d of %d Gaussians are faint, huge or apart and are left out; clean=false keeps them", count, before)
    return parameters


def without_white_floaters(model: GaussianModel, radius: float, fov_y: float) -> GaussianModel:
    """The model after stage 1's filter of floaters, or as it was where that would take more than a twentieth of the opacity.

    It is made for Gaussians fitted on white; of a white object that was photographed before something else it would take the object.
    """
    trial = copy.deepcopy(model)
    trial.filter_floaters(radius=radius, fov_y=fov_y)
    left, before = (float(gaussians.opacities.detach().sum()) for gaussians in (trial, model))
    if len(trial) == len(model) or left < (1 - MOST_WHITE) * before:
        return model
    log.warning("%d white Gaussians float before the background and are left out; clean=false keeps them", len(model) - len(trial))
    return trial


def thickened(parameters: Parameters) -> Parameters:
    """The Gaussians with the thickness that a density field can hold.

    Flat ones (2D Gaussians have no thickness at all) would fall between its nodes: the shortest axis gets half a step of the field, but
    no more than the middle axis has. No axis stays below what the density's arithmetic can invert.
    """
    reach = extent_of(parameters).reach
    least = math.log(LEAST_SCALE * reach) if reach > 0 else -math.inf
    log_scales = np.maximum(parameters["log_scales"], np.float32(least))
    shortest, middle, _ = np.sort(log_scales, axis=1).T
    floor = np.maximum(shortest, np.minimum(middle, math.log(NODE / 2 * reach) if reach > 0 else -math.inf))
    is_shortest = log_scales.argmin(1)[:, None] == np.arange(3)
    return parameters | {"log_scales": np.where(is_shortest, floor[:, None], log_scales).astype(np.float32)}
