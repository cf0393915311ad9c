"""Fit 3D Gaussians to known views of an object: the rasteriser and its gradients alone, no diffusion prior.

python examples/fit_gaussians.py [--steps 200] [--out logs/fitted.ply]

The views are rendered from one of the shipped test objects; in a program of your own they are your pictures and cameras.
"""

import argparse

import torch

from cam_utils import orbit_cameras
from microdreamer import GaussianModel
from microdreamer.metrics.pictures import psnr
from microdreamer.shapes.packed import load_packed
from microdreamer.shapes.render import over_white, render_views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", default="test_data/objects_small.npz", help="a pack of meshes")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", default="logs/fitted.ply")
    options = parser.parse_args()

    meshes = load_packed(options.objects)
    cameras = orbit_cameras([-20.0, 0.0, 20.0] * 4, [30.0 * view for view in range(12)], width=128, height=128)
    unseen = orbit_cameras(-10.0, [15.0, 135.0, 255.0], width=128, height=128)
    targets, truth = (over_white(render_views(meshes, 0, views)) for views in (cameras, unseen))

    draw = torch.Generator().manual_seed(0)
    model = GaussianModel.initial_ball(2000, generator=draw)
    optimizer = model.make_optimizer()
    for step in range(1, options.steps + 1):
        model.update_learning_rate(step)
        rendering = model.render(cameras, background=1.0)
        loss = (rendering.image - targets).square().mean()
        loss.backward()
        model.record_statistics(rendering)
        optimizer.step()
        optimizer.zero_grad()
        if step in (60, 120):  # more Gaussians where the pictures pull hardest
            model.densify_and_prune(generator=draw)
    with torch.no_grad():
        found = psnr(model.render(unseen, 1.0).image, truth).mean()
    model.save_ply(options.out)
    print(f"{len(model)} Gaussians, {found:.1f} dB at views that were not fitted; wrote {options.out}")


if __name__ == "__main__":
    main()
