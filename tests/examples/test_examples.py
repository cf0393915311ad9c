"""The examples run as a newcomer would run them, on a small scale, and leave what they say."""

import subprocess
import sys
from pathlib import Path

import pytest
from fake_priors import coloured_ellipsoid

from microdreamer.gaussians.model import GaussianModel
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
