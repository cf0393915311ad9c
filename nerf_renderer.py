"""The neural field's face: make one, render it, train it, take its mesh.

    from nerf_renderer import EnvironmentBackground, ImplicitVolume, VolumeModel

    model = VolumeModel(ImplicitVolume(), EnvironmentBackground()).train()
    optimizer = torch.optim.AdamW(model.parameter_groups({"encoding": 1e-2, "density_network": 1e-3, ...}))
    for step in range(steps):
        model.refresh(step)                       # the occupancy grid
        image = model.render(cameras).image       # [V,3,H,W], differentiable
        ...
    picture = model.eval().render(cameras, background=1.0).image
    mesh = mesh_from_field(model.geometry.density, lambda points: model.material(model.geometry(points).features))

For readers of threestudio: `ImplicitVolume` is its geometry of that name and takes its published parameters (`load_published`),
`EnvironmentBackground` its neural-environment-map-background, `NoMaterial` and `PointLightDiffuse` its materials, `VolumeModel` its
nerf-volume-renderer with nerfacc's occupancy grid, `render_volsdf` its generative-space-volsdf-volume-renderer. The code is in
microdreamer/fields/ and microdreamer/kernels/volume.py, whose ops `march_rays`, `keep_visible` and `composite` stand in for nerfacc's.
"""

from __future__ import annotations

from microdreamer.fields.backgrounds import EnvironmentBackground, SolidBackground, TexturedBackground
from microdreamer.fields.field_mesh import mesh_from_field
from microdreamer.fields.implicit_volume import ImplicitVolume, ImplicitVolumeSpec
from microdreamer.fields.materials import NoMaterial, PointLightDiffuse, ShadingPolicy
from microdreamer.fields.occupancy import OccupancyGrid
from microdreamer.fields.volsdf import render_volsdf
from microdreamer.fields.volume_model import Draws, FieldRendering, VolumeModel, VolumeSettings
from microdreamer.kernels.volume import Samples, composite, keep_visible, march_rays

__all__ = [
    "Draws",
    "EnvironmentBackground",
    "FieldRendering",
    "ImplicitVolume",
    "ImplicitVolumeSpec",
    "NoMaterial",
    "OccupancyGrid",
    "PointLightDiffuse",
    "Samples",
    "ShadingPolicy",
    "SolidBackground",
    "TexturedBackground",
    "VolumeModel",
    "VolumeSettings",
    "composite",
    "keep_visible",
    "march_rays",
    "mesh_from_field",
    "render_volsdf",
]
