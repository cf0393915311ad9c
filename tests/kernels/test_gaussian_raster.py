"""The rasteriser against golden tensors of the published one, against float64, and at the edges of its input."""

import numpy as np
import pytest
import torch
from conftest import DEVICES, relative_l2
from torch._subclasses.fake_tensor import FakeTensorMode

from cam_utils import orbit_cameras
from microdreamer.core.cuda_graphs import capture, warm_up
from microdreamer.kernels import extension
from microdreamer.kernels.gaussian_raster import rasterize_gaussians
from microdreamer.kernels.spherical_harmonics import sh_to_color

GOLDENS = [
    "raster_n500_sh0_128x128_white",
    "raster_n500_sh3_150x99_black",
    "raster_n500_rgb_128x128_white_mod07",
    "raster_n5000_sh0_128x128_white",
    "raster_n5000_sh3_101x77_black",
]
LEAVES = ("means", "scales", "rotations", "opacities")


def golden_case(path, device):
    """Keyword arguments of `rasterize_gaussians` whose leaves require gradients, and the file's arrays."""
    data = np.load(path)
    width, height = int(data["image_width"]), int(data["image_height"])

    def tensor(name):
        return torch.tensor(data[name], device=device)

    appearance = "colors" if "colors" in data else "shs"
    inputs = {name: tensor(name).requires_grad_() for name in (*LEAVES, appearance)}
    if appearance == "shs":
        inputs["sh"] = inputs.pop("shs")
    focal = [width / (2 * float(data["tanfovx"])), height / (2 * float(data["tanfovy"]))]
    inputs |= {
        "world_to_camera": tensor("viewmatrix").T[None].contiguous(),
        "intrinsics": torch.tensor([[*focal, width / 2, height / 2]], device=device),
        "background": tensor("bg"),
        "scale_modifier": float(data["scale_modifier"]),
        "means2d_offset": torch.zeros(1, len(data["means"]), 2, device=device, requires_grad=True),
        "width": width,
        "height": height,
    }
    return inputs, data


