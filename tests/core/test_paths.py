"""Where the weights and configurations are found: in this clone, and in an installed package, which has them inside."""

import subprocess
import sys
from pathlib import Path

from microdreamer.core import paths

ROOT = Path(__file__).resolve().parents[2]


def test_a_clone_has_them_beside_the_package():
    assert (paths.shipped_folder("configs") / "micro.yaml").samefile(ROOT / "configs" / "micro.yaml")
    assert (paths.shipped_folder("weights") / "micro_prior" / "config.json").is_file()


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "microdreamer"
    (package / "configs").mkdir(parents=True)
    (package.parent / "configs").mkdir()  # another package's, which must not be taken
    monkeypatch.setattr(paths, "PACKAGE", package)
    assert paths.shipped_folder("configs") == package / "configs"


def test_nothing_heavy_is_imported_to_know():
    code = "import sys, microdreamer.core.paths; print(any(name in sys.modules for name in ('torch', 'numpy')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
