"""The PLY layout that 3D Gaussian splatting viewers read: one vertex per Gaussian, raw parameters, 32-bit floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement, PlyParseError

from files import atomic_write

REST_COUNTS = {0: 0, 1: 9, 2: 24, 3: 45}  # f_rest properties by SH degree: 3 * ((degree + 1)^2 - 1)


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}_{index}" for index in range(count)]


def _columns(rest_count: int) -> list[str]:
    """All property names in file order."""
    head = ["x", "y", "z", "nx", "ny", "nz", *_names("f_dc", 3), *_names("f_rest", rest_count)]
    return [*head, "opacity", *_names("scale", 3), *_names("rot", 4)]


def write_ply(path: str | Path, parameters: dict[str, np.ndarray]) -> None:
    """Write raw parameters: means [N,3], sh_dc [N,1,3], sh_rest [N,K-1,3], opacity_logits [N], log_scales [N,3], quaternions [N,4].

    Binary little endian. Normals are zero; f_rest holds all coefficients of red, then of green, then of blue.
    """
    count, rest = len(parameters["means"]), parameters["sh_rest"]
    table = np.concatenate(
        [
            parameters["means"],
            np.zeros((count, 3), np.float32),
            parameters["sh_dc"][:, 0],
            rest.transpose(0, 2, 1).reshape(count, rest.shape[1] * 3),
            parameters["opacity_logits"][:, None],
            parameters["log_scales"],
            parameters["quaternions"],
        ],
        axis=1,
    ).astype("<f4")
    names = _columns(rest.shape[1] * 3)
    vertices = table.view([(name, "<f4") for name in names])[:, 0] if count else np.zeros(0, [(name, "<f4") for name in names])
    with atomic_write(path) as temporary:
        PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(temporary))


def read_ply(path: str | Path) -> dict[str, np.ndarray]:
    """The raw parameters in `path`, as `write_ply` takes them; SH degree 0 to 3 by the number of f_rest properties.

    Raises FileNotFoundError, or ValueError in one line for a file that is not a whole PLY of Gaussians.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a PLY of Gaussians")
    try:
        elements = PlyData.read(str(path), mmap=False)
    except (PlyParseError, UnicodeDecodeError, ValueError, EOFError, MemoryError) as error:
        raise ValueError(f"{path}: not a whole PLY file ({' '.join(str(error).split())}); get a whole copy") from error
    if "vertex" not in elements:
        raise ValueError(f"{path}: no element 'vertex'; expected a PLY of Gaussians")
    vertices = elements["vertex"].data
    present = set(vertices.dtype.names or ())
    rest_count = sum(name.startswith("f_rest_") for name in present)
    for name in [column for column in _columns(rest_count) if column not in ("nx", "ny", "nz")]:
        if name not in present:
            raise ValueError(f"{path}: no vertex property '{name}'; expected a PLY of Gaussians, this looks like another kind")
    if rest_count not in REST_COUNTS.values():
        raise ValueError(f"{path}: {rest_count} properties f_rest_*; expected 0, 9, 24 or 45 (SH degree 0 to 3)")

    def gather(names: list[str]) -> np.ndarray:
        columns = [np.asarray(vertices[name], np.float32) for name in names]
        return np.stack(columns, axis=1) if columns else np.zeros((len(vertices), 0), np.float32)

    parameters = {
        "means": gather(["x", "y", "z"]),
        "sh_dc": gather(_names("f_dc", 3))[:, None],
        "sh_rest": gather(_names("f_rest", rest_count)).reshape(len(vertices), 3, rest_count // 3).transpose(0, 2, 1),
        "opacity_logits": gather(["opacity"])[:, 0],
        "log_scales": gather(_names("scale", 3)),
        "quaternions": gather(_names("rot", 4)),
    }
    for name, values in parameters.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {name} holds values that are not finite; the file is damaged")
    return {name: np.ascontiguousarray(values) for name, values in parameters.items()}
