"""What several modules share: an object, its picture and Gaussians, priors that know it, and what stage 1 leaves."""

import os

import pytest
import torch
from fake_priors import OraclePrior, coloured_ellipsoid
from PIL import Image
from second_stage import FIRST, SMALL

from cam_utils import orbit_cameras
from microdreamer.guidance.micro.prior import MicroPrior
from microdreamer.pipeline import commands, reconstruction


@pytest.fixture(scope="module")
def truth():
    return coloured_ellipsoid()


@pytest.fixture(scope="module")
def picture(truth, tmp_path_factory):
    """The object's front as an RGBA file."""
    shown = truth.render(orbit_cameras(0, 0, width=48, height=48), torch.zeros(3))
    rgba = torch.cat([shown.image / shown.alpha.clamp_min(1e-3), shown.alpha], dim=1)[0].clamp(0, 1)
    path = tmp_path_factory.mktemp("picture") / "thing_rgba.png"
    Image.fromarray((rgba * 255).byte().permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def ply(truth, tmp_path_factory):
    path = tmp_path_factory.mktemp("ply") / "thing.ply"
    truth.save_ply(path)
    return path


@pytest.fixture
def prior(monkeypatch, truth):
    prior = OraclePrior(truth, 32)
    monkeypatch.setattr(reconstruction, "load_prior", lambda *_: prior)
    return prior


@pytest.fixture
def surface_prior(monkeypatch):
    """Knows an object of its own and tells surfaces, in place of the micro prior wherever that is loaded."""
    prior = OraclePrior(coloured_ellipsoid(), 32)
    prior.tells_surfaces = True
    monkeypatch.setattr(MicroPrior, "load", lambda *_: prior)
    return prior


@pytest.fixture
def no_prior(monkeypatch):
    def load_prior(*_):
        raise AssertionError("no prior is needed")

    monkeypatch.setattr(reconstruction, "load_prior", load_prior)


@pytest.fixture(scope="module")
def stage_1(picture, truth, tmp_path_factory):
    """The folder that stage 1 leaves."""
    folder = tmp_path_factory.mktemp("stage_1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction, "load_prior", lambda *_: OraclePrior(truth, 32))
        assert commands.make(["--quiet", f"outdir={folder}", "save_path=a", *FIRST, *SMALL, f"input={picture}"]) == 0
    return folder


@pytest.fixture
def out(stage_1, tmp_path):
    """What stage 1 leaves, in a folder of the test's own."""
    folder = tmp_path / "out"
    folder.mkdir()
    for path in stage_1.iterdir():
        os.link(path, folder / path.name)
    return folder
