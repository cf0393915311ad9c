"""Seconds and memory of the published priors at full size, with random weights made on the device; nothing is downloaded.

python -m benchmarks.priors [--priors stable_zero123 mvdream imagedream] [--compile] [--repeats 20] [--out FILE.json]

A guided evaluation is one call of the network on both halves of guidance. Each prior is measured as programs use it (CUDA graph,
channels last), then without the one and the other; before a way is timed, its noise is compared with that of the plain calls (relative
L2: 0.05 in half precision, 1e-3 in float32, guided at scale 3, which magnifies rounding). Times are of whole calls
(benchmarks/timing.py) after 3 that are not counted, memory is what a call takes beyond what was there. TFLOP are counted by PyTorch from
the shapes of products and convolutions - by Winograd's filtering what is multiplied, which is less than a direct convolution's; the
rate beside them tells how far a call is from the card's 800 TFLOP/s or so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import peak_mib, time_calls, write_json
from cam_utils import orbit_cameras
from microdreamer.core.machine import best_device, describe, provenance
from microdreamer.guidance import PRECISIONS
from microdreamer.guidance.published.configs import configurations
from microdreamer.guidance.published.imagedream import ImageDreamPrior
from microdreamer.guidance.published.latent import LatentPrior, Parts
from microdreamer.guidance.published.mvdream import MVDreamPrior
from microdreamer.guidance.published.random_weights import random_module
from microdreamer.guidance.published.stable_diffusion import StableDiffusionPrior
from microdreamer.guidance.published.text import TextEncoder
from microdreamer.guidance.published.zero123 import Zero123Prior

VIEWS = {"zero123_xl": 6, "stable_zero123": 6, "mvdream": 4, "imagedream": 4, "stable_diffusion": 4}  # of one round
GUIDANCE = 3.0
LEVEL = 500
WARM_UPS = 3
LARGEST_ERROR, LARGEST_ERROR_OF_HALVES = 1e-3, 0.05


def random_prior(name: str, parts: Parts, tiny: bool = False) -> LatentPrior:
    """The prior `name` with random weights."""
    configs = configurations(name, tiny)
    modules = {part: random_module(config, parts.device, seed, parts.dtype) for seed, (part, config) in enumerate(configs.items())}
    if "text_encoder" in modules:
        modules["text_encoder"] = TextEncoder(lambda sentence, length: [len(sentence) % 9 + 1] * length, modules["text_encoder"])
    unet, vae, text, image = (modules.get(part) for part in ("unet", "vae", "text_encoder", "image_encoder"))
    if name == "mvdream":
        return MVDreamPrior(unet, vae, text, parts.memory)
    if name == "imagedream":
        return ImageDreamPrior(unet, vae, text, image, parts.memory)
    if name == "stable_diffusion":
        return StableDiffusionPrior(unet, vae, text, parts.memory)
    return Zero123Prior(name, unet, modules["clip_camera_projection"], vae, image, parts.memory)


def measured(function: Callable[[], object], device: torch.device, repeats: int) -> dict[str, float]:
    """Milliseconds of a call, and MiB that it takes beyond what was there."""
    found: dict[str, float] = time_calls(function, device, repeats, WARM_UPS).as_row()
    memory = peak_mib(function, device)
    return found if memory is None else found | {"mib": memory}


def check(label: str, noise: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Raises SystemExit where a way to call the network gives another noise."""
    error = float((noise - expected).norm() / expected.norm())
    if not error <= (LARGEST_ERROR if dtype == torch.float32 else LARGEST_ERROR_OF_HALVES):
        raise SystemExit(f"{label}: differs from the plain call by {error:.1e}: not timed")


def weights_mib(*modules: nn.Module | None) -> float:
    return sum(p.numel() * p.element_size() for module in modules if module is not None for p in module.parameters()) / 2**20


