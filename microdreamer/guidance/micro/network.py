"""The micro prior's denoiser: a U-shaped multi-view transformer over pixels, small enough for two CPU cores.

V target views and one or more clean reference views of the same object run through shared weights. 4x4 pixel blocks become a 32x32
map (residual convolutions), then 16x16 (attention within a view and to the references) and 8x8 tokens (attention over all
views, the references and the caption). A reference attends to itself alone, so its keys and values depend neither on the
noise level nor on the targets: they are computed once per picture (`encode_reference`) and every denoising step pays for
the targets only. Where cameras stand enters as Pluecker rays per pixel block, through the block modulation, and with
`relative_cameras` in attention itself (`relative.py`). With `geometry` a second decoder tells of each target what its
colours leave open: depth, coverage and the colour without light.

The network predicts the clean image. With `skip`, as in the shipped weights, its answer is added to a part of its noisy input (EDM's
preconditioning, Karras et al. 2022, eq. 7), so that at low noise it has to reproduce the noise of 48 values through 64 channels; without,
as new runs are trained, it answers with the clean image itself ("Back to Basics", Li & He 2025, arXiv 2511.13720).
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cam_utils import RADIUS, orbit_axes
from microdreamer.guidance.micro.attention import Attention, Layout, attend, linear
from microdreamer.guidance.micro.relative import Poses
from microdreamer.kernels.modulation import gated_add, modulated_norm, squared_relu

CAMERA_FEATURES = 7  # see `camera_features`
PATCH = 4  # pixels per side of a block at the finest level
SLOTS = 4  # references of a sample that has more than one: its pictures, over and over where they are fewer
GEOMETRY = 5  # values of a pixel beside its colour: see `Surfaces`


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network; stored beside the weights.

    `channels` are the widths at 1/4, 1/8 and 1/16 of `resolution`; `depth` counts the blocks at 1/4 down, 1/8 down,
    1/16, 1/8 up and 1/4 up.
    """

    resolution: int = 128
    channels: tuple[int, int, int] = (64, 192, 448)
    depth: tuple[int, int, int, int, int] = (1, 1, 6, 1, 1)
    head_width: int = 64
    condition_width: int = 448
    text_width: int = 256
    text_depth: int = 2
    text_tokens: int = 16
    vocabulary: int = 2048
    data_std: float = 0.5
    skip: bool = False  # whether a part of the noisy input is added to the network's answer
    references: int = 1  # most pictures of one object that it was trained with, at most SLOTS
    relative_cameras: bool = False  # in every other block of attention over all views
    geometry: bool = False  # whether it tells surfaces


@dataclasses.dataclass(frozen=True)
class Surfaces:
    """What the network tells of V views beside their colours, each [B,V,...,R,R].

    `depth` [B,V,1,R,R] along the camera's axis, less the camera's distance from the centre (meant where there is coverage);
    `coverage` [B,V,1,R,R] and `albedo` [B,V,3,R,R] on white are in [-1,1], as the views are.
    """

    depth: Tensor
    coverage: Tensor
    albedo: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Surfaces:
        """Of values [B,V,GEOMETRY,R,R]."""
        return cls(*values.split((1, 1, 3), dim=2))

    def in_scene(self) -> Surfaces:
        """The same in units of the scene: depth from the camera, coverage and albedo in about [0,1]."""
        return Surfaces(self.depth + RADIUS, self.coverage * 0.5 + 0.5, self.albedo * 0.5 + 0.5)


class Conv3x3(nn.Module):
    """3x3 convolution on channels-last maps [N,H,W,C]; the weight is stored [out, 3, 3, in], which is channels_last in memory."""

    def __init__(self, width_in: int, width_out: int, zero: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width_out, 3, 3, width_in))
        self.bias = nn.Parameter(torch.zeros(width_out))
        if not zero:
            nn.init.normal_(self.weight, std=1 / math.sqrt(9 * width_in))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x.permute(0, 3, 1, 2), self.weight.permute(0, 3, 1, 2), self.bias, padding=1).permute(0, 2, 3, 1)


