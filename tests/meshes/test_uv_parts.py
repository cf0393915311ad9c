"""The steps of UV unwrapping and the metrics that judge layouts, each on its own."""

import numpy as np
import pytest
from surfaces import SIZE, plane, signed_areas, sphere, spiral

from microdreamer.meshes.unwrap import charts as uv_charts
from microdreamer.meshes.unwrap import flatten as uv_flatten
from microdreamer.meshes.unwrap import overlaps as uv_overlaps
from microdreamer.meshes.unwrap import packing as uv_packing
from microdreamer.meshes.unwrap import parametrize as uv_unwrap
from microdreamer.meshes.unwrap.parametrize import unwrap
from microdreamer.metrics import uvs as uv_quality

# --- parts -----------------------------------------------------------------------------------------------------------------


def test_pairs_are_across_plain_edges_only():
    faces = np.array([[0, 1, 2], [2, 1, 3], [1, 2, 4], [0, 2, 5], [1, 0, 6], [0, 1, 7], [0, 5, 8]])
    pairs = uv_charts.face_pairs(np.random.default_rng(0).standard_normal((9, 3)), faces)
    # 1-2 has three faces and so has 0-1; faces 3 and 6 wind edge 0-5 both the same way or not: 5->0 and 0->5.
    found = {tuple(sorted(pair)) for pair in zip(pairs.one.tolist(), pairs.other.tolist(), strict=True)}
    assert found == {(0, 3), (3, 6)}


def test_relaxing_keeps_what_is_flat_and_lowers_stretch():
    vertices, faces = plane()
    areas = np.full(len(faces), 0.7 / len(faces))
    flat = vertices[:, 0] + 1j * vertices[:, 1]
    np.testing.assert_allclose(uv_flatten.relax(flat, faces, vertices, areas), flat, atol=1e-12)
    squeezed = 0.8 * vertices[:, 0] + 1.1j * vertices[:, 1]
    relaxed = uv_flatten.relax(squeezed, faces, vertices, areas)
    lengths = [np.abs(values[faces[:, 0]] - values[faces[:, 1]]) for values in (flat, squeezed, relaxed)]
    assert np.abs(lengths[2] - lengths[0]).max() < 0.25 * np.abs(lengths[1] - lengths[0]).max()


@pytest.mark.parametrize("diagonals", [0, 5])
def test_relaxing_ends_where_it_has_converged(diagonals):
    """A cube's charts of two faces are flat after a few steps; further ones followed rounding errors to infinity."""
    vertices = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    quads = [quad[turn:] + quad[:turn] for quad, turn in zip(quads, (diagonals >> np.arange(6)) & 1, strict=True)]
    faces = np.array([[(a, b, c), (a, c, d)] for a, b, c, d in quads]).reshape(-1, 3)
    layout = unwrap(vertices, faces, resolution=128)
    assert np.isfinite(layout.uvs).all()
    assert uv_quality.stretch(vertices, faces, layout.uvs, layout.uv_faces).l2 < 1.1


def test_masks_cover_their_faces():
    random = np.random.default_rng(0)
    for scale in (0.5, 3.0, 20.0):
        triangle = (random.random(3) + 1j * random.random(3)) * scale
        triangle -= triangle.real.min() + 1j * triangle.imag.min()
        sizes = np.array([[triangle.real.max(), triangle.imag.max()]])
        margin = 0.4
        mask = uv_packing.Charts(triangle[None], np.zeros(1, int), sizes).masks(1.0, 1.0, margin).of(0)
        weights = random.dirichlet(np.ones(3), 4000)
        points = weights @ triangle + (1 + 1j) * margin
        # Points around the face, within the margin in both directions.
        points = points + margin * (random.uniform(-1, 1, 4000) + 1j * random.uniform(-1, 1, 4000))
        assert mask[points.imag.astype(int), points.real.astype(int)].all()
        if scale == 20.0:
            assert mask.sum() < 0.9 * mask.size  # and not all of its box


