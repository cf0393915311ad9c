"""The batch files run by Wine's cmd.exe: arguments, exit codes, paths with spaces and parentheses, and what is missing.

Skipped without Wine (Debian and Ubuntu: wine64) or a compiler for Windows (gcc-mingw-w64-x86-64), which makes the programs that the
batch files call: each prints its words, and ends with the exit code that STUB_EXIT names.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WINE = shutil.which("wine64", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/lib/wine")
COMPILER = shutil.which("x86_64-w64-mingw32-gcc")
pytestmark = pytest.mark.skipif(WINE is None or COMPILER is None, reason="needs wine64 and x86_64-w64-mingw32-gcc")

STUB = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int n, char** words) {
  if (strstr(words[0], "vswhere")) return puts(getenv("STUDIO")) < 0;
  for (int i = 0; i < n; ++i) printf("[%s]", words[i]);
  puts("");
  const char* code = getenv("STUB_EXIT");
  return code && !(n > 1 && strcmp(words[1], "--version") == 0) ? atoi(code) : 0;
}
"""


def windows_path(path: Path) -> str:
    return "Z:" + str(path).replace("/", "\\")


class Windows:
    """A folder with the batch files, one with programs, which is on PATH, and a Wine of its own."""

    def __init__(self, folder: Path) -> None:
        self.stub, self.prefix = folder / "stub.exe", folder / "prefix"
        self.home, self.programs = folder / "my project (x86)", folder / "programs"
        (folder / "stub.c").write_text(STUB)
        subprocess.run([COMPILER, "-O1", "-s", folder / "stub.c", "-o", self.stub], check=True, timeout=120)
        self.home.mkdir()
        for path in ROOT.glob("*.bat"):
            shutil.copy(path, self.home)

    def give(self, *names: str) -> None:
        """Nothing but these programs is on PATH from now on."""
        shutil.rmtree(self.programs, ignore_errors=True)
        self.programs.mkdir()
        for name in names:
            shutil.copy(self.stub, self.programs / f"{name}.exe")

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess:
        kept = {"HOME": str(self.prefix.parent), "PATH": os.environ["PATH"], "WINEPREFIX": str(self.prefix), "WINEDEBUG": "-all"}
        kept["WINEPATH"] = windows_path(self.programs)
        command = [WINE, "cmd", "/c", *words]
        return subprocess.run(command, capture_output=True, text=True, env=kept | variables, cwd=self.home, timeout=300)

    def main(self) -> str:
        return f"[{windows_path(self.home)}\\main.py]"


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    made = Windows(tmp_path_factory.mktemp("windows"))
    made.give("python")
    if made.run("echo", "ready").returncode:  # also makes the prefix, once
        pytest.skip("Wine does not start here")
    yield made
    server = shutil.which("wineserver64", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/lib/wine")
    if server:
        subprocess.run([server, "-k"], env={"WINEPREFIX": str(made.prefix), "HOME": str(made.prefix.parent)}, timeout=60)


WORDS = ["--config", "a b.yaml", "prompt=red & blue", "input=photo.png"]
READ = "[--config][a b.yaml][prompt=red & blue][input=photo.png]"


def test_run_main_passes_arguments_and_exit_codes_on(windows):
    windows.give("python")
    done = windows.run("run_main.bat", *WORDS)
    assert (done.stdout.strip(), done.returncode, done.stderr) == (f"[python]{windows.main()}{READ}", 0, "")
    assert windows.run("run_main.bat", STUB_EXIT="3").returncode == 3
    done = windows.run("run_main.bat", "a=b", PYTHON=windows_path(windows.stub))
    assert done.stdout.strip() == f"[{windows_path(windows.stub)}]{windows.main()}[a=b]"


def test_run_main_profiles_under_nsys(windows):
    windows.give("python", "nsys")
    done = windows.run("run_main.bat", "-profile", *WORDS, NSYS_OPTIONS="--sample=none")
    found = re.fullmatch(r"\[nsys]\[profile]\[--trace=cuda,nvtx]\[--output=profile_\d+]\[--sample=none](.*)", done.stdout.strip())
    assert found and found[1] == f"[python]{windows.main()}[profiling.mode=nvtx]{READ}"
    assert windows.run("run_main.bat", "-profile", STUB_EXIT="5").returncode == 5


def test_run_main_says_what_is_missing(windows):
    windows.give("python")
    done = windows.run("run_main.bat", "-profile", "a=b")
    assert (
        done.returncode == 2 and done.stdout == "" and done.stderr.startswith("run_main: nsys was not found; install NVIDIA Nsight Systems")
    )
    windows.give("nsys")
    for words in (["a=b"], ["-profile", "a=b"]):
        done = windows.run("run_main.bat", *words)
        assert (
            done.returncode == 2 and done.stdout == "" and done.stderr.startswith('run_main: "python" was not found; install Python 3.10')
        )


def test_the_environment_of_the_folder_is_found_unless_one_is_active(windows):
    windows.give("python", "cl")
    own = windows.home / ".venv" / "Scripts"
    own.mkdir(parents=True)
    try:
        shutil.copy(windows.stub, own / "python.exe")
        assert windows.run("run_main.bat").stdout.startswith(f"[{windows_path(own)}\\python.exe]")
        assert windows.run("run_main.bat", VIRTUAL_ENV="another").stdout.startswith("[python]")
        assert windows.run("install_extensions.bat").stdout.startswith("[.venv\\Scripts\\python.exe][setup.py]")
    finally:
        shutil.rmtree(windows.home / ".venv")


BUILT = "[python][setup.py][--quiet][build_ext][--inplace]\n[python][-m][microdreamer.kernels.extension]\n"


def test_install_extensions_builds_and_says_what_is_missing(windows):
    windows.give("python", "cl")
    done = windows.run("install_extensions.bat")
    assert (done.stdout.replace("\r", ""), done.returncode, done.stderr) == (BUILT, 0, "")
    done = windows.run("install_extensions.bat", STUB_EXIT="1")  # python is there, torch is not
    assert done.returncode == 1 and done.stderr.startswith('install_extensions: PyTorch is not installed for "python"')
    windows.give()
    done = windows.run("install_extensions.bat")
    assert done.returncode == 1 and done.stderr.startswith('install_extensions: "python" was not found')
    windows.give("python")
    done = windows.run("install_extensions.bat")
    assert done.returncode == 1 and done.stderr.startswith(
        "install_extensions: cl.exe was not found; install the Visual Studio Build Tools"
    )


def test_install_extensions_finds_the_compiler_of_visual_studio(windows):
    windows.give("python")
    installer = windows.prefix / "drive_c" / "Program Files (x86)" / "Microsoft Visual Studio" / "Installer"
    batch = windows.home / "studio (x86)" / "VC" / "Auxiliary" / "Build" / "vcvars64.bat"
    compiler = windows.home / "compiler"
    for folder in (installer, batch.parent, compiler):
        folder.mkdir(parents=True)
    try:
        shutil.copy(windows.stub, installer / "vswhere.exe")
        shutil.copy(windows.stub, compiler / "cl.exe")
        batch.write_text(f'@echo off\r\nset "PATH=%PATH%;{windows_path(compiler)}"\r\necho noise\r\n', newline="")
        done = windows.run("install_extensions.bat", STUDIO=windows_path(windows.home / "studio (x86)"))
        assert (done.stdout.replace("\r", ""), done.returncode) == (BUILT, 0)
    finally:
        shutil.rmtree(installer.parent)
