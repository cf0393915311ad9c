"""Where the files that ship with the package lie: in a clone beside it, in an installed package inside."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(name: str) -> Path:
    """The folder `name` of files that ship with the package: "weights" or "configs".

    FileNotFoundError where neither place has it: half of a package was copied, or a clone's folder is gone.
    """
    for folder in (PACKAGE / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{name}/: expected inside or beside {PACKAGE}; install the package anew, or take a whole clone")
