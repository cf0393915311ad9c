"""Several files that take their places together: nothing of the old before all of the new, and back on its feet after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from microdreamer.core import staging
from microdreamer.core.staging import finish, staged

SUFFIXES = ("_a", "_b", ".json")
ROOT = Path(__file__).resolve().parents[2]


def write(stem: Path, text: str, suffixes=SUFFIXES) -> None:
    for suffix in suffixes:
        Path(f"{stem}{suffix}").write_text(text)


def found(stem: Path) -> dict[str, str]:
    """All files in the folder, hidden ones too, by name."""
    return {path.name: path.read_text() if path.is_file() else "folder" for path in stem.parent.iterdir()}


def test_files_take_their_places_and_what_is_not_written_anew_goes(tmp_path):
    stem = tmp_path / "out" / "name"
    with staged(stem, SUFFIXES) as aside:
        write(aside, "old")
    (tmp_path / "out" / "name_notes").write_text("of the user's own")
    with staged(stem, SUFFIXES) as aside:
        write(aside, "new", ("_b", ".json"))
        assert found(stem) | {"name_a": "old"} == found(stem)  # until the end the old ones stand
    assert found(stem) == {"name_b": "new", "name.json": "new", "name_notes": "of the user's own"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_whatever_goes_wrong_leaves_the_earlier_result(tmp_path, error):
    stem = tmp_path / "name"
    write(stem, "old")
    with pytest.raises(type(error)), staged(stem, SUFFIXES) as aside:
        write(aside, "new", ("_a",))
        raise error
    assert found(stem) == {f"name{suffix}": "old" for suffix in SUFFIXES}


def test_an_error_names_the_place_and_not_the_hidden_folder(tmp_path):
    with pytest.raises(OSError) as caught, staged(tmp_path / "name", SUFFIXES) as aside:
        Path(f"{aside}_a").mkdir()
        Path(f"{aside}_a").write_text("")
    assert caught.value.filename == str(tmp_path / "name_a")


def test_a_kill_while_files_are_moved_is_finished_by_the_next(tmp_path, monkeypatch):
    stem, moved, replace = tmp_path / "name", [], os.replace
    write(stem, "old")

    def killed(source, target):
        if Path(source).name == "name_b":
            raise SystemExit
        moved.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(staging.os, "replace", killed)
    with pytest.raises(SystemExit), staged(stem, SUFFIXES) as aside:
        write(aside, "new")
    assert moved[-1] == "name_a" and (tmp_path / "name.json").read_text() == "old"  # the record is the last
    monkeypatch.undo()
    finish(stem)
    assert found(stem) == {f"name{suffix}": "new" for suffix in SUFFIXES}


def test_what_a_killed_process_left_unfinished_is_swept_and_a_living_ones_is_not(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from microdreamer.core.staging import staged\n"
        f"with staged(Path({str(tmp_path)!r}) / 'name', {SUFFIXES!r}) as aside:\n"
        "    Path(f'{aside}_a').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL and len(found(tmp_path / "name")) == 1
    with staged(tmp_path / "name", SUFFIXES) as aside:
        write(aside, "new")
        with staged(tmp_path / "name", SUFFIXES) as other:
            write(other, "other")
    assert found(tmp_path / "name") == {f"name{suffix}": "new" for suffix in SUFFIXES}


def test_a_folder_in_the_place_of_a_file_is_told_before_anything_is_written(tmp_path):
    write(tmp_path / "name", "old", ("_a", ".json"))
    (tmp_path / "name_b").mkdir()
    with (
        pytest.raises(IsADirectoryError, match="a folder stands where a file is to be written") as caught,
        staged(tmp_path / "name", SUFFIXES),
    ):
        raise AssertionError("the block is not entered")
    assert caught.value.filename == str(tmp_path / "name_b")
    assert found(tmp_path / "name") == {"name_a": "old", "name.json": "old", "name_b": "folder"}


@pytest.mark.parametrize("name", ["x" * 200, "é" * 100, "[a]*?"])
def test_long_and_odd_names_on_a_machine_of_a_long_name(tmp_path, monkeypatch, name):
    """File systems take 255 bytes a name; what a killed process left is found under all names."""
    monkeypatch.setattr(staging.socket, "gethostname", lambda: "h" * 64)
    monkeypatch.setattr(staging, "_is_alive", lambda _: False)
    stem = tmp_path / name
    dead = stem.with_name(f"{staging._hidden(stem)}.new-4194304@{'h' * 64}~01234567")
    dead.mkdir()
    with staged(stem, SUFFIXES) as aside:
        write(aside, "new")
    assert found(stem) == {f"{name}{suffix}": "new" for suffix in SUFFIXES}
