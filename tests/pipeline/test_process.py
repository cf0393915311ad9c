"""process.py: results beside pictures, folders, names, refusals in one line, the command line."""

import numpy as np
import pytest
from made_pictures import box_of, disc
from PIL import Image

from microdreamer.pipeline import cutouts as process


def test_command_line_writes_beside_the_picture(tmp_path, capsys):
    folder = tmp_path / "mein Ordner é 写真"
    folder.mkdir()
    Image.fromarray(disc()).save(path := folder / "grüne Ente.png")
    assert process.main([str(path), "--size", "64", "--border_ratio", "0.5"]) == 0
    result = Image.open(folder / "grüne Ente_rgba.png")
    assert result.size == (64, 64) and np.abs(np.subtract(box_of(result), (16, 16, 48, 48))).max() <= 1
    assert str(folder / "grüne Ente_rgba.png") in capsys.readouterr().out


def test_no_recenter_keeps_size_and_place(tmp_path):
    Image.fromarray(disc()).save(tmp_path / "a.png")
    assert process.main([str(tmp_path / "a.png"), "--no-recenter", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "folder" / "a_rgba.png")), disc())


def test_photo_is_cut_out(tmp_path):
    skimage_data = pytest.importorskip("skimage.data")
    photo = Image.fromarray(skimage_data.grass()).convert("RGB").resize((160, 160))
    photo.paste((230, 40, 40), (30, 50, 110, 120))
    photo.save(tmp_path / "a.jpg", quality=95)
    assert process.main([str(tmp_path / "a.jpg"), "--model", "embedded", "--size", "100"]) == 0
    left, top, right, bottom = box_of(Image.open(tmp_path / "a_rgba.png"))
    # JPEG's halved colour resolution blurs the edge by a pixel or two of the 160, which soft alpha shows.
    assert abs(right - left - 80) <= 5 and abs(bottom - top - 70) <= 5


def test_folder_goes_on_after_a_bad_picture(tmp_path, capsys):
    for name in ("a", "c"):
        Image.fromarray(disc()).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG no more")
    (tmp_path / "notes.txt").write_text("not a picture by name")
    (tmp_path / "old_rgba.png").write_bytes(b"a result, left alone")
    assert process.main([str(tmp_path)]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.png", "b.png", "c.png", "a_rgba.png", "c_rgba.png", "notes.txt", "old_rgba.png"
    }  # fmt: skip
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line or "failed" in line]
    assert len(errors) == 2 and "b.png: " in errors[0] and errors[1] == "1 of 3 pictures failed"


def test_rgba_result_given_by_name_is_done_again_in_place(tmp_path):
    Image.fromarray(disc()).save(tmp_path / "a_rgba.png")
    assert process.main([str(tmp_path / "a_rgba.png"), "--size", "32"]) == 0
    assert Image.open(tmp_path / "a_rgba.png").size == (32, 32) and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.png"], "no such file"),
        (["."], "expected a folder with pictures"),
        (["flat.png", "--model", "embedded"], "pass an RGBA picture"),
        (["flat.png", "--model", "no-such-model"], "--model no-such-model: "),
    ],
)
def test_failures_exit_with_2_and_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    if arguments != ["."]:
        Image.new("RGB", (32, 32), "grey").save("flat.png")
    assert process.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and "\n" not in error
    assert not list(tmp_path.glob("*_rgba.png"))


def test_two_pictures_of_one_name_are_refused(tmp_path, capsys):
    for suffix in ("png", "jpg"):
        Image.new("RGB", (32, 32)).save(tmp_path / f"a.{suffix}")
    assert process.main([str(tmp_path)]) == 2
    assert "would both be written to" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--size", "0"], ["--size", "big"], ["--border_ratio", "1"], ["--recenter", "False"], ["--sise", "3"]])
def test_wrong_options_exit_with_2(option, capsys):
    with pytest.raises(SystemExit) as exit_:
        process.main(["a.png", *option])
    said = capsys.readouterr().err
    assert exit_.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1


def test_picture_with_alpha_never_loads_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "load_matting", lambda model: pytest.fail("asked for a model"))
    Image.fromarray(disc()).save(tmp_path / "a.png")
    assert process.main([str(tmp_path / "a.png")]) == 0
