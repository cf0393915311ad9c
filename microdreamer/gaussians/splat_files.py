"""Files of Gaussians, whatever their format: read into raw parameters that are all finite, and written.

Formats: the PLY of 3D Gaussian splatting and its relatives, SuperSplat's compressed PLY, antimatter15's .splat, Niantic's .spz, and
glTF with KHR_gaussian_splatting (docs/splats.md).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from microdreamer.core.files import atomic_write
from microdreamer.gaussians.formats.common import RawSplats
from microdreamer.gaussians.formats.gltf import read_gltf, write_glb
from microdreamer.gaussians.formats.ply import read_ply, write_ply
from microdreamer.gaussians.formats.splat import read_splat, write_splat
from microdreamer.gaussians.formats.spz import read_spz, write_spz
from microdreamer.kernels.spherical_harmonics import MAX_DEGREE

log = logging.getLogger(__name__)

WRITERS = {"ply": write_ply, "splat": write_splat, "spz": write_spz, "glb": write_glb}
MARKS = (b"f_dc_0", b"packed_position", b"KHR_gaussian_splatting")  # that headers of Gaussians hold and those of meshes do not
HEADER_BYTES = 1 << 20  # among which a header of a PLY and the JSON of a GLB of Gaussians stand
READERS = {".ply": read_ply, ".splat": read_splat, ".spz": read_spz, ".glb": read_gltf, ".gltf": read_gltf}
MAGIC = {b"ply\n": read_ply, b"ply\r": read_ply, b"\x1f\x8b": read_spz, b"NGSP": read_spz, b"glTF": read_gltf}
KINDS = "a PLY, .splat, .spz or .glb of Gaussians"

# What infinity stands for: in float32, the sigmoid and the exponential of -LIMIT are 0, and the sigmoid of LIMIT is 1.
LIMIT = np.float32(104)
MAX_LOG_SCALE = np.float32(43)  # above, the square of a scale is infinite in float32


class SplatFile(NamedTuple):
    """What a file holds.

    parameters: see `formats.ply.write_ply`, float32 and finite; up: the axis that the file says is up, None where it does not; remarks:
    lines for the user about how the file was understood and what was left out.
    """

    parameters: dict[str, np.ndarray]
    up: str | None
    remarks: tuple[str, ...]


def read_splats(path: str | Path) -> SplatFile:
    """The Gaussians of a file of any format here, known by its first bytes, else by its suffix.

    Infinite logits and logarithms become the finite ones of the same opacity (0 or 1) and scale (0); quaternions of length zero become
    the identity; harmonics above degree 3 are left out; Gaussians with other values that are not finite are dropped. Raises
    FileNotFoundError, or ValueError in one line for a file that is none of Gaussians or has no Gaussian that is whole.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected {KINDS}")
    with open(path, "rb") as file:
        start = file.read(4)
    by_magic = next((reader for magic, reader in MAGIC.items() if start.startswith(magic)), None)
    reader = by_magic or READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: not a format this can read; expected {KINDS} (SuperSplat converts others)")
    try:
        raw = reader(path)
        parameters, remarks = finite(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    return SplatFile(parameters, raw.up, (*raw.remarks, *remarks))


def holds_gaussians(path: str | Path) -> bool:
    """Whether a file is one of Gaussians rather than of a mesh; PLY and glTF may hold either. False for a missing one."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix.lower() in (".splat", ".spz"):
        return True
    with open(path, "rb") as file:
        start = file.read(HEADER_BYTES)
    return any(mark in start for mark in MARKS)


def log_remarks(path: str | Path, remarks: Iterable[str]) -> None:
    """Log the remarks on a file as warnings, one line each."""
    for remark in remarks:
        log.warning("%s: %s", path, remark)


def write_splats(path: str | Path, parameters: dict[str, np.ndarray], format: str = "ply") -> None:
    """Write finite raw parameters as "ply", "splat", "spz" or "glb", whole or not at all.

    Only PLY keeps every bit; .splat and .spz are quantised, and .splat holds no harmonics above degree 0. Raises ValueError for an
    unknown format, for no Gaussians as GLB (which cannot hold none) and for positions that .spz has no room for.
    """
    if format not in WRITERS:
        raise ValueError(f"format={format}: expected one of {', '.join(WRITERS)}")
    if format == "glb" and not len(parameters["means"]):
        raise ValueError(f"{path}: there are no Gaussians, and a GLB cannot hold none")
    with atomic_write(path) as temporary:
        WRITERS[format](temporary, parameters)


def finite(raw: RawSplats) -> tuple[dict[str, np.ndarray], list[str]]:
    """Finite raw parameters of what a file states, and lines about what it took. Raises ValueError where no Gaussian is whole."""
    remarks = []
    sh = raw.sh[:, : (MAX_DEGREE + 1) ** 2]
    if sh.shape[1] < raw.sh.shape[1]:
        remarks.append(f"harmonics above degree {MAX_DEGREE} are left out")
    whole = ~(np.isnan(raw.opacity_logits) | np.isnan(raw.log_scales).any(1)) & (raw.log_scales <= MAX_LOG_SCALE).all(1)
    for values in (raw.means, sh.reshape(len(sh), sh.shape[1] * 3), raw.quaternions):
        whole &= np.isfinite(values).all(1)
    dropped = len(whole) - int(whole.sum())
    if dropped and dropped == len(whole):
        raise ValueError(f"none of its {len(whole)} Gaussians is finite; the file is damaged")
    if dropped:
        remarks.append(f"{dropped} of {len(whole)} Gaussians are not finite and are left out")
    zero = (raw.quaternions == 0).all(1)
    quaternions = np.where(zero[:, None], np.array([1, 0, 0, 0], np.float32), raw.quaternions)
    parameters = {
        "means": raw.means,
        "sh_dc": sh[:, :1],
        "sh_rest": sh[:, 1:],
        "opacity_logits": np.where(np.isinf(raw.opacity_logits), np.sign(raw.opacity_logits) * LIMIT, raw.opacity_logits),
        "log_scales": np.maximum(raw.log_scales, -LIMIT),
        "quaternions": quaternions,
    }
    chosen = whole if dropped else slice(None)
    return {name: np.ascontiguousarray(values[chosen], dtype=np.float32) for name, values in parameters.items()}, remarks
