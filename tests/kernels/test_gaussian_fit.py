"""A fitting step's small work in one pass each: the twins' numbers and gradients, and what is refused."""

import pytest
import torch
from conftest import DEVICES, relative_l2

from microdreamer.kernels import extension
from microdreamer.kernels.gaussian_fit import (
    activate_gaussians,
    activate_gaussians_reference,
    clamp_image,
    reconstruction_loss,
    reconstruction_loss_reference,
    record_gradients,
    record_gradients_reference,
)

pytestmark = pytest.mark.skipif(not extension.load(), reason="the extension is not built")
WEIGHTS = (0.25, 0.3, 0.01)


def raw_gaussians(count=3001, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    log_scales, quaternions, logits = (torch.randn(count, size, generator=generator) for size in (3, 4, 1))
    quaternions[:1] = 0.0
    quaternions[1:2] *= 1e-14  # shorter than is divided by
    quaternions[2:3] *= 1e-6
    logits[3:5] = torch.tensor([[30.0], [-100.0]])[: max(0, count - 3)]
    return [tensor.to(device, dtype) for tensor in (2 * log_scales - 3, quaternions, 3 * logits[:, 0])]


def pictures(views=3, others=1, size=65, device="cpu", dtype=torch.float32):
    """image, alpha, targets, reference, mask; the image equals its targets in places."""
    generator = torch.Generator().manual_seed(views)
    image, alpha = (torch.rand(views + others, channels, size, 31, generator=generator) for channels in (3, 1))
    targets, reference = torch.rand(views, 3, size, 31, generator=generator), torch.rand(others, 3, size, 31, generator=generator)
    mask = torch.rand(others, 1, size, 31, generator=generator)
    targets[..., :5] = image[:views, ..., :5]
    made = [image, alpha, targets, reference, mask] if others else [image, None, targets, None, None]
    return [None if tensor is None else tensor.to(device, dtype) for tensor in made]


def gradients_of(outputs, inputs, generator_seed=1):
    """Of a fixed random mix of all outputs."""
    generator = torch.Generator().manual_seed(generator_seed)
    mixed = sum((torch.randn(output.shape, generator=generator).to(output) * output).sum() for output in outputs)
    return torch.autograd.grad(mixed, inputs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [0, 1, 3001])
def test_activations_and_their_gradients_equal_the_twin_s_in_double(device, count):
    raw = [tensor.requires_grad_() for tensor in raw_gaussians(count, device)]
    exact = [tensor.requires_grad_() for tensor in raw_gaussians(count, device, torch.float64)]
    ours, theirs = activate_gaussians(*raw), activate_gaussians_reference(*exact)
    pairs = list(zip(ours, theirs, strict=True)) + list(zip(gradients_of(ours, raw), gradients_of(theirs, exact), strict=True))
    for actual, expected in pairs:
        assert actual.shape == expected.shape and actual.dtype == torch.float32
        # Each Gaussian for itself: gradients of the shortest quaternions are a trillion times as large as others.
        torch.testing.assert_close(actual.double(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("views, others, size", [(3, 1, 65), (1, 2, 7), (7, 1, 256), (2, 0, 33)])
def test_loss_and_its_gradients_equal_the_twin_s_in_double(device, views, others, size):
    single, exact = pictures(views, others, size, device), pictures(views, others, size, device, torch.float64)
    wanted = [[tensor.requires_grad_() for tensor in made[:2] if tensor is not None] for made in (single, exact)]
    ours, theirs = reconstruction_loss(*single, *WEIGHTS), reconstruction_loss_reference(*exact, *WEIGHTS)
    assert ours.shape == () and relative_l2(ours.detach(), theirs.detach()) < 1e-6
    for actual, expected in zip(gradients_of([ours], wanted[0]), gradients_of([theirs], wanted[1]), strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("device", DEVICES)
def test_loss_repeats_bit_for_bit(device):
    made = pictures(device=device)
    assert torch.equal(reconstruction_loss(*made, *WEIGHTS), reconstruction_loss(*made, *WEIGHTS))


@pytest.mark.parametrize("device", DEVICES)
def test_pictures_may_be_parts_of_others(device):
    image, alpha, targets, reference, mask = pictures(device=device)
    both = torch.cat([image, alpha], dim=1)
    parts = reconstruction_loss(both[:, :3], both[:, 3:], targets, reference, mask, *WEIGHTS)
    assert torch.equal(parts, reconstruction_loss(image, alpha, targets, reference, mask, *WEIGHTS))


@pytest.mark.parametrize("device", DEVICES)
def test_clamping_passes_the_gradients_that_clamp_passes(device):
    image = torch.tensor([-0.0, 0.0, 1.0, 0.5, -1e-30, 1.0000001, -3.0, 7.0, float("inf")], device=device, requires_grad=True)
    ours, theirs = clamp_image(image), image.clamp(0, 1)
    assert torch.equal(ours, theirs)
    assert torch.equal(gradients_of([ours], [image])[0], gradients_of([theirs], [image])[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("views, count", [(3, 5001), (1, 1), (0, 4), (2, 0)])
def test_recorded_gradients_add_up(device, views, count):
    generator = torch.Generator().manual_seed(0)
    radii = torch.randint(0, 3, (views, count), generator=generator, dtype=torch.int32).to(device)
    pulls = torch.randn(views, count, 2, generator=generator).to(device)
    ours, theirs = ([torch.full((count,), 2.0, device=device) for _ in range(2)] for _ in range(2))
    for _ in range(2):
        record_gradients(radii, pulls, *ours)
        record_gradients_reference(radii, pulls, *theirs)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wants_gradient", [False, True])
def test_opcheck(device, wants_gradient):
    ops, raw = torch.ops.microdreamer, raw_gaussians(6, device)
    scales, rotations, opacities = activate_gaussians(*raw)
    statistics = torch.zeros(6, device=device), torch.zeros(6, device=device)
    torch.library.opcheck(ops.activate_gaussians_bwd.default, (raw[1], scales, opacities, scales, rotations, opacities))
    radii = torch.ones(2, 6, dtype=torch.int32, device=device)
    torch.library.opcheck(ops.record_gradients.default, (radii, torch.randn(2, 6, 2, device=device), *statistics))
    torch.library.opcheck(ops.activate_gaussians.default, tuple(tensor.requires_grad_(wants_gradient) for tensor in raw))
    for others in (0, 1):
        made = pictures(2, others, 4, device)
        torch.library.opcheck(ops.reconstruction_loss_bwd.default, (torch.ones((), device=device), *made, *WEIGHTS))
        made[0].requires_grad_(wants_gradient)
        torch.library.opcheck(ops.reconstruction_loss.default, (*made, *WEIGHTS))


@pytest.mark.parametrize("device", DEVICES)
def test_wrong_arguments_are_named(device):
    log_scales, quaternions, logits = raw_gaussians(6, device)
    image, alpha, targets, reference, mask = pictures(2, 1, 4, device)
    radii = torch.ones(2, 6, dtype=torch.int32, device=device)
    pulls, zeros = torch.zeros(2, 6, 2, device=device), torch.zeros(6, device=device)
    for message, call in (
        ("log_scales: expected shape", lambda: activate_gaussians(logits, quaternions, logits)),
        ("quaternions: expected shape", lambda: activate_gaussians(log_scales, quaternions[:5], logits)),
        ("opacity_logits: expected Float, got Double", lambda: activate_gaussians(log_scales, quaternions, logits.double())),
        ("targets: expected shape", lambda: reconstruction_loss(image, alpha, targets[..., :3], reference, mask, *WEIGHTS)),
        ("image: expected one view for each of 2 targets", lambda: reconstruction_loss(image, None, targets, None, None, 1.0)),
        ("expected all or none", lambda: reconstruction_loss(image, None, targets, reference, mask, *WEIGHTS)),
        ("mask: expected shape", lambda: reconstruction_loss(image, alpha, targets, reference, mask[0], *WEIGHTS)),
        ("radii: expected Int, got Float", lambda: record_gradients(radii.float(), pulls, zeros, zeros)),
        ("v_means2d: expected shape", lambda: record_gradients(radii, pulls[:1], zeros, zeros)),
        ("gradient_sum: expected shape", lambda: record_gradients(radii, pulls, zeros[:3], zeros)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
