"""The work behind launch.py's words: train, test, export. Prints nothing; progress goes to the caller, who may also stop it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cam_utils import orbit_cameras
from microdreamer.core.errors import Stopped, UserError, memory_error, one_line, user_errors
from microdreamer.core.files import atomic_write, clean_name, user_path
from microdreamer.core.machine import choose_device, device_name, peak_memory_mib, versions
from microdreamer.core.staging import staged
from microdreamer.fields.field_mesh import mesh_from_field
from microdreamer.fields.volume_model import VolumeModel
from microdreamer.generators.library import PromptLibrary, load_library
from microdreamer.generators.sentence_store import SentenceStore
from microdreamer.guidance import load_prior
from microdreamer.guidance.base import Prior
from microdreamer.images.reference import Reference, reference_view
from microdreamer.images.writing import write_sheet
from microdreamer.meshes.baking import bake, unwrapped
from microdreamer.meshes.files import write_mesh
from microdreamer.meshes.mesh import Mesh
from microdreamer.pipeline.launch import checkpoint, published
from microdreamer.pipeline.launch.config import GENERATORS, LaunchConfig
from microdreamer.pipeline.launch.learners import make_learner
from microdreamer.pipeline.launch.sentence_feed import SentenceFeed
from microdreamer.pipeline.launch.trainer import ALONE, Shard, Trainer, middle_view
from microdreamer.pipeline.launch.views import SHEET_VIEWS, frames, try_film, write_preview
from microdreamer.pipeline.pictures import as_picture
from microdreamer.pipeline.progress import OnProgress, ShouldStop, Update, Watch

log = logging.getLogger(__name__)

NOTHING = 'nothing to make: pass prompt="a sentence", input=picture.png, or both'
REPORT_EVERY = 16  # steps between two looks at the loss, each of which waits for a GPU


def run_folder(config: LaunchConfig) -> Path:
    """`exp_root_dir/name/tag`; the tag is that of the library, the words of the prompt, or the picture's name, unless given.

    Raises UserError for none of them.
    """
    words, library, tag = config.system.prompt_processor.prompt, config.system.prompt_processor.library, config.tag
    if tag is None and library:
        tag = clean_name(Path(library).stem)
    elif tag is None and words:
        tag = clean_name(re.sub(r"\W+", "_", words).strip("_")[:60])
    elif tag is None and config.input:
        tag = clean_name(Path(config.input).stem.removesuffix("_rgba"))
    elif tag is None:
        raise UserError(NOTHING)
    for key, name in (("name", config.name), ("tag", tag)):
        if clean_name(name) != name:
            raise UserError(f"{key}={name}: expected a plain name; exp_root_dir=FOLDER sets where it goes")
    return user_path(config.exp_root_dir) / config.name / tag


def end_of(config: LaunchConfig, start: int, highres: bool) -> int:
    """The step up to which a call trains: the end of the first stage, or with `highres` that of the run."""
    milestones = config.data.resolution_milestones
    if highres or not milestones or start >= milestones[0]:
        return config.trainer.max_steps
    return min(milestones[0], config.trainer.max_steps)


@contextlib.contextmanager
def processes(config: LaunchConfig) -> Iterator[tuple[Shard, LaunchConfig]]:
    """This process's place among those that torchrun started, and the configuration with its device."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE, config
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = choose_device(config.device).type == "cuda"
    if on_gpu:
        config = dataclasses.replace(config, device=f"cuda:{local}")
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Shard(rank, world), config
    finally:
        dist.destroy_process_group()


