"""Procedural shapes: repeatable, in the conventions of the packed objects, facing outward, captioned with known words."""

import numpy as np
import pytest

from microdreamer.shapes import colouring
from microdreamer.shapes.procedural import parts as pp
from microdreamer.shapes.procedural.catalogue import FAMILIES, MAX_FACES, MIN_FACES, Shape, generate, generate_many, pack
from microdreamer.shapes.procedural.scene import Scene
from microdreamer.shapes.procedural.words import VOCABULARY

CONVEX = {
    "box": pp.box(),
    "cut box": pp.box((2, 3, 1)),
    "bevel": pp.bevel_box((1.0, 0.6, 0.4), 0.08),
    "cylinder": pp.cylinder(12),
    "cone": pp.cylinder(10, 0.0),
    "frustum": pp.cylinder(8, 0.5),
    "pyramid": pp.prism(4, 0.0),
    "prism": pp.prism(5),
    "sphere": pp.sphere(12, 8),
    "dome": pp.dome(12),
    "capsule": pp.capsule(2.0, 10),
    "wedge": pp.wedge(),
    "gable": pp.gable(),
    "plate": pp.extrude(np.array([(0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5)]), bevel=0.2),
    "straight tube": pp.sweep(np.array([(0.0, 0, 0), (0.2, 0.9, 0), (0.4, 1.8, 0)]), 0.2, segments=7),
    "slab": pp.height_field(np.full((4, 5), 0.3)),
}
CLOSED = CONVEX | {
    "torus": pp.torus(0.4),
    "pipe": pp.tube(0.7),
    "star": pp.extrude(np.array([(np.cos(a) * r, np.sin(a) * r) for a, r in zip(np.arange(10) * np.pi / 5, [1, 0.4] * 5, strict=True)])),
    "arc": pp.sweep(
        np.stack([np.cos(t := np.linspace(0, 3, 9)), np.sin(t), 0 * t], 1),
        1.0,
        section=np.array([(-0.1, -0.2), (0.1, -0.2), (0.1, 0.2), (-0.1, 0.2)]),
    ),
    "rock": pp.rock(np.random.default_rng(0), level=2),
    "bent": pp.bend(pp.box((1, 6, 1)), 60),
    "twisted": pp.twist(pp.box((1, 6, 1)), 60),
    "hills": pp.height_field(np.random.default_rng(0).uniform(0.1, 0.5, (6, 7))),
    "subdivided": pp.subdivide(pp.cylinder(9)),
}


def corners(part: pp.Part) -> np.ndarray:
    return part.vertices[part.faces]


def signed_volume(part: pp.Part) -> float:
    """Positive for a closed mesh whose triangles are counter-clockwise seen from outside."""
    a, b, c = np.moveaxis(corners(part), 1, 0)
    return float((np.cross(a, b) * c).sum() / 6)


def painted(part: pp.Part) -> list[pp.Part]:
    return [colouring.apply(np.random.default_rng(0), part, colouring.draw(np.random.default_rng(0), "red"))]


def same(a: Shape, b: Shape) -> bool:
    arrays = ("vertices", "faces", "corner_colors", "corner_normals")
    return a.caption == b.caption and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)


@pytest.mark.parametrize("name", CLOSED)
def test_primitives_are_closed_and_consistently_oriented(name):
    faces = CLOSED[name].faces
    edges = np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2)
    directed = {tuple(edge) for edge in edges.tolist()}
    assert len(directed) == len(edges), "an edge is run through twice in the same direction"
    assert all((b, a) in directed for a, b in directed), "an edge has one side only"
    assert signed_volume(CLOSED[name]) > 0


@pytest.mark.parametrize("name", CONVEX)
def test_normals_of_convex_primitives_point_outward(name):
    vertices, faces, _, normals = pp.finish(painted(CONVEX[name]))
    triangles = vertices[faces].astype(np.float64)
    outward = triangles.mean(1) - vertices.mean(0)
    facing = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    assert ((facing * outward).sum(-1) > 0).all()
    assert ((normals * outward[:, None]).sum(-1) > 0).all()


