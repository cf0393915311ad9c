"""Pictures and films of renders: turntable videos and sheets of views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from files import atomic_write

SHEET_MARGIN = 4  # px between the pictures of a sheet


def to_bytes(images: Tensor) -> np.ndarray:
    """Pictures [N,3,H,W] in [0,1] as 8-bit [N,H,W,3]; values outside are clamped."""
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected shape [N,3,H,W], got {list(images.shape)}")
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def write_video(path: str | Path, frames: Tensor, fps: int = 30) -> None:
    """Write frames [T,3,H,W] in [0,1] as H.264 (yuv420p, what every player shows).

    That pixel format wants even sizes: an odd last row or column is repeated. Raises ValueError for no frames or a path that
    does not end in .mp4, RuntimeError where ffmpeg fails.
    """
    import imageio_ffmpeg

    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path}: expected a video name ending in .mp4")
    pictures = to_bytes(frames)
    if len(pictures) == 0:
        raise ValueError(f"{path}: expected at least one frame, got none")
    height, width = pictures.shape[1:3]
    pictures = np.pad(pictures, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    size = (pictures.shape[2], pictures.shape[1])
    with atomic_write(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary), size, fps=fps, codec="libx264", pix_fmt_out="yuv420p", macro_block_size=2, ffmpeg_log_level="error"
        )
        try:
            writer.send(None)
            for picture in pictures:
                writer.send(np.ascontiguousarray(picture))
        except OSError as error:
            raise RuntimeError(f"{path}: ffmpeg could not write the video ({error}); check free space and permissions") from error
        finally:
            writer.close()
        if not temporary.exists() or temporary.stat().st_size == 0:
            raise RuntimeError(f"{path}: ffmpeg wrote no video; check free space and permissions")


def write_sheet(path: str | Path, images: Tensor | Sequence[Tensor], columns: int) -> None:
    """Write pictures [N,3,H,W] in [0,1] as one PNG, row by row, `columns` a row, on white.

    Raises ValueError for no pictures, fewer than one column or pictures of different sizes.
    """
    if columns < 1 or len(images) == 0:
        raise ValueError(f"{path}: expected at least one picture and one column, got {len(images)} and {columns}")
    if not isinstance(images, Tensor):
        if len({image.shape for image in images}) != 1:
            raise ValueError(f"{path}: pictures of different sizes: {sorted({tuple(image.shape) for image in images})}")
        images = torch.stack([image.detach().cpu() for image in images])
    pictures = to_bytes(images)
    count, height, width = pictures.shape[:3]
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    pitch_y, pitch_x = height + SHEET_MARGIN, width + SHEET_MARGIN
    sheet = np.full((rows * pitch_y - SHEET_MARGIN, columns * pitch_x - SHEET_MARGIN, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet[row * pitch_y : row * pitch_y + height, column * pitch_x : column * pitch_x + width] = picture
    with atomic_write(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
