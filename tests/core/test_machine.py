"""What a result says of where it was made: the commit, and whether the files were those of the commit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from microdreamer.core import machine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for name in ("microdreamer/a.py", "docs/table.json", "README.md", "docs/b.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "commit", "-q", "-m", "a")
    return tmp_path


def git(folder, *words):
    return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True).stdout.strip()


def test_a_clean_clone_is_its_commit(clone):
    assert machine.commit_of(clone) == git(clone, "rev-parse", "HEAD")[:12]


@pytest.mark.parametrize("name", ["docs/table.json", "README.md", "docs/b.md", "untracked.txt"])
def test_results_do_not_depend_on_pages(clone, name):
    """A table that is being written into the clone does not spoil what it says of itself."""
    (clone / name).write_text("2\n")
    assert machine.commit_of(clone) == git(clone, "rev-parse", "HEAD")[:12]


@pytest.mark.parametrize("staged", [False, True])
def test_a_file_that_differs_is_told(clone, staged):
    (clone / "microdreamer" / "a.py").write_text("2\n")
    if staged:
        git(clone, "add", ".")
    assert machine.commit_of(clone) == git(clone, "rev-parse", "HEAD")[:12] + "-dirty"


def test_a_file_that_is_gone_is_told(clone):
    (clone / "microdreamer" / "a.py").unlink()
    assert machine.commit_of(clone).endswith("-dirty")


def test_what_is_no_clone_or_cannot_be_asked_says_so(tmp_path):
    assert machine.commit_of(tmp_path) == "not a clone"
    (tmp_path / ".git").mkdir()
    assert machine.commit_of(tmp_path) == "unknown: git does not tell"


def test_a_copy_without_git_is_told_by_the_environment():
    code = "from microdreamer.core.machine import versions, provenance; print(versions()['commit'], provenance('cpu')['commit'])"
    given = os.environ | {"MICRODREAMER_COMMIT": "0123456789ab-dirty"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env=given)
    assert done.stdout.split() == ["0123456789ab-dirty"] * 2


def test_a_table_names_date_device_versions_commit_and_command(monkeypatch):
    monkeypatch.setattr(machine, "commit", lambda: "0123456789ab")
    found = machine.provenance("cpu", "numpy", "no-such-package-of-ours")
    assert found["torch"] == torch.__version__ and found["no-such-package-of-ours"] == "not installed" and found["numpy"][0].isdigit()
    assert "threads" in found["device"] and len(found["date"]) == 10
    line = machine.describe(found)
    assert all(part in line for part in (torch.__version__, found["command"], "commit 0123456789ab", found["date"], found["device"]))
