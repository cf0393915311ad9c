"""The floors of the package: imports point down only, and nobody goes round in a circle."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "microdreamer"
# From the ground up. A module imports from its own room and from lower floors; rooms of one floor know nothing of each other.
FLOORS = (
    ("core.errors",),
    (
        "kernels",
        "core.files",
        "core.staging",
        "core.command",
        "core.console",
        "core.paths",
        "core.transfer",
        "core.usual_view",
    ),
    ("cam_utils", "core"),
    ("images",),
    ("meshes", "guidance"),
    ("gaussians", "shapes"),
    ("fields", "metrics"),
    ("distillation", "generators"),
    ("pipeline", "training", "voxel_diffusion"),
    ("batch", "web", "evaluation"),
    ("pipeline.cli",),  # the door to all commands
)
FACES = {"gs_renderer", "mesh_renderer", "nerf_renderer"}  # of the library to the outside; nothing within it uses them
PROGRAMS = {path.stem for path in ROOT.glob("*.py")} - FACES - {"cam_utils", "setup"}
# What stands on the package, from the ground up; programs know nothing of each other.
ABOVE = ({"cam_utils", PACKAGE}, FACES, {"benchmarks"}, {"scripts", "examples", "evaluation"} | PROGRAMS, {"tests"})


def room_of(module: str) -> str:
    """The room, or the single module with a floor of its own, that `module` belongs to."""
    inner = module.removeprefix(f"{PACKAGE}.")
    named = {name for floor in FLOORS for name in floor}
    return inner if inner in named else inner.split(".")[0]


def level_of(room: str) -> int:
    return next(level for level, floor in enumerate(FLOORS) if room in floor)


def imported_by(path: Path) -> set[str]:
    """What a file imports, however late, as `module` or `module.name`; imports for type checkers alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def imports() -> dict[str, set[str]]:
    """What each module of the library imports of the project."""
    files = [*sorted((ROOT / PACKAGE).rglob("*.py")), ROOT / "cam_utils.py"]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = {name if name in modules else name.rpartition(".")[0] or name for name in imported_by(path)}
        found[module] = {name for name in names if name in modules or name in FACES} - {module}
    return found


def test_imports_point_down():
    wrong = []
    for module, others in imports().items():
        if module == PACKAGE:  # the front door names what lies behind it
            continue
        for other in others - {PACKAGE}:
            assert other not in FACES, f"{module} imports the face {other}"
            here, there = room_of(module), room_of(other)
            same_room = here == there or here.split(".")[0] == there.split(".")[0]
            if not same_room and level_of(there) >= level_of(here):
                wrong.append(f"{module} -> {other}")
    assert wrong == []


def test_what_stands_on_the_package_points_down_too():
    """Benchmarks use the package, programs use both, tests use all; what two of them share belongs into the package."""
    lines = {name: level for level, names in enumerate(ABOVE) for name in names}
    wrong = []
    for home in set(lines) - ABOVE[0]:
        files = [ROOT / f"{home}.py"] if (ROOT / f"{home}.py").is_file() else sorted((ROOT / home).rglob("*.py"))
        assert files, f"{home} is not there"
        for path in files:
            others = {name.split(".")[0] for name in imported_by(path)} & set(lines) - {home}
            wrong += [f"{path.relative_to(ROOT)} -> {other}" for other in others if lines[other] >= lines[home]]
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: others - {PACKAGE} for module, others in imports().items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_every_room_has_a_floor():
    rooms = {path.name for path in (ROOT / PACKAGE).iterdir() if (path / "__init__.py").is_file()}
    assert rooms == {name.split(".")[0] for floor in FLOORS for name in floor} - {"cam_utils"}


@pytest.mark.parametrize("code", ["import microdreamer", "import microdreamer.pipeline.command_line", "import microdreamer.pipeline.cli"])
def test_what_needs_no_pytorch_does_not_wait_for_it(code):
    heavy = "{'torch', 'numpy', 'scipy', 'PIL', 'cv2', 'diffusers', 'transformers'}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(sorted({heavy} & set(sys.modules)))"], capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr
