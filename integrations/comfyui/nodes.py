"""Nodes for ComfyUI over the library's calls: picture -> 3D, Gaussians -> mesh, mesh -> new texture coordinates.

ComfyUI's modules (`comfy`, `folder_paths`) are there when it loads this folder; the package `microdreamer` has to be installed in its
Python. Files are read from ComfyUI's input and output folders alone and written to its output folder, where "Preview 3D" finds them by
the names that the nodes give.
"""

from __future__ import annotations

import functools
import uuid
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch

CATEGORY = "3d/MicroDreamer"
SUBFOLDER = "microdreamer"  # of ComfyUI's output folder
STEPS = 1000  # of a bar


@functools.lru_cache(maxsize=1)
def prior_of(name: str) -> Any:
    """The prior that a configuration which ships names, kept for the next run."""
    import microdreamer
    from microdreamer.core.machine import choose_device

    config = microdreamer.load_config(name, [])
    device = choose_device(config.device)
    return microdreamer.load_prior(config.prior, config.prior_path, device, config.precision, config.prior_memory)


def output_stem(name: str) -> Path:
    """Where files of a run go: a name that no other run has, in ComfyUI's output folder."""
    from microdreamer.core.files import clean_name

    folder = Path(folder_paths.get_output_directory()) / SUBFOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{clean_name(name)[:60]}_{uuid.uuid4().hex[:8]}"


def shown_name(path: Path) -> str:
    """A file's name for "Preview 3D" and other nodes: relative to ComfyUI's output folder."""
    return path.relative_to(folder_paths.get_output_directory()).as_posix()


def input_file(name: str) -> Path:
    """The file that a user named, relative to ComfyUI's output or input folder. Raises ValueError for any that is in neither."""
    for folder in map(Path, (folder_paths.get_output_directory(), folder_paths.get_input_directory())):
        path = (folder / name.strip()).resolve()
        if path.is_relative_to(folder.resolve()) and path.is_file():
            return path
    raise ValueError(f"{name}: expected a file in ComfyUI's input or output folder, named relative to it")


def rgba_of(image: torch.Tensor, mask: torch.Tensor | None) -> Any:
    """The first picture of a batch [B,H,W,C] in [0,1] as an array for `reconstruct`; where there is a mask [B,H,W] or [H,W], which
    ComfyUI has at 1 where a picture is transparent, it becomes the alpha."""
    picture = image[0, ..., :3].float().cpu()
    if mask is not None:
        alpha = 1 - (mask[0] if mask.ndim == 3 else mask).float().cpu()
        if alpha.shape != picture.shape[:2]:
            alpha = torch.nn.functional.interpolate(alpha[None, None], picture.shape[:2], mode="bilinear")[0, 0]
        if alpha.min() < 1:  # a picture without alpha comes with a mask of zeros
            picture = torch.cat([picture, alpha[..., None]], dim=-1)
    return picture.clamp(0, 1).numpy()


class Watched:
    """ComfyUI's bar and its button to stop, for a run of the library."""

    def __init__(self) -> None:
        self._bar = comfy.utils.ProgressBar(STEPS)

    def __call__(self, update: Any) -> None:
        if not update.finished:
            self._bar.update_absolute(round(STEPS * update.fraction), STEPS)

    def __enter__(self) -> dict[str, Any]:
        return {"on_progress": self, "should_stop": comfy.model_management.processing_interrupted}

    def __exit__(self, kind: type | None, *_: object) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()