def normalise(x: Tensor) -> Tensor:
    """LayerNorm over channels without learned scale."""
    return F.layer_norm(x, x.shape[-1:])


class Modulation(nn.Module):
    """Scales, shifts and gates of one level's blocks from the condition vector: one shared map plus an offset per block.

    (The shared map is PixArt-alpha's adaLN-single, Chen et al. 2023: a map per block would take a third of all weights.)
    """

    def __init__(self, condition_width: int, width: int, parts: int, blocks: int):
        super().__init__()
        self.parts = parts
        self.shared = linear(condition_width, parts * width, zero=True)
        self.offset = nn.Parameter(torch.zeros(blocks, parts * width))

    def forward(self, condition: Tensor) -> Tensor:
        """condition [..., D] -> [blocks, ..., parts * width]."""
        shared = self.shared(condition)
        return (shared + self.offset.view(-1, *[1] * (shared.dim() - 1), shared.shape[-1])).to(shared.dtype)


class ResidualBlock(nn.Module):
    """Two modulated 3x3 convolutions on [N,H,W,C]."""

    PARTS = 2

    def __init__(self, width: int):
        super().__init__()
        self.first = Conv3x3(width, width)
        self.second = Conv3x3(width, width, zero=True)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        h = self.first(modulated_norm(x, silu=True))
        h = self.second(modulated_norm(h, *modulation.chunk(2, dim=-1), silu=True))
        return gated_add(x, h)


class TransformerBlock(nn.Module):
    """Modulated attention and feed-forward (DiT's adaLN-zero block, Peebles & Xie 2023)."""

    PARTS = 6

    def __init__(self, width: int, head_width: int, expansion: int, joint: bool, text_width: int, relative: bool):
        super().__init__()
        self.attention = Attention(width, head_width, joint, text_width, relative)
        self.expand = linear(width, expansion * width, bias=False)
        self.contract = linear(expansion * width, width, zero=True, bias=False)

    def forward(self, x: Tensor, modulation: Tensor, layout: Layout, references, text, poses: Poses | None):
        """x [N,n,C], modulation [N,6C]; the rest, and the second result, as of `Attention`."""
        scale1, shift1, gate1, scale2, shift2, gate2 = modulation.chunk(6, dim=-1)
        h, references = self.attention(modulated_norm(x, scale1, shift1), layout, references, text, poses)
        x = gated_add(x, h, gate1)
        h = self.contract(squared_relu(self.expand(modulated_norm(x, scale2, shift2))))
        return gated_add(x, h, gate2), references


