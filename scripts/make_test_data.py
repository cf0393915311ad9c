"""Make test_data/: pictures of procedural objects in photo-like light, captions, and a small pack of objects.

python scripts/make_test_data.py [--out test_data]

The seeds lie beyond those that the micro prior was trained on, so its training never saw these objects, only their kind.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom
from torch import Tensor

from cam_utils import RADIUS, orbit_cameras
from microdreamer.core.files import atomic_write
from microdreamer.shapes.packed import PackedMeshes, pack
from microdreamer.shapes.procedural.catalogue import generate
from microdreamer.shapes.render import random_lights, render_views
from microdreamer.training.micro_prior.bank import support_points

SIZE = 512
FIRST_SEED = 1_000_000  # training used the seeds from 0
FILL = 0.82  # share of the picture's side that an object fills


@dataclasses.dataclass(frozen=True)
class Photo:
    """What a picture shows: the shape `FIRST_SEED + seed` of a family, and from where; `light` is a seed too."""

    name: str
    family: str
    seed: int
    azimuth: float
    elevation: float = -8.0  # degrees, negative looks from above
    light: int = 0
    with_caption: bool = False
    backdrop: tuple[float, float, float] | None = None  # sRGB of the surroundings; None: transparent


PHOTOS = (
    Photo("teapot", "vessel", 241, azimuth=10, light=3),
    Photo("house", "house", 24, azimuth=30, light=4),
    Photo("car", "vehicle", 11, azimuth=40, light=2),
    Photo("tree", "tree", 20, azimuth=0, light=6),
    Photo("chair", "chair", 22, azimuth=30, light=5),
    Photo("mushroom", "plant", 16, azimuth=0, light=8, with_caption=True),
    Photo("robot", "figure", 23, azimuth=20, elevation=0, light=7, with_caption=True),
    Photo("burger", "food", 18, azimuth=0, light=9),
    Photo("bird", "fish", 16, azimuth=35, light=11, backdrop=(0.62, 0.70, 0.74)),
    Photo("train", "vehicle", 14, azimuth=40, elevation=-12, light=13, backdrop=(0.80, 0.74, 0.66)),
)
PACKED = (("vessel", 7), ("vehicle", 22), ("figure", 15), ("prop", 10), ("house", 15), ("plant", 9))


def packed_shapes(shapes: list[tuple[str, int]]) -> PackedMeshes:
    """Procedural shapes, by family and number after FIRST_SEED, as packed objects with their captions."""
    made = [generate(FIRST_SEED + number, family) for family, number in shapes]
    meshes = [(shape.vertices, shape.faces, shape.corner_colors, shape.corner_normals) for shape in made]
    ids = [f"{family}-{FIRST_SEED + number}" for family, number in shapes]
    return pack(meshes, ids, [[shape.caption] for shape in made], [family for family, _ in shapes])


def framing(packed: PackedMeshes, rotation: Tensor, distance: float, focal: float) -> Tensor:
    """[3,4] object-to-world: scaled and moved until the box in the picture is centred and its longer side is FILL."""
    transform = torch.eye(3, 4)
    points = support_points(packed)[0]
    for _ in range(4):  # perspective makes it a fixed point, reached within a pixel after two
        world = points @ transform[:, :3].T + transform[:, 3]
        seen = world @ rotation.T + torch.tensor([0.0, 0.0, distance])
        picture = 2 * focal / SIZE * seen[:, :2] / seen[:, 2:]
        low, high = picture.amin(0), picture.amax(0)
        scale = 2 * FILL / float((high - low).max())
        shift = -0.5 * (low + high) * scale * distance * SIZE / (2 * focal)
        transform = transform * scale
        transform[:, 3] += rotation[:2].T @ shift
    return transform


def render_photo(photo: Photo) -> np.ndarray:
    """The picture as bytes: straight RGBA [S,S,4], or RGB [S,S,3] before a backdrop."""
    packed = packed_shapes([(photo.family, photo.seed)])
    camera = orbit_cameras(photo.elevation, photo.azimuth, RADIUS, width=SIZE, height=SIZE)
    lights = random_lights(1, torch.Generator().manual_seed(photo.light), front_azimuth=photo.azimuth)
    transform = framing(packed, camera.world_to_camera[0, :3, :3], RADIUS, float(camera.intrinsics[0, 0]))
    rgba = render_views(packed, 0, camera, lights, supersample=4, object_to_world=transform[None])[0]
    if photo.backdrop is None:
        color, alpha = rgba[:3] / rgba[3:].clamp_min(1e-6), rgba[3:]
        picture = torch.cat([color.clamp(0, 1) * (alpha > 0), alpha])
    else:
        ground = float((packed.vertices @ transform[:, :3].T + transform[:, 3])[:, 1].min())
        flat = flatten(transform, ground, lights.lights[0, 0, :3])
        shadow = render_views(packed, 0, camera, object_to_world=flat[None])[0, 3]
        surroundings = torch.from_numpy(backdrop(photo, shadow.numpy()))
        picture = rgba[:3] + (1 - rgba[3:]) * surroundings
    return (picture.permute(1, 2, 0) * 255).round().byte().numpy()


def flatten(transform: Tensor, ground: float, to_light: Tensor) -> Tensor:
    """`transform` [3,4] followed by the projection along the light onto the plane y = ground."""
    slope = to_light / to_light[1]
    shear = torch.eye(3) - torch.stack([torch.zeros(3), slope, torch.zeros(3)], dim=1)
    shear[1, 1] = 1e-3  # nearly flat: an affine map that can be inverted
    projected = shear @ transform
    projected[:, 3] += slope * ground * (1 - shear[1, 1] * torch.tensor([0.0, 1.0, 0.0]))
    return projected


def backdrop(photo: Photo, shadow: np.ndarray) -> np.ndarray:
    """[3,S,S] in [0,1]: a paper sweep, lighter below, faintly blotched and grainy, with the object's soft shadow [S,S]."""
    rng = np.random.default_rng(photo.light)
    height = np.linspace(0, 1, SIZE)[:, None]
    sweep = 0.86 + 0.14 / (1 + np.exp(-(height - 0.45) * 14))
    blotches = zoom(rng.normal(size=(8, 8)), SIZE / 8, order=3)[:SIZE, :SIZE] * 0.008
    dark = 0.45 * gaussian_filter(shadow, 9.0) + 0.15 * gaussian_filter(shadow, 30.0)
    grain = gaussian_filter(rng.normal(size=(SIZE, SIZE)), 0.8) * 0.01
    paper = np.asarray(photo.backdrop)[:, None, None] * (sweep + blotches) * (1 - dark) + grain
    return paper.clip(0, 1).astype(np.float32)


def encode(picture: np.ndarray) -> bytes:
    """A PNG of RGBA, a JPEG of RGB."""
    data = io.BytesIO()
    if picture.shape[-1] == 4:
        Image.fromarray(picture).save(data, "PNG", optimize=True)
    else:
        Image.fromarray(picture).save(data, "JPEG", quality=92)
    return data.getvalue()


def make_test_data(folder: Path) -> None:
    """Write every picture, caption and the pack into `folder`."""
    for photo in PHOTOS:
        name = f"{photo.name}_rgba.png" if photo.backdrop is None else f"{photo.name}.jpg"
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(encode(render_photo(photo)))
        if photo.with_caption:
            caption = generate(FIRST_SEED + photo.seed, photo.family).caption
            with atomic_write(folder / f"{photo.name}_caption.txt") as temporary:
                temporary.write_text(caption + "\n", encoding="utf-8")
    packed_shapes(list(PACKED)).save(folder / "objects_small.npz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "test_data", help="folder to write to")
    make_test_data(parser.parse_args().out)


if __name__ == "__main__":
    main()