def test_flat_and_smooth_normals():
    _, faces, _, normals = pp.finish(painted(pp.flat(pp.sphere(10, 6))))
    assert (normals == normals[:, :1]).all()
    vertices, faces, _, normals = pp.finish(painted(pp.sphere(24, 16)))
    radial = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    cosine = (normals / 127 * radial[faces]).sum(-1)
    assert cosine.min() > 0.98  # area-weighted averages of the triangles round a vertex lean a little


def test_degenerate_triangles_are_dropped():
    part = pp.box()
    squashed = pp.place(part, (1.0, 1.0, 0.0))
    vertices, faces, _, _ = pp.finish(painted(squashed))
    triangles = vertices[faces]
    assert len(faces) == 4
    assert (np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1) > 1e-6).all()


def test_subdivision_keeps_area_edges_and_quads():
    for part in (pp.box(), pp.cylinder(8), pp.bevel_box((1.0, 1.0, 1.0), 0.1)):
        finer = pp.subdivide(pp.subdivide(part))
        areas = [np.linalg.norm(np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0]), axis=1).sum() for c in (corners(part), corners(finer))]
        assert len(finer.faces) == 16 * len(part.faces)
        np.testing.assert_allclose(areas[1], areas[0])
    _, counts = np.unique(pp.subdivide(pp.subdivide(pp.box())).cells, return_counts=True)
    assert (counts == 2).all()


def test_mirror_keeps_triangles_facing_outward():
    part = pp.place(pp.wedge(), (1.0, 2.0, 3.0), (0.7, 0.0, 0.0), (20.0, 30.0, 40.0))
    np.testing.assert_allclose(signed_volume(pp.mirror(part)), signed_volume(part))
    np.testing.assert_allclose(pp.mirror(pp.mirror(part)).vertices, part.vertices)


