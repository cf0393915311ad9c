"""What is seen of a run: the frames of films, and previews while it trains."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from microdreamer.images.writing import write_sheet, write_video
from microdreamer.pipeline.launch.config import LaunchConfig
from microdreamer.pipeline.launch.trainer import Trainer, film_cameras

log = logging.getLogger(__name__)

PREVIEWED = 8  # sentences of a library's val
FRAMES_PER_CALL = 4
SHEET_VIEWS = 8


@torch.no_grad()
def frames(model: Any, config: LaunchConfig, count: int, size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Pictures of the frames of a film, a few at a time: image, alpha, depth and, where there are any, normals, all [V,C,H,W] in [0,1].

    `model` is one that does not train.
    """
    behind = config.system.background.color if config.system.geometry.type == "gaussians" else None  # others have their own
    for first in range(0, count, FRAMES_PER_CALL):
        cameras = film_cameras(config, count, size, device, range(first, min(first + FRAMES_PER_CALL, count)))
        yield tiles_of(model.render(cameras, behind))


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """`model` in evaluation mode for a while."""
    was_training, _ = model.training, model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def tiles_of(seen: Any) -> dict[str, Tensor]:
    """What a render shows, as pictures: see `frames`."""
    tiles = {"image": seen.image.clamp(0, 1), "alpha": seen.alpha.clamp(0, 1).expand(-1, 3, -1, -1)}
    if getattr(seen, "normal", None) is not None:
        tiles["normal"] = (seen.normal * 0.5 + 0.5 * seen.alpha).clamp(0, 1)
    tiles["depth"] = _shown_depth(seen.depth, seen.alpha)
    return tiles


def _shown_depth(depth: Tensor, alpha: Tensor) -> Tensor:
    """Depth as brightness, near is bright; black where there is nothing. The range is the picture's own; an empty picture has none."""
    solid = alpha > 0.5
    each = depth / alpha.clamp_min(1e-6)
    near = torch.where(solid, each, torch.inf).amin((1, 2, 3), keepdim=True)
    far = torch.where(solid, each, -torch.inf).amax((1, 2, 3), keepdim=True)
    share = ((far - each) / (far - near).clamp_min(1e-6)).clamp(0, 1)
    return torch.where(solid, 0.2 + 0.8 * share, torch.zeros_like(share)).nan_to_num(0).expand(-1, 3, -1, -1)


def write_preview(trainer: Trainer, folder: Path) -> None:
    """Four sides of the object as it is now, in save/preview.png; of a library some sentences of its val, and all sentences' state in
    save/sentences.csv. A full disk is a warning."""
    first = trainer.shard.rank == 0
    try:
        if trainer.sentences is not None:
            trainer.sentences.report(folder / "save" / "sentences.csv", first)
        if first:
            with evaluating(trainer.learner.model):
                shown = torch.cat(
                    [tiles["image"] for model in _previewed(trainer) for tiles in frames(model, trainer.config, 4, 128, trainer.device)]
                )
            write_sheet(folder / "save" / "preview.png", shown, columns=4 if trainer.sentences is None else 8)
    except OSError as error:
        log.warning("no preview was written: %s", error)


@torch.no_grad()
def _previewed(trainer: Trainer) -> Iterator[Any]:
    """What a preview shows."""
    model = trainer.learner.model
    if trainer.sentences is None:
        yield model
        return
    feed = trainer.sentences
    rows = [feed.library.sentences.index(sentence) for sentence in feed.library.val[:PREVIEWED]]
    for row in rows:
        text = feed.store.text([row], model.geometry.text, trainer.device)
        yield model.shape(model.condition(text, feed.store.text([row], "global", trainer.device)))


def try_film(path: Path | str, film: Tensor) -> None:
    """Write frames [T,3,H,W] (bytes, or in [0,1]) as a film; where ffmpeg cannot, a warning says so and the caller goes on."""
    try:
        write_video(path, film)
    except OSError as error:
        log.warning("no film was written, the rest was: %s", " ".join(str(error).split()))
