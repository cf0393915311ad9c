"""Cutting of a triangle mesh into charts: connected sets of faces that can be flattened with little stretch.

Faces are sorted by the axis direction that they look along, after smoothing of their normals; the connected regions that
result are merged where one direction still sees all of the union; faces at borders move to the chart that suits them better.
Everything is vectorised over faces or over pairs of regions. Arrays: F faces, P pairs of neighbouring faces, R regions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from microdreamer.meshes.topology import edges_of, half_edges

SMOOTHING_STEPS = 8  # of normals, before directions are chosen
BORDER_STEPS = 6  # moves of faces at borders
BORDER_PULL = 0.7  # what the agreement of all neighbours is worth, as a difference of cosines
MIN_COSINE = 0.2  # between a chart's direction and the normals of nearly all of its faces (78 degrees)
MIN_MEAN_COSINE = 0.7  # the same, mean over the area
MAX_BEYOND = 0.002  # share of the area of a merged chart that may look further away
MAX_ROUNDS = 30  # of merging; each merges every region at most once
NORMAL_BINS = 6  # a side of the cube whose cells collect directions


class FacePairs(NamedTuple):
    """Neighbours across edges that belong to exactly two faces of the same winding."""

    one: np.ndarray  # [P]
    other: np.ndarray  # [P]
    lengths: np.ndarray  # [P], of the shared edges
    half_edges: tuple[np.ndarray, np.ndarray]  # [P],[P], as of `edge_pairs`: the shared edge, as `one` and as `other` winds it
    single: np.ndarray  # half-edges that are in no pair


def edge_pairs(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half-edges [P],[P] that run along the same edge in opposite directions, where no third one does.

    They are numbered as in `topology.half_edges`; the first of each pair runs toward the higher vertex number.
    """
    one, other = edges_of(faces).pairs()
    start, end = half_edges(faces).T
    rising = start < end
    opposite = rising[one] != rising[other]
    one, other = one[opposite], other[opposite]
    return np.where(rising[one], one, other), np.where(rising[one], other, one)


def face_pairs(vertices: np.ndarray, faces: np.ndarray) -> FacePairs:
    """Neighbouring faces [F,3] of a mesh of vertices [V,3]."""
    one, other = edge_pairs(faces)
    count = max(len(faces), 1)
    corner, face = one // count, one % count
    edges = vertices[faces[face, (corner + 1) % 3]] - vertices[faces[face, corner]]
    is_single = np.ones(faces.size, bool)
    is_single[one] = is_single[other] = False
    lengths = np.sqrt(np.einsum("ij,ij->i", edges, edges))
    return FacePairs(face, other % count, lengths, (one, other), np.flatnonzero(is_single))


def border(pairs: FacePairs, labels: np.ndarray, of: np.ndarray | None = None) -> np.ndarray:
    """The half-edges at the borders of charts, numbered as in `edge_pairs`: those without a neighbour of the same label [F].

    `of` [F] chooses faces; None: all.
    """
    between = labels[pairs.one] != labels[pairs.other]
    half_edges = np.concatenate([pairs.single, *(paired[between] for paired in pairs.half_edges)])
    return half_edges if of is None else half_edges[of[half_edges % len(labels)]]


def neighbours(pairs: FacePairs, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The neighbours [3,F] of `count` faces and the lengths [3,F] of the edges between; where there is none, the face itself, at 0."""
    one, other = pairs.half_edges
    near, lengths = np.tile(np.arange(count), 3), np.zeros(3 * count)
    near[one], near[other] = pairs.other, pairs.one
    lengths[one] = lengths[other] = pairs.lengths
    return near.reshape(3, count), lengths.reshape(3, count)


def connected_regions(one: np.ndarray, other: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The number [F] of the region of equal label that each face is in, connected by the pairs `one` [P] and `other` [P]."""
    joined = labels[one] == labels[other]
    links = sparse.coo_matrix((np.ones(joined.sum(), bool), (one[joined], other[joined])), (len(labels),) * 2)
    return csgraph.connected_components(links, directed=False)[1]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)), 1e-300)[:, None]


