"""3x3 convolutions of pictures whose channels come last, by Winograd's minimal filtering: 16 products for 36 multiplications.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), F(2x2, 3x3). A 4x4 patch of the input and
the weights are transformed, multiplied place by place - a matrix product over the channels for each of 16 places - and transformed
back to 2x2 pixels. What usually stands before and after a convolution - group normalisation with SiLU, bias, residual, the moments
that the next normalisation wants - is done while the values pass by. Where the convolution reads a picture enlarged to twice its
size, 9 places are enough.

Tokens [N,P,C] are pictures of `height` rows, P / height columns, both even; planes are [16,T,C], or [9,T,C] where enlarged, with T
tiles of 2x2 pixels of the result. All tensors are of one type: float32, float16 or bfloat16; moments are float32. On a GPU, C must be a
multiple of 16 bytes. In float16 the rounding of planes and products makes an error of 0.0006 of the result where a direct
convolution makes 0.0002; products are about as large as the result. Functions raise ValueError for tensors that do not fit together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from microdreamer.kernels import extension
from microdreamer.kernels.extension import gradient_by_twin
from microdreamer.kernels.group_norm import group_moments_reference, group_normalise_reference, moment_slices

PLACES = (0, 1, 2, 3)  # of a transformed patch along an axis
PLACES_ENLARGED = (0, 1, 3)  # a patch of a picture whose pixels repeat has nothing at place 2
_PATCH = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B^T of the paper
_WEIGHTS = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
_PIXELS = ((1, 1, 1, 0), (0, 1, -1, -1))  # A^T


class Norm(NamedTuple):
    """A group normalisation that comes before a convolution: moments of its input, weight and bias [C]."""

    moments: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    silu: bool


def transform_weights(weight: Tensor, enlarged: bool = False) -> Tensor:
    """[O,C,3,3] -> [16,C,O], or [9,C,O] for pictures to be enlarged, in the type of `weight`."""
    filters = torch.tensor(_WEIGHTS, dtype=torch.float32, device=weight.device)
    places = list(PLACES_ENLARGED if enlarged else PLACES)
    return torch.einsum("ij,ocjk,lk->ilco", filters[places], weight.float(), filters[places]).flatten(0, 1).to(weight.dtype).contiguous()


def winograd_input(x: Tensor, height: int, norm: Norm | None = None, enlarged: bool = False) -> Tensor:
    """Planes of x [N,P,C] after its normalisation, or of x enlarged to twice its height and width."""
    moments, weight, bias, eps, silu = norm or (None, None, None, 1e-5, False)
    if not extension.use_compiled(x.device):
        return winograd_input_reference(x, height, enlarged, moments, weight, bias, eps, silu)
    return torch.ops.microdreamer.winograd_input(x, height, enlarged, moments, weight, bias, eps, silu)


def winograd_output(
    products: Tensor, samples: int, height: int, offset: Tensor, residual: Tensor | None = None, groups: int = 0
) -> tuple[Tensor, Tensor]:
    """Products of planes and weights [16 or 9,T,C] + offset [N,C] or [1,C] (+ residual [N,P,C]) as tokens [N,P,C] of `height` rows.

    Also their moments (`kernels.group_norm.group_moments`), for `groups` groups.
    """
    if not extension.use_compiled(products.device):
        return winograd_output_reference(products, samples, height, offset, residual, groups)
    return torch.ops.microdreamer.winograd_output(products, samples, height, offset, residual, groups)


# ---- Plain-PyTorch twins, with the arguments in the ops' order ----


def winograd_input_reference(
    x: Tensor,
    height: int,
    enlarged: bool,
    moments: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = False,
) -> Tensor:
    if moments is not None:
        x = group_normalise_reference(x, moments, weight, bias, eps, silu)
    picture = x.unflatten(1, (height, -1)).permute(0, 3, 1, 2)
    if enlarged:
        picture = picture.repeat_interleave(2, 2).repeat_interleave(2, 3)
    patches = torch.nn.functional.pad(picture, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)  # [N,C,ty,tx,4,4]
    transform = x.new_tensor(_PATCH)[list(PLACES_ENLARGED if enlarged else PLACES)]
    return torch.einsum("ij,ncabjk,lk->ilnabc", transform, patches, transform).flatten(2, 4).flatten(0, 1).contiguous()


def winograd_output_reference(
    products: Tensor, samples: int, height: int, offset: Tensor, residual: Tensor | None = None, groups: int = 0
) -> tuple[Tensor, Tensor]:
    places = list(PLACES if len(products) == 16 else PLACES_ENLARGED)
    transform = products.new_tensor(_PIXELS)[:, places]
    tiles = products.unflatten(1, (samples, height // 2, -1)).unflatten(0, (len(places), len(places)))
    out = torch.einsum("ij,jknabc,lk->naiblc", transform, tiles, transform).flatten(3, 4).flatten(1, 3) + offset[:, None]
    out = (out if residual is None else out + residual).contiguous()
    return out, group_moments_reference(out, groups)


# ---- The ops: shapes for torch.compile, and autograd ----


def _fake_input(x, height, enlarged, *_):
    samples, pixels, channels = x.shape
    return x.new_empty((9, samples * pixels, channels) if enlarged else (16, samples * pixels // 4, channels))


def _fake_output(products, samples, height, offset, residual=None, groups=0):
    pixels = products.shape[1] * 4 // samples
    moments = products.new_empty((samples, moment_slices(pixels), groups, 3), dtype=torch.float32)
    return products.new_empty((samples, pixels, products.shape[2])), moments


extension.register("winograd_input", fake=_fake_input, gradient=gradient_by_twin(winograd_input_reference))
extension.register("winograd_output", fake=_fake_output, gradient=gradient_by_twin(winograd_output_reference))
