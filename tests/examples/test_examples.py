"""The examples run as a newcomer would run them, on a small scale, and leave what they say."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_priors import coloured_ellipsoid
from PIL import Image

from microdreamer.gaussians.model import GaussianModel
from microdreamer.generators.library import load_library
from microdreamer.meshes.files import read_mesh

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, *words: str) -> str:
    done = subprocess.run([sys.executable, ROOT / "examples" / name, *words], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def found_from_anywhere(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_fit_gaussians(tmp_path):
    said = run("fit_gaussians.py", "--steps", "70", "--out", str(tmp_path / "fitted.ply"))
    assert len(GaussianModel.load_ply(tmp_path / "fitted.ply")) == int(said.split()[0])
    assert float(said.split(" dB")[0].split()[-1]) > 20


def test_mesh_from_splats(tmp_path):
    coloured_ellipsoid().save_ply(tmp_path / "thing.ply")
    run("mesh_from_splats.py", str(tmp_path / "thing.ply"), "--faces", "800", "--texture", "64", "--out", str(tmp_path / "mesh.glb"))
    mesh = read_mesh(tmp_path / "mesh.glb")
    assert 100 < len(mesh.faces) <= 800 and mesh.texture.shape == (64, 64, 3)


def test_own_prior(tmp_path):
    small = ["total_steps=2", "init_steps=20", "steps_min=5", "steps_max=5", "num_pts=300", "mesh_resolution=32", "video_frames=0"]
    run("own_prior.py", "--out", str(tmp_path), *small, "texture_size=64")
    colors = GaussianModel.load_ply(tmp_path / "egg_model.ply").base_colors
    assert read_mesh(tmp_path / "egg_model.glb").has_texture and float(colors.std()) > 0.05


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), np.float32) / 255


def test_own_generator(tmp_path):
    said = run("own_generator.py", "--steps", "2", "--size", "12", "--shown", "16", "--out", str(tmp_path / "sheet.png"))
    sheet = picture(tmp_path / "sheet.png")
    assert "; 12 sentences, the last 4 of them new" in said and min(sheet.shape[:2]) > 6 * 16 and sheet.std() > 0.02
    assert len(list((tmp_path / "embeddings").iterdir())) == 1


def test_own_guidance(tmp_path):
    said = run("own_guidance.py", "--steps", "2", "--size", "32", "--out", str(tmp_path / "views.png"))
    assert said.startswith("4 evaluations") and picture(tmp_path / "views.png").std() > 0.02


def test_own_corpus(tmp_path):
    said = run("own_corpus.py", "--out", str(tmp_path / "mine.json"))
    library = load_library(tmp_path / "mine.json")
    assert said.startswith(str(library)) and library.seen == 0 and not set(library.val) & set(library.train)
    named = [sentence for line in said.splitlines()[1:] for sentence in line.partition(": ")[2].split(", ")]
    assert len(named) == 12 and set(named) <= set(library.train)


def test_the_page_on_own_modules_shows_what_is_run():
    page = (ROOT / "docs" / "own_modules.md").read_text(encoding="utf-8")
    examples = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("own_*.py"))
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(shown) == 4 and all(code in examples for code in shown)
    assert all(len(code.splitlines()) < 40 for code in shown)
