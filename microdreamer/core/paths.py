"""Where the files that ship with the package lie: inside an installed package, or beside it in a clone."""

from __future__ import annotations

from pathlib import Path

from microdreamer.core.errors import UserError
from microdreamer.core.files import user_path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(name: str) -> Path:
    """The folder of files that ship with the package, "weights" or "configs". It may be missing; who reads from it says so."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def shipped_configurations() -> dict[str, Path]:
    """The files that ship, by the names that `--config` takes."""
    return {file.stem: file for file in sorted(shipped_folder("configs").glob("*.yaml"))}


def configuration_file(path: str | Path) -> Path:
    """The YAML file at `path` or, where there is none, the one that ships under that name: `micro`, `micro.yaml` or `configs/micro.yaml`
    in any folder. Raises UserError where there is neither."""
    file = user_path(path)
    if file.is_file():
        return file
    shipped = shipped_configurations()
    if str(file.parent) in (".", "configs") and file.name.removesuffix(".yaml") in shipped:
        return shipped[file.name.removesuffix(".yaml")]
    raise UserError(f"{path}: no such configuration file; pass --config FILE.yaml or one that ships: {', '.join(shipped)}")
