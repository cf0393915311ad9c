"""Every key of launch.py's configuration reaches its piece, on tiny runs with a prior that knows the object.

`TABLE`, of tests/launch_bench.py, has a row for each key: what is seen where the key has another value. A key without a row fails.
"""

import launch_rows_learnt  # noqa: F401 - all of them fill the table
import launch_rows_libraries  # noqa: F401
import launch_rows_seen  # noqa: F401
import pytest
from launch_bench import TABLE, Place

from microdreamer.pipeline.launch.config import SCHEMA


def test_every_key_has_a_row():
    assert set(TABLE) == set(SCHEMA.fields)


@pytest.mark.parametrize("key", sorted(SCHEMA.fields))
def test_a_key_reaches_its_piece(tmp_path, monkeypatch, key):
    TABLE[key](Place(tmp_path, monkeypatch))