def test_rotation_turns_about_x_then_y_then_z():
    matrix = pp.rotation((20.0, 40.0, 60.0))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(pp.rotation((90.0, 90.0, 0.0)) @ (0, 1, 0), pp.rotation((0.0, 90.0, 0.0)) @ (0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(pp.rotation((0.0, 90.0, 0.0)) @ (0, 0, 1), (1, 0, 0), atol=1e-12)


def test_generate_is_a_function_of_the_seed():
    assert all(same(generate(seed), generate(seed)) for seed in range(20))
    assert not same(generate(1), generate(2))


def test_generate_many_equals_generate_whatever_the_workers():
    expected = [generate(seed) for seed in range(40, 170)]
    for workers in (1, 2):
        assert all(same(a, b) for a, b in zip(generate_many(40, 130, workers), expected, strict=True))
    assert generate_many(5, 0) == []


@pytest.mark.parametrize("first", range(0, 300, 60))
def test_conventions(first):
    for seed in range(first, first + 60):
        check_conventions(generate(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_conventions_of_each_family(family):
    for seed in range(12):
        check_conventions(generate(seed, family))


def check_conventions(shape: Shape) -> None:
    vertices, faces = shape.vertices, shape.faces
    count = len(faces)
    assert MIN_FACES <= count <= MAX_FACES
    assert vertices.dtype == np.float32 and faces.dtype == np.int32
    assert shape.corner_colors.dtype == np.uint8 and shape.corner_normals.dtype == np.int8
    assert faces.shape == (count, 3) and shape.corner_colors.shape == shape.corner_normals.shape == (count, 3, 3)
    assert np.isfinite(vertices).all()
    np.testing.assert_allclose(vertices.min(0) + vertices.max(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1).max(), 0.8, atol=1e-5)
    assert np.array_equal(np.unique(faces), np.arange(len(vertices)))
    length = np.linalg.norm(shape.corner_normals.astype(np.float64), axis=-1)
    assert length.min() > 125 and length.max() < 129
    assert shape.corner_colors.min() > 10 and shape.corner_colors.max() < 246  # pure black and white are not surface colours
    assert shape.caption and set(shape.caption.split()) <= VOCABULARY, shape.caption


@pytest.mark.parametrize("family", ["chair", "sofa", "bed", "animal", "fish"])
def test_mirror_symmetric_families(family):
    """The moments of the surface that are odd in x vanish: the means of x, x y and x z over its area."""
    for seed in range(20):
        shape = generate(seed, family)
        triangles = shape.vertices[shape.faces].astype(np.float64)
        area = np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1)
        total = triangles.sum(1)
        # Exact over a triangle: the mean of x y is (sum x sum y + sum x y) / 12.
        products = (total[:, :1] * total + (triangles[:, :, :1] * triangles).sum(1)) / 12
        moments = [(area * odd).sum() / area.sum() for odd in (total[:, 0] / 3, products[:, 1], products[:, 2])]
        # Not zero to rounding, for the diagonals of quads that are not plane are not mirrored (7e-5 the largest of 60 seeds).
        assert np.abs(moments).max() < 2e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_each_family_face_outward(family):
    for seed in range(12):
        scene = Scene(np.random.default_rng(seed))
        FAMILIES[family][1](scene)
        for part in scene.parts:
            centred = pp.place(part, 1.0, tuple(-corners(part).mean((0, 1))))
            assert signed_volume(centred) > -1e-6 * np.ptp(part.vertices, axis=0).prod()


def test_fronts_differ_from_sides():
    """Most shapes are not as wide as they are deep: the extents along x and z differ by a tenth or more."""
    extents = np.array([np.ptp(generate(seed).vertices, axis=0) for seed in range(200)])
    assert (np.abs(np.log(extents[:, 0] / extents[:, 2])) > 0.1).mean() > 0.6


def test_patterns_use_both_colours_and_respect_the_limit():
    rng = np.random.default_rng(0)
    red, blue = colouring.draw(rng, "red"), colouring.draw(rng, "blue")
    for pattern in sorted(set(colouring.PATTERNS)):
        part = colouring.apply(rng, pp.cylinder(12), colouring.patterned(rng, red, blue, pattern), face_limit=500)
        assert len(part.faces) <= 500
        assert part.colors.shape == (len(part.faces), 3, 3)
        assert len(np.unique(np.round(part.colors.reshape(-1, 3), 3), axis=0)) >= 2, pattern


def test_scenes_share_no_state():
    first = Scene(np.random.default_rng(3))
    FAMILIES["house"][1](first)
    before = pp.box().vertices.copy()
    FAMILIES["vehicle"][1](Scene(np.random.default_rng(4)))
    assert np.array_equal(before, pp.box().vertices)


def test_vocabulary_is_small():
    assert len(VOCABULARY) < 400
    assert all(word == word.lower() for word in VOCABULARY)


def test_pack_lays_shapes_end_to_end():
    shapes = [generate(seed) for seed in range(5)]
    arrays, captions = pack(shapes)
    assert captions == [shape.caption for shape in shapes]
    for i, shape in enumerate(shapes):
        v, f = (slice(*arrays[name][i : i + 2]) for name in ("vertex_offset", "face_offset"))
        assert np.array_equal(arrays["vertices"][v], shape.vertices)
        assert np.array_equal(arrays["faces"][f], shape.faces)
        assert np.array_equal(arrays["colors"][f], shape.corner_colors)
        assert np.array_equal(arrays["normals"][f], shape.corner_normals)
    dtypes = {name: array.dtype.type for name, array in arrays.items()}
    assert dtypes == {
        "ids": np.str_, "vertex_offset": np.int64, "face_offset": np.int64, "vertices": np.float32, "faces": np.int32,
        "colors": np.uint8, "normals": np.int8,
    }  # fmt: skip


def test_packed_arrays_match_the_layout_of_the_objects(shared_data):
    with np.load(shared_data("objects/val.npz")) as objects:
        expected = {name: (objects[name].dtype.kind, objects[name].dtype.itemsize if name != "ids" else 0) for name in objects.files}
    arrays, _ = pack([generate(0)])
    assert {name: (a.dtype.kind, a.dtype.itemsize if name != "ids" else 0) for name, a in arrays.items()} == expected


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        generate(-1)
    with pytest.raises(ValueError, match="unknown family 'hous'; choose one of assembly"):
        generate(0, "hous")
    with pytest.raises(ValueError, match="count is a whole number"):
        generate_many(0, -3)
    with pytest.raises(ValueError, match="at least one shape"):
        pack([])
