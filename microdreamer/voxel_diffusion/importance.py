"""How much each timestep matters, measured once: the mean gradient norm of the loss, as a JSON file and a plot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from microdreamer.core.files import atomic_write
from microdreamer.voxel_diffusion.timesteps import interpolate
from microdreamer.voxel_diffusion.training import Trainer

WIDTH, HEIGHT, MARGIN = 720, 320, 48  # px of the plot


def measure_importance(
    trainer: Trainer, batches: int, levels: int = 0, on_batch: Callable[[int, int], None] | None = None
) -> tuple[list[int], Tensor]:
    """The timesteps measured and the mean gradient norm at each, over `batches` random batches.

    levels: how many timesteps, evenly spread (0: all T). Raises ValueError for a number that the schedule does not have.
    """
    timesteps = trainer.denoiser.schedule.timesteps
    if batches < 1 or not (levels == 0 or 2 <= levels <= timesteps):
        raise ValueError(f"batches={batches}, levels={levels}: expected at least one batch and levels 0 or 2 to T={timesteps}")
    measured = torch.linspace(0, timesteps - 1, levels or timesteps).round().long().tolist()
    total = torch.zeros(len(measured), device=trainer.device)
    for batch in range(batches):
        chosen = torch.randint(len(trainer.grids), (trainer.config.batch,), device=trainer.grids.device)
        total += trainer.gradient_norms(trainer.grids[chosen].to(trainer.device), measured)
        if on_batch:
            on_batch(batch + 1, batches)
    return measured, (total / batches).cpu()


def check_name(path: str | Path) -> Path:
    """The path of an importance file. Raises ValueError unless it ends in .json."""
    path = Path(path)
    if path.suffix != ".json":
        raise ValueError(f"{path}: expected a name ending in .json")
    return path


def save_importance(path: str | Path, measured: list[int], norms: Tensor, schedule: dict, batches: int) -> None:
    """Write the JSON file `path` and, beside it, the plot of the same name (.png)."""
    path = check_name(path)
    norms_of_all = interpolate(norms, measured, schedule["timesteps"])
    document = {"schedule": schedule, "batches": batches, "measured": measured, "norms": norms_of_all.tolist()}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")
    with atomic_write(path.with_suffix(".png")) as temporary:
        plot(norms_of_all.tolist()).save(temporary, format="PNG")


def load_importance(path: str | Path, schedule: dict) -> Tensor:
    """The norms [T] of a file. Raises FileNotFoundError, or ValueError for a file of another kind or another schedule."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make it by python -m microdreamer.voxel_diffusion importance")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        stored, norms = document["schedule"], torch.tensor(document["norms"], dtype=torch.float32)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a file of timestep importance (it needs `schedule` and `norms`)") from error
    if stored != schedule or len(norms) != schedule["timesteps"]:
        raise ValueError(f"{path}: measured for the schedule {stored}, training has {schedule}; measure again or pass the same options")
    if not bool(torch.isfinite(norms).all()):
        raise ValueError(f"{path}: has norms that are not finite; measure again")
    return norms


def plot(values: list[float]) -> Image.Image:
    """A bar for each value, from zero, with the axes' ends written beside them."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    top = max(max(values), 1e-30)
    left, base, wide, tall = MARGIN, HEIGHT - MARGIN, WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    for i, value in enumerate(values):
        x0, x1 = left + wide * i / len(values), left + wide * (i + 1) / len(values)
        pen.rectangle([x0, base - tall * max(value, 0) / top, max(x0, x1 - 1), base], fill=(90, 140, 200))
    pen.line([left, base, left + wide, base], fill="black")
    pen.line([left, base, left, base - tall], fill="black")
    pen.text((left, base + 6), "t = 0", fill="black")
    pen.text((left + wide - 50, base + 6), f"t = {len(values) - 1}", fill="black")
    pen.text((left, base - tall - 16), f"mean gradient norm, highest {top:.4g}", fill="black")
    return picture
