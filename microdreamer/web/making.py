"""What a job of the page or the HTTP API does: the library's calls in the job's folder, with progress and pictures on the way."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from microdreamer.core.errors import Stopped, UserError, user_errors
from microdreamer.core.machine import choose_device
from microdreamer.core.overhearing import overheard
from microdreamer.gaussians.model import GaussianModel
from microdreamer.guidance.base import Prior
from microdreamer.images.cutout import CutOut
from microdreamer.images.preparation import prepared_together
from microdreamer.images.reading import read_image
from microdreamer.images.writing import to_bytes
from microdreamer.meshes.files import read_mesh, write_glb, write_obj
from microdreamer.meshes.mesh import Mesh
from microdreamer.meshes.printing import for_printing, write_stl
from microdreamer.pipeline.config import Config
from microdreamer.pipeline.meshing import mesh_levels
from microdreamer.pipeline.progress import Update
from microdreamer.pipeline.reconstruction import prior_for, reconstruct
from microdreamer.pipeline.refinement import refine
from microdreamer.pipeline.results import Result, check_switches
from microdreamer.web import orders
from microdreamer.web.jobs import Job
from microdreamer.web.orders import Order

PREVIEW_SECONDS = 1.5  # between two pictures of the object, at least, and
PREVIEW_SHARE = 0.1  # of the time, that they may take
SHAPE = "_shape"  # what names of meshes without their texture end in
ROUNDS, REFINED = 0.85, 0.5  # share of a job's bar that the rounds take, and what is left of that where stage 2 follows


class Maker:
    """Does orders with one configuration and one prior, which the workers share."""

    def __init__(self, config: Config, prior: Prior | None = None) -> None:
        """prior: None loads the one that the configuration names. Raises UserError where it, or the device, is not there."""
        with user_errors():
            device = choose_device(config.device) if prior is None else prior.device
            check_switches(config, device)
            self.prior = prior or prior_for(config, device)
        self.config = config

    def __call__(self, job: Job) -> Mapping[str, Path]:
        """The files that the order of a job leads to. Raises UserError, or Stopped where the job was cancelled."""
        order: Order = job.request
        with overheard(job.notes.append):
            if (splats := job.folder / orders.SPLATS).is_file():
                self._mesh(job, order, splats)
            for result in self._results(job, order):
                if job.should_stop() or not result.complete:
                    raise Stopped
                result.config = dataclasses.replace(result.config, input=None, mesh=None, load=None)  # no paths of this machine
                stem = result.save(job.folder, order.name, lambda update: job.told(update.phase, "writing the files", 0.95))
                if result.no_mesh:
                    raise UserError(f"there is no mesh: {result.no_mesh}")
                if not order.textured and result.mesh is not None:
                    bare = Mesh(result.mesh.vertices, result.mesh.faces)
                    write_glb(bare, f"{stem}{SHAPE}.glb")
                    write_obj(bare, f"{stem}{SHAPE}.obj")
                if order.size_mm is not None and result.mesh is not None:
                    model = stem if result.refined else f"{stem}_model"
                    write_stl(*for_printing(result.mesh, order.size_mm), f"{model}.stl")
        found = (path for path in sorted(job.folder.iterdir()) if path.is_file() and not path.name.startswith("."))
        made = (path for path in found if path.name not in orders.INPUTS)
        return {path.name: path for path in made}

    def _mesh(self, job: Job, order: Order, splats: Path) -> None:
        """The mesh of a file of Gaussians, where these stand."""
        job.told("mesh", "making the mesh", 0.1)
        config = order.config(self.config)
        (mesh,) = mesh_levels(splats, [config.mesh_faces], config)
        stem = job.folder / f"{order.name}_model"
        job.told("write", "writing the files", 0.95)
        write_glb(mesh, f"{stem}.glb")
        write_obj(mesh, f"{stem}.obj")
        if order.size_mm is not None:
            write_stl(*for_printing(mesh, order.size_mm), f"{stem}.stl")

    def _results(self, job: Job, order: Order):
        """The results of one after the other stage; none where a mesh is made of Gaussians."""
        folder = job.folder
        if (folder / orders.SPLATS).is_file():
            return
        pictures = _pictures(folder, order.recenter) or None
        paints = (folder / orders.MESH).is_file()
        config = order.config(self.config, paints)
        stage_1 = (folder / orders.STAGE_1_MESH).is_file()
        calls: dict[str, Any] = {"prior": self.prior, "should_stop": job.should_stop}
        if paints or stage_1:
            source: Any = folder / orders.MESH
            if stage_1:
                gaussians = GaussianModel.load(folder / orders.STAGE_1_SPLATS, self.prior.device)
                mesh = read_mesh(folder / orders.STAGE_1_MESH)
                source = Result(config, gaussians, mesh, {"seconds": {}}, gaussians, gaussians.means.detach())
            yield refine(source, pictures, config=config, on_progress=Teller(job, 0.0, 0.9), **calls)
            return
        share = ROUNDS * (REFINED if order.is_refined else 1.0)
        result = reconstruct(pictures, config=config, on_progress=Teller(job, 0.0, share), **calls)
        yield result
        if order.is_refined:
            yield refine(result, on_progress=Teller(job, share + 0.05, 0.95), **calls)


def _pictures(folder: Path, recenter: bool) -> list[Image.Image] | list[torch.Tensor]:
    """The pictures that were uploaded, to be cut out, or cut-outs that are to be taken as they are, as tensors [4,S,S]; several of those
    are framed, equally high, with `recenter`."""
    if paths := [path for name in orders.CUT_OUTS if (path := folder / name).is_file()]:
        images = []
        for path in paths:
            with Image.open(path, formats=["PNG"]) as image:
                images.append(image.convert("RGBA"))
        if len(images) > 1:
            images, _ = prepared_together([CutOut(image, False, None) for image in images], recenter)
        return [torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1).contiguous() for image in images]
    return [read_image(path) for name in orders.PICTURES if (path := folder / name).is_file()]


class Teller:
    """Passes what a run tells on to its job, as a share of the whole from `begin` to `end`, now and then with a picture of the object."""

    def __init__(self, job: Job, begin: float, end: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._job, self._begin, self._end, self._clock = job, begin, end, clock
        self._shown, self._cost = clock() - PREVIEW_SECONDS, 0.0

    def __call__(self, update: Update) -> None:
        if update.finished:
            words = {"load": "read the input", "fit": "making the mesh", "mesh": "made the mesh"}
            if update.phase in words:
                fraction = self._begin if update.phase == "load" else self._end
                self._job.told(update.phase, words[update.phase], fraction)
            return
        preview = None
        if update.preview and update.phase == "fit" and self._clock() - self._shown >= max(PREVIEW_SECONDS, self._cost / PREVIEW_SHARE):
            start = self._clock()
            preview = as_jpeg(update.preview())
            self._shown = self._clock()
            self._cost = self._shown - start
        fraction = self._begin + (self._end - self._begin) * update.fraction
        self._job.told(update.phase, update.note.partition(", loss")[0], fraction, update.seconds_left, preview)


def as_jpeg(images: torch.Tensor) -> bytes:
    """A picture [1,3,H,W] in [0,1] as a file."""
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(images)[0]).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()
