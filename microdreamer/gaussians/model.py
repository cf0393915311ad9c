"""A set of 3D Gaussians: its parameters, how it is rendered, fitted, thinned out and turned into a mesh.

Shapes: N Gaussians, V views, K = (sh_degree + 1)^2 harmonics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from cam_utils import FOV_Y, RADIUS, Cameras, orbit_cameras, project
from microdreamer.core import profiler
from microdreamer.gaussians import COUNT, GRAD_THRESHOLD, PERCENT_DENSE, LearningRates, surface
from microdreamer.gaussians import density_control as gaussian_density
from microdreamer.gaussians.splat_files import log_remarks, read_splats, write_splats
from microdreamer.kernels.adam import Adam
from microdreamer.kernels.gaussian_fit import activate_gaussians, clamp_image, record_gradients
from microdreamer.kernels.gaussian_raster import rasterize_gaussians, rotation_matrices
from microdreamer.kernels.spherical_harmonics import MAX_DEGREE, color_to_sh, degree_from_coefficients, sh_to_base_color

PARAMETERS = ("means", "sh_dc", "sh_rest", "log_scales", "quaternions", "opacity_logits")

INITIAL_OPACITY = 0.1
MIN_SQUARED_DISTANCE = 1e-7  # floor of a start Gaussian's squared scale
SPATIAL_SCALE = 10.0  # the position learning rates of the configuration files are multiplied by this
EXTENT = 4.0  # the scene size that density control measures scales against

# Where floaters are looked for: (elevation, azimuth) in degrees.
FLOATER_VIEWS = ((0, 0), (0, 180), (0, 90), (20, 180), (20, 90), (0, -90))


class Render(NamedTuple):
    """image [V,3,H,W] in [0,1]; alpha, depth [V,1,H,W] (depth: sum of weight * view z); radii [V,N] px, 0 where culled.

    means2d [V,N,2]: zeros whose gradient, after a backward pass, is that of the splats' positions in normalised device
    units; None where no gradient is recorded.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor
    radii: Tensor
    means2d: Tensor | None


def mean_squared_neighbour_distance(points: np.ndarray) -> np.ndarray:
    """Mean of the squared distances [N] of `points` [N,3] to their three nearest others."""
    distances, _ = cKDTree(points).query(points, k=min(4, len(points)))
    return (distances[:, 1:] ** 2).mean(1)


def ball_points(uniform: Tensor, radius: float) -> Tensor:
    """Points [N,3] spread evenly in a ball from `uniform` [N,3] in [0,1): longitude, cosine of colatitude, volume."""
    longitude, cosine = 2 * math.pi * uniform[:, 0], 2 * uniform[:, 1] - 1
    sine = (1 - cosine**2).clamp_min(0).sqrt()
    direction = torch.stack([sine * longitude.cos(), sine * longitude.sin(), cosine], dim=1)
    return radius * uniform[:, 2:].pow(1 / 3) * direction


