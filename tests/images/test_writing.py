"""Films and sheets, and what is said where ffmpeg fails."""

import numpy as np
import pytest
import torch
from PIL import Image

from microdreamer.images.writing import to_bytes, write_sheet, write_video

FRAMES = torch.linspace(0, 1, 4)[:, None, None, None].expand(4, 3, 8, 10)


@pytest.mark.parametrize("folder", ["a:b", "-y", "with space", "ünï"])
def test_a_film_is_written_whatever_the_folder_is_called(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    write_video(f"{folder}/film.mp4", FRAMES)
    assert (tmp_path / folder / "film.mp4").read_bytes()[4:8] == b"ftyp"
    assert [path.name for path in (tmp_path / folder).iterdir()] == ["film.mp4"]


@pytest.mark.parametrize(("script", "said"), [("#!/bin/sh\necho no codec >&2; exit 3", "no codec"), ("no program", "could not be run")])
def test_a_failing_ffmpeg_is_an_error_that_says_why_and_leaves_nothing(tmp_path, monkeypatch, script, said):
    broken = tmp_path / "ffmpeg"
    broken.write_text(script)
    broken.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    with pytest.raises(OSError, match=said) as caught:
        write_video(tmp_path / "out" / "film.mp4", FRAMES)
    assert "film.mp4" in str(caught.value) and not (tmp_path / "out").exists()


def test_a_sheet_puts_pictures_in_rows(tmp_path):
    write_sheet(tmp_path / "sheet.png", FRAMES, columns=2)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert pixels.shape == (2 * 8 + 4, 2 * 10 + 4, 3)
    assert [int(pixels[row, column, 0]) for row, column in ((0, 0), (0, 14), (12, 0), (12, 14))] == [0, 85, 170, 255]
    assert (pixels[8:12] == 255).all()


def test_bytes_are_pictures_as_they_are(tmp_path):
    pictures = (FRAMES.expand(4, 3, 8, 10) * 255).round().byte()
    np.testing.assert_array_equal(to_bytes(pictures), to_bytes(FRAMES.expand(4, 3, 8, 10)))
    for name, frames in (("a.mp4", pictures), ("b.mp4", FRAMES.expand(4, 3, 8, 10))):
        write_video(tmp_path / name, frames)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
