"""process.py: results beside pictures, folders, names, refusals in one line, the command line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_pictures import box_of, disc
from PIL import Image

from microdreamer.pipeline import cutouts as process

ROOT = Path(__file__).resolve().parents[2]


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


def test_alpha_that_is_no_cut_out_is_said_in_one_line(tmp_path, capsys):
    photo = np.full((160, 160, 4), (150, 160, 170, 254), np.uint8)
    photo[50:120, 30:110, :3] = (230, 40, 40)
    Image.fromarray(photo).save(tmp_path / "a.png")
    assert process.main([str(tmp_path / "a.png"), "--model", "embedded", "--no-recenter"]) == 0
    alpha = np.asarray(Image.open(tmp_path / "a_rgba.png").getchannel("A"))
    assert alpha[85, 70] > 250 and alpha[10, 10] == 0
    assert capsys.readouterr().err == f"{tmp_path / 'a.png'}: alpha hides 0% of the picture, so it is no cut-out: background removed\n"


def test_heic_in_a_folder_is_named_and_the_rest_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("microdreamer.images.reading.HEIF_READERS", ())
    Image.init()
    monkeypatch.setattr(Image, "OPEN", {name: how for name, how in Image.OPEN.items() if name != "HEIF"})
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    Image.fromarray(disc()).save(tmp_path / "b.png")
    assert process.main([str(tmp_path)]) == 2
    assert (tmp_path / "b_rgba.png").exists()
    assert "IMG_1.HEIC: a HEIC picture, which needs one more package: pip install" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stem",
    [
        "Screenshot 2026-11-28 at 5.04.12\u202fPM",
        "a\u00a0b\u3000c",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467",
        ".hidden",
        "-dash",
        "a:b",
        "caf\udce9",  # undecodable bytes
        "x" * 251,
        "é" * 125,
    ],
)
def test_pictures_of_any_name(tmp_path, stem):
    source = tmp_path / f"{stem}.png"
    try:
        Image.fromarray(disc()).save(source)
    except (OSError, UnicodeError):
        pytest.skip("this file system does not take the name")
    result = subprocess.run(
        [sys.executable, "process.py", str(source), "--size", "32"],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )
    assert result.returncode == 0, result.stderr
    made = [path for path in tmp_path.iterdir() if path != source]
    assert len(made) == 1 and made[0].name.endswith("_rgba.png") and Image.open(made[0]).size == (32, 32)
    if len(stem) < 100:
        assert made[0].name == f"{stem}_rgba.png"


def test_home_and_optimised_bytecode(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.fromarray(disc()).save(tmp_path / "pictures" / "a.png")
    command = [sys.executable, "-OO", "process.py", "~/pictures", "--out", "~/cut", "--size", "32"]
    environment = os.environ | {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "cut" / "a_rgba.png").size == (32, 32)
    assert subprocess.run([*command[:3], "--help"], capture_output=True, cwd=ROOT).returncode == 0
