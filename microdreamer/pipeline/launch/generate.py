"""What a network that was trained on a prompt library makes of sentences: assets, films between two sentences, renders for evaluation.

Prints nothing; progress goes to the caller, who may also stop it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from microdreamer.core.errors import Stopped, UserError, user_errors
from microdreamer.core.files import clean_name
from microdreamer.core.machine import device_name, peak_memory_mib, versions
from microdreamer.core.staging import staged
from microdreamer.fields.field_mesh import CHUNK, mesh_from_field
from microdreamer.generators.text_to_shape import OneShape, Shapes, TextToShape
from microdreamer.guidance import load_sentence_encoder
from microdreamer.guidance.sentences import GLOBAL, SentenceEncoder
from microdreamer.images.writing import encoded_png, to_bytes, write_sheet
from microdreamer.meshes.baking import bake_function, unwrapped
from microdreamer.meshes.files import is_open, write_mesh, write_ply
from microdreamer.meshes.mesh import Mesh
from microdreamer.pipeline.launch.config import GENERATORS, LaunchConfig
from microdreamer.pipeline.launch.result_folder import (
    PROMPTS,
    RECORD,
    folder_names,
    frames_of,
    plain_name,
    read_prompts,
    read_record,
    write_json,
)
from microdreamer.pipeline.launch.run import library_of, processes, run_folder, trained
from microdreamer.pipeline.launch.trainer import ALONE, Shard, film_cameras
from microdreamer.pipeline.launch.views import FRAMES_PER_CALL, SHEET_VIEWS, tiles_of, try_film
from microdreamer.pipeline.progress import OnProgress, ShouldStop, Update, Watch

log = logging.getLogger(__name__)

SENTENCES_PER_PASS = 4  # the largest published grid of voxels takes 0.3 GB a sentence
SUFFIXES = ("_views.png", ".mp4", ".obj", ".mtl", "_albedo.png", ".glb", ".ply", ".json")
MAX_SENTENCE = 1000  # characters; text towers read far less, and say so
NAME_LENGTH = 60  # of each of two sentences in the name of the film between them
RENDERED = ("step", "frames", "size", "elevation", "camera_distance", "fovy")  # of a record: what renders of one folder share


class Texts(NamedTuple):
    """Of B sentences: what the generator reads, [B,C] or [B,T,C], and their vectors [B,C], which a background may read."""

    text: Tensor
    pooled: Tensor

    def part(self, which: slice) -> Texts:
        return Texts(self.text[which], self.pooled[which])


@dataclasses.dataclass(frozen=True)
class Author:
    """A trained network with the encoder that it was trained with; `step` optimiser steps made it."""

    model: TextToShape
    encoder: SentenceEncoder
    step: int
    device: torch.device

    @torch.no_grad()
    def read(self, sentences: Sequence[str]) -> Texts:
        """Raises ValueError for sentences that the encoder cannot read."""
        states = self.encoder.encode(sentences)
        return Texts(*(states.text(kind).to(self.device) for kind in (self.model.geometry.text, GLOBAL)))

    @torch.no_grad()
    def shapes(self, texts: Texts) -> Shapes:
        """All of them in one pass. What the network leaves to chance is the same each time."""
        return self.model.condition(texts.text, texts.pooled)


def check_library(config: LaunchConfig) -> None:
    """Raises UserError where the run learns one object alone."""
    kind = config.system.geometry.type
    if kind not in GENERATORS:
        raise UserError(
            f"system.geometry.type={kind} holds one object, which --test and --export show; {', '.join(GENERATORS)} take sentences"
        )


def load_author(config: LaunchConfig) -> Author:
    """From `config.resume`, or the run's last checkpoint. Raises UserError where there is none, or it is of a run without a library."""
    check_library(config)
    model, step, device = trained(config)
    chosen = config.system.guidance
    with user_errors():
        return Author(model, load_sentence_encoder(chosen.prior, chosen.prior_path, device, chosen.precision), step, device)


# ---- Assets ----


