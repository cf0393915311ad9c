"""README and docs say what is so: files and commands that they name exist, keys are keys, lists are whole, and the English is of today."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

from microdreamer.pipeline.config import SCHEMA

ROOT = Path(__file__).resolve().parents[1]
IGNORED = {".venv", "build", "dist", "site", "logs", "outputs", "data", "results", "profiling", ".git"}
PAGES = sorted(path for path in ROOT.rglob("*.md") if not IGNORED & set(path.relative_to(ROOT).parts))
FOLDERS = ("", "microdreamer", "configs", "benchmarks")  # that a page may name a file from
SOURCE = re.compile(r"[\w./-]*\w\.(?:py|md|ya?ml|sh|bat|h|cpp|cu|toml)\b")
MADE_UP = re.compile(r"(^|/|_)[A-Z]{2,}(/|\.|_|$)|^\.")  # FILE.yaml, ops_NAME.cpp, FILES/..., and bare suffixes
SHARED = ("__init__", "timing", "rows")  # of benchmarks/: what its scripts share
PEOPLES = {"bad_input.md": "files of its own making", "CHANGELOG.md": "names of earlier versions"}
# Turns that readers today stumble over; what is quoted from others is not ours.
ARCHAIC = re.compile(
    r"\b(shall|whence|thence|whither|thither|hither|hitherto|thereof|therein|thereby|thereupon|whereof|wherein|whereby|whereupon|herein|hereby|"
    r"hereof|heretofore|henceforth|forthwith|whilst|amongst|albeit|lest|ere|nay|betwixt|unto|upon|nought|naught|aught|thrice|oft|"
    r"for want of|of old|nobody looked|but for|save for|in vain|no more (?:be|is|are|than so)|were it|be it)\b",
    re.IGNORECASE,
)


def ids(path):
    return path.relative_to(ROOT).as_posix()


def code_of(text: str) -> list[str]:
    """Lines of code blocks and what stands in backticks."""
    fenced = [line for block in re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    indented = [line.strip() for line in rest.splitlines() if line.startswith("    ")]
    return fenced + indented + re.findall(r"`([^`\n]+)`", rest)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page):
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in PEOPLES], ids=ids)
def test_files_that_are_named_are_in_the_repository(page):
    named = {name for code in code_of(page.read_text(encoding="utf-8")) for name in SOURCE.findall(code) if not MADE_UP.search(name)}
    places = [page.parent, *(ROOT / folder for folder in FOLDERS)]
    assert [name for name in sorted(named) if not any((place / name).is_file() for place in places)] == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_modules_that_are_run_exist(page):
    modules = set(re.findall(r"python3? -m ((?:microdreamer|benchmarks)[\w.]*)", page.read_text(encoding="utf-8")))
    paths = [ROOT / module.rstrip(".").replace(".", "/") for module in modules if not MADE_UP.search(module) and not module.endswith(".X")]
    assert [ids(path) for path in paths if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_keys_of_commands_are_keys(page):
    wrong = []
    for code in code_of(page.read_text(encoding="utf-8")):
        if page.name == "bad_input.md" or not re.search(r"\b(main2?\.py|microdreamer (make|refine))\b", code):
            continue
        words = re.sub(r"\"[^\"]*\"|#.*", "", code)
        wrong += [key for key in re.findall(r"(?:^| )(?:--)?([a-z][\w.]*)=", words) if key not in SCHEMA.fields]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_configurations_that_are_named_ship(page):
    named = set(re.findall(r"--config[ =]([\w./\\-]+)", page.read_text(encoding="utf-8")))
    names = {name.replace("\\", "/").removeprefix("configs/").removesuffix(".yaml") for name in named if not MADE_UP.search(name)}
    assert names - {"..."} <= {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in (ROOT / "configs").rglob("*.yaml")}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in PEOPLES], ids=ids)
def test_ops_that_are_named_exist(page):
    """Of this project by their schema, of PyTorch by looking: an output of an earlier version names ops that have gone."""
    own = {name for path in (ROOT / "csrc").rglob("*.cpp") for name in re.findall(r'm\.def\(\s*"(\w+)\(', path.read_text(encoding="utf-8"))}
    assert {"extract_fields", "gaussian_3d_coeff", "rasterize_gaussians_bwd"} <= own
    named = set(re.findall(r"\b(microdreamer|aten)(?:::|\.ops\.)(\w+)", page.read_text(encoding="utf-8")))
    assert [name for kind, name in sorted(named) if not (name in own if kind == "microdreamer" else hasattr(torch.ops.aten, name))] == []


def test_every_benchmark_is_listed_and_there():
    assert "`scripts/benchmark_all.py`" in (ROOT / "benchmarks" / "README.md").read_text()
    listed = re.findall(r"^\| `python (?:-m |scripts/)([\w.]+)", (ROOT / "benchmarks" / "README.md").read_text(), re.MULTILINE)
    own = {f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")} - {f"benchmarks.{name}" for name in SHARED}
    assert set(listed) == own | {"benchmarks.course", "microdreamer.voxel_diffusion.benchmark.run"}
    assert len(listed) == len(set(listed)) and "benchmarks/README.md" in (ROOT / "README.md").read_text()


def test_every_page_is_reached_from_another():
    linked = set()
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            linked.add((page.parent / link).resolve())
        linked |= {ROOT / name for name in re.findall(r"`([\w/]+\.md)`", page.read_text(encoding="utf-8"))}
    assert [ids(page) for page in PAGES if page.resolve() not in linked and page.name != "README.md"] == []


def test_english_is_of_today():
    files = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True).stdout.split()
    if not files:
        pytest.skip("not a clone")
    kinds = {".py", ".md", ".h", ".cpp", ".cu", ".yaml", ".toml", ".sh", ".bat", ".txt", ".yml"}
    found = []
    for name in files:
        path = ROOT / name
        if path.suffix not in kinds or path == Path(__file__).resolve() or not path.is_file() or "procedural" in path.parts:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            quoted = path.suffix == ".md" and line.startswith(">")  # a licence's words, say
            if not quoted and (word := ARCHAIC.search(line)):
                found.append(f"{name}:{number}: {word[0]}")
    assert found == []
