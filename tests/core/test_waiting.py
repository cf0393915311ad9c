"""How long a command's threads wait for one another before they sleep, as OpenMP's own account of its settings tells."""

import os
import re
import subprocess
import sys

import pytest

from microdreamer.core.command import SPINS

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spins(code: str, **variables: str) -> int:
    """Of the runtime that `code` loads."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | {"OMP_DISPLAY_ENV": "verbose", **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)[-1])


# The runtime alone, which PyTorch's import loads among much else; where it is not beside PyTorch, that import.
RUNTIME = """
import ctypes, importlib.util, pathlib
def load():
    (folder,) = importlib.util.find_spec("torch").submodule_search_locations
    if found := [*pathlib.Path(folder).glob("lib/libgomp*")]:
        ctypes.CDLL(str(found[0]))
    else:
        import torch
"""
PYTORCH = """
def load():
    import torch
"""
COMMAND = """
from microdreamer.core.command import exit_code
def work():
    load()
    return 0
raise SystemExit(exit_code("test", work))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch brings GNU's OpenMP on Linux")
def test_commands_wait_briefly_unless_they_are_told_otherwise():
    assert spins(PYTORCH + COMMAND) == spins(RUNTIME + COMMAND) == SPINS
    assert spins(RUNTIME + COMMAND, GOMP_SPINCOUNT="777") == 777
    assert spins(RUNTIME + COMMAND, OMP_WAIT_POLICY="passive") == 0
    assert spins(RUNTIME + "import microdreamer; load()") > SPINS  # the library leaves a program's threads alone
    assert spins(RUNTIME + "load()" + COMMAND) > SPINS  # it is too late then


def test_a_program_that_has_pytorch_already_keeps_its_environment(monkeypatch):
    from microdreamer.core import command

    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", sys)
    command.wait_briefly()
    assert not any(name in os.environ for name in NAMES)
