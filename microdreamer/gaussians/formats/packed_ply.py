"""The compressed PLY of SuperSplat and PlayCanvas: 16 bytes a Gaussian, quantised within chunks of 256.

An element `chunk` holds the ranges of positions, logarithms of scales and (in later versions) colours of 256 vertices each. A vertex
is four 32-bit words: `packed_position` and `packed_scale` with 11, 10 and 11 bits for x, y and z from the top down;
`packed_rotation` with the place of the largest component of the quaternion (wxyz) in 2 bits and the three others, from
-1/sqrt(2) to 1/sqrt(2), in 10 bits each; `packed_color` with red, green, blue and opacity in 8 bits each. An element `sh` may hold
the higher harmonics as bytes from -4 to 4.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from microdreamer.gaussians.formats.common import RawSplats, coefficients_of, completed, logit
from microdreamer.gaussians.formats.ply_elements import Header, gathered, read_elements

CHUNK = 256  # vertices
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
SH_RANGE = 8.0  # of a byte's 256 steps
REST_COUNTS = (9, 24, 45)


def _range(prefix: str, axes: str) -> list[str]:
    return [f"{end}_{prefix}{axis}" for end in ("min", "max") for axis in axes]


def unpacked(file: BinaryIO, header: Header) -> RawSplats:
    """The Gaussians of a compressed PLY whose header has been read. Raises ValueError for one that is not whole."""
    chunk, vertex, sh = (header.named(name) for name in ("chunk", "vertex", "sh"))
    for name in PACKED:
        if vertex.properties.get(name) not in ("u4", "i4"):
            raise ValueError(f"no vertex property '{name}' of type uint; expected a compressed PLY of SuperSplat")
    needed = _range("", "xyz") + _range("scale_", "xyz")
    if chunk is None or any(chunk.properties.get(name, "list") == "list" for name in needed):
        raise ValueError("no element 'chunk' with the ranges of positions and scales; expected a compressed PLY of SuperSplat")
    if chunk.count * CHUNK < vertex.count:
        raise ValueError(f"{chunk.count} chunks of {CHUNK} are too few for {vertex.count} vertices; get a whole copy")
    names = ["chunk", "vertex", *(["sh"] if sh is not None else [])]
    tables = dict(zip(names, read_elements(file, header, names), strict=True))
    words = {name: tables["vertex"][name].astype(np.uint32) for name in PACKED}
    of_chunk = np.arange(vertex.count) // CHUNK

    def within(columns: list[str], shares: np.ndarray) -> np.ndarray:
        """Values [N,3] at `shares` [N,3] of the way from a chunk's least to its largest."""
        low, high = np.split(gathered(tables["chunk"], columns).astype(np.float64), 2, axis=1)
        return low[of_chunk] + (high - low)[of_chunk] * shares

    means = within(_range("", "xyz"), _fields(words["packed_position"], (11, 10, 11)))
    log_scales = within(_range("scale_", "xyz"), _fields(words["packed_scale"], (11, 10, 11)))
    rotation = _fields(words["packed_rotation"], (2, 10, 10, 10))
    quaternions = completed((rotation[:, 1:] - 0.5) * np.sqrt(2), (rotation[:, 0] * 3).round().astype(int))
    color = _fields(words["packed_color"], (8, 8, 8, 8))
    ranges = _range("", "rgb")
    colors = within(ranges, color[:, :3]) if all(name in chunk.properties for name in ranges) else color[:, :3]
    harmonics = [coefficients_of(colors)]
    if sh is not None:
        harmonics.append(_rest(tables["sh"], vertex.count))
    return RawSplats(
        means=means.astype(np.float32),
        sh=np.concatenate(harmonics, axis=1),
        log_scales=log_scales.astype(np.float32),
        quaternions=quaternions.astype(np.float32),
        opacity_logits=logit(color[:, 3]).astype(np.float32),
    )


def _fields(words: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """The bit fields of words [N], from the top bit down, as shares [N, len(bits)] of their largest value."""
    lowest = 32 - np.cumsum(bits)
    largest = 2 ** np.array(bits) - 1
    return ((words[:, None] >> lowest.astype(np.uint32)) & largest.astype(np.uint32)) / largest


def _rest(table: np.ndarray, count: int) -> np.ndarray:
    """Harmonics above degree 0 [N,K-1,3] of the element `sh`: bytes, channel after channel."""
    names = [f"f_rest_{index}" for index in range(len(table.dtype))]
    if len(table) != count or len(names) not in REST_COUNTS or any(table.dtype.fields.get(name, "-")[0] != "u1" for name in names):
        raise ValueError(f"element 'sh': expected {count} of 9, 24 or 45 properties f_rest_* of type uchar")
    # The two outermost bytes stand for the ends of the range, the others for the middles of their steps.
    steps = np.arange(256) + 0.5
    steps[[0, 255]] = 0, 256
    values = ((steps / 256 - 0.5) * SH_RANGE).astype(np.float32)
    coded = np.stack([table[name] for name in names], axis=1)
    return values[coded].reshape(count, 3, len(names) // 3).transpose(0, 2, 1)
