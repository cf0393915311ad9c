"""Half-edges and their pairing, by hand."""

import numpy as np

from microdreamer.meshes.topology import edges_of, half_edges

# Two triangles that share the edge 1-2, a third one on it, and one that stands alone.
FACES = np.array([[0, 1, 2], [2, 1, 3], [4, 5, 6]])


def test_half_edges_of_a_face_are_a_row_of_corners_apart():
    assert half_edges(FACES).tolist() == [[0, 1], [2, 1], [4, 5], [1, 2], [1, 3], [5, 6], [2, 0], [3, 2], [6, 4]]


def test_edges_are_numbered_in_order_and_paired_where_two_faces_share_them():
    edges = edges_of(FACES)
    assert edges.ends.tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3], [4, 5], [4, 6], [5, 6]]
    assert edges.sharing.tolist() == [1, 1, 2, 1, 1, 1, 1, 1] and edges.ends[edges.numbers[7]].tolist() == [2, 3]
    one, other = edges.pairs()
    assert (one.tolist(), other.tolist()) == ([1], [3])
    crowded = edges_of(np.array([*FACES, [1, 2, 7]]))
    assert crowded.sharing[2] == 3 and len(crowded.pairs()[0]) == 0


def test_no_faces_have_no_edges():
    edges = edges_of(np.zeros((0, 3), np.int64))
    assert edges.ends.shape == (0, 2) and len(edges.numbers) == len(edges.sharing) == len(edges.pairs()[0]) == 0
