"""Near-copies between packs: which objects look like a held-out one from all around.

python -m microdreamer.shapes.duplicates --train train_0.npz train_1.npz --held-out val.npz [--limit 0.065] [--out ids.txt]

Every object is drawn from eight sides; two are compared at the turn about the vertical, mirrored or not, at which they agree
best. Packed objects are all centred and of one size, so a copy that was moved or scaled is found; one that was stretched is not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from cam_utils import orbit_cameras
from microdreamer.core.files import atomic_write
from microdreamer.shapes.packed import PackedMeshes, load_packed
from microdreamer.shapes.render import over_white, render_views

AZIMUTHS, SIZE, ELEVATION = 8, 32, -20.0


def descriptors(meshes: PackedMeshes) -> tuple[Tensor, Tensor]:
    """(coverage [M,AZIMUTHS,1,SIZE,SIZE], colour on white [M,AZIMUTHS,3,SIZE,SIZE]) of each object from all around, in [0,1]."""
    cameras = orbit_cameras([ELEVATION] * AZIMUTHS, [k * 360 / AZIMUTHS for k in range(AZIMUTHS)], width=SIZE, height=SIZE)
    rows = [render_views(meshes, index, cameras.to(meshes.device)).cpu() for index in range(len(meshes))]
    rgba = torch.stack(rows)
    return rgba[:, :, 3:], over_white(rgba.flatten(0, 1)).unflatten(0, rgba.shape[:2])


def distances(these: Tensor, those: Tensor) -> Tensor:
    """[N,M] root mean square difference of descriptors [N,A,C,S,S] and [M,A,C,S,S] at the best turn and mirroring.

    0 for a copy; about 0.05 for shapes of one kind, 0.2 for two objects drawn at random.
    """
    best = torch.full((len(these), len(those)), float("inf"))
    flat = those.flatten(1)
    for mirrored in (False, True):
        # Seen in a mirror, the view from azimuth a is the flipped one from -a.
        seen = these.flip(-1)[:, [-k % AZIMUTHS for k in range(AZIMUTHS)]] if mirrored else these
        for turn in range(AZIMUTHS):
            turned = seen.roll(turn, dims=1).flatten(1)
            square = turned.square().sum(1)[:, None] + flat.square().sum(1) - 2 * turned @ flat.T
            best = torch.minimum(best, square.clamp_min(0) / flat.shape[1])
    return best.sqrt()


def near_copies(train: PackedMeshes, held_out: PackedMeshes, limit: float) -> list[tuple[str, str, float, float]]:
    """(training id, held-out id, distance of shapes, of colours) of all training objects whose shape is within `limit`, nearest first."""
    (train_shape, train_colour), (own_shape, own_colour) = descriptors(train), descriptors(held_out)
    shape, colour = distances(own_shape, train_shape), distances(own_colour, train_colour)
    found = [(train.ids[j], held_out.ids[i], float(shape[i, j]), float(colour[i, j])) for i, j in (shape <= limit).nonzero().tolist()]
    return sorted(found, key=lambda row: row[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", type=Path, required=True, help="packed .npz files")
    parser.add_argument("--held-out", nargs="+", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=0.065, help="largest distance of shapes that counts as a near-copy")
    parser.add_argument("--out", type=Path, help="file for the training ids found, one a line")
    args = parser.parse_args()
    found = near_copies(load_packed(args.train), load_packed(args.held_out), args.limit)
    for train_id, own_id, shape, colour in found:
        print(f"{shape:.3f} (colours {colour:.3f})  {train_id}  looks like  {own_id}")
    names = sorted({row[0] for row in found})
    print(f"{len(names)} training objects within {args.limit} of a held-out one")
    if args.out:
        with atomic_write(args.out) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in names))


if __name__ == "__main__":
    main()
