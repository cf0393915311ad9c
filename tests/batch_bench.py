"""What the tests of batches and of the page share: a prior that knows an object, pictures of it, and settings that take a moment."""

from pathlib import Path

import numpy as np
import torch
from fake_priors import OraclePrior, coloured_ellipsoid
from PIL import Image

from cam_utils import orbit_cameras
from microdreamer.pipeline.config import Config, load_config

SMALL = {
    "total_steps": 2,
    "denoise_steps": 3,
    "init_steps": 6,
    "steps_min": 3,
    "steps_max": 3,
    "num_pts": 150,
    "video_frames": 2,
    "video_size": 32,
    "mesh_resolution": 32,
    "texture_size": 64,
    "device": "cpu",
}
WORDS = [f"{key}={value}" for key, value in SMALL.items()]


def oracle() -> OraclePrior:
    return OraclePrior(coloured_ellipsoid(), 32)


def view_of(prior: OraclePrior, azimuth: float = 0.0) -> Image.Image:
    """The prior's object from one side, as a straight RGBA picture of 48x48 pixels."""
    shown = prior.truth.render(orbit_cameras(0, azimuth, width=48, height=48), torch.zeros(3))
    rgba = torch.cat([shown.image / shown.alpha.clamp_min(1e-3), shown.alpha], dim=1)[0].clamp(0, 1)
    return Image.fromarray((rgba * 255).byte().permute(1, 2, 0).numpy())


def write_pictures(folder: Path, prior: OraclePrior, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """NAME_rgba.png of each name, the object from another side each."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        view_of(prior, 60.0 * index).save(folder / f"{name}_rgba.png")
    return folder


def write_bad_pictures(folder: Path) -> None:
    """broken.png, which is cut short, and text.jpg, which is none."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 4), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "broken.png")
    (folder / "broken.png").write_bytes((folder / "broken.png").read_bytes()[:2000])
    (folder / "text.jpg").write_text("not a picture")


def config_for(source: str | Path, outdir: Path, **keys: object) -> Config:
    words = SMALL | {"input": source, "outdir": outdir} | keys
    return load_config(None, [f"{key}={value}" for key, value in words.items()])


def results(folder: Path) -> dict[str, bytes]:
    """The bytes of all results, except for the JSON files, which tell seconds, and the report."""
    found = (path for path in folder.iterdir() if path.is_file() and path.suffix != ".json" and path.name != "report.html")
    return {path.name: path.read_bytes() for path in found}
