"""What a step of fitting Gaussians does besides rendering them, each in one pass: compiled ops and plain-PyTorch twins.

In PyTorch these are some seventy operations, which take a GPU about two microseconds each whatever their size. Tensors are float32
and on one device; what does not fit together raises ValueError. N Gaussians; V views with targets and R more that show the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from microdreamer.kernels import extension


def activate_gaussians(log_scales: Tensor, quaternions: Tensor, opacity_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N,3], [N,4], [N] -> scales [N,3], unit quaternions [N,4] (zero for one shorter than 1e-12), opacities [N]. Differentiable."""
    if not extension.use_compiled(log_scales.device):
        return activate_gaussians_reference(log_scales, quaternions, opacity_logits)
    return torch.ops.microdreamer.activate_gaussians(log_scales, quaternions, opacity_logits)


def clamp_image(image: Tensor) -> Tensor:
    """`image` limited to [0,1], which stops the gradient outside: as `clamp`, whose own backward pass goes over the pictures more often."""
    return _ClampImage.apply(image)


def reconstruction_loss(
    image: Tensor,
    alpha: Tensor | None,
    targets: Tensor,
    reference: Tensor | None,
    mask: Tensor | None,
    weight: float,
    reference_weight: float = 0.0,
    mask_weight: float = 0.0,
) -> Tensor:
    """weight sum |image - targets| + reference_weight sum |image - reference| + mask_weight sum (alpha - mask)^2, a scalar.

    image [V+R,3,H,W] with alpha [V+R,1,H,W]; targets [V,3,H,W]; reference [R,3,H,W] and its mask [R,1,H,W] are compared with the
    last R views. Without a reference alpha and mask are None as well. Differentiable with respect to image and alpha.
    """
    if not extension.use_compiled(image.device):
        return reconstruction_loss_reference(image, alpha, targets, reference, mask, weight, reference_weight, mask_weight)
    tensors = [None if tensor is None else tensor.contiguous() for tensor in (image, alpha, targets, reference, mask)]
    return torch.ops.microdreamer.reconstruction_loss(*tensors, weight, reference_weight, mask_weight)


@torch.no_grad()
def record_gradients(radii: Tensor, v_means2d: Tensor, gradient_sum: Tensor, gradient_hits: Tensor) -> None:
    """Add to gradient_sum [N] the lengths of v_means2d [V,N,2] where radii [V,N] (int32) is above 0, to gradient_hits [N] how often."""
    if not extension.use_compiled(radii.device):
        record_gradients_reference(radii, v_means2d, gradient_sum, gradient_hits)
        return
    torch.ops.microdreamer.record_gradients(radii, v_means2d.contiguous(), gradient_sum, gradient_hits)


class _ClampImage(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image: Tensor) -> Tensor:
        ctx.save_for_backward(image)
        return image.clamp(0, 1)

    @staticmethod
    def backward(ctx, v_clamped: Tensor) -> Tensor:
        (image,) = ctx.saved_tensors
        limits = torch.finfo(image.dtype)  # the next numbers outside [0,1]: this is the one kernel, and it leaves out its limits
        return torch.ops.aten.hardtanh_backward(v_clamped, image, -limits.tiny, 1 + limits.eps)


# ---- Plain-PyTorch twins ----


def activate_gaussians_reference(log_scales: Tensor, quaternions: Tensor, opacity_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return log_scales.exp(), torch.nn.functional.normalize(quaternions, dim=-1), opacity_logits.sigmoid()


def reconstruction_loss_reference(
    image: Tensor,
    alpha: Tensor | None,
    targets: Tensor,
    reference: Tensor | None,
    mask: Tensor | None,
    weight: float,
    reference_weight: float,
    mask_weight: float,
) -> Tensor:
    count = len(targets)
    loss = weight * (image[:count] - targets).abs().sum()
    if reference is None:
        return loss
    colour, coverage = (image[count:] - reference).abs().sum(), (alpha[count:] - mask).square().sum()
    return loss + reference_weight * colour + mask_weight * coverage


def record_gradients_reference(radii: Tensor, v_means2d: Tensor, gradient_sum: Tensor, gradient_hits: Tensor) -> None:
    shown = radii > 0
    gradient_sum += (v_means2d.norm(dim=-1) * shown).sum(0)
    gradient_hits += shown.sum(0)


# ---- The ops: shapes for torch.compile; their gradients are csrc/gradient_gaussian_fit.cpp ----


def _fake_activate_backward(quaternions, scales, opacities, *_):
    return torch.empty_like(scales), torch.empty_like(quaternions), torch.empty_like(opacities)


def _fake_loss_backward(v_loss, image, alpha, *_):
    return torch.empty_like(image), image.new_empty(0) if alpha is None else torch.empty_like(alpha)


extension.register("activate_gaussians", fake=lambda *raw: tuple(torch.empty_like(tensor) for tensor in raw))
extension.register("activate_gaussians_bwd", fake=_fake_activate_backward)
extension.register("record_gradients", fake=lambda *_: None)
extension.register("reconstruction_loss", fake=lambda image, *_: image.new_empty(()))
extension.register("reconstruction_loss_bwd", fake=_fake_loss_backward)
