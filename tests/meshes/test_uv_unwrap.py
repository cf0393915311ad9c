"""UV unwrapping: layouts without overlaps on all kinds of meshes, and the metrics that judge them."""

import numpy as np
import pytest
import trimesh
from scipy import ndimage

from microdreamer.kernels import extension
from microdreamer.meshes.unwrap import charts as uv_charts
from microdreamer.meshes.unwrap import flatten as uv_flatten
from microdreamer.meshes.unwrap import overlaps as uv_overlaps
from microdreamer.meshes.unwrap import packing as uv_packing
from microdreamer.meshes.unwrap import parametrize as uv_unwrap
from microdreamer.meshes.unwrap.parametrize import unwrap
from microdreamer.metrics import uvs as uv_quality

SIZE = 512


def grid_surface(columns, rows, position, wrap_u=False, wrap_v=False):
    """Vertices and faces of a surface position(u, v) with u, v in [0, 1]."""
    nu, nv = columns + (not wrap_u), rows + (not wrap_v)
    u, v = np.meshgrid(np.arange(nu) / columns, np.arange(nv) / rows, indexing="ij")
    vertices = np.stack(position(u, v), axis=-1).reshape(-1, 3)
    i, j = (index.reshape(-1) for index in np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"))
    a, b = i * nv + j, (i + 1) % nu * nv + j
    c, d = (i + 1) % nu * nv + (j + 1) % nv, i * nv + (j + 1) % nv
    return vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def plane():
    return grid_surface(12, 9, lambda u, v: (u, 0.7 * v, 0 * u))


def sphere(subdivisions=4):
    mesh = trimesh.creation.icosphere(subdivisions)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def torus():
    mesh = trimesh.creation.torus(1.0, 0.35)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def open_cylinder():
    return grid_surface(40, 10, lambda u, v: (np.cos(2 * np.pi * u), np.sin(2 * np.pi * u), 3 * v), wrap_u=True)


def moebius():
    vertices, faces = grid_surface(
        60,
        6,
        lambda u, v: (
            (1 + 0.6 * (v - 0.5) * np.cos(np.pi * u)) * np.cos(2 * np.pi * u),
            (1 + 0.6 * (v - 0.5) * np.cos(np.pi * u)) * np.sin(2 * np.pi * u),
            0.6 * (v - 0.5) * np.sin(np.pi * u),
        ),
    )
    last, first = 60 * 7 + np.arange(7), np.arange(7)
    target = np.arange(len(vertices))
    target[last] = first[::-1]
    return vertices, target[faces]


def spiral():
    """A ramp that winds three times around an axis: one connected sheet above itself, all of it seen from above."""
    return grid_surface(90, 6, lambda u, v: ((1 + v) * np.cos(6 * np.pi * u), (1 + v) * np.sin(6 * np.pi * u), 0.5 * u))


def rough_sphere():
    vertices, faces = sphere(4)
    return vertices * (1 + 0.03 * np.random.default_rng(0).standard_normal((len(vertices), 1))), faces


def box():
    mesh = trimesh.creation.box((1, 2, 0.3))
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def soup():
    random = np.random.default_rng(0)
    return random.standard_normal((600, 3)), np.arange(600).reshape(-1, 3)


def crowded_edges():
    vertices, faces = sphere(2)
    fins = np.array([[a, b, len(vertices)] for a, b in faces[::20, :2]])
    return np.concatenate([vertices, [[3.0, 0, 0]]]), np.concatenate([faces, fins, faces[:10], faces[5:15, ::-1]])


def several():
    parts = [(v + 3 * k, f) for k, (v, f) in enumerate((sphere(2), torus(), plane(), moebius()))]
    starts = np.cumsum([0, *(len(v) for v, _ in parts)])
    return np.concatenate([v for v, _ in parts]), np.concatenate([f + s for (_, f), s in zip(parts, starts[:-1], strict=True)])


def one_triangle():
    return np.array([[0, 0, 0], [4, 0, 0], [0, 3, 0.0]]), np.array([[0, 1, 2]])


def needles():
    """Faces hundreds of times as long as high, among others."""
    return grid_surface(3, 200, lambda u, v: (u, 0.2 * v + 0.1 * np.sin(7 * u), 0.05 * np.cos(9 * v)))


MESHES = [plane, sphere, torus, open_cylinder, moebius, spiral, rough_sphere, box, soup, crowded_edges, several, one_triangle, needles]


def signed_areas(layout, resolution=1.0):
    a, b, c = (layout.uvs[layout.uv_faces[:, k]].astype(np.float64) * resolution for k in range(3))
    return ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2


def chart_pictures(layout, resolution):
    """The chart at each texel centre, -1 where there is none, drawn without help of the code under test."""
    charts = uv_quality.face_charts(layout.uv_faces)
    picture = np.full((resolution, resolution), -1)
    for chart, triangle in zip(charts, layout.uvs[layout.uv_faces].astype(np.float64) * resolution, strict=True):
        low, high = np.floor(triangle.min(0)).astype(int), np.ceil(triangle.max(0)).astype(int)
        x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
        inside = np.ones(x.shape, bool)
        for k in range(3):
            start, edge = triangle[k], triangle[(k + 1) % 3] - triangle[k]
            inside &= edge[0] * (y + 0.5 - start[1]) - edge[1] * (x + 0.5 - start[0]) >= 0
        picture[y[inside], x[inside]] = chart
    return picture


@pytest.mark.parametrize("make", MESHES, ids=lambda make: make.__name__)
def test_layouts_are_valid(make):
    vertices, faces = make()
    layout = unwrap(vertices, faces, resolution=SIZE, padding=2)
    assert layout.uvs.dtype == np.float32 and layout.uv_faces.dtype == np.int32 and layout.uv_faces.shape == faces.shape
    assert np.isfinite(layout.uvs).all() and layout.uvs.min() >= 0 and layout.uvs.max() <= 1
    assert (np.unique(layout.uv_faces) == np.arange(len(layout.uvs))).all()
    assert signed_areas(layout).min() > 0  # counter-clockwise, none without area
    assert uv_quality.overlapping_texels(*layout, SIZE) == 0
    # A corner of the layout belongs to one vertex.
    owner = np.full(len(layout.uvs), -1)
    owner[layout.uv_faces] = faces
    assert (owner[layout.uv_faces] == faces).all()


@pytest.mark.parametrize("make", [sphere, several, soup, box], ids=lambda make: make.__name__)
@pytest.mark.parametrize("padding", [0, 2, 5])
def test_charts_are_apart(make, padding):
    layout = unwrap(*make(), resolution=SIZE, padding=padding)
    picture = chart_pictures(layout, SIZE)
    charts = int(picture.max()) + 1
    assert charts > 1
    nearest = np.inf
    for chart in range(min(charts, 12)):
        if not (picture == chart).any():
            continue
        distances = ndimage.distance_transform_edt(picture != chart)
        nearest = min(nearest, distances[(picture >= 0) & (picture != chart)].min())
    # Texel centres in two charts are as far apart as the charts, at least.
    assert nearest >= padding


def test_the_padding_keeps_from_the_border_too():
    layout = unwrap(*sphere(3), resolution=256, padding=8)
    assert layout.uvs.min() >= 4 / 256 - 1e-6 and layout.uvs.max() <= 1 - 4 / 256 + 1e-6


def test_a_plane_is_one_chart_without_stretch():
    vertices, faces = plane()
    layout = unwrap(vertices, faces, resolution=SIZE)
    assert uv_quality.chart_count(layout.uv_faces) == 1 and uv_quality.seam_share(vertices, faces, layout.uv_faces) == 0
    assert uv_quality.stretch(vertices, faces, *layout).l_inf == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "charts", "l2"), [(sphere, 6, 1.03), (torus, 14, 1.03), (open_cylinder, 4, 1.01), (rough_sphere, 30, 1.1)]
)
def test_few_charts_and_little_stretch(make, charts, l2):
    vertices, faces = make()
    layout = unwrap(vertices, faces)
    assert uv_quality.chart_count(layout.uv_faces) <= charts
    assert uv_quality.stretch(vertices, faces, *layout).l2 < l2
    assert uv_quality.density_spread(vertices, faces, *layout) < 0.15  # 0.13 on the rough sphere
    assert uv_quality.texel_use(*layout, 1024) > 0.5


