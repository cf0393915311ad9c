"""Near-copies between packs are found whichever way they are turned."""

import dataclasses
import math

import pytest
import torch

from microdreamer.shapes.duplicates import descriptors, distances, near_copies
from microdreamer.shapes.packed import pack
from microdreamer.shapes.procedural.catalogue import generate


@pytest.fixture(scope="module")
def meshes():
    shapes = [generate(seed, family) for seed, family in enumerate(("chair", "house", "vehicle", "animal"))]
    arrays = [(s.vertices, s.faces, s.corner_colors, s.corner_normals) for s in shapes]
    return pack(arrays, ["chair", "house", "vehicle", "animal"])


def turned(meshes, degrees: float, mirrored: bool):
    angle = math.radians(degrees)
    matrix = torch.tensor([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
    if mirrored:
        matrix = matrix * torch.tensor([-1.0, 1, 1])
    return dataclasses.replace(meshes, vertices=(meshes.vertices @ matrix.T).contiguous(), ids=[f"copy of {name}" for name in meshes.ids])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 225])
def test_turned_and_mirrored_copies_are_at_no_distance(meshes, degrees, mirrored):
    found = distances(descriptors(meshes)[0], descriptors(turned(meshes, degrees, mirrored))[0])
    assert float(found.diagonal().max()) < 0.02
    assert float((found + torch.eye(4)).min()) > 0.1


def test_near_copies_are_named_with_their_originals(meshes):
    rows = near_copies(turned(meshes.subset([2, 0]), 135, True), meshes, 0.065)
    assert {(row[0], row[1]) for row in rows} == {("copy of chair", "chair"), ("copy of vehicle", "vehicle")}
    assert near_copies(meshes.subset([0, 1]), meshes.subset([2, 3]), 0.065) == []