def golden_gradients(data, device):
    expected = {name: data[f"grad_{name}"] for name in LEAVES}
    # The published gradient with respect to the scales leaves out the factor `scale_modifier`.
    expected["scales"] = expected["scales"] * data["scale_modifier"]
    expected["means2d_offset"] = data["grad_means2d"][None, :, :2]
    for file_name, name in (("grad_shs", "sh"), ("grad_colors", "colors")):
        if file_name in data:
            expected[name] = data[file_name]
    return {name: torch.tensor(value, device=device) for name, value in expected.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
@pytest.mark.parametrize("name", GOLDENS)
def test_goldens(parity, name, compiled, device):
    if compiled:
        need_compiled(device)
    if not compiled and "n5000" in name and device == "cpu":
        pytest.skip("the reference is slow; two sizes of it are enough")
    inputs, data = golden_case(parity(f"kernels/{name}.npz"), device)
    seen = dict(inputs)
    if "sh" in seen:  # evaluated here, since the file's camera passes minus its eye as the point that harmonics are seen from
        directions = seen["means"] - torch.tensor(data["campos"], device=device)
        seen["colors"] = sh_to_color(seen.pop("sh"), torch.nn.functional.normalize(directions, dim=-1))
    rendering = rasterize_gaussians(**seen, compiled=compiled)
    for output in ("image", "alpha", "depth"):
        expected = torch.tensor(data[output], device=device)
        torch.testing.assert_close(getattr(rendering, output)[0], expected, rtol=0, atol=1e-4)
    assert torch.equal(rendering.radii[0].cpu(), torch.tensor(data["radii"]))

    weights = {key: torch.tensor(data[f"weight_{key}_q"], device=device) / 64 for key in ("image", "depth", "alpha")}
    sum((getattr(rendering, key) * weight).sum() for key, weight in weights.items()).backward()
    for key, expected in golden_gradients(data, device).items():
        assert relative_l2(inputs[key].grad, expected) < 1e-3, key


def random_scene(count, device="cpu", *, views=2, width=40, height=23, degree=None, dtype=torch.float32, seed=0):
    """Keyword arguments of `rasterize_gaussians`: a cloud before cameras that turn about it, leaves that require gradients."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    leaves = {
        "means": 0.25 * normal(count, 3),
        "scales": 0.02 + 0.1 * torch.rand(count, 3, generator=draw, dtype=torch.float64),
        "rotations": torch.nn.functional.normalize(normal(count, 4), dim=-1),
        "opacities": 0.05 + 0.9 * torch.rand(count, generator=draw, dtype=torch.float64),
        "means2d_offset": torch.zeros(views, count, 2, dtype=torch.float64),
        "background": torch.rand(views, 3, generator=draw, dtype=torch.float64),
    }
    if degree is None:
        leaves["colors"] = torch.rand(count, 3, generator=draw, dtype=torch.float64)
    else:
        leaves["sh"] = 0.4 * normal(count, (degree + 1) ** 2, 3)
    scene = {name: leaf.to(device, dtype).requires_grad_() for name, leaf in leaves.items()}
    cameras = orbit_cameras(-15.0, [20.0 + 360.0 * k / views for k in range(views)], 1.6, width=width, height=height, device=device)
    off_center = cameras.intrinsics + torch.tensor([0.0, 3.0, 1.5, -2.0], device=device)
    return scene | {
        "world_to_camera": cameras.world_to_camera.to(dtype),
        "intrinsics": off_center.to(dtype),
        "width": width,
        "height": height,
        "scale_modifier": 1.3,
    }


def leaves_of(scene):
    return {name: value for name, value in scene.items() if isinstance(value, torch.Tensor) and value.requires_grad}


def gradients(scene, seed=7, **switches):
    """The rendering, and the gradients of a fixed random functional of image, alpha and depth."""
    rendering = rasterize_gaussians(**scene, **switches)
    draw = torch.Generator().manual_seed(seed)
    loss = 0.0
    for output in (rendering.image, rendering.alpha, rendering.depth):
        weight = torch.randn(output.shape, generator=draw, dtype=torch.float64)
        loss = loss + (output * weight.to(output)).sum()
    leaves = leaves_of(scene)
    return rendering, dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def in_double(scene):
    return {
        name: value.detach().cpu().double().requires_grad_(value.requires_grad) if isinstance(value, torch.Tensor) else value
        for name, value in scene.items()
    }


def need_compiled(device):
    if not extension.available(device):
        pytest.skip("the extension is not built")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("degree", [None, 0, 1, 2, 3])
def test_matches_reference_in_float64(device, degree):
    need_compiled(device)
    scene = random_scene(150, device, degree=degree)
    rendering, found = gradients(scene, compiled=True)
    expected_rendering, expected = gradients(in_double(scene), compiled=False)
    for output in ("image", "alpha", "depth"):
        torch.testing.assert_close(getattr(rendering, output).cpu().double(), getattr(expected_rendering, output), rtol=0, atol=2e-5)
    assert torch.equal(rendering.radii.cpu(), expected_rendering.radii)
    for name, value in expected.items():
        assert relative_l2(found[name], value) < 1e-4, name


@pytest.mark.parametrize("degree", [None, 3])
def test_reference_gradients_by_finite_differences(degree):
    # Away from the rasteriser's steps (alpha cut and cap, tile borders), which finite differences would fall over.
    scene = random_scene(4, views=1, width=12, height=9, degree=degree, dtype=torch.float64, seed=3)
    with torch.no_grad():
        scene["scales"].mul_(8)
        scene["opacities"].clamp_(0.3, 0.8)
    names = list(leaves_of(scene))

    def render(*values):
        return rasterize_gaussians(**{**scene, **dict(zip(names, values, strict=True))}, compiled=False)[:3]

    assert torch.autograd.gradcheck(render, [scene[name] for name in names], eps=1e-7, atol=1e-5, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 5), (64, 33), (128, 128), (208, 80)])  # the last: 64 and 65 tiles
def test_picture_sizes(device, size):
    need_compiled(device)
    scene = random_scene(60, device, width=size[0], height=size[1])
    rendering, found = gradients(scene, compiled=True)
    expected_rendering, expected = gradients(in_double(scene), compiled=False)
    assert rendering.image.shape == (2, 3, size[1], size[0])
    torch.testing.assert_close(rendering.image.cpu().double(), expected_rendering.image, rtol=0, atol=2e-5)
    for name, value in expected.items():
        assert relative_l2(found[name], value) < 1e-3, name


def crowded_scene(kind, device):
    """Scenes whose tiles hold more splats than a block takes at a time."""
    size = {"finished early": (900, 40, 40), "never finished": (1500, 33, 30), "full of everything": (3500, 20, 18)}
    count, width, height = size.get(kind, (700, 50, 41))
    scene = random_scene(count, device, views=3 if kind == "half behind the camera" else 1, width=width, height=height, degree=1)
    with torch.no_grad():
        if kind == "finished early":
            scene["opacities"].fill_(0.98)
            scene["scales"].mul_(2)
        elif kind == "never finished":
            scene["opacities"].mul_(0.03)
        elif kind == "full of everything":  # more than a thousand in one tile, though barely seen
            scene["opacities"].mul_(0.03)
            scene["scales"].mul_(3)
        elif kind == "half behind the camera":
            scene["world_to_camera"] = scene["world_to_camera"].clone()
            scene["world_to_camera"][:, 2, 3] -= 1.6
        elif kind == "large among small":
            scene["scales"].mul_(0.1)
            scene["scales"][::50] *= 100
    return scene


KINDS = ["finished early", "never finished", "full of everything", "half behind the camera", "large among small"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_crowded_tiles(device, kind, deterministic):
    if device == "cpu" and deterministic:
        pytest.skip("the CPU knows one way")
    need_compiled(device)
    scene = crowded_scene(kind, device)
    rendering, found = gradients(scene, compiled=True, deterministic=deterministic)
    expected_rendering, expected = gradients(in_double(scene), compiled=False)
    for output in ("image", "alpha", "depth"):
        torch.testing.assert_close(getattr(rendering, output).cpu().double(), getattr(expected_rendering, output), rtol=0, atol=2e-5)
    for name, value in expected.items():
        assert relative_l2(found[name], value) < 1e-4, name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
@pytest.mark.parametrize("case", ["none", "behind"])
def test_nothing_to_see_shows_the_background(device, compiled, case):
    if compiled:
        need_compiled(device)
    scene = random_scene(0 if case == "none" else 20, device)
    if case == "behind":
        with torch.no_grad():
            scene["world_to_camera"] = scene["world_to_camera"].clone()
            scene["world_to_camera"][:, 2, 3] -= 10
    rendering, found = gradients(scene, compiled=compiled)
    assert torch.equal(rendering.image, scene["background"][:, :, None, None].expand_as(rendering.image))
    assert not rendering.alpha.any() and not rendering.depth.any() and not rendering.radii.any()
    for name, value in found.items():
        assert value.shape == scene[name].shape
        assert name == "background" or not value.any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
def test_one_gaussian_in_closed_form(device, compiled):
    if compiled:
        need_compiled(device)
    focal, z, sigma, opacity = 20.0, 2.0, 0.3, 0.6
    rendering = rasterize_gaussians(
        torch.tensor([[0.0, 0.0, z]], device=device),
        torch.full((1, 3), sigma, device=device),
        torch.tensor([[1.0, 0, 0, 0]], device=device),
        torch.tensor([[opacity]], device=device),
        colors=torch.tensor([[1.0, 0.5, 0.25]], device=device),
        world_to_camera=torch.eye(4, device=device)[None],
        intrinsics=torch.tensor([[focal, focal, 8.0, 8.0]], device=device),
        width=16,
        height=16,
        background=torch.zeros(3, device=device),
        compiled=compiled,
    )
    offset = torch.arange(16) + 0.5 - 8.0
    variance = (focal * sigma / z) ** 2 + 0.3
    alpha = opacity * torch.exp(-0.5 * (offset[:, None] ** 2 + offset[None] ** 2) / variance)
    alpha = torch.where(alpha >= 1 / 255, alpha, 0)
    torch.testing.assert_close(rendering.alpha[0, 0].cpu(), alpha, rtol=0, atol=1e-6)
    torch.testing.assert_close(rendering.depth[0, 0].cpu(), alpha * z, rtol=0, atol=2e-6)
    torch.testing.assert_close(rendering.image[0, 1].cpu(), alpha * 0.5, rtol=0, atol=1e-6)
    assert rendering.radii.tolist() == [[10]]  # 3 sigma = 9.14, and the published one adds a little for circles


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("factor", [1e-6, 1e3, 1e12, 1e30])
def test_tiny_and_huge_scales_stay_finite(device, factor):
    need_compiled(device)
    scene = random_scene(50, device)
    with torch.no_grad():
        scene["scales"].mul_(factor)
        scene["scales"][::2, 0] = 1e-8  # flat ones among them
    rendering, found = gradients(scene, compiled=True)
    for tensor in (*rendering[:3], *found.values()):
        assert tensor.isfinite().all()
    if factor <= 1:
        expected, _ = gradients(in_double(scene), compiled=False)
        torch.testing.assert_close(rendering.image.cpu().double(), expected.image, rtol=0, atol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["means", "scales", "rotations", "opacities", "colors", "intrinsics"])
def test_not_a_number_is_refused(device, name):
    need_compiled(device)
    scene = random_scene(10, device)
    with torch.no_grad():
        scene[name].view(-1)[3] = float("nan")
    for compiled in (True, False) if device == "cpu" else (False,):
        with pytest.raises(ValueError, match=f"{name}: expected finite values"):
            rasterize_gaussians(**scene, compiled=compiled)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["means", "scales", "rotations", "opacities"])
def test_not_a_number_is_culled_unseen_on_cuda(name):
    need_compiled("cuda")
    scene = random_scene(10, "cuda")
    with torch.no_grad():
        scene[name][3] = float("nan")
    rendering, _ = gradients(scene, compiled=True)
    assert rendering.image.isfinite().all() and not rendering.radii[:, 3].any()


@pytest.mark.parametrize("device", DEVICES)
def test_deterministic_repeats_bit_for_bit(device):
    need_compiled(device)
    scene = random_scene(400, device, width=100, height=80, degree=1)
    threads = torch.get_num_threads()
    first, first_gradients = gradients(scene, compiled=True, deterministic=True)
    try:
        torch.set_num_threads(1)
        second, second_gradients = gradients(scene, compiled=True, deterministic=True)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip((*first, *first_gradients.values()), (*second, *second_gradients.values()), strict=True):
        assert torch.equal(a, b)
    _, fast = gradients(scene, compiled=True)
    for name, value in first_gradients.items():
        assert relative_l2(fast[name], value) < 1e-5, name


@pytest.mark.parametrize("device", DEVICES)
def test_views_do_not_influence_each_other(device):
    need_compiled(device)
    scene = random_scene(100, device, views=3)
    whole, _ = gradients(scene, compiled=True)
    per_view = ("world_to_camera", "intrinsics", "background", "means2d_offset")
    for view in range(3):
        single, _ = gradients({name: value[view : view + 1] if name in per_view else value for name, value in scene.items()}, compiled=True)
        for a, b in zip(whole, single, strict=True):
            assert torch.equal(a[view : view + 1], b)


@pytest.mark.parametrize("device", DEVICES)
def test_order_of_the_input_does_not_matter(device):
    need_compiled(device)
    scene = random_scene(100, device)
    shuffled = dict(scene)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(2)).to(device)
    for name in (*LEAVES, "colors"):
        shuffled[name] = scene[name][order]
    shuffled["means2d_offset"] = scene["means2d_offset"][:, order]
    assert torch.equal(rasterize_gaussians(**scene, compiled=True).image, rasterize_gaussians(**shuffled, compiled=True).image)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [100, 1400, 12_000])  # the last are sorted in another way on CUDA
def test_of_two_at_one_depth_the_first_comes_first(device, count):
    need_compiled(device)
    scene = random_scene(count, device, views=1 if count == 12_000 else 3)
    half = count // 2
    with torch.no_grad():
        scene["means"][half:] = scene["means"][:half]
        scene["scales"].mul_(10 / count ** (1 / 3) * 0.1)
        scene["opacities"].fill_(0.9)
    rendering = rasterize_gaussians(**scene, compiled=True)
    single = {name: scene[name].detach() for name in (*LEAVES, "colors")}
    pairs = {name: torch.stack([value[:half], value[half:]], 1).flatten(0, 1) for name, value in single.items()}
    offsets = {"means2d_offset": None}
    side_by_side = rasterize_gaussians(**{**scene, **pairs, **offsets}, compiled=True)
    assert torch.equal(rendering.image, side_by_side.image)
    swapped = {name: torch.stack([value[half:], value[:half]], 1).flatten(0, 1) for name, value in single.items()}
    assert not torch.equal(rendering.image, rasterize_gaussians(**{**scene, **swapped, **offsets}, compiled=True).image)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
@pytest.mark.parametrize("degree", [None, 0, 1])
def test_quaternions_of_any_length(device, compiled, degree):
    """With `normalize_rotations` a quaternion's length changes nothing, so that its gradient is across it and shrinks with it."""
    if compiled:
        need_compiled(device)
    scene = random_scene(80, device, views=3, degree=degree)
    unit, expected = gradients(scene, compiled=compiled)
    lengths = torch.linspace(0.1, 7.0, 80, device=device)[:, None]
    with torch.no_grad():
        scene["rotations"].mul_(lengths)
    rendering, found = gradients({**scene, "normalize_rotations": True}, compiled=compiled)
    for a, b in zip(rendering[:3], unit[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-5)
    directions = torch.nn.functional.normalize(scene["rotations"].detach(), dim=-1)
    along = (expected["rotations"] * directions).sum(-1, keepdim=True)
    assert float(along.norm()) > 0.1 * float(expected["rotations"].norm())  # else there would be nothing to see
    expected["rotations"] = (expected["rotations"] - along * directions) / lengths
    for name, value in expected.items():
        assert relative_l2(found[name], value) < 1e-3, name


@pytest.mark.parametrize("device", DEVICES)
def test_quaternion_of_no_length(device):
    need_compiled(device)
    scene = random_scene(30, device)
    with torch.no_grad():
        scene["rotations"][::3] = 0
    scene["normalize_rotations"] = True
    rendering, found = gradients(scene, compiled=True)
    expected_rendering, _ = gradients(in_double(scene), compiled=False)
    torch.testing.assert_close(rendering.image.cpu().double(), expected_rendering.image, rtol=0, atol=2e-5)
    assert all(value.isfinite().all() for value in found.values())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("given", ["image", "alpha", "depth"])
def test_gradient_of_one_output_alone(device, given):
    """Outputs that nothing depends on send no gradient back, and nothing asks for those of inputs that need none."""
    need_compiled(device)
    scene = random_scene(60, device)
    weight = torch.randn(2, {"image": 3}.get(given, 1), 23, 40, generator=torch.Generator().manual_seed(4))
    found, expected = [], []
    for results, case, compiled in ((found, scene, True), (expected, in_double(scene), False)):
        for names in (("means",), ("scales", "opacities"), ("background", "means2d_offset"), ("colors", "rotations")):
            alone = {key: value.detach() if isinstance(value, torch.Tensor) else value for key, value in case.items()}
            alone |= {name: alone[name].clone().requires_grad_() for name in names}
            if "means2d_offset" not in names:
                alone["means2d_offset"] = None
            output = getattr(rasterize_gaussians(**alone, compiled=compiled), given)
            leaves = [alone[name] for name in names]
            if output.requires_grad:
                grads = torch.autograd.grad((output * weight.to(output)).sum(), leaves, allow_unused=True)
                results += [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True)]
            else:
                results += [torch.zeros_like(leaf) for leaf in leaves]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_gradients_are_refused(device):
    need_compiled(device)
    scene = random_scene(10, device)
    (v_means,) = torch.autograd.grad(rasterize_gaussians(**scene, compiled=True).image.square().sum(), scene["means"], create_graph=True)
    with pytest.raises(RuntimeError):
        v_means.square().sum().backward()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("degree", [None, 2])
def test_registration(device, degree):
    need_compiled(device)
    scene = random_scene(12, device, width=20, height=9, degree=degree)
    rasterize_gaussians(**scene, compiled=True)  # attaches the fake kernels and autograd
    for normalized in (False, True):
        torch.library.opcheck(torch.ops.microdreamer.rasterize_gaussians.default, op_arguments(scene | {"normalize_rotations": normalized}))


def op_arguments(scene):
    names = ("means", "scales", "rotations", "opacities", "colors", "sh", "means2d_offset", "world_to_camera", "intrinsics")
    tensors = [scene.get(name) for name in (*names, "background")]
    return (*tensors, scene["width"], scene["height"], scene["scale_modifier"], True, scene.get("normalize_rotations", False))


def test_compiles_without_graph_breaks():
    need_compiled("cpu")
    scene = random_scene(12, width=20, height=9)

    def loss(means):
        return rasterize_gaussians(**{**scene, "means": means}).image.square().sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(scene["means"]), scene["means"]), torch.autograd.grad(loss(scene["means"]), scene["means"])
    )


