"""Pictures and films of renders: turntable videos and sheets of views."""

from __future__ import annotations

import io
import math
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from microdreamer.core import profiler
from microdreamer.core.errors import one_line
from microdreamer.core.files import atomic_write

SHEET_MARGIN = 4  # px between the pictures of a sheet


def to_bytes(images: Tensor) -> np.ndarray:
    """Pictures [N,3,H,W] in [0,1] as 8-bit [N,H,W,3]; values outside are clamped. Bytes stay what they are."""
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected shape [N,3,H,W], got {list(images.shape)}")
    if images.dtype == torch.uint8:
        return images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    scaled = images.detach().float().clamp(0, 1).mul_(255).round_()  # a new tensor, then in place: films are large
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


@profiler.function
def write_video(path: str | Path, frames: Tensor, fps: int = 30) -> None:
    """Write frames [T,3,H,W] in [0,1], or bytes, as H.264 (yuv420p, what every player shows).

    That pixel format wants even sizes: an odd last row or column is repeated. Raises ValueError for no frames or a path that
    does not end in .mp4, OSError where ffmpeg fails.
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
    size = f"{pictures.shape[2]}x{pictures.shape[1]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", size, "-framerate", str(fps), "-i", "-"]
    # Players take BT.709 for granted in pictures of this kind; faststart lets a browser begin before it has the whole file.
    target = ["-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    target += ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    with atomic_write(path) as temporary:
        # file: because ffmpeg takes what stands before a colon for a protocol, and a leading dash for an option.
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *target, f"file:{temporary}"]
        try:
            result = subprocess.run(command, input=pictures.tobytes(), capture_output=True)
        except OSError as error:  # not there, not for this machine, or gone while it was written to
            raise OSError(f"{path}: ffmpeg could not be run ({one_line(error)}); is imageio-ffmpeg whole?") from error
        if result.returncode != 0 or not temporary.is_file():
            first_line = (result.stderr.decode(errors="replace").splitlines() or [f"exit code {result.returncode}"])[0]
            raise OSError(f"{path}: ffmpeg could not write the video ({first_line}); check free space and permissions")


def encoded_png(picture: np.ndarray | Image.Image) -> bytes:
    """The PNG file of a picture, [H,W,3] (uint8) or Pillow's.

    Deflate looks for runs alone: as small as at level 4, in two thirds of the time.
    """
    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(buffer, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


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
        temporary.write_bytes(encoded_png(sheet))
