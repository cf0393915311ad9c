"""Seeds: whatever of a run is this project's own arithmetic gives the same files on any number of threads."""

from pathlib import Path

import torch
from fake_priors import OraclePrior, coloured_ellipsoid

from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.pipeline import commands

NAMES = ("a_model.ply", "a_model.obj", "a_model.glb", "a_model_albedo.png", "a_views.png", "a.mp4")


def assert_same_files(one: Path, other: Path) -> None:
    for name in NAMES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_run_is_the_same_on_any_number_of_threads(tmp_path, monkeypatch):
    """Stage 1 except for a network, whose products are a library's: views, fit, growth, mesh, texture, pictures."""
    words = ["prompt=an egg", "save_path=a", "total_steps=2", "denoise_steps=4", "init_steps=20", "densification_interval=10"]
    words += ["num_pts=3000", "mesh_resolution=48", "texture_size=256", "video_frames=2", "video_size=64", "densify_grad_threshold=1e-3"]
    threads = torch.get_num_threads()
    monkeypatch.setattr(MicroPrior, "load", lambda *_: OraclePrior(coloured_ellipsoid(), 64))
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert commands.make(["--quiet", f"outdir={tmp_path / str(count)}", *words]) == 0
    finally:
        torch.set_num_threads(threads)
    assert_same_files(tmp_path / "1", tmp_path / "3")
