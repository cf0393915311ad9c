"""One call of a step or a mistake of the course, for tools that look at a single kernel.

    ncu --set basic python -m benchmarks.course.once culled
    compute-sanitizer --tool racecheck python -m benchmarks.course.once wrong_barrier
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer python -m benchmarks.course.once wrong_bound

Steps compute chapter 4's grid, mistakes the small one of chapter 3. Without PYTORCH_NO_CUDA_MEMORY_CACHING PyTorch hands out pieces of
large blocks, and a write beyond a tensor's end stays within one.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.course.op import GRID, sample
from benchmarks.course.scene import LIBRARY, Scene
from microdreamer.core.machine import best_device
from microdreamer.kernels import course


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", choices=[*course.STEPS, LIBRARY, *course.MISTAKES], metavar="variant")
    parser.add_argument("--device", default=best_device().type, choices=["cpu", "cuda"])
    parser.add_argument("--small", action="store_true", help="the steps on chapter 4's small case")
    options = parser.parse_args()
    scene = Scene(options.device, options.small)
    for variant in options.variants:
        mistake = variant in course.MISTAKES
        field = course.extract_fields(*sample(options.device), *GRID, variant) if mistake else scene.version(variant)()
        if options.device == "cuda":
            torch.cuda.synchronize()
        print(f"{variant}: {list(field.shape)}, sum {float(field.double().sum()):.6g}")


if __name__ == "__main__":
    main()