def test_a_spiral_is_cut_where_it_covers_itself():
    vertices, faces = spiral()
    layout = unwrap(vertices, faces, resolution=SIZE)
    assert uv_quality.overlapping_texels(*layout, SIZE) == 0
    assert 2 <= uv_quality.chart_count(layout.uv_faces) <= 20


def test_faces_without_area_share_a_point_of_a_neighbour():
    vertices, faces = plane()
    vertices = np.concatenate([vertices, [(vertices[faces[0, 0]] + vertices[faces[0, 1]]) / 2]])
    flat = np.array([[3, 3, 7], [5, 5, 5], [faces[0, 0], faces[0, 1], len(vertices) - 1]])
    layout = unwrap(vertices, np.concatenate([faces, flat]), resolution=SIZE)
    assert (layout.uv_faces[-3:] == layout.uv_faces[-3:, :1]).all()
    assert signed_areas(layout)[:-3].min() > 0 and uv_quality.overlapping_texels(*layout, SIZE) == 0
    owner = np.full(len(layout.uvs), -1)
    owner[layout.uv_faces[:-3]] = faces
    assert (owner[layout.uv_faces[-3:, 0]] >= 0).all()


def test_nothing_but_faces_without_area():
    layout = unwrap(np.zeros((3, 3)), np.array([[0, 1, 2], [0, 0, 1]]))
    assert layout.uvs.shape == (1, 2) and (layout.uv_faces == 0).all()