def make_trainer(config: LaunchConfig, prior: Prior | None = None, shard: Shard = ALONE) -> Trainer:
    """Everything loaded and checked. Raises UserError for what does not fit together."""
    words = config.system.prompt_processor.prompt
    library = None if config.system.geometry.type not in GENERATORS else library_of(config)
    if not words and not config.input and library is None:
        raise UserError(NOTHING)
    device = choose_device(config.device) if prior is None else prior.device
    chosen = config.system.guidance
    with user_errors():
        rgba = None if config.input is None else as_picture(config.input, True, log.info)
        if prior is None:
            prior = load_prior(chosen.prior, chosen.prior_path, device, chosen.precision, chosen.prior_memory)
        if library is not None:
            log.info("%s", library)
            folder = user_path(config.exp_root_dir) / "sentences"
            negative, kinds = config.system.prompt_processor.negative_prompt, ("global", *_kinds_read(config))
            try:
                store = SentenceStore.open(library.sentences, prior, negative, folder, kinds=kinds)
            except ValueError as error:  # a sentence that the prior cannot read
                raise UserError(f"library={library.name}: {one_line(error)}") from None
            return Trainer(config, prior, None, shard=shard, sentences=SentenceFeed(library, store, config.seed, device))
        takes_picture = "image" in prior.accepts
        if rgba is not None and not takes_picture and not words:
            prior.check_condition(rgba, None)  # raises: it names the priors that do
        sentences = config.system.prompt_processor
        condition = prior.condition(rgba if takes_picture else None, sentences.prompt, sentences.negative_prompt, -config.elevation)
        picture = None if rgba is None else _picture_view(config, rgba, device)
        return Trainer(config, prior, condition, picture, shard)


def _kinds_read(config: LaunchConfig) -> tuple[str, ...]:
    """The embeddings that a generator reads beside one vector a sentence."""
    return ("local",) if config.system.geometry.type == "triplane" and config.system.generator.text == "local" else ()


def library_of(config: LaunchConfig) -> PromptLibrary:
    """The sentences that a generator learns. Raises UserError for what is no library."""
    assert config.system.prompt_processor.library is not None  # the configuration was checked
    return load_library(config.system.prompt_processor.library)


def _picture_view(config: LaunchConfig, rgba: Tensor, device: torch.device) -> Any:
    """The picture as a reference view of any size, from the middle of the training views' distances."""
    distance, fov_y = middle_view(config)

    def view(size: int) -> Reference:
        camera = orbit_cameras(-config.elevation, 0.0, distance, fov_y=fov_y, width=size, height=size, device=device)
        return reference_view(rgba, camera)

    return view


