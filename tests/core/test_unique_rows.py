"""Different rows are those that NumPy finds, in its order."""

import numpy as np
import pytest

from microdreamer.core.unique_rows import unique_rows

DRAW = np.random.default_rng(0)
ROWS = {
    "floats": DRAW.integers(-3, 3, (500, 3)).astype(np.float32) / 7,
    "two zeros": np.float32([[0.0, 1], [-0.0, 1], [0.0, -1], [-0.0, -1]]),
    "whole numbers": DRAW.integers(-4, 4, (300, 2)),
    "doubles": DRAW.random((100, 4)),
    "one column": DRAW.integers(0, 5, (50, 1)),
    "the same": np.ones((7, 3)),
    "one": np.ones((1, 3)),
    "none": np.ones((0, 3), np.float32),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_places_and_numbers_are_those_of_numpy(kind):
    rows = ROWS[kind]
    found, (expected, first, index) = unique_rows(rows), np.unique(rows, axis=0, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.first, first)
    np.testing.assert_array_equal(found.index, index.reshape(-1))
    assert found.rows.dtype == rows.dtype
    np.testing.assert_array_equal(found.rows[found.index], rows)
