"""The generators and their backgrounds in small, each with random parameters that all matter."""

from collections.abc import Callable

import torch
from torch import nn

from microdreamer.generators.backgrounds import PromptBackground, SharedBackground
from microdreamer.generators.base import ShapeGenerator
from microdreamer.generators.conv3d import Conv3dGenerator, Conv3dSpec
from microdreamer.generators.hyper_ingp import HyperIngp, HyperIngpSpec
from microdreamer.generators.triplane_transformer import TriplaneTransformer, TriplaneTransformerSpec
from microdreamer.kernels.hash_grid import HashGridSpec, hash_grid_encode

TEXT_WIDTH = 20
GRID = HashGridSpec(levels=4, features=2, log2_table_size=8, base_resolution=4, growth=1.6)
SPECS = {
    "hyper_ingp": HyperIngpSpec(TEXT_WIDTH, grid=GRID, hyper_hidden=12, hidden=10),
    "conv3d": Conv3dSpec(TEXT_WIDTH, noise_width=8, style_width=16, channels=(16, 12, 8), bias_resolution=8, voxel_channels=8, hidden=16),
    "triplane_local": TriplaneTransformerSpec(TEXT_WIDTH, width=24, token_side=4, layers=2, attention_heads=3, plane_channels=8, hidden=16),
    "triplane_global": TriplaneTransformerSpec(
        TEXT_WIDTH, text="global", width=24, token_side=4, layers=2, attention_heads=3, plane_channels=8, hidden=16
    ),
}
MAKERS = {HyperIngpSpec: HyperIngp, Conv3dSpec: Conv3dGenerator, TriplaneTransformerSpec: TriplaneTransformer}


def lively(module: nn.Module) -> nn.Module:
    """`module` with what starts at 0 or 1 moved from there, and a hash grid that says something."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name == "encoding.params":
                parameter.mul_(1e4)
            elif parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return module


def small(spec) -> ShapeGenerator:
    return lively(MAKERS[type(spec)](spec, torch.Generator().manual_seed(1)))


def in_float64(module: nn.Module) -> nn.Module:
    """`module` in float64, whose hash grid, an op for float32, runs in plain PyTorch."""
    module.double()
    if isinstance(module, HyperIngp):
        module.encoding.forward = lambda points: hash_grid_encode(points, module.encoding.params, module.spec.grid, compiled=False)
    return module


def sentences(generator: ShapeGenerator, count: int, tokens: int = 7, seed: int = 3) -> torch.Tensor:
    """Embeddings of `count` sentences, of the kind that `generator` reads."""
    shape = (count, TEXT_WIDTH) if generator.text == "global" else (count, tokens, TEXT_WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def points_of(count: int, points: int = 61, seed: int = 4) -> torch.Tensor:
    """[count,points,3], other points for each sentence, some outside of the box [-2,2]^3."""
    return 4.4 * torch.rand(count, points, 3, generator=torch.Generator().manual_seed(seed)) - 2.2


BACKGROUNDS: dict[str, Callable[[], nn.Module]] = {
    "prompt": lambda: lively(PromptBackground(TEXT_WIDTH, torch.Generator().manual_seed(1), grid=GRID, hyper_hidden=12, hidden=10)),
    "shared": lambda: SharedBackground("sh3", torch.Generator().manual_seed(1)),
}
