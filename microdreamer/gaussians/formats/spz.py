"""Niantic's `.spz`: quantised attributes one after the other, compressed (https://github.com/nianticlabs/spz).

Versions 1 to 3 are one gzip stream with a header of 16 bytes; version 4 has a header of 32 bytes in the clear and one Zstandard frame
an attribute. Axes are right, up, back: +y is up. Written is version 3.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from microdreamer.gaussians.formats.common import (
    Y00,
    RawSplats,
    base_colors,
    completed,
    logit,
    sigmoid,
    smallest_three,
    unit_quaternions,
)

MAGIC = b"NGSP"
HEADER = struct.Struct("<4sIIBBBB")  # magic, version, Gaussians, SH degree, fractional bits, flags, reserved (4: streams)
CONTENTS_AT = struct.Struct("<I")  # version 4: where the table of contents stands
STREAM = struct.Struct("<QQ")  # its entries: bytes compressed and plain
HAS_EXTENSIONS = 2
COLOR_SCALE = 0.15  # a byte holds 0.5 + 0.15 * coefficient, of 255
MAX_POSITION, MAX_FRACTION = 2**23 - 1, 20  # of a 24-bit number; bits after the point
MAX_INFLATION, MAX_ZSTD_INFLATION = 1032, 1 << 15  # of deflate, and of blocks of 128 KiB in 4 bytes
REST_COUNTS = (0, 3, 8, 15, 24)  # harmonics above degree 0, by degree
HALF_ROOT = math.sqrt(0.5)
COMPONENT = 511  # largest magnitude of a component's 9 bits


def decoded(data: bytes) -> RawSplats:
    """The Gaussians of an SPZ file's bytes. Raises ValueError for what is not whole, or a version that is not known."""
    streams, header = (_plain_streams if data[:4] == MAGIC else _gzip_streams)(data)
    version, count, degree, fraction, flags = header
    positions, alphas, colors, scales, rotations, rest = streams
    if version == 1:
        means = np.frombuffer(positions, "<f2").reshape(count, 3).astype(np.float32)
    else:
        bits = np.zeros((count, 3, 4), np.uint8)
        bits[..., 1:] = np.frombuffer(positions, np.uint8).reshape(count, 3, 3)  # the top three bytes, so that the sign is right
        means = ((bits.view("<i4")[..., 0] >> 8) * 2.0**-fraction).astype(np.float32)
    quaternions = _xyz_rotations(rotations) if version < 3 else _smallest_three_rotations(rotations)
    harmonics = (np.frombuffer(rest, np.uint8).reshape(count, REST_COUNTS[degree], 3).astype(np.float32) - 128) / 128
    sh_dc = (np.frombuffer(colors, np.uint8).reshape(count, 1, 3) / 255 - 0.5) / COLOR_SCALE
    return RawSplats(
        means=means,
        sh=np.concatenate([sh_dc.astype(np.float32), harmonics], axis=1),
        log_scales=np.frombuffer(scales, np.uint8).reshape(count, 3).astype(np.float32) / 16 - 10,
        quaternions=quaternions[:, [3, 0, 1, 2]].astype(np.float32),
        opacity_logits=logit(np.frombuffer(alphas, np.uint8) / 255).astype(np.float32),
        up="y",
        remarks=("extension records of the file are not read",) if flags & HAS_EXTENSIONS else (),
    )


Header = tuple[int, int, int, int, int]  # version, count, SH degree, fractional bits, flags


def _checked_header(data: bytes) -> tuple[Header, list[int]]:
    """The header, and the bytes of each attribute that follow from it. Raises ValueError for one that makes no sense."""
    if len(data) < HEADER.size:
        raise ValueError("not a whole .spz file: the header has no end; get a whole copy")
    magic, version, count, degree, fraction, flags, _ = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("not a .spz file; expected one of Gaussians (magic number NGSP)")
    if not 1 <= version <= 4:
        raise ValueError(f".spz of version {version}; expected 1 to 4")
    if degree >= len(REST_COUNTS):
        raise ValueError(f".spz with harmonics of degree {degree}; expected 0 to 4")
    sizes = [6 if version == 1 else 9, 1, 3, 3, 3 if version < 3 else 4, 3 * REST_COUNTS[degree]]
    return (version, count, degree, fraction, flags), [count * size for size in sizes]


def _gzip_streams(data: bytes) -> tuple[list[bytes], Header]:
    """The attributes of version 1 to 3, of which a part is decompressed first to see how large the whole may be."""
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        start = inflater.decompress(data, HEADER.size)
        header, sizes = _checked_header(start)
        if header[0] == 4:
            raise ValueError(".spz of version 4 in a gzip stream; expected version 1 to 3 there")
        if sum(sizes) > len(data) * MAX_INFLATION:
            raise ValueError(f"not a whole .spz file: {header[1]} Gaussians in {len(data)} bytes; get a whole copy")
        body = inflater.decompress(inflater.unconsumed_tail, sum(sizes)) if sum(sizes) else b""
    except zlib.error:
        raise ValueError("not a whole .spz file: it is not one gzip stream; get a whole copy") from None
    if len(body) < sum(sizes):
        raise ValueError(f"not a whole .spz file: {header[1]} Gaussians are announced and not all there; get a whole copy")
    ends = np.cumsum(sizes)
    return [body[end - size : end] for size, end in zip(sizes, ends, strict=True)], header


