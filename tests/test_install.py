"""The installation scripts: what they ask for agrees with pyproject.toml, and what they are given they pass on."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from microdreamer.pipeline.command_line import parse_command_line

ROOT = Path(__file__).resolve().parents[1]
BATCH_FILES = ["install_extensions.bat", "run_main.bat"]

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash runs the scripts")


def pyproject_value(key: str) -> str:
    """The text after `key = ` in pyproject.toml (Python 3.10 has no reader for it)."""
    found = re.search(rf"^{key} = (\[.*?\]|\".*?\")$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    return found.group(1)


def bounds(requirements: list[str]) -> dict[str, str]:
    """{"torch": ">=2.8"} of ["torch>=2.8"] or, as conda writes it, ["torch >=2.8"]."""
    return dict(re.fullmatch(r"([A-Za-z0-9_.-]+) *(.*)", requirement).groups() for requirement in requirements)


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def test_environment_asks_for_what_pyproject_asks_for(environment):
    conda = bounds([entry for entry in environment["dependencies"] if isinstance(entry, str)])
    (pip,) = (bounds(entry["pip"]) for entry in environment["dependencies"] if isinstance(entry, dict))
    core = bounds(re.findall(r'"(.*?)"', pyproject_value("dependencies")))
    build = bounds(re.findall(r'"(.*?)"', pyproject_value("requires")))
    assert conda["python"].split(",")[0] == pyproject_value("requires-python").strip('"')
    assert conda["setuptools"] == build["setuptools"]
    assert pip.items() <= core.items()
    assert "torch" in pip  # before the build, which is not isolated
    assert not conda.keys() & core.keys()  # the rest comes from PyPI with the package, once
    assert {"pip", "wheel", "ninja", "cxx-compiler"} <= conda.keys()


def test_environment_ends_with_the_command_of_the_install_page(environment):
    comments = (ROOT / "environment.yml").read_text()
    assert f"conda activate {environment['name']}\n" in comments
    command = 'pip install --no-build-isolation -e ".[dev]"'
    assert command in comments and command in (ROOT / "docs" / "install.md").read_text()


@pytest.mark.parametrize("name", BATCH_FILES)
def test_batch_files_are_well_formed(name):
    raw = (ROOT / name).read_bytes()
    assert raw.count(b"\n") == raw.count(b"\r\n") and raw.isascii()  # cmd.exe loses labels in files with other line ends
    lines = [line.strip() for line in raw.decode().splitlines()]
    code = [line for line in lines if not line.startswith("rem ")]
    labels = {line[1:] for line in code if line.startswith(":")}
    targets = {found for line in code for found in re.findall(r"(?:goto|call :)\s*(\w+)", line)}
    assert targets == labels
    for line in lines:
        assert line.count('"') % 2 == 0, line
        if line.startswith("rem "):
            assert not set("%&|<>^") & set(line), line  # the arguments in a comment are put in all the same
    last = max(code.index(f":{label}") for label in labels)
    assert code[-1].startswith("exit /b") and code[last - 1] in ("",) and code[last - 2].startswith("exit /b")


@pytest.mark.parametrize("name", BATCH_FILES)
def test_batch_blocks_cannot_be_ended_by_a_path(name):
    """Within ( ... ) a path with a parenthesis, as of "Program Files (x86)", must stand in quotes: it is put in before parsing."""
    depth = 0
    for line in (ROOT / name).read_text().splitlines():
        if depth and not line.strip().startswith("rem "):
            outside = "".join(line.split('"')[::2])
            assert not re.search(r"%\w+%", outside), line
        depth += line.rstrip().endswith("(") - (line.strip() == ")")
    assert depth == 0


@pytest.mark.parametrize("name", ["install_extensions", "run_main"])
def test_twins_read_the_same_variables_and_run_the_same(name):
    shell, batch = ((ROOT / f"{name}{suffix}").read_text() for suffix in (".sh", ".bat"))
    for word in ("PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX", ".venv"):
        assert word in shell and word in batch
    for command in {
        "install_extensions": ("setup.py --quiet build_ext --inplace", "-m microdreamer.kernels.extension"),
        "run_main": ("nsys profile --trace=cuda,nvtx", "profiling.mode=nvtx"),
    }[name]:
        assert command in shell and command in batch


def stub(path: Path, body: str) -> Path:
    """An executable bash script."""
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run_script(name: str, *arguments: str, path: Path | None = None, **variables: str) -> subprocess.CompletedProcess:
    kept = {key: os.environ[key] for key in ("HOME", "PATH") if key in os.environ}
    kept["PATH"] = f"{path}{os.pathsep}{kept['PATH']}" if path else kept["PATH"]
    return subprocess.run(["bash", str(ROOT / name), *arguments], capture_output=True, text=True, env=kept | variables, timeout=60)


ECHO_ARGUMENTS = """printf '[%s]' "$(basename "$0")" "$@" """


@needs_bash
def test_run_main_passes_its_arguments_on(tmp_path):
    python = stub(tmp_path / "my python", ECHO_ARGUMENTS)
    done = run_script("run_main.sh", "--config", "a b.yaml", 'prompt=red & "blue"', PYTHON=str(python))
    assert done.returncode == 0 and done.stdout == f'[my python][{ROOT}/main.py][--config][a b.yaml][prompt=red & "blue"]'


@needs_bash
def test_run_main_says_that_python_is_missing():
    done = run_script("run_main.sh", "a=b", PYTHON="/nowhere/python")
    assert done.returncode == 2 and done.stderr.startswith("run_main: /nowhere/python was not found; install Python 3.10")


@needs_bash
def test_profile_runs_the_same_under_nsys(tmp_path):
    python = stub(tmp_path / "python", "exit 3")
    stub(tmp_path / "nsys", ECHO_ARGUMENTS)
    done = run_script("run_main.sh", "-profile", "prompt=a b", "profiling.scope=function", path=tmp_path, PYTHON=str(python))
    assert done.returncode == 0
    found = re.fullmatch(r"\[nsys]\[profile]\[--trace=cuda,nvtx,osrt]\[--output=profile_\d+_\d+](.*)", done.stdout)
    assert found.group(1) == f"[{python}][{ROOT}/main.py][profiling.mode=nvtx][prompt=a b][profiling.scope=function]"
    more = {"NSYS_OPTIONS": "--cuda-graph-trace=node --sample=none", "PYTHON": str(python)}
    done = run_script("run_main.sh", "-profile", "profiling.mode=none", path=tmp_path, **more)
    assert f"[--cuda-graph-trace=node][--sample=none][{python}][{ROOT}/main.py][profiling.mode=nvtx][profiling.mode=none]" in done.stdout


@needs_bash
def test_profile_turns_ranges_on_unless_told_otherwise(tmp_path):
    """The words that nsys is given to run, read by main.py's own parser."""
    stub(tmp_path / "nsys", ECHO_ARGUMENTS)

    def settings(*words):
        done = run_script("run_main.sh", "-profile", *words, path=tmp_path, PYTHON="python")
        config, _ = parse_command_line(re.findall(r"\[(.*?)]", done.stdout.split("main.py]")[1]), "")
        return config.profiling.mode, config.profiling.scope

    assert settings("prompt=a") == ("nvtx", "broad")
    assert settings("prompt=a", "profiling.scope=function") == ("nvtx", "function")
    assert settings("--profiling.mode=torch", "prompt=a") == ("torch", "broad")
    assert settings(f"--config={ROOT}/configs/micro.yaml", "prompt=a") == ("nvtx", "broad")


