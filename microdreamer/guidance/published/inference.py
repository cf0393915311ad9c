"""U-Nets and autoencoders of the Stable Diffusion family in the form in which they are fastest: for inference, on a GPU.

Channels last in memory from one end to the other, as convolutions on tensor cores want them, and whatever stands between two
products - biases, norms, activations, sums - in as few passes over memory as possible, by kernels of this project. Small products
that depend on the time or the condition alone are done all at once. Numbers stay those of the plain modules to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microdreamer.guidance.published.multiview_unet import KeysValues, MultiViewUNet, ResBlock, Upsample, ViewBlock, ViewTransformer
from microdreamer.guidance.published.unet import ResidualBlock, Transformer, TransformerBlock
from microdreamer.kernels.group_norm import group_moments, group_norm, group_normalise
from microdreamer.kernels.tokens import add_bias, add_layer_norm, gated_gelu, layer_norm
from microdreamer.kernels.winograd import Norm, transform_weights, winograd_input, winograd_output

WINOGRAD_CHANNELS = 320  # in and out, from which on Winograd's fewer products outweigh the larger tensors between them
WINOGRAD_SIDE = 8  # pixels a side of the result; of smaller ones the products only read their weights, which are fewer untransformed
WINOGRAD_SHARE = 0.25  # of the memory that is free, at most, for the transformed weights

# ---- Pictures [N,C,H,W] as tokens [N,P,C], without a copy where channels come last ----


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2).contiguous()


def _picture(tokens: Tensor, height: int, width: int, moments: Tensor | None = None) -> Tensor:
    """`moments`, of the groups that the next norm has, travel with the picture: see `_moments`."""
    picture = tokens.transpose(1, 2).unflatten(2, (height, width))
    picture.moments = moments
    return picture


def _moments(picture: Tensor, groups: int) -> Tensor | None:
    """What `_picture` was given, if it is of as many groups."""
    moments = getattr(picture, "moments", None)
    return moments if moments is not None and moments.shape[2] == groups else None


# ---- Layers ----


class ChannelsLastGroupNorm(nn.GroupNorm):
    """nn.GroupNorm that leaves channels where they are; `silu`: with SiLU afterwards."""

    silu = False

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """`offset` [N,C] or [1,C] is added to x first."""
        tokens = x.flatten(2).transpose(1, 2)
        moments = _moments(x, self.num_groups) if offset is None else None
        if moments is not None:
            return _picture(group_normalise(tokens, moments, self.weight, self.bias, self.eps, self.silu), *x.shape[2:])
        if tokens.is_contiguous():
            out = group_norm(tokens, self.weight, self.bias, self.num_groups, self.eps, self.silu, offset)
            return out.transpose(1, 2).reshape(x.shape)
        out = super().forward(x if offset is None else x + offset.unflatten(1, (-1, *[1] * (x.dim() - 2))))
        return F.silu(out) if self.silu else out


def _convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution without its bias, which PyTorch would add in a pass of its own."""
    return F.conv2d(x, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _project(layer: nn.Conv2d | nn.Linear, tokens: Tensor) -> Tensor:
    """A linear layer, or a 1x1 convolution as one, of tokens."""
    return F.linear(tokens, layer.weight.flatten(1), layer.bias)


def _normalise(norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
    return layer_norm(tokens, norm.weight, norm.bias, norm.eps)


def _add_normalise(norm: nn.LayerNorm, tokens: Tensor, residual: Tensor, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return add_layer_norm(tokens, residual, norm.weight, norm.bias, norm.eps, offset)


class _Winograd:
    """The weights of a convolution for Winograd's filtering, transformed when they are first wanted."""

    def __init__(self, layer: nn.Conv2d, enlarged: bool) -> None:
        self.layer, self.enlarged = layer, enlarged

    @functools.cached_property
    def weights(self) -> Tensor:
        return transform_weights(self.layer.weight.detach(), self.enlarged)


def _winograd_weights(layer: nn.Conv2d, x: Tensor, height: int, width: int) -> Tensor | None:
    """The transformed weights, where `for_inference` decided for them and a result of this size is worth it.

    Not where x is differentiated: the gradient of a plain convolution is one product as well, that of Winograd's filtering several passes.
    """
    winograd: _Winograd | None = getattr(layer, "winograd", None)
    if winograd is None or (x.requires_grad and torch.is_grad_enabled()) or height % 2 or width % 2 or min(height, width) < WINOGRAD_SIDE:
        return None
    return winograd.weights


def _upsample(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Twice as large, each pixel four times, and a convolution."""
    height, width = 2 * x.shape[2], 2 * x.shape[3]
    weights = _winograd_weights(convolution, x, height, width)
    if weights is not None:
        products = torch.bmm(winograd_input(_tokens(x), x.shape[2], enlarged=True), weights)
        return _picture(winograd_output(products, len(x), height, convolution.bias[None])[0], height, width)
    rows = x.permute(0, 2, 3, 1)
    n, h, w, c = rows.shape
    large = rows[:, :, None, :, None].expand(n, h, 2, w, 2, c).reshape(n, 2 * h, 2 * w, c).permute(0, 3, 1, 2)
    out = _convolve(convolution, large)
    return _picture(add_bias(_tokens(out), convolution.bias), *out.shape[2:])


def _residual_block(
    x: Tensor,
    norms: tuple[ChannelsLastGroupNorm, ChannelsLastGroupNorm],
    convolutions: tuple[nn.Conv2d, nn.Conv2d],
    offset: Tensor,
    shortcut: nn.Module | None,
) -> Tensor:
    """Norm, SiLU, convolution, twice, and a skip connection; `offset` [N,C] or [1,C]: the first bias and what depends on time."""
    tokens = _tokens(x)
    residual = _project(shortcut, tokens) if isinstance(shortcut, nn.Conv2d) else tokens
    height, width = x.shape[2:]
    weights = [_winograd_weights(layer, x, height, width) for layer in convolutions]
    if any(weight is None for weight in weights):
        hidden = _convolve(convolutions[1], norms[1](_convolve(convolutions[0], norms[0](x)), offset))
        return _picture(add_bias(_tokens(hidden), convolutions[1].bias, residual), height, width)
    moments = _moments(x, norms[0].num_groups)
    if moments is None:
        moments = group_moments(tokens, norms[0].num_groups)
    for norm, weight, added, skipped in zip(norms, weights, (offset, convolutions[1].bias[None]), (None, residual), strict=True):
        planes = winograd_input(tokens, height, Norm(moments, norm.weight, norm.bias, norm.eps, norm.silu))
        tokens, moments = winograd_output(torch.bmm(planes, weight), len(x), height, added, skipped, norms[1].num_groups)
    return _picture(tokens, height, width, moments)


def _attend(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention of projected tokens [N,P,3C]: [N,P,C]."""
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind()
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def _feed_forward(block: nn.Module, tokens: Tensor, normed: Tensor) -> Tensor:
    """tokens + the feed-forward network of their norm."""
    expand, _dropout, contract = block.ff.net
    return tokens + _project(contract, gated_gelu(_project(expand.proj, normed)))


def _feed_forward_input(block: nn.Module, tokens: Tensor, normed: Tensor) -> Tensor:
    """What `_merged_projection` multiplies: the hidden values of the feed-forward network, the tokens and a one."""
    return gated_gelu(_project(block.ff.net[0].proj, normed), tokens)


def _merged_projection(block: nn.Module, projection: nn.Conv2d | nn.Linear) -> Tensor:
    """The end of the block's feed-forward network, its skip connection and the projection after it as one matrix [O,5C+8]."""
    contract, last = block.ff.net[2], projection.weight.flatten(1).float()
    bias = last @ contract.bias.float() + projection.bias.float()
    parts = [last @ contract.weight.float(), last, F.pad(bias[:, None], (0, 7))]
    return torch.cat(parts, dim=1).to(projection.weight.dtype).detach()


def _add_projected(merged: Tensor, hidden: Tensor, picture: Tensor) -> Tensor:
    """picture + the projection of `hidden`, in the place of `picture`, which nobody else needs then."""
    rows, sums = hidden.flatten(0, 1), _tokens(picture).flatten(0, 1)
    sums = torch.addmm(sums, rows, merged.t()) if torch.is_grad_enabled() else sums.addmm_(rows, merged.t())
    return _picture(sums.unflatten(0, (len(picture), -1)), *picture.shape[2:])


# ---- Small products all at once ----


def _stack(layers: Sequence[nn.Linear]) -> Tensor:
    """The weights of the layers above each other in one tensor, of which theirs become views."""
    stacked = torch.cat([layer.weight.detach() for layer in layers])
    for layer, part in zip(layers, stacked.split([len(layer.weight) for layer in layers]), strict=True):
        layer.weight.data = part
    return stacked


class _SharedInput:
    """Linear maps of one tensor for many layers, computed when the first of them asks, which must be layer 0."""

    def __init__(self, weight: Tensor, bias: Tensor, widths: Sequence[int], prepare: Callable[[Tensor], Tensor]) -> None:
        self.weight, self.bias, self.widths, self.prepare = weight, bias, widths, prepare
        self._parts: tuple[Tensor, ...] = ()

    def __call__(self, x: Tensor, index: int) -> Tensor:
        """What layer `index` gets of x: [N,C]."""
        if index == 0:
            self._parts = F.linear(self.prepare(x), self.weight, self.bias).split(self.widths, dim=1)
        return self._parts[index]


def _time_offsets(projections: Sequence[nn.Linear], convolutions: Sequence[nn.Conv2d]) -> _SharedInput:
    """Time embedding and bias of the first convolution of residual blocks, for all of them."""
    biases = [projection.bias + convolution.bias for projection, convolution in zip(projections, convolutions, strict=True)]
    return _SharedInput(_stack(projections), torch.cat(biases).detach(), [len(bias) for bias in biases], F.silu)


def _token_offsets(attentions: Sequence[nn.Module]) -> _SharedInput:
    """Attention to a single token, whose weight is 1 whatever the query: the same vector for all pixels, for all blocks."""
    weights = [(a.to_out[0].weight.float() @ a.to_v.weight.float()).to(a.to_v.weight.dtype) for a in attentions]
    biases = [attention.to_out[0].bias for attention in attentions]
    return _SharedInput(torch.cat(weights).detach(), torch.cat(biases).detach(), [len(bias) for bias in biases], lambda token: token[:, 0])


FeedForward = Callable[[nn.Module, Tensor, Tensor], Tensor]

# ---- Modules of unet and autoencoder ----


def _single_block(block: ResidualBlock, shared: _SharedInput | None, index: int, x: Tensor, embedding: Tensor | None = None) -> Tensor:
    """Forward of a ResidualBlock; `shared`: of those that know the time."""
    offset = block.conv1.bias[None] if shared is None else shared(embedding, index)
    return _residual_block(x, (block.norm1, block.norm2), (block.conv1, block.conv2), offset, block.conv_shortcut)


def _transformer_block(
    block: TransformerBlock, qkv: Tensor, shared: _SharedInput, index: int, feed_forward: FeedForward, tokens: Tensor, told: Tensor
) -> Tensor:
    """Forward of a TransformerBlock with `qkv`, the stacked weights of its self-attention, up to what `feed_forward` gives."""
    attended = _attend(F.linear(_normalise(block.norm1, tokens), qkv), block.attn1.heads)
    attended = _project(block.attn1.to_out[0], attended)
    if told.shape[1] == 1:
        offset = shared(told, index)
    else:
        tokens, normed = _add_normalise(block.norm2, attended, tokens)
        attended, offset = block.attn2(normed, block.attn2.project(told, None)), None
    return feed_forward(block, *_add_normalise(block.norm3, attended, tokens, offset))


def _transformer(transformer: Transformer, merged: Tensor, x: Tensor, told: Tensor) -> Tensor:
    tokens = _project(transformer.proj_in, _tokens(transformer.norm(x)))
    for block in transformer.transformer_blocks:
        tokens = block(tokens, told)
    return _add_projected(merged, tokens, x)


def _quicken_single(network: nn.Module) -> None:
    """A UNet or an Autoencoder."""
    resnets = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    timed = [block for block in resnets if block.time_emb_proj is not None]
    offsets = _time_offsets([block.time_emb_proj for block in timed], [block.conv1 for block in timed]) if timed else None
    for block in resnets:
        block.norm1.silu = block.norm2.silu = True
        knowing = (offsets, timed.index(block)) if block.time_emb_proj is not None else (None, 0)
        block.forward = functools.partial(_single_block, block, *knowing)
    blocks = [module for module in network.modules() if isinstance(module, TransformerBlock)]
    shared = _token_offsets([block.attn2 for block in blocks]) if blocks else None
    transformers = [module for module in network.modules() if isinstance(module, Transformer)]
    for transformer in transformers:
        *_, last = transformer.transformer_blocks
        for block in transformer.transformer_blocks:
            qkv = _stack([block.attn1.to_q, block.attn1.to_k, block.attn1.to_v])
            feed_forward = _feed_forward_input if block is last else _feed_forward
            block.forward = functools.partial(_transformer_block, block, qkv, shared, blocks.index(block), feed_forward)
        transformer.forward = functools.partial(_transformer, transformer, _merged_projection(last, transformer.proj_out))
    for module in network.modules():
        if isinstance(module, Upsample):
            module.forward = functools.partial(_upsample, module.conv)
        elif isinstance(getattr(module, "conv_norm_out", None), ChannelsLastGroupNorm):
            module.conv_norm_out.silu = True
            module.conv_act = nn.Identity()


# ---- Modules of multiview_unet ----


def _res_block(block: ResBlock, shared: _SharedInput, index: int, x: Tensor, embedding: Tensor) -> Tensor:
    norms, convolutions = (block.in_layers[0], block.out_layers[0]), (block.in_layers[2], block.out_layers[3])
    return _residual_block(x, norms, convolutions, shared(embedding, index), block.skip_connection)


def _view_block(block: ViewBlock, qkv: Tensor, feed_forward: FeedForward, tokens: Tensor, to: KeysValues, num_frames: int) -> Tensor:
    shape = tokens.shape
    tokens = tokens.reshape(-1, num_frames * shape[1], shape[2])
    attended = _project(block.attn1.to_out[0], _attend(F.linear(_normalise(block.norm1, tokens), qkv), block.attn1.heads))
    tokens, normed = (part.reshape(len(to.keys), -1, shape[2]) for part in _add_normalise(block.norm2, attended, tokens))
    return feed_forward(block, *_add_normalise(block.norm3, block.attn2(normed, to), tokens)).reshape(*shape[:2], -1)


def _view_transformer(transformer: ViewTransformer, merged: Tensor, x: Tensor, to: Sequence[KeysValues], num_frames: int) -> Tensor:
    tokens = _project(transformer.proj_in, _tokens(transformer.norm(x)))
    for block, keys_values in zip(transformer.transformer_blocks, to, strict=True):
        tokens = block(tokens, keys_values, num_frames)
    return _add_projected(merged, tokens, x)


def _quicken_multiview(network: MultiViewUNet) -> None:
    blocks = [module for module in network.modules() if isinstance(module, ResBlock)]
    offsets = _time_offsets([block.emb_layers[1] for block in blocks], [block.in_layers[2] for block in blocks])
    for index, block in enumerate(blocks):
        block.in_layers[0].silu = block.out_layers[0].silu = True
        block.forward = functools.partial(_res_block, block, offsets, index)
    for module in network.modules():
        if isinstance(module, ViewTransformer):
            *_, last = module.transformer_blocks
            for block in module.transformer_blocks:
                qkv = _stack([block.attn1.to_q, block.attn1.to_k, block.attn1.to_v])
                block.forward = functools.partial(_view_block, block, qkv, _feed_forward_input if block is last else _feed_forward)
            module.forward = functools.partial(_view_transformer, module, _merged_projection(last, module.proj_out))
        elif isinstance(module, Upsample):
            module.forward = functools.partial(_upsample, module.conv)
    network.out[0].silu = True
    network.out[1] = nn.Identity()


# ----


def _takes_winograd(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups) == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
        and layer.bias is not None
        and min(layer.in_channels, layer.out_channels) >= WINOGRAD_CHANNELS
    )


def _winograd_pays(network: nn.Module) -> bool:
    weight = next(network.parameters())
    if weight.dtype != torch.float16 or weight.device.type != "cuda":
        return False
    wanted = sum(16 / 9 * module.weight.nbytes for module in network.modules() if _takes_winograd(module))
    return wanted <= WINOGRAD_SHARE * torch.cuda.mem_get_info(weight.device)[0]


@torch.no_grad()
def for_inference(network: nn.Module, winograd: bool | None = None) -> nn.Module:
    """Change a U-Net or autoencoder with its weights in place; its state dict stays the same, but is not to be loaded again.

    `winograd`: 3x3 convolutions of many channels by `kernels.winograd`, whose weights take 1.8 times the memory of theirs, besides
    them. None: in float16 on a GPU with enough memory, where it pays and where its rounding does not show.
    """
    network.to(memory_format=torch.channels_last)
    winograd = _winograd_pays(network) if winograd is None else winograd
    enlarging = {id(module.conv) for module in network.modules() if isinstance(module, Upsample)}
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = ChannelsLastGroupNorm
        elif winograd and _takes_winograd(module):
            module.winograd = _Winograd(module, enlarged=id(module) in enlarging)
    if isinstance(network, MultiViewUNet):
        _quicken_multiview(network)
    else:
        _quicken_single(network)
    return network
