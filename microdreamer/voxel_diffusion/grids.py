"""Sets of voxel grids in files: a folder of `vox_0000.npy`, one array `.npy`, or a packed `.npz` of one bit a voxel."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from microdreamer.core.files import atomic_write

PATTERN = "vox_*.npy"


def save_folder(folder: str | Path, grids: Sequence[np.ndarray], overwrite: bool = False) -> None:
    """Write grids [n,n,n] of 0/1 as `vox_0000.npy`, ... of float32.

    Raises ValueError where the folder has such files and `overwrite` is not set; with it, those beyond the new ones are removed.
    """
    folder = Path(folder)
    old = sorted(folder.glob(PATTERN))
    if old and not overwrite:
        raise ValueError(f"{folder}: already holds {len(old)} grids; choose another folder or pass --overwrite")
    names = [f"vox_{i:04d}.npy" for i in range(len(grids))]
    for name, grid in zip(names, grids, strict=True):
        save_array(folder / name, grid)
    for path in old:
        if path.name not in names:
            path.unlink()


def save_array(path: str | Path, grids: np.ndarray) -> None:
    """Write one array as .npy of float32."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.asarray(grids, np.float32))


def save_packed(path: str | Path, grids: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Write bool grids [n,n,n] as a compressed .npz of `bits` [N, n^3 / 8] uint8, `size` and `names`."""
    size = grids[0].shape[0]
    bits = np.stack([np.packbits(np.asarray(grid, bool).reshape(-1)) for grid in grids])
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, bits=bits, size=np.int64(size), names=np.array(names, dtype=str))


def load_grids(path: str | Path, size: int | None = None) -> np.ndarray:
    """All grids of a folder, a .npy array [N,n,n,n] or [n,n,n], or a packed .npz, as float32 (uint8 where all are 0/1) [N,n,n,n].

    size: voxels a side that they must have (None: those of the first one). Raises FileNotFoundError for a missing path and
    ValueError, which names the file, for an empty folder, another shape, or values that are NaN or outside of 0..1.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob(PATTERN))
        if not files:
            raise ValueError(
                f"{path}: no grids in this folder; expected files named {PATTERN} (python -m microdreamer.voxel_diffusion generate)"
            )
        grids = []
        for file in files:
            grids.append(_checked(_read_array(file), file, size)[None])
            size = size or grids[0].shape[-1]
    elif path.suffix == ".npz":
        grids = [_checked_set(_read_packed(path), path, size)]
    else:
        array = _read_array(path)
        grids = [_checked_set(array if array.ndim == 4 else array[None], path, size)]
    binary = all(grid.dtype == np.uint8 for grid in grids)
    return np.concatenate([grid if binary else grid.astype(np.float32) for grid in grids])


def _read_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder; expected grids (python -m microdreamer.voxel_diffusion generate)")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable .npy array; get a whole copy") from error


def _read_packed(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a packed .npz of grids")
    try:
        with np.load(path, allow_pickle=False) as file:
            bits, size = file["bits"], int(file["size"])
        return np.unpackbits(bits, axis=1, count=size**3).reshape(-1, size, size, size)
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: not a packed .npz of grids (arrays `bits` and `size`); a pack of meshes needs generate --kind mesh"
        ) from error


def _checked_set(grids: np.ndarray, path: Path, size: int | None) -> np.ndarray:
    if len(grids) == 0:
        raise ValueError(f"{path}: holds no grids")
    return np.stack([_checked(grid, f"{path}, grid {i}", size) for i, grid in enumerate(grids)])


def _checked(grid: np.ndarray, source: Path | str, size: int | None) -> np.ndarray:
    side = size or (grid.shape[0] if grid.ndim else 0)
    if grid.ndim != 3 or grid.shape != (side, side, side) or side == 0:
        expected = f"[{size}, {size}, {size}]" if size else "[n, n, n]"
        raise ValueError(f"{source}: expected a grid {expected}, got {list(grid.shape)}")
    if grid.dtype.kind not in "biuf":
        raise ValueError(f"{source}: expected numbers from 0 to 1, got {grid.dtype}")
    if not np.isfinite(grid).all():
        raise ValueError(f"{source}: has values that are not finite; expected 0 to 1")
    if grid.min() < 0 or grid.max() > 1:
        raise ValueError(f"{source}: has values from {grid.min():g} to {grid.max():g}; expected 0 to 1")
    is_binary = grid.dtype.kind in "bu" or bool(((grid == 0) | (grid == 1)).all())
    return grid.astype(np.uint8 if is_binary else np.float32)
