"""What CUDA graphs hold of the published networks: work on the device alone, whose sizes do not depend on its values, in half precision.

Seen on tensors without memory (`meta`), which have no values that the host could read and do not mix with others.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from microdreamer.guidance.published.configs import class_of, configurations
from microdreamer.guidance.published.inference import for_inference
from microdreamer.guidance.published.pretrained import build

BOTH = (torch.float16, torch.bfloat16)


class Casts(TorchDispatchMode):
    """Keeps what is cast, from which type to which; raises for tensors elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, torch.dtype]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            assert out.device.type == "meta", func
            if func.overloadpacket is torch.ops.aten._to_copy and args[0].dtype != out.dtype:
                self.seen.append((args[0].dtype, out.dtype))
        return out


class NothingSent(TorchFunctionMode):
    """Raises where the host sends values, as numbers or as a list of places. Attention keeps its type, as the kernels for a GPU do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert getattr(func, "__name__", "") not in ("tensor", "as_tensor", "new_tensor", "from_numpy"), func
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(place, list) for place in places), places
        if func is F.scaled_dot_product_attention:
            query, key, value = args
            return query @ key.transpose(-2, -1) @ value
        return func(*args, **(kwargs or {}))


def made(name: str, part: str, dtype: torch.dtype) -> nn.Module:
    config = configurations(name, tiny=True)[part]
    return build(config, class_of(config), Path("config.json")).to(dtype).eval().requires_grad_(False)


def of(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def watched(dtype: torch.dtype, work: Callable[[], Tensor], grad: bool = False) -> list:
    """What `work` casts, the second time, as a capture sees it."""
    with contextlib.nullcontext() if grad else torch.no_grad():
        work()
        with NothingSent(), Casts() as casts:
            assert work().dtype == dtype
    return casts.seen


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(("name", "tokens"), [("zero123_xl", 1), ("stable_diffusion", 77)])
def test_u_net(name, tokens, quick, dtype):
    network = made(name, "unet", dtype)
    if quick:
        for_inference(network, winograd=False)
    inputs = of(dtype, 6, network.config.in_channels, 8, 8), of(torch.float32, 6), of(dtype, 6, tokens, 32)
    assert watched(dtype, lambda: network(*inputs)) == [(torch.float32, dtype)]  # the time embedding


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(("name", "frames"), [("mvdream", 4), ("imagedream", 5)])
def test_multiview_u_net(name, frames, quick, dtype):
    network, picture = made(name, "unet", dtype), frames == 5
    if quick:
        for_inference(network, winograd=False)
    context = network.embed_context(of(dtype, 2, 77, 32), of(dtype, 2, 5, 1280) if picture else None)
    inputs = of(dtype, 2 * frames, 4, 8, 8), of(torch.float32, 2 * frames), context, network.camera_embed(of(dtype, 2 * frames, 16))
    pixels = of(dtype, 2, 4, 8, 8) if picture else None
    assert watched(dtype, lambda: network(*inputs, frames, pixels)) == [(torch.float32, dtype)]


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("quick", [False, True])
def test_autoencoder(quick, dtype):
    network = made("mvdream", "vae", dtype)
    if quick:
        for_inference(network, winograd=False)
    pictures, latents = of(dtype, 2, 3, 64, 64), of(dtype, 2, 4, 8, 8)
    assert watched(dtype, lambda: network.encode(pictures)) == watched(dtype, lambda: network.decode(latents)) == []
    pictures.requires_grad_()

    def gradient() -> Tensor:
        out = network.encode(pictures)
        return torch.autograd.grad(out, pictures, torch.ones_like(out))[0]

    assert watched(dtype, gradient, grad=True) == []


@pytest.mark.parametrize("dtype", BOTH)
def test_towers(dtype):
    text = made("mvdream", "text_encoder", dtype)
    picture, projected = (made(name, "image_encoder", dtype) for name in ("imagedream", "zero123_xl"))
    ids, pixels = of(torch.long, 2, 77), of(dtype, 1, 3, 28, 28)
    for work in (lambda: text(ids).pooled, lambda: picture.tokens(pixels, leave_out=1), lambda: projected(pixels)):
        assert [cast for cast in watched(dtype, work) if cast[0].is_floating_point] == []


def test_what_a_graph_cannot_hold_is_seen():
    x = of(torch.float16, 3)
    for work in (
        lambda: x + torch.tensor([1.0, 2.0, 3.0]),
        lambda: x * x.new_tensor([1.0, 2.0, 3.0]),
        lambda: x[x > 0],
        lambda: x * x.sum().item(),
        lambda: x[[0, 2]],
    ):
        with pytest.raises((AssertionError, RuntimeError)), NothingSent(), Casts():
            work()
