"""3DConv-net: StyleGAN2 with convolutions in three dimensions makes a grid of features of a sentence and a draw of noise.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), in 3D after Bahmani et al., "CC3D" (2023), as
ScaleDreamer (Ma et al., 2024) has it. The mapping network turns noise z and text c into a style w, which scales the input channels of
every convolution of the synthesis network: from a learnt constant of 4^3 voxels, each block doubles the resolution.

Modulated weights W s, demodulated to unit length for each output channel, are never made: since convolution is linear, scaling the
inputs by s and the outputs by 1 / sqrt(sum (W s)^2 + 1e-8) is the same, with one weight for the whole batch.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, interpolate, leaky_relu, linear

from microdreamer.fields.perceptron import Perceptron
from microdreamer.generators.base import GeneratorSpec, Head, ShapeGenerator
from microdreamer.kernels.grid_sampling import sample_grids

FIRST_RESOLUTION = 4
MULTIPLIED_FROM = 32  # voxels a side from which layers have `channel_multiplier` times as many channels
CLAMP = 256.0  # of what layers give, either way
SMALL = 1e-8  # under roots and fractions
VOXEL_AXES = (0, 1, 2)  # which coordinates run along width, height and depth of the grid
FIXED_NOISE_SEED = 0  # of the noise that stands for all draws where there are none


@dataclasses.dataclass(frozen=True)
class Conv3dSpec(GeneratorSpec):
    """The make of a 3DConv-net; the defaults are the published one's for its smaller libraries. Raises ValueError for a value out of range.

    The largest library's net has `channel_multiplier` 2.
    """

    noise_width: int = 64  # of z
    style_width: int = 256  # of w, and of the mapping network
    mapping_layers: int = 2
    channel_multiplier: int = 1  # of the channels from MULTIPLIED_FROM on
    channels: tuple[int, ...] = (512, 512, 512, 256, 128, 64)  # of each resolution, 4, 8, 16, ...
    bias_resolution: int = 64  # up to where voxels have biases of their own
    voxel_channels: int = 32
    hidden: int = 64  # width of the heads' one hidden layer

    @property
    def widths(self) -> dict[int, int]:
        """Resolution -> channels."""
        sides = [FIRST_RESOLUTION * 2**index for index in range(len(self.channels))]
        return {
            side: width * (self.channel_multiplier if side >= MULTIPLIED_FROM else 1)
            for side, width in zip(sides, self.channels, strict=True)
        }

    @property
    def resolution(self) -> int:
        """Voxels along an axis of the grid."""
        return max(self.widths)


# ---- Layers ----


def _normal(*shape: int, generator: torch.Generator | None) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=generator))


def _nonlinearity(x: Tensor) -> Tensor:
    """A leaky ReLU that keeps the variance."""
    return leaky_relu(x, 0.2) * math.sqrt(2)


def upsample(x: Tensor) -> Tensor:
    """[B,C,R,R,R] to twice the resolution, corner voxels on corner voxels."""
    return interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)


class EqualizedLinear(nn.Module):
    """A linear layer whose weights start at deviation 1 and are scaled where they are used, so that all learn at one rate."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.weight = _normal(outputs, inputs, generator=generator)
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight / math.sqrt(self.weight.shape[1]), self.bias)


class StyledConvolution(nn.Module):
    """A convolution of 3^3 with modulated and demodulated weights, noise, bias and nonlinearity; `up` doubles the resolution after it."""

    noise_const: Tensor  # [R,R,R], a buffer

    def __init__(self, inputs: int, outputs: int, style: int, resolution: int, up: bool, generator: torch.Generator | None) -> None:
        super().__init__()
        self.up = up
        self.resolution = resolution  # of the output
        self.affine = EqualizedLinear(style, inputs, bias=1.0, generator=generator)
        self.weight = _normal(outputs, inputs, 3, 3, 3, generator=generator)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(1))
        self.register_buffer("noise_const", torch.randn(resolution, resolution, resolution, generator=generator))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """x [B,inputs,r,r,r] and styles w [B,style] -> [B,outputs,R,R,R]; noise [B,1,R,R,R], or None for the layer's own."""
        style = self.affine(w)
        length = (style.square() @ self.weight.square().sum((2, 3, 4)).T + SMALL).rsqrt()
        x = conv3d(x * style[:, :, None, None, None], self.weight, padding=1) * length[:, :, None, None, None]
        if self.up:
            x = upsample(x)
        x = x + (self.noise_const if noise is None else noise) * self.noise_strength + self.bias[:, None, None, None]
        return _nonlinearity(x).clamp(-CLAMP, CLAMP)


class ToVoxels(nn.Module):
    """A modulated convolution of 1^3, without demodulation, to the channels of the grid."""

    def __init__(self, inputs: int, outputs: int, style: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.affine = EqualizedLinear(style, inputs, bias=1.0, generator=generator)
        self.weight = _normal(outputs, inputs, 1, 1, 1, generator=generator)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w) / math.sqrt(x.shape[1])
        return conv3d(x * style[:, :, None, None, None], self.weight, self.bias)


# ---- Networks ----


class MappingNetwork(nn.Module):
    """Noise z [B,noise_width] and text c [B,text_width] -> styles w [B,style_width]; the text joins before the last layer."""

    def __init__(self, spec: Conv3dSpec, generator: torch.Generator | None) -> None:
        super().__init__()
        widths = [spec.noise_width] + [spec.style_width] * spec.mapping_layers
        self.layers = nn.ModuleList(EqualizedLinear(a, b, generator=generator) for a, b in itertools.pairwise(widths))
        self.embed = EqualizedLinear(widths[-1] + spec.text_width, spec.style_width, generator=generator)
        self.register_buffer("w_avg", torch.zeros(spec.style_width))  # in published files; only truncation, which nothing uses, reads it

    def forward(self, z: Tensor, text: Tensor) -> Tensor:
        z = z * (z.square().mean(dim=1, keepdim=True) + SMALL).rsqrt()
        for layer in self.layers:
            z = _nonlinearity(layer(z))
        return self.embed(torch.cat([z, text], dim=1))