def _plain_streams(data: bytes) -> tuple[list[bytes], Header]:
    """The attributes of version 4."""
    header, sizes = _checked_header(data)
    if header[0] != 4:
        raise ValueError(f".spz of version {header[0]} without compression; expected a gzip stream")
    stream_count, at = data[15], CONTENTS_AT.unpack_from(data.ljust(20, b"\0"), 16)[0]
    offset = at + stream_count * STREAM.size
    if stream_count < len([size for size in sizes if size]) or at < 32 or offset > len(data):
        raise ValueError("not a whole .spz file: its table of contents is not there; get a whole copy")
    entries = [STREAM.unpack_from(data, at + index * STREAM.size) for index in range(stream_count)]
    streams = []
    for (compressed, plain), size in zip(entries, sizes, strict=False):
        if plain != size or size > compressed * MAX_ZSTD_INFLATION or offset + compressed > len(data):
            raise ValueError("not a whole .spz file: the streams are not as long as their number of Gaussians; get a whole copy")
        streams.append(_unzstd(data[offset : offset + compressed], size) if size else b"")
        if len(streams[-1]) != size:
            raise ValueError("not a whole .spz file: a stream is too short or damaged; get a whole copy")
        offset += compressed
    return streams + [b""] * (len(sizes) - len(streams)), header


def _unzstd(data: bytes, size: int) -> bytes:
    """The first `size` bytes of a Zstandard frame, fewer where it is damaged. Raises ValueError where nothing here can read it."""
    try:
        from compression import zstd  # Python 3.14

        with contextlib.suppress(zstd.ZstdError, EOFError):
            return zstd.ZstdDecompressor().decompress(data, size)
    except ImportError:
        try:
            import zstandard
        except ImportError:
            raise ValueError(".spz of version 4 is compressed with Zstandard: pip install zstandard") from None
        with contextlib.suppress(zstandard.ZstdError):
            return zstandard.ZstdDecompressor().stream_reader(data).read(size)
    return b""


def _xyz_rotations(data: bytes) -> np.ndarray:
    """Quaternions xyzw [N,4] of versions 1 and 2: bytes of x, y, z, with w the rest of the unit length."""
    xyz = np.frombuffer(data, np.uint8).reshape(-1, 3) / 127.5 - 1
    return np.concatenate([xyz, np.sqrt(np.clip(1 - (xyz**2).sum(1, keepdims=True), 0, None))], axis=1)


def _smallest_three_rotations(data: bytes) -> np.ndarray:
    """Quaternions xyzw [N,4] from version 3 on: the place of the largest in the top 2 bits, then sign and magnitude of the others."""
    words = np.frombuffer(data, "<u4")[:, None] >> np.array([20, 10, 0], np.uint32)
    magnitudes = (words & COMPONENT) / COMPONENT * HALF_ROOT
    return completed(np.where(words & (COMPONENT + 1), -magnitudes, magnitudes), np.frombuffer(data, "<u4") >> 30)


def encoded(parameters: dict[str, np.ndarray]) -> bytes:
    """Raw parameters (see `ply.write_ply`) as an SPZ file of version 3. Raises ValueError for positions beyond 24 bits.

    Positions take as many bits after the point as their largest leaves, up to 20; harmonics take all 8 bits of a byte.
    """
    means, rest = parameters["means"].astype(np.float64), parameters["sh_rest"]
    count, reach = len(means), float(np.abs(means).max(initial=0))
    fraction = MAX_FRACTION
    while fraction and reach * 2.0**fraction > MAX_POSITION:
        fraction -= 1
    if reach * 2.0**fraction > MAX_POSITION:
        raise ValueError(f".spz holds positions up to {MAX_POSITION}, got one at {reach:g}; write splat_format=ply or glb")
    positions = np.round(means * 2.0**fraction).astype("<i4").reshape(-1, 1).view(np.uint8)[:, :3]
    three, largest = smallest_three(unit_quaternions(parameters["quaternions"])[:, [1, 2, 3, 0]])
    magnitudes = np.round(np.abs(three) / HALF_ROOT * COMPONENT).astype(np.uint32)
    coded = magnitudes | np.where(three < 0, COMPONENT + 1, 0).astype(np.uint32)
    rotations = (largest.astype(np.uint32) << 30) | (coded[:, 0] << 20) | (coded[:, 1] << 10) | coded[:, 2]
    colors = ((base_colors(parameters["sh_dc"]) - 0.5) / Y00 * COLOR_SCALE + 0.5) * 255
    arrays = (
        positions,
        _byte(sigmoid(parameters["opacity_logits"]) * 255),
        _byte(colors),
        _byte((parameters["log_scales"].astype(np.float64) + 10) * 16),
        rotations.astype("<u4"),
        _byte(rest.astype(np.float64) * 128 + 128),
    )
    header = HEADER.pack(MAGIC, 3, count, REST_COUNTS.index(rest.shape[1]), fraction, 0, 0)
    # No time of day in the stream: the same Gaussians give the same bytes.
    return gzip.compress(header + b"".join(array.tobytes() for array in arrays), mtime=0)


def _byte(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def read_spz(path: Path) -> RawSplats:
    """The Gaussians of an SPZ file; see `decoded`."""
    return decoded(path.read_bytes())


def write_spz(path: Path, parameters: dict[str, np.ndarray]) -> None:
    """Write raw parameters; see `encoded`."""
    path.write_bytes(encoded(parameters))
