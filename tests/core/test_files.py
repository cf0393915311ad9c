"""Names of files: clean ones from any text, paths as users type them."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microdreamer.core.files import MAX_NAME, atomic_write, clean_name, readable, sha256_of, try_writing, user_path


@pytest.mark.parametrize(
    "text, name",
    [
        ("robot", "robot"),
        ("grüne Ente", "grüne Ente"),
        ("写真 1", "写真 1"),
        ("Screenshot 2026-11-28 at 5.04.12\u202fPM", "Screenshot 2026-11-28 at 5.04.12 PM"),  # macOS
        ("a\u00a0b\u3000c", "a b c"),
        ("\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f469\U0001f469\U0001f467"),
        (".hidden", "hidden"),
        ("...", "object"),
        ("", "object"),
        ("a\u0301", "á"),  # as macOS decomposes names
        (os.fsdecode(b"caf\xe9"), "café"),  # Latin-1 bytes on a UTF-8 system
        ("a/b\\c:d", "a_b_c_d"),
        ("what? *no*", "what_ _no_"),
        ("tab\tand\nline", "tab and line"),
        ("bell\a\u202e", "bell"),
        ("con", "_con"),
        ("Nul.tar", "_Nul.tar"),
        ("console", "console"),
        ("end. . ", "end"),
        ("-dash", "-dash"),
        ("é" * 300, "é" * 100),
    ],
)
def test_clean_names(text, name):
    assert clean_name(text) == name


@settings(max_examples=500, deadline=None)
@given(st.text(st.characters(codec=None), max_size=300))
def test_a_clean_name_is_plain_whatever_it_is_made_of(text):
    name = clean_name(text)
    assert name and Path(name).name == name and name.isprintable() and name[0] not in ". " and name[-1] not in ". "
    assert len(name.encode("utf-8")) <= MAX_NAME and clean_name(name) == name


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_names_of_any_bytes_can_be_read_and_printed(data):
    text = readable(os.fsdecode(data))
    text.encode("utf-8")
    assert readable(text) == text


def test_home_is_expanded_where_it_was_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert user_path("~/a.png") == tmp_path / "home" / "a.png" and user_path("~") == tmp_path / "home"
    assert user_path("a/~b.png") == Path("a/~b.png") and user_path("") == Path("")
    assert user_path("~nobody-of-that-name/a.png") == Path("~nobody-of-that-name/a.png")
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "a.png").touch()
    assert user_path("~/a.png") == Path("~/a.png")


def test_a_files_sha256_is_that_of_its_bytes(tmp_path):
    for data in (b"", b"abc", bytes(3 << 20)):
        (tmp_path / "file").write_bytes(data)
        assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_trial_that_fails_names_what_was_to_be_written(tmp_path):
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "folder" / "result.json"
    with pytest.raises(OSError) as caught:
        try_writing(target)
    assert caught.value.filename == str(target) and "probe" not in str(caught.value)


@pytest.mark.parametrize("write", ["atomic", "staged", "probe"])
def test_a_full_disk_leaves_no_empty_folder(tmp_path, monkeypatch, write):
    """Folders that were made for a file that could not be written go again; those that were there, or hold something, stay."""
    from microdreamer.core.staging import staged

    (tmp_path / "there").mkdir()
    full = OSError(errno.ENOSPC, "No space left on device")

    def attempt(path):
        if write == "atomic":
            with atomic_write(path):
                raise full
        elif write == "staged":
            with staged(path, (".json",)) as aside:
                aside.with_name("part").touch()
                raise full
        else:
            monkeypatch.setattr(Path, "touch", lambda *_: (_ for _ in ()).throw(full))
            try_writing(path)

    for path in (tmp_path / "new" / "within" / "a", tmp_path / "there" / "a"):
        with pytest.raises(OSError, match="No space left"):
            attempt(path)
        monkeypatch.undo()
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
