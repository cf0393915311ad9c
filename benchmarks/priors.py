"""Seconds and memory of the published priors at full size, with random weights made on the device; nothing is downloaded.

python -m benchmarks.priors [--priors stable_zero123 mvdream imagedream] [--compile] [--repeats 20] [--out FILE.json]

A guided evaluation is one call of the network on both halves of guidance. Each prior is measured as programs use it (CUDA graph,
channels last), then without the one and the other. TFLOP are counted by PyTorch from the shapes of products and convolutions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cam_utils import orbit_cameras
from guidance.base import PRECISIONS
from guidance.imagedream import ImageDreamPrior
from guidance.latent import LatentPrior, Parts
from guidance.mvdream import MVDreamPrior
from guidance.published_configs import configurations
from guidance.stable_diffusion import StableDiffusionPrior
from guidance.text import TextEncoder
from guidance.zero123 import Zero123Prior, skip_single_token_attention
from report import device_name
from scripts.make_random_checkpoint import random_module

VIEWS = {"zero123_xl": 6, "stable_zero123": 6, "mvdream": 4, "imagedream": 4, "stable_diffusion": 4}  # of one round
GUIDANCE = 3.0
LEVEL = 500
WARM_UPS = 3


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
    """Median, least and most seconds of a call, and MiB that it takes beyond what was there."""
    on_gpu = device.type == "cuda"

    def finish() -> None:
        if on_gpu:
            torch.cuda.synchronize(device)

    for _ in range(WARM_UPS):
        function()
    finish()
    before = 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        finish()
        seconds.append(time.perf_counter() - start)
    found = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
    if on_gpu:
        found["mib"] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
    return found


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

    def row(label: str, function: Callable[[], object], tflop: float | None = None) -> None:
        found = rows[label] = measured(function, device, repeats)
        if tflop:
            found["tflop"], found["tflops"] = tflop, tflop / found["median"]
        extra = f", {found['mib']:.0f} MiB" if "mib" in found else ""
        extra += f", {found['tflop']:.2f} TFLOP, {found['tflops']:.0f} TFLOP/s" if tflop else ""
        print(
            f"{name:>16} {label:<34} {found['median'] * 1e3:9.2f} ms ({found['least'] * 1e3:.2f} to {found['most'] * 1e3:.2f}){extra}",
            flush=True,
        )

    def per_latent(label: str, latents_of_call: int) -> None:
        """In the unit of latent.NETWORK_BYTES and AUTOENCODER_BYTES, which must not be below."""
        if "mib" in rows[label]:
            unit = latents[0, 0].numel() * prior.dtype.itemsize
            rows[label]["bytes_per_latent_pixel"] = rows[label]["mib"] * 2**20 / (latents_of_call * unit)
            print(f"{name:>16} {'':<34} {rows[label]['bytes_per_latent_pixel']:9.0f} bytes per latent pixel and byte of the data type")

    prior.call.enabled = False
    with FlopCounterMode(display=False) as counter:
        guided()
    tflop = counter.get_total_flops() / 1e12
    row("guided, eager", guided, tflop)
    per_latent("guided, eager", 2 * views // prior.views * prior.frames)
    if device.type == "cuda":
        prior.call.enabled = True
        row("guided, CUDA graph", guided, tflop)
        row("unconditional, CUDA graph", lambda: prior.predict_noise(latents, LEVEL, cameras, condition, None), tflop / 2)
    row(f"encode {views} pictures", lambda: prior.encode(pictures))
    row(f"decode {views} pictures", lambda: prior.decode(latents))
    per_latent(f"decode {views} pictures", views)
    row("condition", lambda: prior.condition(picture, prompt))
    if device.type == "cuda":  # the same network as it was before channels_last
        prior.network = random_module(configurations(name, tiny)["unet"], device, 0, parts.dtype)
        if isinstance(prior, Zero123Prior):
            skip_single_token_attention(prior.network)
        prior.call = type(prior.call)(prior._network)
        row("guided, CUDA graph, channels first", guided, tflop)
        if compiled:
            prior.network.forward = torch.compile(prior.network.forward)
            prior.call = type(prior.call)(prior._network)
            row("guided, CUDA graph, compiled", guided, tflop)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--priors", nargs="+", choices=tuple(VIEWS), default=["stable_zero123", "mvdream", "imagedream", "stable_diffusion"]
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too (minutes)")
    parser.add_argument("--tiny", action="store_true", help="miniature networks, to try the script")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    parts = Parts.choose("cuda" if torch.cuda.is_available() else "cpu", args.precision)
    print(f"{device_name(parts.device)}, PyTorch {torch.__version__}, {parts.dtype}, {args.repeats} repeats")
    results = {}
    for name in args.priors:
        with torch.no_grad():
            results[name] = benchmark(name, parts, args.repeats, args.compile, args.tiny)
        if parts.device.type == "cuda":
            torch.cuda.empty_cache()
    if args.out:
        record = {"machine": device_name(parts.device), "torch": torch.__version__, "dtype": str(parts.dtype), "priors": results}
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
