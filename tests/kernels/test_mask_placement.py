"""Placement of masks: as low as they can lie, without meeting, the same compiled and plain."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from microdreamer.kernels import extension
from microdreamer.kernels.mask_placement import place_masks

compiled_only = pytest.mark.skipif(not extension.available("cpu"), reason="no kernels were built")
WAYS = [pytest.param(True, marks=compiled_only, id="compiled"), pytest.param(False, id="plain")]


def side_by_side(masks):
    """(cells, left, sizes) of masks [h,w], with a column free between them."""
    left = np.cumsum([0, *(mask.shape[1] + 1 for mask in masks)])
    cells = np.zeros((max(mask.shape[0] for mask in masks), left[-1]), np.uint8)
    for mask, x in zip(masks, left[:-1], strict=True):
        cells[: mask.shape[0], x : x + mask.shape[1]] = mask
    sizes = np.array([mask.shape[::-1] for mask in masks])
    return torch.from_numpy(cells), torch.from_numpy(left[:-1].copy()), torch.from_numpy(sizes)


def ragged_masks(count, largest, seed=0):
    """Masks with bays, holes and several parts, among them single cells."""
    random = np.random.default_rng(seed)
    return [
        (ndimage.binary_dilation(random.random((h, w)) < 0.2) | (np.indices((h, w)).sum(0) == 0)).astype(np.uint8)
        for h, w in random.integers(1, largest + 1, (count, 2))
    ]


def placed(masks, turns, occupied, compiled):
    places, taken, strip = place_masks(*side_by_side(masks), torch.tensor(turns), torch.from_numpy(occupied), compiled)
    return places.numpy(), taken.numpy(), strip.numpy()


def half_full(rows, width, seed=0):
    return (np.random.default_rng(seed).random((rows, width)) < 0.4).astype(np.uint8)


@pytest.mark.parametrize("compiled", WAYS)
@pytest.mark.parametrize("turn", range(4))
def test_turns_are_those_of_numpy(turn, compiled):
    """A strip with a hole of one turn's shape: the mask goes there, in that turn."""
    mask = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], np.uint8)[: 3 + (turn > 1)]
    hole = np.rot90(mask, turn)
    occupied = np.ones((hole.shape[0], 7), np.uint8)
    occupied[:, 2 : 2 + hole.shape[1]] -= hole
    places, taken, strip = placed([mask], [4], occupied, compiled)
    assert taken[0] == turn and tuple(places[0]) == (2, 0) and strip.all() and len(strip) == len(hole)


@pytest.mark.parametrize("compiled", WAYS)
@pytest.mark.parametrize("width", [23, 64, 100])
def test_masks_lie_as_low_as_they_can(width, compiled):
    masks = ragged_masks(25, 12)
    occupied = half_full(9, width)
    places, taken, strip = placed(masks, [1] * len(masks), occupied, compiled)
    filled = np.zeros((200, width), np.uint8)
    filled[:9] = occupied
    for mask, place in zip(masks, places, strict=True):
        h, w = mask.shape
        free = ((x, y) for y in range(180) for x in range(width - w + 1) if not (filled[y : y + h, x : x + w] & mask).any())
        assert next(free) == tuple(place)  # the lowest, then leftmost
        filled[place[1] : place[1] + h, place[0] : place[0] + w] |= mask
    assert not taken.any() and np.array_equal(strip, filled[: len(strip)]) and not filled[len(strip) :].any()


@compiled_only
@pytest.mark.parametrize("width", [17, 63, 64, 65, 130, 192])
def test_compiled_and_plain_give_the_same(width):
    masks = ragged_masks(80, 17, seed=width)
    turns = np.random.default_rng(width).integers(1, 5, len(masks)).tolist()
    for occupied in (np.zeros((0, width), np.uint8), half_full(12, width), np.ones((3, width), np.uint8)):
        one, other = (placed(masks, turns, occupied, compiled) for compiled in (True, False))
        for found, expected in zip(one, other, strict=True):
            assert np.array_equal(found, expected)


@pytest.mark.parametrize("compiled", WAYS)
def test_no_masks_leave_the_strip_as_it_is(compiled):
    empty = torch.zeros(0, dtype=torch.int64)
    strip = torch.from_numpy(half_full(4, 9))
    places, taken, after = place_masks(torch.zeros(1, 1, dtype=torch.uint8), empty, empty.view(0, 2), empty, strip, compiled)
    assert places.shape == (0, 2) and taken.shape == (0,) and torch.equal(after, strip)


@compiled_only
def test_the_op_is_registered_right():
    arguments = (*side_by_side(ragged_masks(5, 6)), torch.ones(5, dtype=torch.int64), torch.zeros(0, 9, dtype=torch.uint8))
    place_masks(*arguments)
    torch.library.opcheck(torch.ops.microdreamer.place_masks, arguments)


@compiled_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": torch.zeros(3, 4)}, "cells: expected Byte, got Float"),
        ({"cells": torch.zeros(3, 4, dtype=torch.uint8)}, "cells: mask 0 has none"),
        ({"left": torch.tensor([2])}, "sizes: mask 0 of 3 x 2 cells at column 2 is not within cells of 4 x 3"),
        ({"sizes": torch.tensor([[3, 2, 1]])}, r"sizes: expected shape \[1, 2\]"),
        ({"turns": torch.tensor([5])}, "turns: expected 1 to 4, got 5"),
        ({"occupied": torch.zeros(1, 2, dtype=torch.uint8)}, "sizes: mask 0 of 3 x 2 cells does not fit a strip of 2"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "cells": torch.ones(3, 4, dtype=torch.uint8),
        "left": torch.tensor([1]),
        "sizes": torch.tensor([[3, 2]]),
        "turns": torch.tensor([1]),
        "occupied": torch.zeros(0, 5, dtype=torch.uint8),
    }
    with pytest.raises(ValueError, match=message):
        place_masks(**arguments | change, compiled=True)