def generate(
    config: LaunchConfig,
    sentences: Sequence[str],
    out: Path | None = None,
    *,
    author: Author | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> list[Path]:
    """Film, sheet of views, textured mesh (GLB, OBJ), coloured mesh (PLY) and record of each sentence; returns their stems in `out`.

    Where a sentence's shape has no surface, the rest of it and of the others is written, and UserError says so at the end. Raises
    UserError for sentences of no words or too many, and Stopped between two assets, with their folder if there is one, where the caller
    stops it.
    """
    names = {prompt: name for name, prompt in folder_names(_words(sentences)).items()}
    began = time.perf_counter()
    author = author or load_author(config)
    watch = Watch(author.device, on_progress, should_stop)
    watch.seconds["load"] = time.perf_counter() - began
    watch.announce("load")
    folder = out or run_folder(config) / "save" / f"step_{author.step}_generated"
    stems, failures, prompts = [], [], list(names)
    with user_errors(), watch.phase("text", announce=False):
        texts = author.read(prompts)
    of_text = watch.seconds["text"] / len(prompts)
    for first in range(0, len(prompts), SENTENCES_PER_PASS):
        chosen, before = prompts[first : first + SENTENCES_PER_PASS], dict(watch.seconds)
        with user_errors(), watch.phase("pass", announce=False):
            shapes = author.shapes(texts.part(slice(first, first + SENTENCES_PER_PASS)))
        shared = {"text": of_text, "pass": _since(before, watch)["pass"] / len(chosen)}
        for index, prompt in enumerate(chosen):
            stem = folder / names[prompt]
            try:
                watch.check()
                with user_errors():
                    failure = _write_asset(author.model.shape(shapes, index), prompt, stem, config, author, watch, shared)
            except Stopped:
                raise Stopped(str(folder) if stems else "") from None
            stems.append(stem)
            if failure:
                failures.append(f"{prompt!r} has no mesh: {failure}")
    for name in ("text", "pass", "film", "mesh", "texture", "write"):
        watch.announce(name)
    if failures:
        raise UserError(f"{'; '.join(failures)}; everything else was written to {folder}")
    return stems


def _words(sentences: Sequence[str]) -> Sequence[str]:
    if not sentences or not all(sentence.strip() for sentence in sentences):
        raise UserError('nothing to make: expected a sentence of at least one word, as in "a red car"')
    for sentence in sentences:
        if len(sentence) > MAX_SENTENCE:
            raise UserError(
                f"a sentence of {len(sentence)} characters ({sentence[:30]!r}...): expected at most {MAX_SENTENCE}; text towers read "
                "the first 77 tokens, some 300 characters: say it in fewer words"
            )
    return sentences


def _since(before: dict[str, float], watch: Watch) -> dict[str, float]:
    """Seconds of each phase since its clock stood as `before` says."""
    return {name: seconds - before.get(name, 0.0) for name, seconds in watch.seconds.items() if seconds > before.get(name, 0.0)}


def _write_asset(
    shape: OneShape, prompt: str, stem: Path, config: LaunchConfig, author: Author, watch: Watch, shared: dict[str, float]
) -> str:
    """Everything of one sentence; returns why there is no mesh, or nothing. shared: seconds of what was done for several at once."""
    before, meshes, failure = dict(watch.seconds), None, ""
    with watch.phase("film", announce=False):
        film, images = _film(shape, config, watch, prompt)
    try:
        with watch.phase("mesh", announce=False):
            mesh = mesh_of(shape, config)
        with watch.phase("texture", announce=False):
            meshes = mesh, painted_mesh(mesh, shape, config)
    except ValueError as error:
        failure = " ".join(str(error).split())
    watch.check()
    with watch.phase("write", announce=False), staged(stem, SUFFIXES) as aside:
        write_sheet(f"{aside}_views.png", images, columns=SHEET_VIEWS // 2)
        try_film(Path(f"{aside}.mp4"), film)
        if meshes is not None:
            mesh, painted = meshes
            write_mesh(painted, aside, config.export.mesh_format)
            write_ply(mesh, f"{aside}.ply")
        record = {
            "prompt": prompt,
            "step": author.step,
            # Those of what several sentences share are divided among them; writing itself is not done yet.
            "seconds": {name: round(seconds, 4) for name, seconds in (shared | _since(before, watch)).items()},
            "mesh": None if meshes is None else _mesh_record(meshes[0]),
            "failure": failure or None,
            "film": _film_record(config),
            "peak_memory_mib": peak_memory_mib(author.device),
            "device": device_name(author.device),
            "versions": versions(),
            "config": dataclasses.asdict(config),
        }
        Path(f"{aside}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return failure


def _mesh_record(mesh: Mesh) -> dict[str, int | bool]:
    return {"vertices": len(mesh.vertices), "faces": len(mesh.faces), "watertight": not is_open(mesh.faces)}


def mesh_of(shape: OneShape, config: LaunchConfig) -> Mesh:
    """The closed surface of a shape, with colours at its vertices. Raises ValueError where it has none in its box."""
    wanted = config.export
    return mesh_from_field(
        shape.sdf,
        shape.color,
        kind="sdf",
        radius=shape.radius,
        resolution=wanted.resolution,
        faces=wanted.faces,
        texture_size=None,
        device=shape.device,
    )


def painted_mesh(mesh: Mesh, shape: OneShape, config: LaunchConfig) -> Mesh:
    """The mesh unwrapped, with the shape's colours as a texture."""
    wanted = config.export
    layout = unwrapped(Mesh(mesh.vertices, mesh.faces), wanted.texture_size, wanted.unwrap)
    return bake_function(layout, wanted.texture_size, shape.color, shape.device, chunk=CHUNK)


def _film_record(config: LaunchConfig) -> dict[str, float]:
    data = config.data
    return {
        "frames": data.n_test_views,
        "size": data.eval_size,
        "elevation": data.eval_elevation,
        "camera_distance": data.eval_camera_distance,
        "fovy": data.eval_fovy,
    }


def _film(shape: OneShape, config: LaunchConfig, watch: Watch, note: str, normals: bool = True) -> tuple[Tensor, Tensor]:
    """Frames [T,3,H,W] as bytes, tiles side by side, and the pictures [SHEET_VIEWS,3,H,H] of some of them.

    Normals, by differences of distances at all samples, take three quarters of the time.
    """
    data, rows, done = config.data, [], 0
    began = time.perf_counter()
    while done < data.n_test_views:
        numbers = range(done, min(done + FRAMES_PER_CALL, data.n_test_views))
        seen = shape.render(film_cameras(config, data.n_test_views, data.eval_size, shape.device, numbers), normals=normals)
        rows.append(_bytes(torch.cat(list(tiles_of(seen).values()), dim=3)))
        done = numbers.stop
        share, spent = done / data.n_test_views, time.perf_counter() - began
        watch.tell(Update("film", spent, False, share, spent / share - spent, f"{note}, frame {done}/{data.n_test_views}"))
        watch.check()
    film = torch.cat(rows)
    chosen = [len(film) * k // SHEET_VIEWS for k in range(SHEET_VIEWS)]
    return film, film[chosen, :, :, : data.eval_size].float() / 255


def _bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().byte().cpu()


# ---- Between two sentences ----


def interpolate(
    config: LaunchConfig,
    first: str,
    second: str,
    out: Path | None = None,
    steps: int | None = None,
    *,
    author: Author | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Path:
    """A film of `steps` frames (default: data.n_test_views) from the first sentence's shape to the second's, once around the object.

    Each frame shows the shape of an embedding between the two: of the first sentence in the first frame, of the second in the last.
    Returns the stem of film, sheet and record. Raises UserError for sentences of no words, and Stopped, with nothing written.
    """
    _words([first, second])
    author = author or load_author(config)
    steps = config.data.n_test_views if steps is None else steps
    if steps < 2:
        raise UserError(f"{steps} frames between two sentences: expected at least 2; raise data.n_test_views")
    watch = Watch(author.device, on_progress, should_stop)
    folder = out or run_folder(config) / "save" / f"step_{author.step}_between"
    stem = folder / clean_name("_to_".join(plain_name(sentence)[:NAME_LENGTH] for sentence in (first, second)))
    began, parts = time.perf_counter(), []
    with user_errors(), watch.phase("film"):
        texts = author.read([first, second])
        for image in between(author, config, texts, steps):
            parts.append(_bytes(image))
            done = sum(len(part) for part in parts)
            spent, share = time.perf_counter() - began, done / steps
            watch.tell(Update("film", spent, False, share, spent / share - spent, f"frame {done}/{steps}"))
            watch.check()
    film = torch.cat(parts)
    record = {
        "first": first,
        "second": second,
        "step": author.step,
        "seconds": watch.seconds,
        "film": _film_record(config) | {"frames": steps},
    }
    record |= {"device": device_name(author.device), "versions": versions(), "config": dataclasses.asdict(config)}
    chosen = [round((steps - 1) * k / (SHEET_VIEWS - 1)) for k in range(SHEET_VIEWS)]
    with user_errors(), staged(stem, ("_views.png", ".mp4", ".json")) as aside:
        write_sheet(f"{aside}_views.png", film[chosen].float() / 255, columns=SHEET_VIEWS // 2)
        try_film(Path(f"{aside}.mp4"), film)
        Path(f"{aside}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return stem


@torch.no_grad()
def between(author: Author, config: LaunchConfig, texts: Texts, steps: int) -> Iterator[Tensor]:
    """Pictures [V,3,H,H], a few at a time, of shapes at even distances between two sentences, seen from around."""
    size = config.data.eval_size
    for first in range(0, steps, FRAMES_PER_CALL):
        numbers = range(first, min(first + FRAMES_PER_CALL, steps))
        shares = torch.tensor([number / (steps - 1) for number in numbers], device=author.device)
        mixed = Texts(*(torch.stack([torch.lerp(values[0], values[1], share) for share in shares]) for values in texts))
        cameras = film_cameras(config, steps, size, author.device, numbers)
        yield author.model.render(cameras, author.shapes(mixed)).image.clamp(0, 1)


# ---- Renders for evaluation ----


def render_library(
    config: LaunchConfig, split: str = "test", on_progress: OnProgress | None = None, should_stop: ShouldStop | None = None
) -> Path:
    """`write_renders` of the sentences `split` of the configuration's library, in the run's folder, by all processes of torchrun."""
    check_library(config)
    sentences = getattr(library_of(config), split)
    with processes(config) as (shard, config):
        author = load_author(config)
        folder = run_folder(config) / "save" / f"step_{author.step}_{split}"
        return write_renders(author, config, sentences, folder, shard=shard, on_progress=on_progress, should_stop=should_stop)


def write_renders(
    author: Author,
    config: LaunchConfig,
    prompts: Sequence[str],
    folder: Path,
    *,
    shard: Shard = ALONE,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Path:
    """The film of each prompt, as frames and as a video, in `folder` as `result_folder` has it; returns the folder.

    Prompts whose frames are all there are left as they are, so that a run which was stopped is gone on with. Several processes share
    the prompts. Raises UserError where the folder holds renders of something else, and Stopped, with the folder, where the caller stops it.
    """
    names = folder_names(prompts)
    with user_errors():
        _claim(folder, names, {"step": author.step} | _film_record(config), config, author.device)
    watch = Watch(author.device, on_progress, should_stop)
    mine = list(names.items())[shard.rank :: shard.world]
    left = [(name, prompt) for name, prompt in mine if not _is_whole(folder / name, config.data.n_test_views)]
    began = time.perf_counter()
    with user_errors(), watch.phase("test"):
        for done, (name, prompt) in enumerate(left, 1):
            try:
                watch.check()
                shape = author.model.shape(author.shapes(author.read([prompt])))
                film, _ = _film(shape, config, Watch(author.device, None, should_stop), prompt, normals=False)
            except Stopped:
                raise Stopped(str(folder)) from None
            _write_frames(folder, name, film)
            spent, share = time.perf_counter() - began, done / len(left)
            note = f"prompt {len(mine) - len(left) + done}/{len(mine)}"
            watch.tell(Update("test", spent, False, share, spent / share - spent, note))
    return folder


def _claim(folder: Path, names: dict[str, str], made: dict[str, Any], config: LaunchConfig, device: torch.device) -> None:
    """Write what is in the folder, or see that it is that already. Raises UserError where it is something else."""
    before, known = read_record(folder), read_prompts(folder)
    for key in RENDERED:
        if before and before.get(key) != made[key]:
            raise UserError(
                f"{folder}: holds renders with {key}={before.get(key)}, now {made[key]}; remove them or choose another tag=NAME"
            )
    if known is not None and known != names:
        raise UserError(f"{folder / PROMPTS}: the folder holds renders of other prompts; remove them or choose another tag=NAME")
    if not before:
        more = {"device": device_name(device), "versions": versions(), "config": dataclasses.asdict(config)}
        write_json(folder / RECORD, made | more)
    if known is None:
        write_json(folder / PROMPTS, names)


def _is_whole(folder: Path, count: int) -> bool:
    return folder.is_dir() and len(frames_of(folder)) == count


def _write_frames(folder: Path, name: str, film: Tensor) -> None:
    """The film beside its folder of frames, which gets its name when all are there."""
    aside = folder / f".{name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        for number, frame in enumerate(to_bytes(film)):
            (aside / f"{number:03d}.png").write_bytes(encoded_png(Image.fromarray(frame)))
        try_film(folder / f"{name}.mp4", film)
        place = folder / name
        if place.is_dir():  # some of its frames were lost
            for path in sorted(aside.iterdir()):
                os.replace(path, place / path.name)
        else:
            os.replace(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