class TextEncoder(nn.Module):
    """Word tokens [B,T] (0 pads) -> tokens [B,T,width] and their mean [B,width]."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        width = config.text_width
        self.words = nn.Parameter(nn.init.normal_(torch.empty(config.vocabulary, width), std=0.5))
        self.places = nn.Parameter(nn.init.normal_(torch.empty(config.text_tokens, width), std=0.1))
        self.heads = width // config.head_width
        self.qkv = nn.ModuleList(linear(width, 3 * width, bias=False) for _ in range(config.text_depth))
        self.out = nn.ModuleList(linear(width, width, zero=True, bias=False) for _ in range(config.text_depth))
        self.expand = nn.ModuleList(linear(width, 4 * width, bias=False) for _ in range(config.text_depth))
        self.contract = nn.ModuleList(linear(4 * width, width, zero=True, bias=False) for _ in range(config.text_depth))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        x = F.embedding(tokens, self.words) + self.places
        for qkv, out, expand, contract in zip(self.qkv, self.out, self.expand, self.contract, strict=True):
            query, key, value = qkv(normalise(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
            x = x + out(attend(query, key, value).flatten(-2))
            x = x + contract(F.relu(expand(normalise(x))).square())
        x = normalise(x)
        present = (tokens > 0).to(x.dtype)[..., None]
        return x, (x * present).sum(1) / present.sum(1).clamp_min(1)


@dataclasses.dataclass
class ReferenceCache:
    """What targets need of B objects' references and captions: keys and values [B,tokens,heads,d] per attention, the captions' means."""

    reference: list[tuple[Tensor, Tensor]]
    text: list[tuple[Tensor, Tensor]]
    pooled: Tensor


class MultiViewNetwork(nn.Module):
    """See the module's first lines. `denoise` and `encode_reference` serve sampling, `forward` training."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        fine, middle, coarse = config.channels
        down_fine, down_middle, deep, up_middle, up_fine = config.depth
        pixels = 3 * PATCH**2
        width = config.condition_width

        self.text = TextEncoder(config)
        self.noise_in = linear(256, width)
        self.camera_in = linear(CAMERA_FEATURES, width)
        self.text_in = linear(config.text_width, width, zero=True)
        self.condition_out = linear(width, width)

        def block(channels: int, joint: bool, relative: bool = False) -> TransformerBlock:
            return TransformerBlock(channels, config.head_width, 4 if joint else 2, joint, config.text_width, relative)

        self.stem = Conv3x3(pixels + 6, fine)
        self.down_fine = nn.ModuleList(ResidualBlock(fine) for _ in range(down_fine))
        self.to_middle = linear(4 * fine, middle)
        self.down_middle = nn.ModuleList(block(middle, joint=False) for _ in range(down_middle))
        self.to_coarse = linear(4 * middle, coarse)
        self.deep = nn.ModuleList(block(coarse, joint=True, relative=config.relative_cameras and k % 2 == 0) for k in range(deep))
        self.from_coarse = linear(coarse, 4 * middle)
        self.join_middle = linear(2 * middle, middle)
        self.up_middle = nn.ModuleList(block(middle, joint=False) for _ in range(up_middle))
        self.from_middle = linear(middle, 4 * fine)
        self.join_fine = linear(2 * fine, fine)
        self.up_fine = nn.ModuleList(ResidualBlock(fine) for _ in range(up_fine))
        self.head = Conv3x3(fine, pixels, zero=True)

        self.modulate_fine = Modulation(width, fine, ResidualBlock.PARTS, down_fine + up_fine)
        self.modulate_middle = Modulation(width, middle, TransformerBlock.PARTS, down_middle + up_middle)
        self.modulate_coarse = Modulation(width, coarse, TransformerBlock.PARTS, deep)

        side = config.resolution // PATCH
        self.places_middle = nn.Parameter(nn.init.normal_(torch.empty((side // 2) ** 2, middle), std=0.1))
        self.places_coarse = nn.Parameter(nn.init.normal_(torch.empty((side // 4) ** 2, coarse), std=0.1))

        if config.geometry:
            self.geometry_from_middle = linear(middle, 4 * fine)
            self.geometry_join = linear(2 * fine, fine)
            self.geometry_up = ResidualBlock(fine)
            self.geometry_head = linear(fine, GEOMETRY * PATCH**2, zero=True)
            self.modulate_geometry = Modulation(width, fine, ResidualBlock.PARTS, 1)

    def _condition(self, log_snr: Tensor, camera: Tensor, pooled: Tensor) -> Tensor:
        """log_snr [B,S], camera [B,S,CAMERA_FEATURES], pooled [B,width] -> [B,S,D]."""
        frequency = torch.exp(torch.linspace(math.log(0.02), math.log(4.0), 128, device=log_snr.device))
        angle = log_snr[..., None] * frequency
        noise = self.noise_in(torch.cat([angle.cos(), angle.sin()], dim=-1))
        return F.silu(self.condition_out(F.silu(noise + self.camera_in(camera) + self.text_in(pooled)[:, None])))

    def text_keys(self, text: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What the joint attentions read of captions' tokens [B,T,width]; all that targets need of a caption beside its mean."""
        return [block.attention.text_keys(text) for block in self.deep]

    def _body(
        self,
        images: Tensor,
        rays: Tensor,
        camera: Tensor,
        condition: Tensor,
        layout: Layout,
        cache: ReferenceCache,
        geometry: int,
        features: Tensor | None = None,
    ):
        """images [N,3,R,R], rays [N,h,w,6], camera [N,CAMERA_FEATURES], condition [N,D], as `layout` orders them.

        `features`, what the deepest level gave in an earlier call, stand in for its evaluation. Returns (colours [B*V,3,R,R] of the
        targets or None, values [geometry*V,GEOMETRY,R,R] of those of the first `geometry` samples or None, the references' keys and values
        per attention, group by group, the features).
        """
        count = len(self.down_middle) + len(self.deep) + len(self.up_middle)
        cached = iter([[pair] for pair in cache.reference] or [None] * count)
        kept = []
        # Products take the type of queries and keys, whatever that is: the matrices are made once for all blocks.
        poses = Poses.of(camera, self.config.head_width // 2, condition.dtype) if self.config.relative_cameras else None
        fine_mod = iter(self.modulate_fine(condition))
        middle_mod = iter(self.modulate_middle(condition))
        coarse_mod = iter(self.modulate_coarse(condition))

        def attention_level(x, blocks, modulations, texts):
            side = x.shape[-2]
            x = x.flatten(1, 2)
            for block, text in zip(blocks, texts, strict=True):
                x, references = block(x, next(modulations), layout, next(cached), text, poses)
                kept.append(references)
            return x.unflatten(1, (side, side))

        x = F.pixel_unshuffle(images, PATCH).permute(0, 2, 3, 1)
        x = self.stem(torch.cat([x, rays.to(x.dtype)], dim=-1))
        for block in self.down_fine:
            x = block(x, next(fine_mod))
        skip_fine = x
        x = self.to_middle(fold(x)) + self.places_middle.unflatten(0, (x.shape[1] // 2, -1))
        x = attention_level(x, self.down_middle, middle_mod, [None] * len(self.down_middle))
        skip_middle = x
        if features is None:
            x = self.to_coarse(fold(x)) + self.places_coarse.unflatten(0, (x.shape[1] // 2, -1))
            features = attention_level(x, self.deep, coarse_mod, cache.text)
        else:
            cached = itertools.islice(cached, len(self.deep), None)
        x = self.join_middle(beside(unfold(self.from_coarse(features)), skip_middle))
        x = attention_level(x, self.up_middle, middle_mod, [None] * len(self.up_middle))
        if not layout.targets:
            return None, None, kept, features
        targets = slice(layout.target_views)  # nothing is asked of the references from here on
        middle, skip_fine, condition = x[targets], skip_fine[targets], condition[targets]
        x = self.join_fine(beside(unfold(self.from_middle(middle)), skip_fine))
        for block in self.up_fine:
            x = block(x, next(fine_mod)[targets])
        values = None
        if geometry:
            told = slice(layout.targets * geometry)
            y = self.geometry_join(beside(unfold(self.geometry_from_middle(middle[told])), skip_fine[told]))
            y = self.geometry_up(y, self.modulate_geometry(condition[told])[0])
            values = _pixels(self.geometry_head(modulated_norm(y, silu=True)))
        return _pixels(self.head(modulated_norm(x, silu=True))), values, kept, features

    def _precondition(self, noisy: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """(network input, what is added to its answer, factor of its answer), noisy = sqrt(a) x0 + sqrt(1-a) n, a = sigmoid(log_snr)."""
        std = self.config.data_std
        alpha = torch.sigmoid(log_snr)[:, None, None, None, None]
        scale = (1 - alpha + alpha * std**2).rsqrt()
        if not self.config.skip:
            return noisy * scale, 0.0, std
        return noisy * scale, noisy * (alpha.sqrt() * scale**2 * std**2), std * (1 - alpha).sqrt() * scale

    def encode_reference(self, pictures: Tensor, rays: Tensor, camera: Tensor, tokens: Tensor) -> ReferenceCache:
        """Of B objects: pictures [B,M,3,R,R] in [-1,1] (white where there is none), rays [B,M,h,w,6], camera [B,M,F], tokens [B,T]."""
        text, pooled = self.text(tokens)
        cache = ReferenceCache([], self.text_keys(text), pooled)
        layout = Layout(0, (tuple(pictures.shape[:2]),), running=True)
        condition = self._condition_of_references(camera)
        scaled = pictures.flatten(0, 1) / self.config.data_std
        _, _, kept, _ = self._body(scaled, rays.flatten(0, 1), camera.flatten(0, 1), condition.flatten(0, 1), layout, cache, 0)
        cache.reference = [pair for (pair,) in kept]
        return cache

    def _condition_of_references(self, camera: Tensor) -> Tensor:
        """camera [B,M,F] -> [B,M,D]: as clean as can be, and without a caption, which each object keeps for its targets."""
        log_snr = torch.full(camera.shape[:2], CLEAN_LOG_SNR, device=camera.device)
        return self._condition(log_snr, camera, camera.new_zeros(len(camera), self.config.text_width))

    def denoise(
        self, noisy: Tensor, log_snr: Tensor, rays: Tensor, camera: Tensor, cache: ReferenceCache, geometry: bool = False
    ) -> Tensor | tuple[Tensor, Surfaces]:
        """The clean views [B,V,3,R,R] from noisy ones at `log_snr` [B]; rays [B,V,h,w,6], camera [B,V,CAMERA_FEATURES].

        With `geometry`, which the network has to have, their surfaces as well.
        """
        clean, surfaces, _ = self._denoise(noisy, log_snr, rays, camera, cache, geometry)
        return clean if surfaces is None else (clean, surfaces)

    def denoise_with_features(
        self, noisy: Tensor, log_snr: Tensor, rays: Tensor, camera: Tensor, cache: ReferenceCache, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `denoise`, and what the deepest level gave: `features` of an earlier call stand in for its evaluation."""
        clean, _, features = self._denoise(noisy, log_snr, rays, camera, cache, False, features)
        return clean, features

    def _denoise(
        self,
        noisy: Tensor,
        log_snr: Tensor,
        rays: Tensor,
        camera: Tensor,
        cache: ReferenceCache,
        geometry: bool,
        features: Tensor | None = None,
    ) -> tuple[Tensor, Surfaces | None, Tensor]:
        scaled, skip, out = self._precondition(noisy, log_snr)
        condition = self._condition(log_snr[:, None].expand(noisy.shape[:2]), camera, cache.pooled)
        layout = Layout(noisy.shape[1], ((len(noisy), 0),), running=False)
        flat = (part.flatten(0, 1) for part in (scaled, rays, camera, condition))
        colours, values, _, features = self._body(*flat, layout, cache, len(noisy) if geometry else 0, features)
        clean = skip + out * colours.float().unflatten(0, noisy.shape[:2])
        return clean, self._surfaces(values, layout.targets) if geometry else None, features

    def _surfaces(self, values: Tensor, targets: int) -> Surfaces:
        return Surfaces.of(self.config.data_std * values.float().unflatten(0, (-1, targets)))

    def forward(
        self,
        noisy: Tensor,
        log_snr: Tensor,
        rays: Tensor,
        camera: Tensor,
        pictures: Tensor,
        picture_rays: Tensor,
        picture_camera: Tensor,
        tokens: Tensor,
        geometry: int = 0,
    ) -> Tensor | tuple[Tensor, Surfaces]:
        """`encode_reference` and `denoise` in one pass, with the surfaces of the first `geometry` samples if that is not 0.

        noisy [B,V,3,R,R], rays [B,V,h,w,6], camera [B,V,F], tokens [B,T]; pictures [M,3,R,R], picture_rays [M,h,w,6], picture_camera
        [M,F]: one for each sample but the last ones, which have SLOTS each.
        """
        batch, views = noisy.shape[:2]
        several = (len(pictures) - batch) // (SLOTS - 1)
        groups = ((batch - several, 1), (several, SLOTS))
        layout = Layout(views, tuple(group for group in groups if group[0]), running=True)
        scaled, skip, out = self._precondition(noisy, log_snr)
        text, pooled = self.text(tokens)
        cache = ReferenceCache([], self.text_keys(text), pooled)
        condition = torch.cat(
            [
                self._condition(log_snr[:, None].expand(-1, views), camera, pooled).flatten(0, 1),
                self._condition_of_references(picture_camera[:, None])[:, 0],
            ]
        )
        images = torch.cat([scaled.flatten(0, 1), pictures / self.config.data_std])
        rays, camera = torch.cat([rays.flatten(0, 1), picture_rays]), torch.cat([camera.flatten(0, 1), picture_camera])
        colours, values, _, _ = self._body(images, rays, camera, condition, layout, cache, geometry)
        clean = skip + out * colours.float().unflatten(0, (batch, views))
        return (clean, self._surfaces(values, views)) if geometry else clean


CLEAN_LOG_SNR = 12.0  # the noise level that the reference view is said to have


def _pixels(x: Tensor) -> Tensor:
    """Blocks of pixels [N,h,w,c*PATCH^2] -> [N,c,R,R]."""
    return F.pixel_shuffle(x.permute(0, 3, 1, 2), PATCH)


def beside(x: Tensor, skipped: Tensor) -> Tensor:
    """Channels of x, then those of what was kept from the way down, in the type of x, as the product that follows would round them."""
    return torch.cat([x, skipped.to(x.dtype)], dim=-1)


def fold(x: Tensor) -> Tensor:
    """[N,H,W,C] -> [N,H/2,W/2,4C]."""
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(n, h // 2, w // 2, 4 * c)


def unfold(x: Tensor) -> Tensor:
    """[N,H,W,4C] -> [N,2H,2W,C]; the inverse of `fold`."""
    n, h, w, c = x.shape
    return x.reshape(n, h, w, 2, 2, c // 4).transpose(2, 3).reshape(n, 2 * h, 2 * w, c // 4)


def camera_features(azimuth: Tensor, elevation_up: Tensor, *, is_reference: bool, known: Tensor, present: Tensor) -> Tensor:
    """What a block's modulation learns of a view: [..., CAMERA_FEATURES].

    azimuth (relative to the reference's where there is one), elevation_up in degrees, both [...]; `known` [...]: 1 where the
    elevation is given (targets always; the reference's may be unknown); `present` [...]: 1 where there is a reference.
    """
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation_up)
    flag = torch.full_like(a, 1.0 if is_reference else 0.0)
    return torch.stack([a.sin(), a.cos(), 2 * e.sin() * known, flag, known * flag, present * (1 - flag), present * flag], dim=-1)


def pixel_rays(azimuth: Tensor, elevation_up: Tensor, radius: Tensor | float, tan_half_fov: float, side: int) -> Tensor:
    """Pluecker rays [..., side, side, 6] (unit direction, moment) through the centres of side x side cells of a picture.

    Orbit cameras as in cam_utils, but `elevation_up` positive above; row 0 is the top.
    """
    right, up, backward = (axis[..., None, None, :] for axis in orbit_axes(-elevation_up, azimuth))
    offset = ((torch.arange(side, device=azimuth.device, dtype=azimuth.dtype) + 0.5) / side * 2 - 1) * tan_half_fov
    direction = F.normalize(offset[None, :, None] * right - offset[:, None, None] * up - backward, dim=-1)
    return torch.cat([direction, torch.linalg.cross((radius * backward).expand_as(direction), direction)], dim=-1)
