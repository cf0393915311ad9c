"""Volume rendering of signed distances against golden tensors and closed forms: spheres, rays that miss, cameras far away."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import DEVICES, relative_l2
from safetensors.torch import load_file
from torch.nn.functional import grid_sample, normalize

from microdreamer.fields import published, volsdf
from microdreamer.fields.activations import COLOR_ACTIVATIONS
from microdreamer.fields.backgrounds import EnvironmentBackground
from microdreamer.fields.perceptron import Perceptron
from microdreamer.fields.volsdf import inverse_deviation, render_volsdf, volsdf_density


@pytest.mark.parametrize("device", DEVICES)
def test_density_goldens(parity, device):
    data = {
        name: torch.from_numpy(np.asarray(value)).to(device) for name, value in np.load(parity("generators/volsdf_density.npz")).items()
    }
    for sharpness, expected in zip(data["inv_std"], data["density"], strict=True):
        # Far outside it is the sharpness times 1 - (1 - little), known to a rounding of 1.
        rounding = 2**-24 * float(sharpness)
        torch.testing.assert_close(volsdf_density(data["sdf"], sharpness), expected, rtol=1e-5, atol=max(1e-6, rounding))
    sharpness = inverse_deviation(data["learned_variance_init"].float())
    torch.testing.assert_close(sharpness, data["inv_std_from_init"], rtol=1e-6, atol=0)


class Planes:
    """The golden's field: features of three planes, before a network for distances from a sphere and one for colours."""

    def __init__(self, planes, state, radius, device):
        self.planes, self.radius = planes, radius
        self.networks = {}
        for kind in ("sdf", "feature"):
            network = Perceptron((24, 16, 16, 1 if kind == "sdf" else 3))
            network.load_state_dict(
                {name.removeprefix(f"{kind}_network."): t for name, t in state.items() if name.startswith(f"{kind}_network.")}
            )
            self.networks[kind] = network.to(device)

    def encode(self, points):
        x, y, z = (points / self.radius).unbind(-1)
        places = torch.stack([torch.stack(pair, dim=-1) for pair in ((x, y), (x, z), (z, y))], dim=1)  # [B,3,P,2]
        batch, _, count, _ = places.shape
        features = grid_sample(self.planes.flatten(0, 1), places.reshape(3 * batch, count, 1, 2), align_corners=False)[..., 0]
        return features.reshape(batch, 3, -1, count).permute(0, 3, 1, 2).flatten(2)

    def sdf(self, points):
        return self.networks["sdf"](self.encode(points))[..., 0] + points.norm(dim=-1) - 0.8

    def __call__(self, points):
        colors = COLOR_ACTIVATIONS["sigmoid_mipnerf"](self.networks["feature"](self.encode(points)))
        return self.sdf(points), colors


def unbounded_weights(alpha):
    """The original's: its opacities pass 1 where intervals are long, and the light behind turns negative."""
    passed = (1 - alpha).cumprod(-1)
    return alpha * torch.cat([torch.ones_like(passed[..., :1]), passed[..., :-1]], dim=-1)


