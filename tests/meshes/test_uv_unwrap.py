"""UV unwrapping: layouts without overlaps on all kinds of meshes."""

import numpy as np
import pytest
from scipy import ndimage
from surfaces import (
    SIZE,
    box,
    crowded_edges,
    moebius,
    needles,
    one_triangle,
    open_cylinder,
    plane,
    rough_sphere,
    several,
    signed_areas,
    soup,
    sphere,
    spiral,
    torus,
)

from microdreamer.kernels import extension
from microdreamer.meshes.unwrap.parametrize import unwrap
from microdreamer.metrics import uvs as uv_quality

MESHES = [plane, sphere, torus, open_cylinder, moebius, spiral, rough_sphere, box, soup, crowded_edges, several, one_triangle, needles]


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


@pytest.mark.parametrize("make", [several, soup], ids=lambda make: make.__name__)
def test_the_layout_is_the_same_without_compiled_kernels(make, monkeypatch):
    expected = unwrap(*make(), resolution=SIZE)
    monkeypatch.setattr(extension, "use_compiled", lambda *_, **__: False)
    plain = unwrap(*make(), resolution=SIZE)
    assert (plain.uvs == expected.uvs).all() and (plain.uv_faces == expected.uv_faces).all()