def test_the_batch_file_passes_the_same_words_to_nsys():
    shell, batch = ((ROOT / f"run_main{suffix}").read_text().replace("\\\n   ", "") for suffix in (".sh", ".bat"))
    (theirs,) = re.findall(r"exec (nsys profile .*)", shell)
    (ours,) = re.findall(r"^(nsys profile .*)", batch, re.MULTILINE)
    theirs = theirs.replace("cuda,nvtx,osrt", "cuda,nvtx").replace("profile_$(date +%Y%m%d_%H%M%S)", "profile_%RANDOM%")
    for name, other in (
        ('${options[@]+"${options[@]}"}', "%NSYS_OPTIONS%"),
        ("$python", "%PYTHON%"),
        ("$here/", "%HERE%"),
        ('"$@"', "%ARGUMENTS%"),
    ):
        assert name in theirs
        theirs = theirs.replace(name, other)
    assert theirs.split() == ours.split()


@needs_bash
@pytest.mark.skipif(shutil.which("nsys") is not None, reason="nsys is installed")
def test_profile_without_nsys_says_so(tmp_path):
    done = run_script("run_main.sh", "-profile", PYTHON=sys.executable)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "run_main: nsys was not found; install NVIDIA Nsight Systems and put its bin folder on PATH\n"


@needs_bash
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('[[ $2 != "import torch" ]]', "PyTorch is not installed for"),
        ('[[ $2 != "import setuptools" ]]', "setuptools is not installed for"),
    ],
)
def test_install_names_what_is_missing(tmp_path, body, message):
    done = run_script("install_extensions.sh", PYTHON=str(stub(tmp_path / "python", body)), CXX="true")
    assert done.returncode == 1 and done.stderr.startswith(f"install_extensions: {message}") and done.stderr.count("\n") == 1


@needs_bash
def test_install_without_python_or_compiler_says_so():
    missing = run_script("install_extensions.sh", PYTHON="/nowhere/python")
    assert missing.returncode == 1 and "/nowhere/python was not found; install Python 3.10 or newer" in missing.stderr
    missing = run_script("install_extensions.sh", PYTHON=sys.executable, CXX="/nowhere/c++")
    assert missing.returncode == 1 and "no C++ compiler (/nowhere/c++) was found" in missing.stderr


@needs_bash
def test_install_builds_in_place_and_reports(tmp_path):
    python = stub(tmp_path / "python", '[[ $1 == -c ]] || { pwd; printf "[%s]" "$@"; }')
    done = run_script("install_extensions.sh", PYTHON=str(python), CXX="true")
    assert done.returncode == 0
    assert done.stdout == f"{ROOT}\n[setup.py][--quiet][build_ext][--inplace]{ROOT}\n[-m][microdreamer.kernels.extension]"