def golden_render(parity, case, device="cpu"):
    data = np.load(parity("generators/volsdf_render.npz"))
    config = json.loads(str(data["config"]))
    data = {name: torch.from_numpy(np.asarray(data[name])).to(device) for name in data.files if name != "config"}
    planes = data["triplane"][:1] if case == "eval" else data["triplane"]
    planes = planes.clone().requires_grad_()
    field = Planes(planes, load_file(parity("generators/triplane_small_local.weights.safetensors")), config["radius"], device)
    origins, directions = data["rays_o"].reshape(2, 36, 3), data["rays_d"].reshape(2, 36, 3)
    if case == "eval":  # one field, all views of it
        origins, directions = origins.reshape(1, 72, 3), directions.reshape(1, 72, 3)
    rendering = render_volsdf(
        field,
        origins,
        directions,
        sharpness=inverse_deviation(torch.tensor(config["inv_std_init"], device=device)),
        radius=config["radius"],
        proposals=config["num_samples_per_ray_importance"],
        samples=config["num_samples_per_ray"],
        near=config["near"],
        far=config["far"],
        with_normals=True,
    )
    background = EnvironmentBackground("sh3", axes="threestudio")
    background.load_published(load_file(parity("generators/volsdf_render_background.weights.safetensors")), prefix="")
    behind = background.to(device)(published.out_of_axes(directions, "threestudio"))
    image = rendering.color + (1 - rendering.alpha)[..., None] * behind
    return data, planes, rendering, image, behind


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["eval", "train"])
def test_render_goldens(parity, case, device, monkeypatch):
    # The golden's intervals are so long that its weights reach 4e4 either way: what differs is measured against their size.
    monkeypatch.setattr(volsdf, "weights_of", unbounded_weights)
    data, planes, rendering, image, behind = golden_render(parity, case, device)
    found = {
        "comp_rgb_fg": rendering.color,
        "opacity": rendering.alpha,
        "depth": rendering.depth,
        "z_variance": rendering.z_variance,
        "comp_rgb_bg": behind,
        "comp_normal": rendering.alpha[..., None] * (normalize(rendering.normal, dim=-1) + 1) / 2,
    }
    for name, value in found.items():
        assert relative_l2(value.detach().reshape(2, 6, 6, -1), data[f"{case}_{name}"]) < 1e-4, name
    error = image.detach().reshape(2, 6, 6, 3) - data[f"{case}_comp_rgb"]  # of a sum whose parts nearly cancel
    assert float(error.norm() / data[f"{case}_comp_rgb_fg"].norm()) < 1e-4
    if case == "train":
        ends = rendering.starts + rendering.lengths
        torch.testing.assert_close(rendering.starts.reshape(72, -1), data["train_t_starts"], rtol=0, atol=1e-5)
        torch.testing.assert_close(ends.reshape(72, -1), data["train_t_ends"], rtol=0, atol=1e-5)
        torch.testing.assert_close(rendering.sdf.reshape(-1, 1), data["train_sdf"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(rendering.gradient.reshape(-1, 3), data["train_sdf_grad"], rtol=0, atol=3e-3)
        assert relative_l2(rendering.weights.detach().reshape(-1, 1), data["train_weights"]) < 1e-4
        (image.reshape(2, 6, 6, 3) * data["coef"]).sum().backward()
        assert relative_l2(planes.grad, data["grad_triplane"]) < 3e-3


# ---- Closed forms ----


class Ball:
    """A ball around the origin whose colour is the position, from -1 to 1 on each axis, as 0 to 1."""

    def __init__(self, radius):
        self.radius = radius

    def sdf(self, points):
        return points.norm(dim=-1) - self.radius

    def __call__(self, points):
        return self.sdf(points), (points + 1) / 2


def rays_at(distance, count=40, spread=0.9, dtype=torch.float32):
    """Parallel rays toward -z from a plane `distance` away, at random places within `spread` of the axis."""
    draw = torch.Generator().manual_seed(0)
    across = spread * (2 * torch.rand(count, 2, generator=draw, dtype=torch.float64) - 1)
    origins = torch.cat([across, torch.full((count, 1), float(distance), dtype=torch.float64)], dim=1)
    return origins.to(dtype), torch.tensor([0.0, 0.0, -1.0], dtype=dtype).expand(count, 3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("distance", [1.4, 7.5, 40.0])
def test_ball_is_seen_from_any_distance(distance, device):
    origins, directions = (tensor.to(device) for tensor in rays_at(distance))
    rendering = render_volsdf(Ball(0.6), origins, directions, sharpness=80.0, samples=128, with_normals=True)
    off_axis = origins[:, :2].norm(dim=-1)
    through, past = off_axis < 0.5, off_axis > 0.7
    assert (rendering.alpha[through] > 0.99).all() and (rendering.alpha[past] < 0.01).all()
    surface = (0.36 - off_axis[through].square()).sqrt()
    depth = rendering.depth[through] / rendering.alpha[through]
    torch.testing.assert_close(depth, distance - surface, rtol=0, atol=0.03)  # 1/sharpness is 0.0125
    expected = torch.cat([origins[through, :2], surface[:, None]], dim=1)
    torch.testing.assert_close(rendering.color[through], (expected + 1) / 2, rtol=0, atol=0.02)
    torch.testing.assert_close(normalize(rendering.normal[through], dim=-1), expected / 0.6, rtol=0, atol=0.06)
    inside = rendering.starts[through] < distance  # within the box, where neighbours are not held back
    assert float((rendering.gradient[through].norm(dim=-1)[inside] - 1).abs().median()) < 0.01


def test_opacities_stay_below_one_however_long_the_intervals():
    origins, directions = rays_at(3.0)
    rendering = render_volsdf(Ball(0.6), origins, directions, sharpness=500.0, proposals=6, samples=4)
    assert (rendering.lengths * volsdf_density(rendering.sdf, 500.0)).max() > 2
    assert (rendering.weights >= 0).all() and (rendering.alpha <= 1 + 1e-6).all()


def test_rays_that_miss_the_box_show_nothing():
    origins = torch.tensor([[0.0, 3.0, 3.0], [0.0, 0.0, 3.0], [0.0, 0.0, 3.0]])
    directions = normalize(torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]), dim=-1)
    rendering = render_volsdf(Ball(0.5), origins, directions)
    assert torch.equal(rendering.alpha[:2], torch.zeros(2)) and rendering.alpha[2] > 0.99
    for value in rendering:
        assert value is None or torch.isfinite(value).all()


def test_intervals_tile_the_way_through_the_box():
    origins, directions = rays_at(3.0)
    draw = torch.Generator().manual_seed(1)
    jitter = torch.rand(2, len(origins), generator=draw)
    for drawn in (None, tuple(jitter)):
        rendering = render_volsdf(Ball(0.6), origins, directions, proposals=16, samples=8, jitter=drawn)
        assert rendering.starts.shape == (len(origins), 25)
        ends = rendering.starts + rendering.lengths
        torch.testing.assert_close(rendering.starts[:, 1:], ends[:, :-1])
        assert (rendering.lengths >= 0).all() and (rendering.starts >= 2 - 1e-6).all() and (ends <= 4 + 1e-6).all()
    assert torch.equal(
        rendering.starts, render_volsdf(Ball(0.6), origins, directions, proposals=16, samples=8, jitter=tuple(jitter)).starts
    )


def test_gradients():
    origins, directions = rays_at(2.5, count=4, spread=0.3, dtype=torch.float64)

    def rendered(radius, sharpness):
        found = render_volsdf(Ball(radius), origins, directions, sharpness=sharpness, proposals=12, samples=8, near=near, far=far)
        return found.color, found.alpha, found.depth, found.z_variance

    near, far = 1.5, 3.5
    edges = render_volsdf(Ball(0.6), origins, directions, sharpness=20.0, proposals=12, samples=8, near=near, far=far)
    kept = torch.cat([edges.starts, (edges.starts + edges.lengths)[:, -1:]], dim=1)
    with pytest.MonkeyPatch.context() as patch:  # where samples lie has no gradient, so they are held where they are
        patch.setattr(volsdf, "_edges", lambda *_: kept)
        inputs = torch.tensor(0.6, dtype=torch.float64), torch.tensor(20.0, dtype=torch.float64)
        assert torch.autograd.gradcheck(rendered, tuple(value.requires_grad_() for value in inputs))


def test_density_on_the_surface_and_inside():
    density = volsdf_density(torch.tensor([-10.0, 0.0, 10.0]), 30.0)
    torch.testing.assert_close(density, torch.tensor([30.0, 15.0, 0.0]))
    assert math.isclose(float(inverse_deviation(torch.tensor(0.340119))), 30.0, rel_tol=1e-4)
