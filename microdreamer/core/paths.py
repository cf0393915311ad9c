"""Where the files that ship with the package lie: inside an installed package, or beside it in a clone."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(name: str) -> Path:
    """The folder of files that ship with the package, "weights" or "configs". It may be missing; who reads from it says so."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def shipped_configurations() -> dict[str, Path]:
    """The configurations that ship, of all programs, by name."""
    return {file.stem: file for file in sorted(shipped_folder("configs").glob("*.yaml"))}