@pytest.mark.gpu
def test_whole_step_captures_as_a_graph():
    need_compiled("cuda")
    scene = random_scene(300, "cuda", width=64, height=64)
    weights = [torch.ones_like(output) for output in rasterize_gaussians(**scene, compiled=True)[:3]]
    leaves = list(leaves_of(scene).values())

    def step():
        rendering = rasterize_gaussians(**scene, compiled=True, deterministic=True)
        loss = sum((output * weight).sum() for output, weight in zip(rendering[:3], weights, strict=True))
        return rendering.image, torch.autograd.grad(loss, leaves)

    image, eager = warm_up(step, "cuda")
    graph, (captured_image, captured) = capture(step, "cuda")
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured_image, image)
    assert all(torch.equal(a, b) for a, b in zip(captured, eager, strict=True))


def test_shapes_of_the_state_that_the_backward_pass_reads():
    need_compiled("cpu")
    sizes = torch.ops.microdreamer.rasterize_gaussians_sizes
    assert sizes(1, 1, 1, 1, True) == (12, 1, 8)
    assert sizes(257, 4, 100, 33, True) == (12, 7 * 3, 16)
    assert sizes(600_000, 1, 1000, 1020, True) == (12, 32 * 32, 18752)  # too many bits for each of 63 x 64 tiles
    assert sizes(257, 4, 128, 128, False) == (12, 257, 2)  # on the CPU a bit for each of 64 tiles
    assert sizes(257, 4, 129, 128, False) == (12, 0, 0)
    scene = random_scene(257)
    for device, marks in (("cpu", (2, 257, 2)), ("cuda", (2, 3 * 2, 16))):
        with FakeTensorMode():
            fake = {key: torch.empty(value.shape, device=device) for key, value in scene.items() if isinstance(value, torch.Tensor)}
            outputs = torch.ops.microdreamer.rasterize_gaussians(*op_arguments(scene | fake))
        shapes = [tuple(output.shape) for output in outputs]
        assert shapes == [(2, 3, 23, 40), (2, 1, 23, 40), (2, 1, 23, 40), (2, 257), (2, 257, 12), (2, 257), marks]
    actual = torch.ops.microdreamer.rasterize_gaussians(*op_arguments(scene))
    assert [tuple(output.shape) for output in actual] == [*shapes[:-1], (2, 257, 2)]


