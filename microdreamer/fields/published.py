"""What is known of fields that others have published: their names of parameters and the world they stand in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# Which of our axes are x, y, z of the published world, whose z points up and whose front is +x.
AXES = {"project": (0, 1, 2), "threestudio": (2, 0, 1)}
PUBLISHED_TABLE = "encoding.encoding.encoding.params"  # tiny-cuda-nn's, in two wrappers
BOX = "bbox"  # a constant: it is compared, not loaded


def check_axes(axes: str) -> None:
    """Raise ValueError unless `axes` is one of AXES."""
    if axes not in AXES:
        raise ValueError(f"axes={axes!r}: expected one of {', '.join(AXES)}")


def in_axes(points: Tensor, axes: str) -> Tensor:
    """Positions or directions [...,3] of our world in the axes that a field was made in."""
    return points if axes == "project" else torch.stack([points[..., axis] for axis in AXES[axes]], dim=-1)


def out_of_axes(vectors: Tensor, axes: str) -> Tensor:
    """The inverse of `in_axes`."""
    return vectors if axes == "project" else torch.stack([vectors[..., AXES[axes].index(axis)] for axis in range(3)], dim=-1)


def names_of(module: nn.Module) -> dict[str, str]:
    """theirs -> ours, for a module whose parameters and buffers go by the published names, except the table of its `encoding`."""
    return {PUBLISHED_TABLE if name == "encoding.params" else name: name for name in module.state_dict()}


def check_box(state: Mapping[str, Tensor], prefix: str, radius: float) -> None:
    """Raise ValueError where `state` tells of another box than [-radius, radius]^3."""
    box = state.get(prefix + BOX)
    expected = torch.tensor([[-radius] * 3, [radius] * 3])
    if box is not None and not torch.equal(box.cpu().float(), expected):
        raise ValueError(f"{prefix}{BOX}: expected {expected.tolist()}, got {box.tolist()}; make the field with that radius")


def load_published_field(
    module: nn.Module, state: Mapping[str, Tensor], prefix: str, names: Mapping[str, str], *, axes: str, radius: float
) -> None:
    """`load_published` for a field in the box [-radius, radius]^3 of a world with the axes of the name `axes`.

    Raises ValueError for another box too, and for a field whose axes are the project's: published ones stand in a world with z up.
    """
    if axes == "project":
        raise ValueError('axes="project": published fields stand in a world with z up; make the field with axes="threestudio"')
    check_box(state, prefix, radius)
    load_published(module, {name: tensor for name, tensor in state.items() if name != prefix + BOX}, prefix, names)


@torch.no_grad()
def load_published(module: nn.Module, state: Mapping[str, Tensor], prefix: str, names: Mapping[str, str]) -> None:
    """Copy a published module's tensors, which `prefix` precedes in `state`, into `module`; `names`: theirs -> ours.

    Nothing is loaded unless all of it fits: ValueError says which names are missing or too many, or which shape is wrong.
    """
    theirs = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    missing, surplus = sorted(set(names) - set(theirs)), sorted(set(theirs) - set(names))
    if missing or surplus:
        told = [
            f"{label} {', '.join(prefix + name for name in found)}" for label, found in (("without", missing), ("with", surplus)) if found
        ]
        raise ValueError(f"published field: expected the parameters of {type(module).__name__}, got a state {' and '.join(told)}")
    ours = module.state_dict()
    for name, own in names.items():
        if theirs[name].shape != ours[own].shape:
            raise ValueError(
                f"{prefix}{name}: expected shape {list(ours[own].shape)}, got {list(theirs[name].shape)}; check the encoding's sizes"
            )
    for name, own in names.items():
        ours[own].copy_(theirs[name])
