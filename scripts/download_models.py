"""Fetch the weights of published priors into the Hugging Face cache of this machine, whole and checked.

python scripts/download_models.py stable_zero123
python scripts/download_models.py imagedream mvdream
python scripts/download_models.py mvdream --repository owner/name@revision
python scripts/download_models.py stable_zero123 --verify     # without a network: check what is there

An interrupted download goes on where it stopped. Presets name the commit they take; where a repository cannot be reached its
mirrors are tried. HF_HOME moves the cache, HF_ENDPOINT names another hub.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from microdreamer.core.errors import one_line
from microdreamer.guidance.checkpoints import check_shapes
from microdreamer.guidance.published.configs import PUBLISHED, class_of
from microdreamer.guidance.published.presets import PRESETS, Preset, find_checkpoint, missing_parts, part_weights, split_hub_name
from microdreamer.guidance.published.pretrained import LEFT_OVER, build, name_in, read_config, read_tensors, weight_files

SHA256_DIGITS = 64
CHUNK = 2**24  # bytes


class Unreachable(OSError):
    """A repository that cannot be fetched from here; the message says why."""


def fetch(repository: str, preset: Preset) -> Path:
    """Download what the preset needs of one repository and return its folder. Raises Unreachable or ValueError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name, revision = split_hub_name(repository)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=preset.patterns))
    except GatedRepoError as error:
        raise Unreachable(f"{name}: asks to accept its licence; do so on its page and run `hf auth login`") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise Unreachable(f"{name}: there is no such repository or revision {revision}") from error
    except Exception as error:  # the hub's HTTP library, and with it what it raises, changes between versions
        raise Unreachable(f"{name}: not reached ({one_line(error)[:160]})") from error


def check(name: str, folder: Path) -> int:
    """Compare every key and shape with the published networks and every large file with its checksum, where the cache has one.

    Returns the bytes of weights. Raises FileNotFoundError or ValueError in one line for the first thing that is wrong.
    """
    lacking = missing_parts(folder, PRESETS[name])
    if lacking:
        raise FileNotFoundError(f"{folder}: {lacking[0]} is missing; run the download again")
    size = 0
    for part, published in PUBLISHED[name].items():
        module = build(read_config(folder / part), class_of(published), folder / part / "config.json")
        wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        found: dict[str, tuple[int, ...]] = {}
        files = weight_files(part_weights(folder / part))
        for file in files:
            found |= {name_in(wanted, key): shape for key, _, shape in read_tensors(file) if not key.endswith(LEFT_OVER)}
            size += file.stat().st_size
        check_shapes(wanted, found, files[0], class_of(published))
        for file in files:
            check_sum(file)
    return size


def check_sum(file: Path) -> None:
    """Raises ValueError unless a file of the cache, which is named by its SHA-256, has that sum."""
    expected = file.resolve().name
    if len(expected) != SHA256_DIGITS:
        return
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise ValueError(f"{file.resolve()}: damaged (its SHA-256 is another); delete it and run the download again")


def check_space(preset: Preset) -> None:
    """Raises OSError where the weights would not fit."""
    from huggingface_hub.constants import HF_HUB_CACHE

    place = next(folder for folder in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e6
    if free < preset.megabytes:
        raise OSError(f"{HF_HUB_CACHE}: {free / 1000:.1f} GB free, {preset.megabytes / 1000:.1f} GB needed; set HF_HOME to another disk")


def get(name: str, repository: str | None) -> Path:
    """Fetch one prior from the first of its repositories that can be reached."""
    preset = PRESETS[name]
    check_space(preset)
    print(f"{name}: {preset.megabytes / 1000:.1f} GB, licence: {preset.licence}")
    failures = []
    for candidate in [repository] if repository else preset.repositories:
        try:
            folder = fetch(candidate, preset)
        except Unreachable as error:
            failures.append(str(error))
            continue
        lacking = missing_parts(folder, preset)
        if not lacking:
            return folder
        failures.append(f"{candidate}: has no {lacking[0]}")
    raise OSError(f"{'; '.join(failures)}. Without a network, copy a folder in this layout and pass prior_path=FOLDER")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("priors", nargs="+", choices=tuple(PRESETS), metavar="PRIOR", help=", ".join(PRESETS))
    parser.add_argument("--repository", help="owner/name@revision to take instead of the preset's")
    parser.add_argument("--verify", action="store_true", help="fetch nothing; check what is there")
    args = parser.parse_args(arguments)
    try:
        for name in args.priors:
            folder = find_checkpoint(name, args.repository) if args.verify else get(name, args.repository)
            size = check(name, folder)
            print(f"{name}: {size / 1e9:.2f} GB whole and checked in {folder}")
    except (ValueError, OSError) as error:
        print(f"download_models.py: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