@pytest.mark.gpu
def test_many_gaussians_use_coarse_cells():
    # Enough that cells of several tiles carry the bits (see marks_layout in csrc/gaussian_raster.h).
    need_compiled("cuda")
    scene = random_scene(600_000, "cuda", views=1, width=1000, height=1020)
    with torch.no_grad():
        marks = torch.ops.microdreamer.rasterize_gaussians(*op_arguments(scene))[-1]
    assert marks.shape == (1, 32 * 32, 18752)  # of 63 x 64 tiles; a word for 32 Gaussians, in eights
    with torch.no_grad():
        scene["scales"].mul_(0.03)
    coarse, found = gradients(scene, compiled=True)
    host = {name: value.detach().cpu() if isinstance(value, torch.Tensor) else value for name, value in scene.items()}
    exact, expected = gradients(host | {name: host[name].requires_grad_() for name in leaves_of(scene)}, compiled=True)
    # Among 10^7 contributions one or two lie so near the cut at 1/255 that rounding decides; a lost cell would show in many.
    difference = (coarse.image.cpu() - exact.image).detach().abs()
    assert float(difference.max()) < 0.01 and float((difference > 1e-4).float().mean()) < 1e-4
    assert float((coarse.radii.cpu() != exact.radii).float().mean()) < 1e-4  # ceil() of values that differ in rounding
    for name, value in expected.items():
        assert relative_l2(found[name], value) < 0.01, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": torch.ones(9, 3)}, "scales: expected shape"),
        ({"colors": None}, "expected one of the two"),
        ({"sh": torch.zeros(10, 5, 3), "colors": None}, "expected 1, 4, 9 or 16"),
        ({"width": 0}, "picture size 0x23"),
        ({"opacities": torch.ones(10, dtype=torch.float64)}, "opacities: expected torch.float32"),
        ({"background": torch.ones(4)}, "background: expected shape"),
        ({"means2d_offset": torch.zeros(10, 2)}, "means2d_offset: expected shape"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        rasterize_gaussians(**{**random_scene(10), **change})


def test_op_checks_its_own_arguments():
    need_compiled("cpu")
    scene = random_scene(10)
    rasterize_gaussians(**scene, compiled=True)
    names = ("means", "scales", "rotations", "opacities", "colors", "sh", "means2d_offset", "world_to_camera", "intrinsics")
    tensors = [scene.get(name) for name in names]
    op = torch.ops.microdreamer.rasterize_gaussians
    tensors[1] = scene["scales"].detach().T.contiguous().T
    with pytest.raises(ValueError, match="scales: expected a contiguous tensor"):
        op(*tensors, scene["background"], 40, 23, 1.0, False)
    tensors[1] = torch.ones(9, 3)
    with pytest.raises(ValueError, match="scales: expected shape"):
        op(*tensors, scene["background"], 40, 23, 1.0, False)
