"""Networks with channels last in memory, as convolutions on tensor cores want them, from one end to the other.

PyTorch's group normalisation puts channels first on a GPU, so that every convolution after it has to turn its input around. With
the project's own, which also does the SiLU that follows, nothing is turned. Numbers stay those of the plain modules to rounding.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidance.multiview_unet import MultiViewUNet, ResBlock
from kernels.group_norm import group_norm


class ChannelsLastGroupNorm(nn.GroupNorm):
    """nn.GroupNorm that leaves channels where they are; `silu`: with SiLU afterwards."""

    silu = False

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        if tokens.is_contiguous():
            out = group_norm(tokens, self.weight, self.bias, self.num_groups, self.eps, self.silu)
            return out.transpose(1, 2).reshape(x.shape)
        out = super().forward(x)
        return F.silu(out) if self.silu else out


def _fuse(norms: nn.Sequential) -> None:
    """Norm, SiLU, ...: let the norm do both."""
    norms[0].silu = True
    norms[1] = nn.Identity()


def _res_block(block: nn.Module, x: Tensor, embedding: Tensor | None = None, *_: object, **__: object) -> Tensor:
    """Forward of diffusers' ResnetBlock2D in its plain form, with norms that do the SiLU."""
    hidden = block.conv1(block.norm1(x))
    if embedding is not None:
        hidden = hidden + block.time_emb_proj(F.silu(embedding))[:, :, None, None]
    hidden = block.conv2(block.norm2(hidden))
    return (x if block.conv_shortcut is None else block.conv_shortcut(x)) + hidden


def _is_plain(block: nn.Module) -> bool:
    """Whether `_res_block` is all that a ResnetBlock2D does."""
    return (
        isinstance(block.nonlinearity, nn.SiLU)
        and isinstance(block.norm1, nn.GroupNorm)
        and isinstance(block.norm2, nn.GroupNorm)
        and (block.upsample, block.downsample, block.output_scale_factor, block.time_embedding_norm) == (None, None, 1.0, "default")
        and not block.skip_time_act
    )


def _to_picture(
    block: nn.Module, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
) -> Tensor:
    """The end of diffusers' Transformer2DModel without its copy to channels first."""
    if block.use_linear_projection:
        hidden_states = block.proj_out(hidden_states)
    picture = hidden_states.reshape(batch_size, height, width, inner_dim).permute(0, 3, 1, 2)
    return (picture if block.use_linear_projection else block.proj_out(picture)) + residual


def channels_last(network: nn.Module) -> nn.Module:
    """Change a U-Net or autoencoder, for inference, to keep channels last; its state dict stays the same."""
    nn.Module.to(network, memory_format=torch.channels_last)
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = ChannelsLastGroupNorm
    for module in list(network.modules()):
        kind = type(module).__name__
        if isinstance(module, ResBlock):
            _fuse(module.in_layers)
            _fuse(module.out_layers)
        elif isinstance(module, MultiViewUNet):
            _fuse(module.out)
        elif kind == "ResnetBlock2D" and _is_plain(module):
            module.norm1.silu = module.norm2.silu = True
            module.forward = functools.partial(_res_block, module)
        elif kind == "Transformer2DModel":
            module._get_output_for_continuous_inputs = functools.partial(_to_picture, module)
        elif isinstance(getattr(module, "conv_norm_out", None), ChannelsLastGroupNorm) and isinstance(module.conv_act, nn.SiLU):
            module.conv_norm_out.silu = True
            module.conv_act = nn.Identity()
    return network