@pytest.mark.parametrize("largest", [14, 3])
def test_placed_masks_do_not_meet(largest):
    """Also where there are so many tiny ones that these go to a lattice."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, largest + 1, (60, 2))
    left = np.cumsum(sizes[:, 0]) - sizes[:, 0]
    cells = (random.random((largest, sizes[:, 0].sum())) < 0.7).astype(np.uint8)
    cells[0, left] = 1
    masks = uv_packing.Masks(cells, left, sizes)
    for order in uv_packing._orders(masks):
        occupied = (random.random((5, 40)) < 0.3).astype(np.uint8)
        places, turns, after = uv_packing.place(masks, order, occupied)
        filled = np.zeros(after.shape, int)
        filled[:5] = occupied
        for chart, ((x, y), turn) in enumerate(zip(places, turns, strict=True)):
            mask = np.rot90(masks.of(chart), turn)
            filled[y : y + mask.shape[0], x : x + mask.shape[1]] += mask
        assert np.array_equal(filled, after) and after[-1].any()


def test_a_mask_wider_than_the_strip_is_not_placed():
    masks = uv_packing.Masks(np.ones((6, 7), np.uint8), np.zeros(1, int), np.array([[7, 6]]))
    assert uv_packing.place(masks, np.zeros(1, int), np.zeros((0, 5), np.uint8)) is None
    assert uv_packing.place(masks, np.zeros(1, int), np.zeros((0, 6), np.uint8)) is not None


def squares(*corners, side=1.0):
    """Two faces each [2 N,3] of squares whose lower left corners are given, and the square of each face."""
    a, b, c, d = (np.array(corners) + side * step for step in (0, 1, 1 + 1j, 1j))
    return np.stack([np.stack([a, b, c], 1), np.stack([a, c, d], 1)], 1).reshape(-1, 3), np.repeat(np.arange(len(corners)), 2)


def test_charts_are_added_where_a_packing_left_room():
    triangles, labels = squares(*range(0, 9, 3), side=2)
    resolution, padding = 96, 2
    packed, packing = uv_packing.pack(triangles, labels, np.arange(18), np.full(6, 2.0), resolution, padding)
    lengths = np.abs(packed[:, 1] - packed[:, 0])
    np.testing.assert_allclose(lengths[::2], 2 * packing.scale)
    fitting, rounds = packed[:2] * 0.25, 0
    all_faces = [packed]
    while rounds <= 50 and (added := uv_packing.add(fitting, np.zeros(2, int), packing)) is not None:
        rounds += 1
        faces, packing = added
        np.testing.assert_allclose(np.abs(faces[:, 1] - faces[:, 0]), np.abs(fitting[:, 1] - fitting[:, 0]))
        all_faces.append(faces)
    assert 3 <= rounds <= 50  # no room any more
    faces = np.concatenate(all_faces)
    low, high = (
        [ends(part.reshape(-1, 6), axis=1) for part in (faces.real, faces.imag)] for ends in (np.min, np.max)
    )  # of the squares' boxes, on either axis
    assert np.min(low) >= padding / 2 - 1e-9 and np.max(high) <= resolution - padding / 2 + 1e-9
    for one in range(len(low[0])):
        gaps = np.maximum(*(np.maximum(a - b[one], a[one] - b) for a, b in zip(low, high, strict=True)))
        assert np.delete(gaps, one).min() >= padding - 1e-9


@pytest.mark.parametrize("has_room", [True, False])
def test_charts_that_cover_themselves_once_packed_are_cut_again(has_room, monkeypatch):
    """A surface so rough that a chart crosses itself between the lines of the first checks: a part finds a place, or all move."""
    added, packed, add, pack = [], [], uv_packing.add, uv_packing.pack
    monkeypatch.setattr(uv_packing, "add", lambda *arguments: added.append(add(*arguments) if has_room else None) or added[-1])
    monkeypatch.setattr(uv_packing, "pack", lambda *arguments: packed.append(pack(*arguments)) or packed[-1])
    vertices, faces = sphere(4)
    vertices = vertices * (1 + 0.15 * np.random.default_rng(1).standard_normal((len(vertices), 1)))
    layout = unwrap(vertices, faces, resolution=SIZE)
    assert len(added) >= 1 and len(packed) == (1 if has_room else 1 + len(added))
    assert signed_areas(layout).min() > 0 and uv_quality.overlapping_texels(*layout, SIZE) == 0


def test_overlaps_of_squares_and_the_faces_at_them():
    # Chart 0: two squares that share a part of 3 x 5 texels; chart 1: the same place, but only once; chart 2: side by side.
    triangles, square = squares(0, 7 + 5j, 0, 20, 30, side=10)
    labels = np.array([0, 0, 1, 2, 2])[square]
    border = np.flatnonzero(~np.isin(np.arange(30), [20, 22, 24, 26, 28, 1, 3, 5, 7, 9]))
    doubles = uv_overlaps.double_spans(triangles, labels, border)
    assert (doubles.chart == 0).all() and np.array_equal(doubles.row, np.arange(5, 10))
    np.testing.assert_allclose([doubles.left, doubles.right], [[7.0] * 5, [10.0] * 5])
    faces, spans = uv_overlaps.involved_faces(triangles, labels, doubles)
    expected = set()
    for span, row in enumerate(doubles.row):
        for face in range(4):
            x = np.linspace(7.05, 9.95, 30) + 1j * (row + 0.5)
            a, b, c = triangles[face]
            inside = [((q - p).conj() * (x - p)).imag >= 0 for p, q in ((a, b), (b, c), (c, a))]
            if np.all(inside, axis=0).any():
                expected.add((face, span))
    assert set(zip(faces.tolist(), spans.tolist(), strict=True)) == expected and len(faces) == len(expected)


def test_splitting_ends_where_no_chart_covers_itself():
    vertices, faces = spiral()
    triangles = (vertices[:, 0] - 1j * vertices[:, 1])[faces] * 40  # counter-clockwise
    pairs = uv_charts.face_pairs(vertices, faces)
    one = np.zeros(len(faces), np.int64)
    assert len(uv_overlaps.double_spans(triangles, one, uv_charts.border(pairs, one)).chart) > 0
    labels = uv_unwrap._split_until_single(triangles, one, pairs, vertices[faces].mean(1)[:, 2])
    assert len(uv_overlaps.double_spans(triangles, labels, uv_charts.border(pairs, labels)).chart) == 0
    assert 3 <= len(np.unique(labels)) <= 20


def test_one_direction_sees_what_was_merged():
    vertices, faces = sphere(3)
    vertices = vertices * (1 + 0.06 * np.random.default_rng(0).standard_normal((len(vertices), 1)))
    normals = np.cross(*(vertices[faces[:, k]] - vertices[faces[:, 0]] for k in (1, 2))) / 2
    pairs = uv_charts.face_pairs(vertices, faces)
    regions = np.arange(len(faces))
    merged = uv_charts.merge_regions(pairs, regions, normals, uv_charts.direction_bins(normals))
    assert len(np.unique(merged)) == merged.max() + 1 < len(faces) / 20
    assert uv_charts.connected_regions(pairs.one, pairs.other, merged).max() == merged.max()
    areas = np.linalg.norm(normals, axis=1)
    sums = np.stack([np.bincount(merged, column) for column in normals.T], axis=1)
    assert (np.linalg.norm(sums, axis=1) / np.bincount(merged, areas)).min() > uv_charts.MIN_MEAN_COSINE


def test_chart_vertices_are_numbered_by_chart_then_vertex():
    random = np.random.default_rng(0)
    faces, labels = random.integers(3, 40, (100, 3)), random.integers(0, 5, 100)
    corners, vertex, chart = uv_flatten.chart_vertices(faces, labels)
    assert (vertex[corners] == faces).all() and (chart[corners] == labels[:, None]).all()
    keys = list(zip(chart.tolist(), vertex.tolist(), strict=True))
    assert keys == sorted(set(keys)) and set(corners.reshape(-1).tolist()) == set(range(len(keys)))


def test_neighbours_and_borders():
    vertices, faces = plane()
    pairs = uv_charts.face_pairs(vertices, faces)
    near, lengths = uv_charts.neighbours(pairs, len(faces))
    labels = (vertices[faces].mean(1)[:, 0] > 0.5).astype(int)
    border = uv_charts.border(pairs, labels)
    for face, corners in enumerate(faces):
        for corner in range(3):
            ends = {corners[corner], corners[(corner + 1) % 3]}
            others = [other for other, theirs in enumerate(faces) if other != face and ends <= set(theirs)]
            assert near[corner, face] == (others[0] if others else face)
            length = np.linalg.norm(np.subtract(*vertices[list(ends)])) if others else 0
            assert lengths[corner, face] == pytest.approx(length)
            at_border = not others or labels[others[0]] != labels[face]
            assert (corner * len(faces) + face in border) == at_border
    assert len(np.unique(border)) == len(border)
    of_one = uv_charts.border(pairs, labels, labels == 1)
    assert set(of_one) == {edge for edge in border if labels[edge % len(faces)] == 1}


# --- metrics ---------------------------------------------------------------------------------------------------------------


def test_stretch_of_a_square_squeezed_by_two():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    uvs = vertices[:, :2] * [0.25, 0.5]
    measured = uv_quality.stretch(vertices, faces, uvs, faces)
    # Singular values 4 and 2 from texture to surface, with an area factor of 1/8: sqrt((16 + 4) / 2 / 8), 4 / sqrt(8).
    assert measured.l2 == pytest.approx(np.sqrt(1.25)) and measured.l_inf == pytest.approx(np.sqrt(2))
    assert uv_quality.density_spread(vertices, faces, uvs, faces) == pytest.approx(0, abs=1e-9)
    assert uv_quality.stretch(vertices, faces, uvs * [0, 1], faces).l2 == np.inf


def test_texel_counts_of_known_layouts():
    uvs = np.array([[0, 0], [0.5, 0], [0.5, 1], [0, 1]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    assert uv_quality.texel_use(uvs, faces, 64) == 0.5
    assert uv_quality.overlapping_texels(uvs, faces, 64) == 0
    twice = np.concatenate([faces, [[0, 1, 2]]])
    counts = uv_quality.texel_counts(uvs, twice, 64)
    assert counts.max() == 2 and uv_quality.overlapping_texels(uvs, twice, 64) == pytest.approx(64 * 32 / 2, abs=64)
    assert counts[:, 32:].max() == 0 and counts[0, 31] == 2 and counts[63, 0] == 1


def test_charts_and_seams_of_two_squares():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0], [2, 1, 0.0]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [1, 4, 5], [1, 5, 2]])
    assert uv_quality.chart_count(faces) == 1 and uv_quality.seam_share(vertices, faces, faces) == 0
    cut = faces.copy()
    cut[2:] = [[6, 4, 5], [6, 5, 7]]
    assert uv_quality.chart_count(cut) == 2
    assert uv_quality.seam_share(vertices, faces, cut) == pytest.approx(1 / (1 + 2 * np.sqrt(2)))
