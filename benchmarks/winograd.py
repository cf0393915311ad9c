"""Time of a U-Net's convolutions with what stands around them, direct and by Winograd's filtering, beside the least they must do.

    python -m benchmarks.winograd [--device cuda] [--samples 12 6] [--layers 32x320x320 ...] [--out results.json]

A layer is group normalisation with SiLU, a 3x3 convolution and its bias plus a residual, of pictures SIDE x CHANNELS_IN x CHANNELS_OUT
with channels last, in half precision on a GPU. *Direct* is the library's convolution between the kernels of this project, *products*
the matrix products alone. Both ways are compared with float32 first. Times are of calls that repeat a layer with different weights,
more than caches hold, on a GPU as a CUDA graph, per layer: median (least to most). Floors: multiplications of the direct convolution
at 780 TFLOP/s, and of Winograd's products at the same rate, or reading their weights at 4.2 TB/s if that is longer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import captured, time_calls, write_json
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.kernels import extension
from microdreamer.kernels.group_norm import group_moments, group_norm
from microdreamer.kernels.tokens import add_bias
from microdreamer.kernels.winograd import Norm, transform_weights, winograd_input, winograd_output

LAYERS = ["32x320x320", "32x960x320", "16x640x640", "16x1920x640", "8x1280x1280", "8x2560x1280", "4x1280x1280"]
GROUPS = 32
WEIGHTS, TURNS = 4, 3  # sets of weights, and how often a graph goes through them
LARGEST_ERROR = 2e-3  # relative L2 from float32
FLOP_PER_MS, BYTES_PER_MS = 780e9, 4.2e9


class Layer(NamedTuple):
    """Tokens [N,P,C], weight and bias [C] of the norm, convolutions [O,C,3,3], bias [O], residual [N,P,O]."""

    side: int
    x: Tensor
    scale: Tensor
    shift: Tensor
    weights: list[Tensor]
    bias: Tensor
    residual: Tensor

    @classmethod
    def random(cls, samples: int, side: int, channels: int, outputs: int, device: str) -> Layer:
        draw = torch.Generator(device).manual_seed(0)

        def normal(*shape: int, of: float = 1.0) -> Tensor:
            values = torch.randn(shape, generator=draw, device=device) * of
            return values.half() if values.is_cuda else values

        deviation = (9 * channels) ** -0.5
        weights = [normal(outputs, channels, 3, 3, of=deviation).to(memory_format=torch.channels_last) for _ in range(WEIGHTS)]
        pixels = side * side
        return cls(
            side,
            normal(samples, pixels, channels),
            normal(channels),
            normal(channels),
            weights,
            normal(outputs),
            normal(samples, pixels, outputs),
        )

    def picture(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).unflatten(2, (self.side, self.side))

    def exact(self, weight: Tensor) -> Tensor:
        x, scale, shift, weight, bias, residual = (t.float() for t in (self.x, self.scale, self.shift, weight, self.bias, self.residual))
        normed = F.silu(F.group_norm(self.picture(x), GROUPS, scale, shift, 1e-5))
        return F.conv2d(normed, weight, bias, padding=1).flatten(2).transpose(1, 2) + residual

    def direct(self, weight: Tensor) -> Tensor:
        normed = group_norm(self.x, self.scale, self.shift, GROUPS, 1e-5, True)
        hidden = F.conv2d(self.picture(normed), weight, None, padding=1)
        return add_bias(hidden.flatten(2).transpose(1, 2).contiguous(), self.bias, self.residual)

    def planes(self) -> Tensor:
        return winograd_input(self.x, self.side, Norm(group_moments(self.x, GROUPS), self.scale, self.shift, 1e-5, True))

    def winograd(self, transformed: Tensor) -> Tensor:
        return winograd_output(torch.bmm(self.planes(), transformed), len(self.x), self.side, self.bias[None], self.residual, GROUPS)[0]


def check(name: str, found: Tensor, exact: Tensor) -> float:
    error = float((found.float() - exact).norm() / exact.norm())
    if not error < LARGEST_ERROR:
        raise SystemExit(f"{name}: differs from float32 by {error:.1e}: not timed")
    return error


def timed(calls: list[Callable[[], Tensor]], device: str, repeats: int) -> dict[str, float]:
    """Microseconds of one call, of those that follow each other."""

    def all_calls() -> None:
        for _ in range(TURNS):
            for call in calls:
                call()

    timing = time_calls(captured(all_calls) if device == "cuda" else all_calls, device, repeats)
    return {f"{name}_us": 1e3 * getattr(timing, name) / TURNS / len(calls) for name in ("median", "least", "most")}


def measure(name: str, samples: int, device: str, repeats: int) -> dict[str, object]:
    side, channels, outputs = map(int, name.split("x"))
    layer = Layer.random(samples, side, channels, outputs, device)
    transformed = [transform_weights(weight) for weight in layer.weights]
    exact = layer.exact(layer.weights[0])
    errors = {"direct": check("direct", layer.direct(layer.weights[0]), exact)}
    errors["winograd"] = check("winograd", layer.winograd(transformed[0]), exact)
    planes = layer.planes()
    ways = {
        "direct": [lambda weight=weight: layer.direct(weight) for weight in layer.weights],
        "winograd": [lambda weight=weight: layer.winograd(weight) for weight in transformed],
        "products": [lambda weight=weight: torch.bmm(planes, weight) for weight in transformed],
    }
    flop = 18 * samples * side**2 * channels * outputs
    floors = {
        "direct": flop / FLOP_PER_MS * 1e3,
        "winograd": max(flop * 4 / 9 / FLOP_PER_MS, 32 * channels * outputs / BYTES_PER_MS) * 1e3,
    }
    return {"layer": name, "samples": samples, "errors": errors, "floor_us": floors} | {
        way: timed(calls, device, repeats) for way, calls in ways.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default=best_device().type)
    parser.add_argument("--samples", type=int, nargs="+", default=[12, 6])
    parser.add_argument("--layers", nargs="+", default=LAYERS, metavar="SIDExINxOUT")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if not extension.available(options.device):
        raise SystemExit(f"no compiled {options.device} kernels to measure; {extension.BUILD_HINT}")
    header, rows = provenance(options.device), []
    print(f"{describe(header)}\nmicroseconds, median (least to most) of {options.repeats}")
    print("| layer | samples | direct | Winograd | its products | floors | errors |\n| --- | --- | --- | --- | --- | --- | --- |")
    with torch.no_grad():
        for samples in options.samples:
            for name in options.layers:
                row = measure(name, samples, options.device, options.repeats)
                rows.append(row)
                times = (
                    f"{row[way]['median_us']:.1f} ({row[way]['least_us']:.1f} to {row[way]['most_us']:.1f})"
                    for way in ("direct", "winograd", "products")
                )
                floors, errors = (
                    " / ".join(f"{value:{form}}" for value in row[key].values()) for key, form in (("floor_us", ".1f"), ("errors", ".1e"))
                )
                print(f"| {name} | {samples} | {' | '.join(times)} | {floors} | {errors} |", flush=True)
    write_json(options.out, header | {"rows": rows})


if __name__ == "__main__":
    main()