@pytest.mark.parametrize("method", ["charts", "xatlas"])
def test_no_faces(method):
    layout = unwrap(np.zeros((0, 3)), np.zeros((0, 3), int), method)
    assert layout.uvs.shape == (0, 2) and layout.uv_faces.shape == (0, 3)


@pytest.mark.parametrize("make", [several, rough_sphere], ids=lambda make: make.__name__)
def test_the_same_mesh_gives_the_same_layout(make):
    one, other = unwrap(*make()), unwrap(*make())
    assert (one.uvs == other.uvs).all() and (one.uv_faces == other.uv_faces).all()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_size_and_place_do_not_matter(scale):
    vertices, faces = torus()
    one = unwrap(vertices, faces, resolution=SIZE)
    other = unwrap(vertices * scale + 3 * scale, faces, resolution=SIZE)
    assert uv_quality.chart_count(one.uv_faces) == uv_quality.chart_count(other.uv_faces)
    assert uv_quality.stretch(vertices, faces, *other).l2 == pytest.approx(uv_quality.stretch(vertices, faces, *one).l2, rel=1e-3)


def test_more_charts_than_the_padding_leaves_room_for():
    random = np.random.default_rng(0)
    count = 1000
    layout = unwrap(random.standard_normal((3 * count, 3)), np.arange(3 * count).reshape(-1, 3), resolution=32, padding=4)
    assert signed_areas(layout).min() > 0
    assert uv_quality.overlapping_texels(*layout, 1024) == 0


def test_xatlas_is_an_option():
    pytest.importorskip("xatlas")
    vertices, faces = sphere(3)
    layout = unwrap(vertices, faces, "xatlas", resolution=SIZE)
    assert layout.uv_faces.shape == faces.shape and layout.uvs.min() >= 0 and layout.uvs.max() <= 1
    assert uv_quality.overlapping_texels(*layout, SIZE) == 0 and uv_quality.stretch(vertices, faces, *layout).l2 < 1.2
    owner = np.full(len(layout.uvs), -1)
    owner[layout.uv_faces] = faces
    assert (owner[layout.uv_faces] == faces).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "lscm"}, "method='lscm': expected one of charts, xatlas"),
        ({"vertices": np.zeros((3, 2))}, r"vertices: expected shape \[V, 3\], got \[3, 2\]"),
        ({"faces": np.zeros((1, 4), int)}, r"faces: expected whole numbers of shape \[F, 3\]"),
        ({"faces": np.zeros((1, 3))}, "faces: expected whole numbers"),
        ({"faces": np.array([[0, 1, 3]])}, "faces: they name vertices 0 to 3, but there are 3"),
        ({"faces": np.array([[0, 1, -1]])}, "faces: they name vertices -1 to 1"),
        ({"vertices": np.full((3, 3), np.nan)}, "vertices: some are not finite"),
        ({"resolution": 4}, "resolution=4"),
        ({"padding": 600}, "padding=600"),
    ],
)
def test_bad_input(change, message):
    vertices, faces = one_triangle()
    with pytest.raises(ValueError, match=message):
        unwrap(**{"vertices": vertices, "faces": faces, **change})


@pytest.mark.slow
def test_two_hundred_thousand_faces():
    vertices, faces = sphere(7)
    vertices = vertices * (1 + 0.2 * np.sin(5 * vertices[:, :1]) * np.cos(7 * vertices[:, 1:2]))
    layout = unwrap(vertices, faces[:200_000])
    assert uv_quality.overlapping_texels(*layout, 1024) == 0 and signed_areas(layout).min() > 0


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


@pytest.mark.parametrize("make", [several, soup], ids=lambda make: make.__name__)
def test_the_layout_is_the_same_without_compiled_kernels(make, monkeypatch):
    expected = unwrap(*make(), resolution=SIZE)
    monkeypatch.setattr(extension, "takes_op", lambda *_: False)
    plain = unwrap(*make(), resolution=SIZE)
    assert (plain.uvs == expected.uvs).all() and (plain.uv_faces == expected.uv_faces).all()


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
