"""One call of a step or a mistake of the course, or its mesh phase, for tools that look at a program from outside.

    nsys profile --trace=cuda,nvtx python -m benchmarks.course.once mesh.plain mesh.kernels
    ncu --set basic python -m benchmarks.course.once culled weights.naive
    compute-sanitizer --tool racecheck python -m benchmarks.course.once wrong_barrier
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer python -m benchmarks.course.once wrong_bound

mesh.plain and mesh.kernels are what chapter 1 profiles, in NVTX ranges. Steps compute chapter 4's grid, mistakes the small one of
chapter 3; "weights." before a name means chapter 3's own steps. Without PYTORCH_NO_CUDA_MEMORY_CACHING PyTorch hands out pieces of large
blocks, and a write beyond a tensor's end stays within one.
"""

from __future__ import annotations

import argparse
import functools

import torch

from benchmarks.course import profile, weights
from benchmarks.course.op import GRID, sample
from benchmarks.course.scene import LIBRARY, Scene
from gs_renderer import switches
from microdreamer.core import profiler
from microdreamer.core.machine import best_device
from microdreamer.kernels import course

WEIGHTS = "weights."
MESHES = {"mesh.plain": False, "mesh.kernels": True}


def show_mesh_phase(scene: Scene, compiled: bool) -> None:
    model, num_blocks = profile.solid_model(scene), min(scene.num_blocks, profile.MOST_BLOCKS)
    with switches(gauss=compiled, extract=compiled):
        profile.mesh_phase(model, 16, 1)  # libraries load before
        with profiler.session("nvtx", "function"):
            profile.mesh_phase(model, scene.resolution, num_blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of_weights = [WEIGHTS + variant for variant in (*course.WEIGHT_STEPS, *course.WEIGHT_MISTAKES, LIBRARY)]
    parser.add_argument("variants", nargs="+", choices=[*course.STEPS, LIBRARY, *course.MISTAKES, *of_weights, *MESHES], metavar="variant")
    parser.add_argument("--device", default=best_device().type, choices=["cpu", "cuda"])
    parser.add_argument("--small", action="store_true", help="the steps on chapter 4's small case")
    options = parser.parse_args()
    scene = Scene(options.device, options.small)
    pairs = functools.cache(lambda: weights.pairs(weights.count_of(scene), options.device))  # of all variants: it takes seconds
    for variant in options.variants:
        if variant in MESHES:
            show_mesh_phase(scene, MESHES[variant])
            continue
        if variant.startswith(WEIGHTS):
            found = weights.call_of(variant.removeprefix(WEIGHTS))(*pairs())
        elif variant in course.MISTAKES:
            found = course.extract_fields(*sample(options.device), *GRID, variant)
        else:
            found = scene.version(variant)()
        if options.device == "cuda":
            torch.cuda.synchronize()
        print(f"{variant}: {list(found.shape)}, sum {float(found.double().sum()):.6g}")


if __name__ == "__main__":
    main()