class PictureTo3D:
    """A picture and/or a sentence -> a textured mesh and Gaussians."""

    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "make", False
    RETURN_TYPES, RETURN_NAMES = ("STRING", "STRING", "IMAGE"), ("mesh", "gaussians", "views")
    DESCRIPTION = "A picture and/or a sentence to a 3D object. Connect the mask of Load Image to keep a cut-out."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from microdreamer.pipeline.config import SCHEMA

        names = list(SCHEMA.shipped())
        names.sort(key=lambda name: name != "micro")  # what needs no download first
        return {
            "required": {
                "config": (names,),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1}),
                "refine": ("BOOLEAN", {"default": False}),
                "faces": ("INT", {"default": 50_000, "min": 4, "max": 1_000_000}),
                "elevation": ("FLOAT", {"default": 0.0, "min": -85.0, "max": 85.0}),
            },
            "optional": {"image": ("IMAGE",), "mask": ("MASK",), "prompt": ("STRING", {"multiline": True, "default": ""})},
        }

    def make(
        self,
        config: str,
        seed: int,
        refine: bool,
        faces: int,
        elevation: float,
        image: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        prompt: str = "",
    ) -> tuple[str, str, torch.Tensor]:
        """The names of the mesh and of the Gaussians, and eight views [8,H,W,3] in [0,1]."""
        import microdreamer
        from cam_utils import turntable
        from microdreamer.meshes.files import write_mesh
        from microdreamer.pipeline.results import distance_for, render_views

        settings = microdreamer.load_config(config, [f"seed={seed}", f"mesh_faces={faces}", f"elevation={elevation}"])
        picture = None if image is None else rgba_of(image, mask)
        stem = output_stem(prompt or "object")
        with Watched() as calls:
            result = microdreamer.reconstruct(picture, prompt or None, settings, prior=prior_of(config), **calls)
        if result.mesh is None:
            raise ValueError(f"there is no mesh: {result.no_mesh}")
        result.gaussians.save_ply(f"{stem}.ply")
        if refine:
            with Watched() as calls:
                result = microdreamer.refine(result, prior=prior_of(config), **calls)
        write_mesh(result.mesh, stem, settings.mesh_format)
        radius = max(settings.radius, distance_for(result.points, settings.fovy))
        look = {"elevation": elevation, "radius": radius, "fov_y": settings.fovy, "device": result.points.device}
        cameras = turntable(8, **look, width=settings.video_size, height=settings.video_size)
        views = render_views(result.shown, cameras, torch.ones(3, device=result.points.device))
        names = [shown_name(stem.with_name(stem.name + suffix)) for suffix in (".glb", ".ply")]
        return names[0], names[1], views.detach().permute(0, 2, 3, 1).clamp(0, 1).float().cpu()


class SplatsToMesh:
    """A file of Gaussians, of any program -> a textured, watertight mesh."""

    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "make", False
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("mesh",)
    DESCRIPTION = "Gaussians (.ply, .splat, .spz, .glb in the input or output folder) to a textured mesh where they stand."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "gaussians": ("STRING", {"default": ""}),
                "faces": ("INT", {"default": 50_000, "min": 4, "max": 1_000_000}),
                "texture_size": ("INT", {"default": 1024, "min": 64, "max": 8192}),
            }
        }

    def make(self, gaussians: str, faces: int, texture_size: int) -> tuple[str]:
        """The name of the mesh."""
        import microdreamer
        from microdreamer.meshes.files import write_glb

        source = input_file(gaussians)
        mesh = microdreamer.mesh_from_gaussians(source, {"mesh_faces": faces, "texture_size": texture_size})
        stem = output_stem(source.stem)
        write_glb(mesh, f"{stem}.glb")
        return (shown_name(stem.with_name(f"{stem.name}.glb")),)


class Unwrap:
    """A mesh -> the same with one texture on new coordinates: what its materials show, baked into one atlas."""

    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "make", False
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("mesh",)
    DESCRIPTION = "New texture coordinates for a mesh in the input or output folder; its materials are baked into one texture."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mesh": ("STRING", {"default": ""}), "texture_size": ("INT", {"default": 1024, "min": 64, "max": 8192})}}

    def make(self, mesh: str, texture_size: int) -> tuple[str]:
        """The name of the mesh."""
        from microdreamer.meshes.baking import baked
        from microdreamer.meshes.files import read_surface, write_glb

        source = input_file(mesh)
        result = baked(read_surface(source), texture_size)
        stem = output_stem(source.stem)
        write_glb(result, f"{stem}.glb")
        return (shown_name(stem.with_name(f"{stem.name}.glb")),)


NODE_CLASS_MAPPINGS = {
    "MicroDreamerPictureTo3D": PictureTo3D,
    "MicroDreamerSplatsToMesh": SplatsToMesh,
    "MicroDreamerUnwrap": Unwrap,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "MicroDreamerPictureTo3D": "Picture to 3D (MicroDreamer)",
    "MicroDreamerSplatsToMesh": "Gaussians to mesh (MicroDreamer)",
    "MicroDreamerUnwrap": "Unwrap and bake (MicroDreamer)",
}