def benchmark(name: str, parts: Parts, repeats: int, compiled: bool, tiny: bool) -> dict[str, dict[str, float]]:
    """Rows of one prior; each is printed as it is measured."""
    device = parts.device
    prior = random_prior(name, parts, tiny)
    views = VIEWS[name]
    picture = torch.rand(4, prior.resolution, prior.resolution) if "image" in prior.accepts else None
    prompt = "a red car" if "prompt" in prior.accepts else None
    cameras = orbit_cameras(0, [360 * view / views for view in range(views)], device=device)
    condition = prior.condition(picture, prompt)
    latents = torch.randn(prior.latent_shape(views), device=device)
    pictures = torch.rand(views, 3, prior.resolution, prior.resolution, device=device)
    rows: dict[str, dict[str, float]] = {"weights": {"mib": weights_mib(prior.network, prior.autoencoder)}}

    def guided() -> Tensor:
        return prior.predict_noise(latents, LEVEL, cameras, condition, GUIDANCE)

    def unconditional() -> Tensor:
        return prior.predict_noise(latents, LEVEL, cameras, condition, None)

    def row(label: str, function: Callable[[], object], tflop: float | None = None, expected: Tensor | None = None) -> None:
        if expected is not None:
            check(f"{name}, {label}", function(), expected, prior.dtype)
        found = rows[label] = measured(function, device, repeats)
        if tflop:
            found["tflop"], found["tflops"] = tflop, 1e3 * tflop / found["median_ms"]
        extra = f", {found['mib']:.0f} MiB" if "mib" in found else ""
        extra += f", {found['tflop']:.2f} TFLOP, {found['tflops']:.0f} TFLOP/s" if tflop else ""
        print(
            f"{name:>16} {label:<34} {found['median_ms']:9.2f} ms ({found['least_ms']:.2f} to {found['most_ms']:.2f}){extra}",
            flush=True,
        )

    def per_latent(label: str, latents_of_call: int) -> None:
        """In the unit of latent.NETWORK_BYTES and AUTOENCODER_BYTES, which must not be below."""
        if "mib" in rows[label]:
            unit = latents[0, 0].numel() * prior.dtype.itemsize
            rows[label]["bytes_per_latent_pixel"] = rows[label]["mib"] * 2**20 / (latents_of_call * unit)
            print(f"{name:>16} {'':<34} {rows[label]['bytes_per_latent_pixel']:9.0f} bytes per latent pixel and byte of the data type")

    graphs = (prior.call, prior.call_encoder, prior.call_decoder)
    for graph in graphs:
        graph.enabled = False
    with FlopCounterMode(display=False) as counter:
        plain = guided()
    plain_null = unconditional()
    tflop = counter.get_total_flops() / 1e12
    row("guided, eager", guided, tflop)
    per_latent("guided, eager", 2 * views // prior.views * prior.frames)
    coders = {f"encode {views} pictures": lambda: prior.encode(pictures), f"decode {views} pictures": lambda: prior.decode(latents)}
    for label, function in coders.items():
        row(f"{label}, eager", function)
        per_latent(f"{label}, eager", views)
    if device.type == "cuda":
        made = {label: function() for label, function in coders.items()}
        for graph in graphs:
            graph.enabled = True
        row("guided, CUDA graph", guided, tflop, plain)
        row("unconditional, CUDA graph", unconditional, tflop / 2, plain_null)
        for label, function in coders.items():
            row(f"{label}, CUDA graph", function, expected=made[label])
    row("condition", lambda: prior.condition(picture, prompt))
    if device.type == "cuda":  # the same network as it is published
        configs = configurations(name, tiny)
        prior.network = random_module(configs["unet"], device, list(configs).index("unet"), parts.dtype)
        prior.call = type(prior.call)(prior._noise)
        row("guided, CUDA graph, channels first", guided, tflop, plain)
        if compiled:
            prior.network.forward = torch.compile(prior.network.forward)
            prior.call = type(prior.call)(prior._noise)
            row("guided, CUDA graph, compiled", guided, tflop, plain)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--priors", nargs="+", choices=tuple(VIEWS), default=["stable_zero123", "mvdream", "imagedream", "stable_diffusion"]
    )
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too (minutes)")
    parser.add_argument("--tiny", action="store_true", help="miniature networks, to try the script")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    parts = Parts.choose(best_device().type, args.precision)
    header = provenance(parts.device)
    print(f"{describe(header)}\n{parts.dtype}, median (least to most) of {args.repeats} after {WARM_UPS}")
    results = {}
    for name in args.priors:
        with torch.no_grad():
            results[name] = benchmark(name, parts, args.repeats, args.compile, args.tiny)
        if parts.device.type == "cuda":
            torch.cuda.empty_cache()
    write_json(args.out, header | {"dtype": str(parts.dtype), "priors": results})


if __name__ == "__main__":
    main()