class GaussianModel(nn.Module):
    """N Gaussians as raw parameters, whose activations are properties.

    means [N,3]; sh_dc [N,1,3], sh_rest [N,K-1,3]; log_scales [N,3]; quaternions [N,4] wxyz, any length; opacity_logits [N].
    The parameters are replaced by new ones when Gaussians are added or dropped; an optimiser made by `make_optimizer` follows.
    """

    means: nn.Parameter
    sh_dc: nn.Parameter
    sh_rest: nn.Parameter
    log_scales: nn.Parameter
    quaternions: nn.Parameter
    opacity_logits: nn.Parameter

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        degree_from_coefficients(1 + parameters["sh_rest"].shape[1])
        self.optimizer: Adam | None = None
        self._install(parameters)

    def _install(self, parameters: dict[str, Tensor]) -> None:
        for name in PARAMETERS:
            setattr(self, name, nn.Parameter(parameters[name].detach().float().contiguous()))
        self.reset_statistics()

    # ---- Where Gaussians come from and go to ----

    @classmethod
    def from_points(
        cls,
        points: np.ndarray | Tensor,
        colors: np.ndarray | Tensor,
        sh_degree: int = 0,
        device: torch.device | str = "cpu",
        opacity: float = INITIAL_OPACITY,
    ) -> GaussianModel:
        """Round Gaussians at `points` [N,3] with `colors` [N,3] in [0,1], as wide as their neighbours are far, of one `opacity`.

        Raises ValueError for fewer than 4 points or an unknown degree.
        """
        return cls._from_points(torch.as_tensor(points), color_to_sh(torch.as_tensor(colors)), sh_degree, opacity).to(device)

    @classmethod
    def _from_points(cls, points: Tensor, sh_dc: Tensor, sh_degree: int, opacity: float = INITIAL_OPACITY) -> GaussianModel:
        count = len(points)
        if count < 4:
            raise ValueError(f"{count} points: expected at least 4, to tell how far neighbours are")
        if not 0 <= sh_degree <= MAX_DEGREE:
            raise ValueError(f"sh_degree={sh_degree}: expected 0 to {MAX_DEGREE}")
        points = points.detach().cpu().float()
        squared = torch.from_numpy(mean_squared_neighbour_distance(points.numpy())).float().clamp_min(MIN_SQUARED_DISTANCE)
        return cls(
            {
                "means": points,
                "sh_dc": sh_dc.detach().cpu()[:, None],
                "sh_rest": torch.zeros(count, (sh_degree + 1) ** 2 - 1, 3),
                "log_scales": squared.sqrt().log()[:, None].repeat(1, 3),
                "quaternions": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
                "opacity_logits": torch.full((count,), math.log(opacity / (1 - opacity))),
            }
        )

    @classmethod
    def initial_ball(
        cls,
        count: int = COUNT,
        radius: float = 0.5,
        sh_degree: int = 0,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> GaussianModel:
        """Mid-grey Gaussians spread evenly in a ball, the start of a fit. `generator` lives on the CPU."""
        uniform = torch.rand(count, 6, dtype=torch.float64, generator=generator)
        return cls._from_points(ball_points(uniform[:, :3], radius), uniform[:, 3:] / 255, sh_degree).to(device)

    def arrays(self) -> dict[str, np.ndarray]:
        """The raw parameters by name, on the CPU."""
        return {name: getattr(self, name).detach().cpu().numpy() for name in PARAMETERS}

    @classmethod
    def from_arrays(cls, parameters: dict[str, np.ndarray], device: torch.device | str = "cpu") -> GaussianModel:
        """The model of what `arrays` gives."""
        return cls({name: torch.from_numpy(values) for name, values in parameters.items()}).to(device)

    def save(self, path: str | Path, format: str = "ply") -> None:
        """Write a file of Gaussians: the standard 3DGS "ply", which `load` reads back bit for bit, or "splat", "spz" or "glb"."""
        write_splats(path, self.arrays(), format)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> GaussianModel:
        """Read a file of Gaussians of any format that `read_splats` knows. Raises FileNotFoundError or ValueError in one line."""
        found = read_splats(path)
        log_remarks(path, found.remarks)
        return cls.from_arrays(found.parameters, device)

    def save_ply(self, path: str | Path) -> None:
        """`save` as PLY."""
        self.save(path)

    @classmethod
    def load_ply(cls, path: str | Path, device: torch.device | str = "cpu") -> GaussianModel:
        """`load`."""
        return cls.load(path, device)

    # ---- What the parameters mean ----

    def __len__(self) -> int:
        return len(self.means)

    @property
    def device(self) -> torch.device:
        return self.means.device

    @property
    def sh_degree(self) -> int:
        return degree_from_coefficients(1 + self.sh_rest.shape[1])

    @property
    def scales(self) -> Tensor:
        """Standard deviations [N,3] along the Gaussians' axes."""
        return self.log_scales.exp()

    @property
    def rotations(self) -> Tensor:
        """Unit quaternions [N,4], wxyz."""
        return nn.functional.normalize(self.quaternions, dim=-1)

    @property
    def opacities(self) -> Tensor:
        """[N] in (0,1)."""
        return self.opacity_logits.sigmoid()

    @property
    def sh(self) -> Tensor:
        """Harmonics [N,K,3]."""
        return torch.cat([self.sh_dc, self.sh_rest], dim=1) if self.sh_rest.shape[1] else self.sh_dc

    @property
    def base_colors(self) -> Tensor:
        """The view-independent part of the colours [N,3], not clamped."""
        return sh_to_base_color(self.sh_dc[:, 0])

    def covariances(self, scale: float | Tensor = 1.0) -> Tensor:
        """R S S^T R^T [N,6], packed xx, xy, xz, yy, yz, zz, of the Gaussians enlarged by `scale`."""
        factor = rotation_matrices(self.rotations) * (self.scales * scale)[:, None, :]
        full = factor @ factor.transpose(1, 2)
        row, column = torch.triu_indices(3, 3, device=full.device)
        return full[:, row, column]

    @profiler.function
    def render(
        self, cameras: Cameras, background: Tensor | float = 1.0, *, scale_modifier: float = 1.0, deterministic: bool = False
    ) -> Render:
        """All views of `cameras` in one differentiable call, over `background`: a grey value, [3] or [V,3] in [0,1].

        The image is clamped to [0,1], which stops the gradient where it saturates (as the published training does).
        `deterministic` makes gradients repeat bit for bit on CUDA.
        """
        if not isinstance(background, Tensor):
            background = torch.full((3,), float(background), device=self.device)
        means2d = None
        if torch.is_grad_enabled() and self.means.requires_grad:
            means2d = torch.zeros(len(cameras), len(self), 2, device=self.device, requires_grad=True)
        scales, rotations, opacities = activate_gaussians(self.log_scales, self.quaternions, self.opacity_logits)
        image, alpha, depth, radii = rasterize_gaussians(
            self.means,
            scales,
            rotations,
            opacities,
            sh=self.sh,
            world_to_camera=cameras.world_to_camera,
            intrinsics=cameras.intrinsics,
            width=cameras.width,
            height=cameras.height,
            background=background,
            scale_modifier=scale_modifier,
            means2d_offset=means2d,
            deterministic=deterministic,
        )
        return Render(clamp_image(image), alpha, depth, radii, means2d)

    @property
    def reach(self) -> float:
        """Distance from the origin of the farthest Gaussian's end, at one standard deviation."""
        return float((self.means.detach().norm(dim=1) + self.scales.detach().amax(1)).max())

    def surface_colors(self, points: Tensor, normals: Tensor, view_size: int = surface.VIEW_SIZE) -> Tensor:
        """Colours [P,3] in [0,1] that renders of `view_size` pixels show at points [P,3] with unit normals [P,3]."""
        return surface.surface_colors(self, points, normals, view_size)

    def surface_painter(self, view_size: int = surface.VIEW_SIZE) -> Callable[[Tensor, Tensor], Tensor]:
        """`surface_colors` as a function of points and normals, whose views are rendered once."""
        return surface.surface_painter(self, view_size)

    # ---- Optimiser ----

    def make_optimizer(self, rates: LearningRates | None = None) -> Adam:
        """Adam over all parameters, with one group each; kept as `self.optimizer`.

        The position rates are multiplied by 10; higher harmonics learn at a twentieth of `feature_lr`. Learning rates are
        tensors on the model's device, so that changing one neither waits for the device nor breaks a captured graph.
        """
        rates = rates or LearningRates()
        first, final = rates.position_lr_init * SPATIAL_SCALE, rates.position_lr_final * SPATIAL_SCALE
        self._position_schedule = (first, final, rates.position_lr_max_steps)
        by_name = {
            "means": first,
            "sh_dc": rates.feature_lr,
            "sh_rest": rates.feature_lr / 20,
            "log_scales": rates.scaling_lr,
            "quaternions": rates.rotation_lr,
            "opacity_logits": rates.opacity_lr,
        }
        trained = [name for name in PARAMETERS if getattr(self, name).numel()]  # no harmonics above degree 0: nothing to step
        groups = [{"params": [getattr(self, name)], "name": name, "lr": by_name[name]} for name in trained]
        self.optimizer = Adam(groups, eps=1e-15)
        return self.optimizer

    def position_learning_rate(self, step: int) -> float:
        """Log-linear from the first to the final rate over the schedule's steps, then constant; 0 on the way to or from a rate of 0."""
        first, final, max_steps = self._position_schedule
        share = min(max(step / max_steps, 0.0), 1.0)
        if first == 0 or final == 0:
            return first ** (1 - share) * final**share  # the same, where there is no logarithm
        return math.exp((1 - share) * math.log(first) + share * math.log(final))

    def update_learning_rate(self, step: int) -> None:
        """Set the position learning rate of global step `step`; the others are constant."""
        self.optimizer.param_groups[0]["lr"].fill_(self.position_learning_rate(step))

    # ---- Density control ----

    def reset_statistics(self) -> None:
        self.register_buffer("gradient_sum", torch.zeros(len(self), device=self.device), persistent=False)
        self.register_buffer("gradient_hits", torch.zeros(len(self), device=self.device), persistent=False)

    @torch.no_grad()
    @profiler.function
    def record_statistics(self, rendering: Render) -> None:
        """After a backward pass: add the screen-space gradients of all views in which a Gaussian shows. Does not wait for the device."""
        record_gradients(rendering.radii, rendering.means2d.grad, self.gradient_sum, self.gradient_hits)

    @torch.no_grad()
    @profiler.function
    def densify_and_prune(
        self,
        *,
        grad_threshold: float = GRAD_THRESHOLD,
        percent_dense: float = PERCENT_DENSE,
        min_opacity: float = 0.005,
        generator: torch.Generator | None = None,
    ) -> None:
        """Clone, split and drop Gaussians by the statistics recorded since the last call, which then start anew.

        See `gaussian_density.densify_and_prune`; Gaussians are split above `percent_dense` and dropped above 0.1 of the scene's
        extent (4). Adam's moments go along; those of new Gaussians are zero. `generator` lives on the CPU.
        """

        def draw_normals(count: int) -> Tensor:
            return torch.randn(count, 3, generator=generator).to(self.device)

        selection = gaussian_density.densify_and_prune(
            {name: getattr(self, name).detach() for name in PARAMETERS},
            self.gradient_sum / self.gradient_hits,  # never shown: 0/0, taken as 0
            grad_threshold=grad_threshold,
            split_scale=percent_dense * EXTENT,
            min_opacity=min_opacity,
            max_scale=0.1 * EXTENT,
            draw_normals=draw_normals,
        )
        self._select(selection)

    @torch.no_grad()
    def keep(self, chosen: Tensor) -> None:
        """Keep the Gaussians chosen by a mask [N] (bool) or by row numbers."""
        source = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen
        parameters = {name: getattr(self, name).detach()[source] for name in PARAMETERS}
        self._select(gaussian_density.Selection(parameters, source, torch.zeros_like(source, dtype=torch.bool)))

    def _select(self, selection: gaussian_density.Selection) -> None:
        histories = {}
        for group in self.optimizer.param_groups if self.optimizer else ():
            histories[group["name"]] = self.optimizer.state.pop(group["params"][0], None)
        self._install(selection.parameters)
        for group in self.optimizer.param_groups if self.optimizer else ():
            parameter = getattr(self, group["name"])
            group["params"] = [parameter]
            if history := histories[group["name"]]:
                is_old = (~selection.is_new).reshape(-1, *[1] * (parameter.dim() - 1))
                moments = {key: history[key][selection.source] * is_old for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = history | moments

    @torch.no_grad()
    def prune(self, min_opacity: float = 0.01, max_scale: float = 0.1) -> int:
        """Drop Gaussians fainter than `min_opacity` or longer than `max_scale`; returns how many went.

        Size on the screen is no criterion: it would drop whatever is wider than a pixel.
        """
        parameters = {name: getattr(self, name).detach() for name in PARAMETERS}
        before = len(self)
        self.keep(~gaussian_density.dispensable(parameters, min_opacity, max_scale))
        return before - len(self)

    @torch.no_grad()
    @profiler.function
    def filter_floaters(
        self,
        cameras: Cameras | None = None,
        *,
        min_scale: float = 0.01,
        min_alpha_loss: float = 0.1,
        radius: float = RADIUS,
        fov_y: float = FOV_Y,
    ) -> int:
        """Drop white Gaussians that hide nothing but the white background; returns how many went.

        Candidates have all three colours above 1 and an axis above `min_scale`. View after view (default: six around the object
        at `radius` and `fov_y` degrees, 512x512), the candidates are left out of the render; one whose centre falls on a pixel
        that so loses more than `min_alpha_loss` of alpha is alone there, and goes. Made for renders on white.
        """
        if cameras is None:
            elevation, azimuth = zip(*FLOATER_VIEWS, strict=True)
            cameras = orbit_cameras(elevation, azimuth, radius, fov_y=fov_y, width=512, height=512, device=self.device)
        before = len(self)
        for view in range(len(cameras)):
            candidates = ((self.base_colors > 1).all(1) & (self.scales > min_scale).any(1)).nonzero()[:, 0]
            if len(candidates) == 0:
                break
            self.keep(~self._is_floater(cameras[view], candidates, min_alpha_loss))
        return before - len(self)

    def _is_floater(self, camera: Cameras, candidates: Tensor, min_alpha_loss: float) -> Tensor:
        others = torch.ones(len(self), dtype=torch.bool, device=self.device)
        others[candidates] = False
        without = GaussianModel({name: getattr(self, name).detach()[others] for name in PARAMETERS})
        loss = (self.render(camera).alpha - without.render(camera).alpha)[0, 0]
        (pixels,), (z,) = project(camera, self.means[candidates])
        x, y = pixels.unbind(1)
        inside = (z > 0) & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
        column, row = torch.where(inside, x, 0).long(), torch.where(inside, y, 0).long()
        lost = torch.zeros_like(inside)
        lost[inside] = loss[row[inside], column[inside]] > min_alpha_loss
        floaters = torch.zeros_like(others)
        floaters[candidates[lost]] = True
        return floaters