class FirstBlock(nn.Module):
    """From the learnt constant to features and grid at 4^3."""

    def __init__(self, spec: Conv3dSpec, generator: torch.Generator | None) -> None:
        super().__init__()
        width, side, style = spec.widths[FIRST_RESOLUTION], FIRST_RESOLUTION, spec.style_width
        self.const = _normal(width, side, side, side, generator=generator)
        self.conv1 = StyledConvolution(width, width, style, side, up=False, generator=generator)
        self.torgb = ToVoxels(width, spec.voxel_channels, style, generator)

    def forward(self, w: Tensor, noises: Iterator[Tensor | None]) -> tuple[Tensor, Tensor]:
        x = self.conv1(self.const.expand(len(w), -1, -1, -1, -1), w, next(noises))
        return x, self.torgb(x, w)


class Block(nn.Module):
    """To twice the resolution, `side`; voxels get biases of their own in blocks up to the spec's resolution for them."""

    def __init__(self, spec: Conv3dSpec, side: int, generator: torch.Generator | None) -> None:
        super().__init__()
        inputs, width, style = spec.widths[side // 2], spec.widths[side], spec.style_width
        self.conv0 = StyledConvolution(inputs, width, style, side, up=True, generator=generator)
        self.conv1 = StyledConvolution(width, width, style, side, up=False, generator=generator)
        self.torgb = ToVoxels(width, spec.voxel_channels, style, generator)
        self.const_bias = None
        if side <= spec.bias_resolution:
            self.const_bias = nn.Parameter(torch.randn(width, side, side, side, generator=generator) / math.sqrt(width))

    def forward(self, x: Tensor, grid: Tensor, w: Tensor, noises: Iterator[Tensor | None]) -> tuple[Tensor, Tensor]:
        x = self.conv0(x, w, next(noises))
        if self.const_bias is not None:
            x = x + self.const_bias
        x = self.conv1(x, w, next(noises))
        return x, upsample(grid) + self.torgb(x, w)


class SynthesisNetwork(nn.Module):
    """Styles w [B,style_width] -> grids [B,voxel_channels,R,R,R]."""

    def __init__(self, spec: Conv3dSpec, generator: torch.Generator | None) -> None:
        super().__init__()
        self.first_block = FirstBlock(spec, generator)
        sides = [side for side in spec.widths if side > FIRST_RESOLUTION]
        self.blocks = nn.ModuleList(Block(spec, side, generator) for side in sides)
        self.noise_sides = [FIRST_RESOLUTION] + [side for side in sides for _ in range(2)]  # of the layers, in their order

    def forward(self, w: Tensor, noises: Sequence[Tensor] | None = None) -> Tensor:
        """`noises`: of each layer [B,1,r,r,r] for the r of `noise_sides`; None for those that the layers keep."""
        given: Iterator[Tensor | None] = iter([None] * len(self.noise_sides) if noises is None else noises)
        x, grid = self.first_block(w, given)
        for block in self.blocks:
            x, grid = block(x, grid, w, given)
        return grid


class SpaceGenerator(nn.Module):
    """Noise z and text -> grids of features."""

    def __init__(self, spec: Conv3dSpec, generator: torch.Generator | None) -> None:
        super().__init__()
        self.synthesis = SynthesisNetwork(spec, generator)
        self.mapping = MappingNetwork(spec, generator)

    def forward(self, z: Tensor, text: Tensor, noises: Sequence[Tensor] | None = None) -> Tensor:
        return self.synthesis(self.mapping(z, text), noises)


class Conv3dGenerator(ShapeGenerator[Tensor]):
    """The generator of `spec`; its caches are grids [B,1,R,R,R,voxel_channels], axes z, y, x. Initial values are drawn from
    `generator` (on the CPU).

    `draw` gives z [B,noise_width] and the noise of each layer. Without them z is one fixed draw and layers take the noise that they
    keep, so that a sentence always gives the same shape.
    """

    spec: Conv3dSpec

    def __init__(self, spec: Conv3dSpec = Conv3dSpec(), generator: torch.Generator | None = None) -> None:
        super().__init__(spec)
        self.space_generator = SpaceGenerator(spec, generator)
        self.sdf_network = Perceptron((spec.voxel_channels, spec.hidden, 1), generator)
        self.feature_network = Perceptron((spec.voxel_channels, spec.hidden, 3), generator)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        sides = self.space_generator.synthesis.noise_sides
        shapes = [(self.spec.noise_width,)] + [(1, side, side, side) for side in sides]
        return tuple(torch.randn(count, *shape, generator=generator, device=generator.device) for shape in shapes)

    def _condition(self, text: Tensor, draws: tuple[Tensor, ...]) -> Tensor:
        if draws:
            z, *noises = draws
            grids = self.space_generator(z, text, noises)
        else:
            fixed = torch.randn(self.spec.noise_width, generator=torch.Generator().manual_seed(FIXED_NOISE_SEED))
            grids = self.space_generator(fixed.to(text).expand(len(text), -1), text)
        return grids.movedim(1, -1).contiguous()[:, None]  # channels together, as points read them

    def encode(self, points: Tensor, cache: Tensor) -> Tensor:
        return sample_grids(points, cache, (VOXEL_AXES,))

    def heads(self, cache: Tensor) -> tuple[Head, Head]:
        return self.sdf_network, self.feature_network