def train(
    config: LaunchConfig,
    *,
    highres: bool = False,
    prior: Prior | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Path:
    """Train to the end of the first stage (`highres`: of the run), or from `config.resume` on; returns the last checkpoint.

    A checkpoint is written every `trainer.checkpoint_every` steps, at the end, and where the caller stops it, who then sees Stopped.
    Raises UserError for whatever does not fit together.
    """
    folder = run_folder(config)
    with processes(config) as (shard, config):
        device = choose_device(config.device) if prior is None else prior.device
        watch = Watch(device, on_progress if shard.rank == 0 else None, should_stop)
        with watch.phase("load"):
            before = checkpoint.find(user_path(config.resume)) if config.resume else None
            state = None if before is None else trainable(before)
            if before is not None and state is not None:  # before anything is written
                check_make(config, state, before)
            trainer = make_trainer(config, prior, shard)
            start = 0 if before is None else restore(trainer, before, state)
            checkpoint.check_place(folder, start)
        if trainer.objective is None and shard.world > 1:
            raise UserError("system.guidance.objective=sir runs in one process; start it without torchrun")
        try:
            if trainer.objective is None:
                return _train_rounds(trainer, folder, start, watch)
            return _train_steps(trainer, folder, start, highres, watch)
        finally:
            trainer.close()


def _begin(trainer: Trainer, folder: Path) -> _Scalars:
    """The first files of a run, once nothing is left to refuse."""
    first = trainer.shard.rank == 0
    scalars = _Scalars(folder, trainer.config.trainer.enable_tensorboard and first)
    if first:
        write_config(trainer.config, folder)
    return scalars


def _train_steps(trainer: Trainer, folder: Path, start: int, highres: bool, watch: Watch) -> Path:
    config, settings = trainer.config, trainer.config.trainer
    end = end_of(config, start, highres)
    if start >= end:
        raise UserError(f"resume={config.resume}: has {start} steps of {end} already; raise trainer.max_steps, or pass --train_highres")
    scalars = _begin(trainer, folder)
    began, note, path = time.perf_counter(), "", checkpoint.path_of(folder, start)
    with watch.phase("train", announce=False):
        for step in range(start, end):
            found = trainer.step(step)
            done = step + 1
            if done % REPORT_EVERY == 0 or done == end:
                values = {name: float(value) for name, value in found.items()}
                note = f"step {done}/{end}, loss {values['loss_guidance']:.3g}"
                scalars.write(values, done)
            spent = time.perf_counter() - began
            share = (done - start) / (end - start)
            # With several processes each look waits for all of their GPUs.
            stopping = (trainer.shard.world == 1 or done % REPORT_EVERY == 0) and _agreed(watch, trainer.shard)
            if stopping or done % settings.checkpoint_every == 0 or done == end:
                path = save(trainer, folder, done)
            if done % settings.preview_every == 0 or done == end:
                write_preview(trainer, folder)
            watch.tell(Update("train", spent, False, share, spent / share - spent, note))
            if stopping:
                raise Stopped(str(path))
    watch.announce("train")
    return path


def _train_rounds(trainer: Trainer, folder: Path, start: int, watch: Watch) -> Path:
    """SIR; a checkpoint's steps are rounds. Checkpoints and previews come with the round in which their step is."""
    settings, rounds = trainer.config.trainer, len(trainer.rounds)
    if start >= rounds:
        raise UserError(f"resume={trainer.config.resume}: has all {rounds} rounds already")
    scalars = _begin(trainer, folder)
    began, path = time.perf_counter(), checkpoint.path_of(folder, start)
    with watch.phase("train", announce=False):
        for index in range(start, rounds):
            loss = trainer.round(index)
            spent, share = time.perf_counter() - began, (index + 1 - start) / (rounds - start)
            before, done = (trainer.rounds[k].steps.stop if k >= 0 else 0 for k in (index - 1, index))
            last = index + 1 == rounds
            scalars.write({"loss_fit": loss}, done)
            stopping = _agreed(watch, trainer.shard)
            if stopping or last or before // settings.checkpoint_every < done // settings.checkpoint_every:
                path = save(trainer, folder, index + 1)
            if last or before // settings.preview_every < done // settings.preview_every:
                write_preview(trainer, folder)
            watch.tell(Update("train", spent, False, share, spent / share - spent, f"round {index + 1}/{rounds}, loss {loss:.3g}"))
            if stopping:
                raise Stopped(str(path))
    watch.announce("train")
    return path


def _agreed(watch: Watch, shard: Shard) -> bool:
    """Whether the caller wants the run to stop; with several processes, whether any of their callers does."""
    try:
        watch.check()
        asked = False
    except Stopped:
        asked = True
    if shard.world == 1:
        return asked
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(float(asked), device=device)
    dist.all_reduce(flag)
    return bool(flag)


# ---- Checkpoints ----


def save(trainer: Trainer, folder: Path, step: int) -> Path:
    """Write the state after `step` steps (of SIR: rounds); only the first process does. Raises UserError where it cannot."""
    path = checkpoint.path_of(folder, step)
    if trainer.shard.rank == 0:
        state = {"step": step, "config": dataclasses.asdict(trainer.config), "versions": versions(), "learner": trainer.learner.state()}
        with user_errors():
            checkpoint.save(path, state)
        checkpoint.drop_old(folder, set(trainer.config.data.resolution_milestones))
    return path


# What the tensors of a checkpoint depend on, or mean; and what of it may change all the same.
SHAPES = ("system.geometry", "system.generator", "system.background.type", "system.background.encoding", "system.renderer.grid_resolution")
FREE = ("normal_type", "num_pts", "densify_grad_threshold")


def trainable(path: Path) -> dict[str, Any]:
    """The state of a checkpoint that training can go on from. Raises UserError for one that is only there to be used."""
    if published.is_published(path):
        raise UserError(
            f"{path}: a published network is there to be used (--generate, --test), not to be trained on; start without resume="
        )
    state = checkpoint.load(path)
    if not state["learner"].get("optimizer"):
        raise UserError(f"{path}: holds a model to use, without the optimiser's state that training goes on from; start without resume=")
    return state


def restore(trainer: Trainer, path: Path, state: dict[str, Any] | None = None) -> int:
    """Put a checkpoint's state (`trainable`) into a run; returns its steps. Raises UserError for one of a run of another make."""
    state = trainable(path) if state is None else state
    before, now = state["config"]["system"]["guidance"]["objective"], trainer.config.system.guidance.objective
    if (before == "sir") != (now == "sir"):
        raise UserError(f"{path}: was trained with system.guidance.objective={before}, now {now}; sir counts rounds, the others steps")
    check_make(trainer.config, state, path)
    _fill(trainer.learner.load, state, path)
    return int(state["step"])


def check_make(config: LaunchConfig, state: dict, path: Path) -> None:
    """Raises UserError where the checkpoint at `path` was of another make than the configuration asks for."""
    for key in SHAPES:
        before, now = _at(state["config"], key), _at(dataclasses.asdict(config), key)
        if before is None:  # an older checkpoint, of a kind that does not know the key
            continue
        if isinstance(now, dict):
            before, now = ({name: value for name, value in group.items() if name not in FREE} for group in (before, now))
        if before != now:
            different = next((name for name in now if before.get(name) != now[name]), "") if isinstance(now, dict) else ""
            where = f"{key}.{different}" if different else key
            old, new = (value.get(different) if different else value for value in (before, now))
            raise UserError(
                f"{path}: was trained with {where}={old}, now {new}; leave {where} as it was (without --config, all is as it was)"
            )


def _fill(load: Callable[[dict], None], state: dict, path: Path) -> None:
    """Put the state of the checkpoint at `path`, of the right make, into a learner by its `load`. Raises UserError where it does not."""
    try:
        load(state["learner"])
    except (RuntimeError, KeyError, ValueError) as error:
        if memory_error(error):
            raise
        raise UserError(f"{path}: does not fit this configuration ({' '.join(str(error).split())[:200]})") from None


def _at(config: dict, key: str) -> Any:
    """The value of a key, None where there is none."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def stored_config(path: Path) -> dict:
    """The configuration that a checkpoint was trained with, of a published network the published one."""
    if published.is_published(path):
        return published.stored_config(path)
    return checkpoint.load_numbers(path)["config"]


# ---- What a trained run gives ----


def trained(config: LaunchConfig) -> tuple[Any, int, torch.device]:
    """The model of `config.resume`, or of the run's last checkpoint; its steps; its device. Raises UserError where there is none."""
    folder = run_folder(config)
    if not config.resume and not checkpoint.written(folder):
        raise UserError(
            f"{folder}: no checkpoint there; make one with --train, or pass resume=FILE, or the prompt (tag=) of a run that has"
        )
    path = checkpoint.find(user_path(config.resume) if config.resume else folder)
    device = choose_device(config.device)
    if published.is_published(path):
        return *published.load_model(config, path, device), device
    state = checkpoint.load(path, device)
    check_make(config, state, path)
    with user_errors():
        width = state["learner"].get("text_width")
        learner = make_learner(config, torch.Generator().manual_seed(config.seed), device, width, unfilled=True)
    _fill(learner.load_model, state, path)
    return learner.model.eval(), int(state["step"]), device


def test(config: LaunchConfig, on_progress: OnProgress | None = None, should_stop: ShouldStop | None = None) -> Path:
    """Write the film, a sheet of views and a record of a trained run; returns their common stem.

    Raises UserError where it cannot, and Stopped, before anything is written, where the caller stops it.
    """
    model, step, device = trained(config)
    stem, data = run_folder(config) / "save" / f"step_{step}", config.data
    watch = Watch(device, on_progress, should_stop)
    began, parts, rows = time.perf_counter(), [], []
    with watch.phase("test"):
        for tiles in frames(model, config, data.n_test_views, data.eval_size, device):
            parts.append(tiles["image"].cpu())
            rows.append((torch.cat(list(tiles.values()), dim=3) * 255).round().byte().cpu())
            done = sum(len(part) for part in parts)
            spent = time.perf_counter() - began
            share = done / data.n_test_views
            watch.tell(Update("test", spent, False, share, spent / share - spent, f"frame {done}/{data.n_test_views}"))
            watch.check()
    images, film = torch.cat(parts), torch.cat(rows)
    seconds = time.perf_counter() - began
    record = {
        "step": step,
        "frames": len(images),
        "frames_per_second": round(len(images) / seconds, 3),
        "peak_memory_mib": peak_memory_mib(device),
        "device": device_name(device),
        "versions": versions(),
        "config": dataclasses.asdict(config),
    }
    chosen = [len(images) * k // SHEET_VIEWS for k in range(SHEET_VIEWS)]
    with user_errors(), staged(stem, ("_views.png", ".mp4", ".json")) as aside:
        write_sheet(f"{aside}_views.png", images[chosen], columns=SHEET_VIEWS // 2)
        try_film(f"{aside}.mp4", film)
        Path(f"{aside}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return stem


def export(config: LaunchConfig, on_progress: OnProgress | None = None, should_stop: ShouldStop | None = None) -> Path:
    """Write the textured mesh of a trained run; returns its stem.

    Raises UserError where there is no surface, and Stopped, before anything is written, where the caller stops it.
    """
    model, step, device = trained(config)
    stem = run_folder(config) / "save" / f"step_{step}_mesh"
    watch = Watch(device, on_progress, should_stop)
    with user_errors(), watch.phase("mesh"):
        mesh = _mesh_of(model, config)
    watch.check()
    with user_errors(), watch.phase("write"), staged(stem, (".obj", ".mtl", "_albedo.png", ".glb")) as aside:
        write_mesh(mesh, aside, config.export.mesh_format)
    return stem


def _mesh_of(model: Any, config: LaunchConfig) -> Mesh:
    from microdreamer.gaussians.extraction import extract_mesh

    wanted = config.export
    if not isinstance(model, VolumeModel):
        mesh = extract_mesh(model, None, 16 * round(wanted.resolution / 16), wanted.faces, color_vertices=False)
        return bake(unwrapped(mesh, wanted.texture_size, wanted.unwrap), wanted.texture_size, model, None, model.device)
    geometry: Any = model.geometry
    return mesh_from_field(
        geometry.density,
        lambda points: model.material(geometry(points, _toward_middle(points)).features),
        radius=config.system.geometry.radius,
        device=model.device,
        resolution=wanted.resolution,
        threshold=wanted.threshold if wanted.threshold == "auto" else float(wanted.threshold),
        faces=wanted.faces,
        texture_size=wanted.texture_size,
        unwrap=wanted.unwrap,
    )


def _toward_middle(points: Tensor) -> Tensor:
    """The direction from which a point is seen where its colour must not depend on one: from outside, toward the middle."""
    return -torch.nn.functional.normalize(points, dim=-1)


class _Scalars:
    """Scalars for TensorBoard, where asked for."""

    def __init__(self, folder: Path, enabled: bool) -> None:
        self._writer: Any = None
        if enabled:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("trainer.enable_tensorboard=true: pip install tensorboard; or leave it out") from None
            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items() if self._writer else ():
            self._writer.add_scalar(name, value, step)


def write_config(config: LaunchConfig, folder: Path) -> None:
    """The resolved configuration, as a file that --config reads."""
    from omegaconf import OmegaConf

    with user_errors(), atomic_write(folder / "config.yaml") as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))), encoding="utf-8")
