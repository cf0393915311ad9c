"""The scripts of single-prompt-benchmark: what they hand to launch.py, from any folder."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from microdreamer.pipeline.launch.commands import config_of

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "scripts" / "single-prompt-benchmark"
NAMES = sorted(path.stem for path in FOLDER.glob("*.sh"))

pytestmark = pytest.mark.skipif(shutil.which("sh") is None, reason="sh runs the scripts")


def handed_on(name, tmp_path, *words):
    """The folder that python is started in, and its words."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\npwd -P\nprintf "%s\\n" "$@"\nexit 7\n')
    python.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHON", None)
    command = ["sh", str(FOLDER / f"{name}.sh"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 7 and not done.stderr  # the exit code is python's
    folder, *given = done.stdout.splitlines()
    assert Path(folder) == ROOT
    return given


def test_they_are_those_of_the_published_systems():
    assert NAMES == ["asd_mv_nerf", "asd_sd_nerf"]


@pytest.mark.parametrize("name", NAMES)
def test_words_are_handed_on(name, tmp_path):
    start = ["launch.py", "--config", f"configs/{name}.yaml", "--train", "--train_highres"]
    words = ['prompt=a cat, "sitting" & $HOME', "trainer.max_steps=5"]
    assert handed_on(name, tmp_path, *words) == [*start, *words]
    for word in ("system.prompt_processor.prompt=a cat", "resume=outputs/a", "input=a b.png"):
        assert handed_on(name, tmp_path, word) == [*start, word]
    assert config_of(f"configs/{name}.yaml", words).trainer.max_steps == 5


@pytest.mark.parametrize("name", NAMES)
def test_without_a_prompt_there_is_one(name, tmp_path):
    *_, prompt, word = handed_on(name, tmp_path, "seed=3")
    assert word == "seed=3" and prompt.startswith("prompt=")
    config = config_of(f"configs/{name}.yaml", [prompt, word])
    assert config.system.prompt_processor.prompt and config.name == name