def _sum_rows(labels: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    return np.stack([np.bincount(labels, column, count) for column in rows.T], axis=1)


def smoothed_normals(pairs: FacePairs, area_normals: np.ndarray, steps: int) -> np.ndarray:
    """Unit normals [F,3] of the surface with its small features blurred: `steps` means over face and neighbours."""
    near, _ = neighbours(pairs, len(area_normals))
    own = np.arange(len(area_normals))
    columns = np.stack([own, *near], axis=1)
    weights = np.concatenate([np.ones((len(own), 1)), columns[:, 1:] != own[:, None]], axis=1)
    neighbourhoods = sparse.csr_matrix((weights.reshape(-1), columns.reshape(-1), np.arange(0, weights.size + 1, 4)))
    normals = area_normals
    for _ in range(steps):
        normals = neighbourhoods @ normals
    return _unit(normals)


def direction_bins(normals: np.ndarray) -> np.ndarray:
    """The cell [F] of the surface of a cube that each direction passes through."""
    axis = np.abs(normals).argmax(1)
    main = np.take_along_axis(normals, axis[:, None], 1)[:, 0]
    others = np.stack([np.take_along_axis(normals, ((axis + k) % 3)[:, None], 1)[:, 0] for k in (1, 2)], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        angles = np.nan_to_num(np.arctan(others / np.abs(main)[:, None])) * (4 / np.pi)  # equal angles make cells alike
    cells = np.clip(((angles + 1) * (NORMAL_BINS / 2)).astype(np.int64), 0, NORMAL_BINS - 1)
    return ((axis * 2 + (main < 0)) * NORMAL_BINS + cells[:, 0]) * NORMAL_BINS + cells[:, 1]


def _common_means(one, other, sums, totals, histograms, bin_directions) -> np.ndarray:
    """Mean cosines [N] between the faces of regions `one` [N] and `other` [N] and their common direction, -1 where that will not do.

    sums [R,3] of the regions' normals, totals [R] of their areas and histograms [R,B] of these over directions [B,3].
    """
    union, total = sums[one] + sums[other], totals[one] + totals[other]
    means = np.sqrt(np.einsum("ij,ij->i", union, union)) / np.maximum(total, 1e-300)
    likely = np.flatnonzero(means > MIN_MEAN_COSINE)
    hidden = _unit(union[likely]) @ bin_directions.T < MIN_COSINE
    beyond = ((histograms[one[likely]] + histograms[other[likely]]) * hidden).sum(1)
    fitting = likely[beyond <= MAX_BEYOND * total[likely]]
    common = np.full(len(one), -1.0)
    common[fitting] = means[fitting]
    return common


def merge_regions(pairs: FacePairs, regions: np.ndarray, area_normals: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Region numbers [F] after merging neighbours that one direction sees together; `bins` [F] as of `direction_bins`.

    In every round the pairs that merge are those that are each other's best: the ones with the longest common border
    for the smaller one's whole border.
    """
    areas = np.sqrt(np.einsum("ij,ij->i", area_normals, area_normals))
    bin_count = 6 * NORMAL_BINS**2
    bin_directions = _unit(_sum_rows(bins, _unit(area_normals), bin_count))
    count = int(regions.max(initial=-1)) + 1
    histograms = np.bincount(regions * bin_count + bins, areas, count * bin_count).reshape(count, bin_count)
    totals = histograms.sum(1)
    sums = _sum_rows(regions, area_normals, count)
    between = regions[pairs.one] != regions[pairs.other]
    one, other, lengths = regions[pairs.one[between]], regions[pairs.other[between]], pairs.lengths[between]
    # The mean cosine of every pair of regions, -1 where no direction sees them together, and NaN until it is known.
    means = np.full(len(one), np.nan)
    target = np.arange(count)
    for _ in range(MAX_ROUNDS):
        if len(one) == 0:
            break
        keys, first, inverse = np.unique(np.minimum(one, other) * count + np.maximum(one, other), return_index=True, return_inverse=True)
        lengths, means = np.bincount(inverse, lengths), means[first]
        one, other = keys // count, keys % count
        border = np.bincount(one, lengths, count) + np.bincount(other, lengths, count)
        new = np.flatnonzero(np.isnan(means))
        means[new] = _common_means(one[new], other[new], sums, totals, histograms, bin_directions)
        fits = means >= 0
        merit = np.where(fits, lengths / np.minimum(border[one], border[other]) + means, -1.0)
        best = np.full(count, -1.0)
        np.maximum.at(best, one, merit)
        np.maximum.at(best, other, merit)
        chosen = np.flatnonzero(fits & (merit == best[one]) & (merit == best[other]))
        # Equal merits may choose a region twice: the first pair wins.
        seen = np.full(count, len(keys))
        np.minimum.at(seen, one[chosen], chosen)
        np.minimum.at(seen, other[chosen], chosen)
        chosen = chosen[(seen[one[chosen]] == chosen) & (seen[other[chosen]] == chosen)]
        if len(chosen) == 0:
            break
        kept, gone = one[chosen], other[chosen]
        histograms[kept] += histograms[gone]
        totals[kept] += totals[gone]
        sums[kept] += sums[gone]
        step = np.arange(count)
        step[gone] = kept
        target = step[target]
        grown = np.zeros(count, bool)
        grown[kept] = True
        one, other = step[one], step[other]
        means[grown[one] | grown[other]] = np.nan
        apart = one != other
        one, other, lengths, means = one[apart], other[apart], lengths[apart], means[apart]
    is_left = target == np.arange(count)
    return (np.cumsum(is_left) - 1)[target][regions]


def move_borders(pairs: FacePairs, labels: np.ndarray, normals: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Labels [F] after faces at borders took the label of the neighbour that suits them best, counting how many agree."""
    count = len(labels)
    near, lengths = neighbours(pairs, count)
    border_shares = lengths / np.maximum(lengths.sum(0), 1e-300)
    for step in range(BORDER_STEPS):
        at_border = np.flatnonzero((labels[near] != labels).any(0))
        if step % 2:  # neighbours that swap labels for ever stand still in turn
            at_border = at_border[at_border % 2 == (step // 2) % 2]
        if len(at_border) == 0:
            continue
        # Candidates: the own label and those of the neighbours.
        own, around = labels[at_border], labels[near[:, at_border]]
        normal, shares = normals[at_border], BORDER_PULL * border_shares[:, at_border]
        best, best_suits = own, np.full(len(own), -np.inf)
        for label in (own, *around):
            agreeing = sum(share * (other == label) for share, other in zip(shares, around, strict=True))
            suits = np.einsum("ij,ij->i", normal, directions[label]) + agreeing
            better = suits > best_suits
            best, best_suits = np.where(better, label, best), np.where(better, suits, best_suits)
        labels = labels.copy()
        labels[at_border] = best
    return labels


def chart_directions(labels: np.ndarray, area_normals: np.ndarray) -> np.ndarray:
    """Unit directions [C,3] that charts face: the mean normals of their areas."""
    return _unit(_sum_rows(labels, area_normals, int(labels.max()) + 1))


def cut_into_charts(pairs: FacePairs, area_normals: np.ndarray) -> np.ndarray:
    """Chart numbers [F], from 0; `area_normals` [F,3] are as long as the faces' areas."""
    if len(area_normals) == 0:
        return np.zeros(0, np.int64)
    normals = smoothed_normals(pairs, area_normals, SMOOTHING_STEPS)
    labels = np.abs(normals).argmax(1)
    labels = 2 * labels + (np.take_along_axis(normals, labels[:, None], 1)[:, 0] < 0)
    bins = direction_bins(area_normals)
    regions = merge_regions(pairs, connected_regions(pairs.one, pairs.other, labels), area_normals, bins)
    directions = chart_directions(regions, area_normals)
    regions = connected_regions(pairs.one, pairs.other, move_borders(pairs, regions, normals, directions))
    return merge_regions(pairs, regions, area_normals, bins)
