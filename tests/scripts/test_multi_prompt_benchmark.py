"""The scripts of prompt libraries, for training and for films: what they hand to launch.py, from any folder."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from microdreamer.pipeline.launch.commands import config_of

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"multi-prompt-benchmark": "--train", "multi_prompts_benchmark_evaluation": "--test"}
PUBLISHED = {
    "asd_sd_hyper_iNGP_MG15",
    "asd_sd_3dconv_net_DF415",
    "asd_sd_3dconv_net_AT2520",
    "asd_mv_triplane_transformer_DL17k",
    "asd_sd_3dconv_net_CP100k",
}
CASES = [(folder, name) for folder in FOLDERS for name in sorted(PUBLISHED)]

pytestmark = pytest.mark.skipif(shutil.which("sh") is None, reason="sh runs the scripts")


def handed_on(folder, name, tmp_path, *words, **variables):
    """The folder that python is started in, and its words."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\npwd -P\nprintf "%s\\n" "$@"\nexit 7\n')
    python.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "GPUS")}
    environment |= {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **variables}
    command = ["sh", str(ROOT / "scripts" / folder / f"{name}.sh"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 7 and not done.stderr  # the exit code is python's
    where, *given = done.stdout.splitlines()
    assert Path(where) == ROOT
    return given


@pytest.mark.parametrize("folder", FOLDERS)
def test_they_are_those_of_the_published_systems(folder):
    assert {path.stem for path in (ROOT / "scripts" / folder).glob("*.sh")} == PUBLISHED


@pytest.mark.parametrize(("folder", "name"), CASES)
def test_words_are_handed_on(folder, name, tmp_path):
    words = ["seed=3", 'tag=a "b" & $HOME', "resume=outputs/a b"]
    start = ["launch.py", "--config", f"configs/multi-prompt/{name}.yaml", FOLDERS[folder]]
    assert handed_on(folder, name, tmp_path) == start
    assert handed_on(folder, name, tmp_path, *words, GPUS="1") == [*start, *words]
    shared = ["-m", "torch.distributed.run", "--nproc_per_node", "4"]
    assert handed_on(folder, name, tmp_path, *words, GPUS="4") == [*shared, *start, *words]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_their_configurations_are_there_and_understood(name):
    config = config_of(str(ROOT / "configs" / "multi-prompt" / f"{name}.yaml"), ["seed=3"])
    assert config.name == name and config.seed == 3
    assert config.system.prompt_processor.library == name.rpartition("_")[2]
