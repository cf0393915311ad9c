"""The page: a Gradio app over the queue of jobs. Needs the extra `web`; everything of Gradio is imported where it is used.

What a visitor sees is told by the jobs' states; nothing is computed here but the cut-out. Files reach the browser as copies in a folder
that Gradio serves and sweeps; no other folder is served.
"""

import asyncio
import base64
import contextlib
import html
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microdreamer.core.errors import UserError, one_line
from microdreamer.pipeline.inputs import SIDES
from microdreamer.web import orders
from microdreamer.web.api import POLL_SECONDS, submit
from microdreamer.web.cutting import MIDDLE, WAYS, cut
from microdreamer.web.jobs import DONE, ENDED, FAILED, QUEUED, Jobs, State, Unknown
from microdreamer.web.orders import PRESETS, Order

if TYPE_CHECKING:
    from fastapi import FastAPI

    from microdreamer.web.making import Maker

OWNER = "page"
CUTS_AT_ONCE, VISITORS = 1, 100  # cut-outs that are made, and jobs that are watched, at the same time
CUT_OUT: dict[str, Any] = {
    "image_mode": "RGBA",
    "format": "png",
    "type": "filepath",
    "interactive": False,
    "buttons": [],
}  # shown, not taken
QUEUE_SECONDS = 5.0  # between two looks at the queue's length
TITLE = "MicroDreamer: a picture, a sentence or both to a 3D object"
CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important }
.told { min-height: 2.5rem } .told progress { width: 100%; height: 1rem } .told img { width: 100%; max-width: 256px; border-radius: 8px }
.told .failed { border-left: 4px solid #c62828; padding: .4rem .8rem; background: #fdecea; color: #5f1412 }
.told .notes { opacity: .75; font-size: .9em }
.of_a_side { min-height: 0; overflow-wrap: anywhere }
footer { display: none !important }
"""


def add_page(app: "FastAPI", jobs: Jobs, maker: "Maker", auth: str | None = None, cache: Path | None = None) -> "FastAPI":
    """Put the page at `/` of an application. auth: USER:PASSWORD that it asks for. cache: folder of the copies that are served."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    cache = cache or Path(tempfile.mkdtemp(prefix="microdreamer-page-"))
    os.environ["GRADIO_TEMP_DIR"] = str(cache)
    import gradio as gr

    blocks = Page(jobs, maker, cache / "results").blocks()
    app.add_middleware(NothingFetched)
    user, _, password = (auth or "").partition(":")
    return gr.mount_gradio_app(
        app,
        blocks,
        path="",
        auth=(user, password) if auth else None,
        max_file_size=orders.MAX_UPLOAD,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        ssr_mode=False,
        show_error=False,
    )


class NothingFetched:
    """Answers 404 where Gradio would fetch an address of the visitor's choice and pass it on."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and re.match(r"/gradio_api/(file=|proxy=)\s*/*\s*[a-zA-Z]+:", scope["path"]):
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"not found"})
            return
        await self._app(scope, receive, send)


class Page:
    """What the page's buttons do, over the jobs of `maker`; `served` is a folder of Gradio's for copies of results."""

    def __init__(self, jobs: Jobs, maker: "Maker", served: Path) -> None:
        self.jobs, self.maker, self.served = jobs, maker, served

    # ---- What is shown ----

    def blocks(self) -> Any:
        """The page."""
        import gradio as gr

        self._gr = gr
        own = {"api_visibility": "private"}
        with gr.Blocks(title="MicroDreamer", analytics_enabled=False, delete_cache=(600, 24 * 3600)) as blocks:
            job, shown, history = gr.State(""), gr.State(""), gr.State([])  # ids: watched, shown, all of this visit
            gr.Markdown(f"## {TITLE}")
            queue = gr.Markdown(self.queue_length())
            with gr.Row():
                with gr.Column(scale=1, min_width=320):
                    picture = gr.File(
                        label="Picture of the object", file_types=["image"], file_count="single", height=120, elem_id="picture"
                    )
                    prompt = gr.Textbox(
                        label="What it is, in a sentence", placeholder="a wooden chair", max_length=orders.MAX_PROMPT, elem_id="prompt"
                    )
                    cut_out = gr.Image(
                        label="What will be made",
                        height=256,
                        elem_id="cut_out",
                        **CUT_OUT,
                    )
                    said = gr.HTML(elem_classes="told", elem_id="said")
                    with gr.Accordion("Other sides of the same object", open=False, elem_id="sides"):
                        gr.Markdown("The picture above is its front. Left and right are yours, as it faces you.")
                        sides = [self._side(name) for name in SIDES.values()]
                    with gr.Accordion("Correct the cut-out", open=False):
                        way = gr.Radio(list(WAYS), value="automatic", label="How the object is found")
                        threshold = gr.Slider(0.05, 0.95, MIDDLE, step=0.05, label="Threshold: lower keeps more")
                        recenter = gr.Checkbox(True, label="Put it in the middle")
                    choices = [(f"{name}: {words}", name) for name, (words, _) in PRESETS.items()]
                    preset = gr.Radio(choices, value="normal", label="Quality", elem_id="preset")
                    with gr.Accordion("More", open=False):
                        elevation = gr.Slider(-60, 60, 0, step=1, label="Camera of the picture in degrees; negative: it looks from above")
                        seed = gr.Number(0, precision=0, minimum=0, label="Seed")
                        faces = gr.Number(None, precision=0, label=f"Most faces of the mesh, up to {orders.MAX_FACES}")
                        texture = gr.Dropdown([("as configured", 0), 512, 1024, 2048], value=0, label="Texels a side")
                        size = gr.Number(None, minimum=0, label="Size of a print in mm: writes STL too", elem_id="size")
                        negative = gr.Textbox(label="What it is not", max_length=orders.MAX_PROMPT)
                    with gr.Row():
                        make = gr.Button("Make it", variant="primary", elem_id="make")
                        cancel = gr.Button("Cancel", variant="stop", interactive=False, elem_id="cancel")
                    with gr.Accordion("Gaussians of another program to a mesh", open=False, elem_id="other"):
                        others = gr.File(label="Gaussians", file_types=[".ply", ".spz", ".glb"], height=120, elem_id="others")
                        mesh_of = gr.Button("Make a mesh of them", elem_id="mesh_of")
                with gr.Column(scale=2, min_width=320):
                    told = gr.HTML("Pictures and results stay on this server until they are swept.", elem_classes="told", elem_id="told")
                    with gr.Tabs():
                        with gr.Tab("Mesh"):
                            mesh = gr.Model3D(label="Mesh", height=420, elem_id="mesh")
                        with gr.Tab("Gaussians"):
                            splats = gr.Model3D(label="Gaussians", height=420, elem_id="splats")
                        with gr.Tab("Views"):
                            views = gr.Image(label="Eight views", interactive=False, elem_id="views", buttons=["download", "fullscreen"])
                        with gr.Tab("Film"):
                            film = gr.Video(label="Turntable", interactive=False, loop=True, autoplay=True, elem_id="film")
                        with gr.Tab("Files"):
                            files = gr.File(label="Downloads", file_count="multiple", interactive=False, elem_id="files")
                    refine = gr.Button("Refine this result", interactive=False, elem_id="refine")
                    earlier = gr.Dropdown([], label="Results of this visit", interactive=True, elem_id="history")
            outputs = [shown, refine, mesh, splats, views, film, files]
            for given, shown_cut, shown_said in [(picture, cut_out, said), *sides]:
                cutting = {
                    "inputs": [given, way, threshold, recenter],
                    "outputs": [shown_cut, shown_said],
                    "show_progress": "minimal",
                } | own
                for change in (given.change, way.change, threshold.release, recenter.change):
                    change(self.cut_out, concurrency_limit=CUTS_AT_ONCE, concurrency_id="cut", **cutting)
            words = [cut_out, picture, prompt, negative, preset, elevation, seed, faces, texture, size, recenter]
            words += [part for given, shown_cut, _ in sides for part in (given, shown_cut)]
            watching = {"outputs": [told, job, make, cancel], "concurrency_limit": VISITORS, "concurrency_id": "watch"}
            watching |= {"show_progress": "hidden"} | own
            # Not by the generators that watch: a viewer that gets its file from one does not always show it.
            showing = {"inputs": [job, history], "outputs": [history, earlier, *outputs], "show_progress": "hidden"} | own
            for start, call, inputs in (
                (make.click, self.make, words),
                (prompt.submit, self.make, words),
                (refine.click, self.refine, [shown]),
                (mesh_of.click, self.mesh_of, [others, faces, texture, size]),
            ):
                start(call, inputs, **watching).then(self.show_new, **showing)
            cancel.click(self.cancel, [job], [cancel], queue=False, **own)
            earlier.input(self.show_earlier, [earlier], [told, *outputs], show_progress="hidden", **own)
            gr.Timer(QUEUE_SECONDS).tick(self.queue_length, None, queue, queue=False, show_progress="hidden", **own)
        blocks.queue(api_open=False, max_size=VISITORS, default_concurrency_limit=8)
        return blocks

    def _side(self, name: str) -> tuple[Any, Any, Any]:
        """Where a picture of another side is given, its cut-out, and what is said of it."""
        gr = self._gr
        with gr.Row():
            given = gr.File(
                label=name.capitalize(), file_types=["image"], file_count="single", height=120, min_width=140, elem_id=f"picture_{name}"
            )
            cut_out = gr.Image(
                label="Cut out",
                height=120,
                min_width=140,
                elem_id=f"cut_out_{name}",
                **CUT_OUT,
            )
        said = gr.HTML(elem_classes="told of_a_side", elem_id=f"said_{name}", padding=False)
        return given, cut_out, said

    def queue_length(self) -> str:
        """How many wait."""
        return f"{self.jobs.waiting} waiting, of at most {self.jobs.most_waiting}"

    # ---- What buttons do ----

    def cut_out(self, picture: str | None, way: str, threshold: float, recenter: bool) -> tuple[Any, str]:
        """The cut-out of an upload, or why there is none."""
        if not picture:
            return None, ""
        try:
            found = cut(Path(picture), way, threshold, recenter)
        except UserError as error:
            return None, failure(one_line(error))
        return found.image, notes([found.said] if found.said else [])

    async def make(self, cut_out: str | None, picture: str | None, *words: Any) -> AsyncIterator[list[Any]]:
        """Queue what is shown and watch it."""
        prompt, negative, preset, elevation, seed, faces, texture, size, recenter, *sides = words
        try:
            given = dict(zip((0.0, *SIDES), [(picture, cut_out), *zip(sides[::2], sides[1::2], strict=True)], strict=True))
            if any(path and not shown for path, shown in given.values()):
                raise UserError("there is no cut-out of a picture yet: wait for it, or choose another way of finding the object")
            found = {azimuth: Path(shown) for azimuth, (path, shown) in given.items() if path}
            first = next((path for path, _ in given.values() if path), None)
            name = Path(first).stem.removesuffix("_rgba") if first else prompt or "object"
            order = Order(
                prompt=prompt or None,
                negative_prompt=negative or None,
                preset=preset,
                seed=int(seed or 0),
                elevation=float(elevation or 0),
                azimuth=tuple(found) if found else None,
                recenter=bool(recenter),
                faces=int(faces) if faces else None,
                texture_size=int(texture) or None,
                size_mm=size or None,
                name=name,
            )
            files = {name: path.read_bytes() for name, path in zip(orders.CUT_OUTS, found.values(), strict=False)}
            state = await asyncio.to_thread(submit, self.jobs, self.maker, order, files, OWNER)
        except (UserError, OSError) as error:
            yield self._updates(failure(one_line(error)), "")
            return
        async for updates in self._watched(state.id):
            yield updates

    async def mesh_of(self, splats: str | None, faces: float | None, texture: int, size: float | None) -> AsyncIterator[list[Any]]:
        """Queue the mesh of a file of Gaussians, and watch it."""
        try:
            if not splats:
                raise UserError("no file of Gaussians was given")
            faces, texture = int(faces) if faces else None, int(texture) or None
            order = Order(faces=faces, texture_size=texture, size_mm=size or None, name=Path(splats).stem)
            files = {orders.SPLATS: Path(splats).read_bytes()}
            state = await asyncio.to_thread(submit, self.jobs, self.maker, order, files, OWNER)
        except (UserError, OSError) as error:
            yield self._updates(failure(one_line(error)), "")
            return
        async for updates in self._watched(state.id):
            yield updates

    async def refine(self, job: str) -> AsyncIterator[list[Any]]:
        """Queue the refinement of the result that is shown, and watch it."""
        try:
            order: Order = self.jobs.request(job)
            files = {
                orders.STAGE_1_MESH: self.jobs.file(job, f"{order.name}_model.glb"),
                orders.STAGE_1_SPLATS: self.jobs.file(job, f"{order.name}_model.ply"),
            }
            files |= {name: given for name in orders.CUT_OUTS if (given := self.jobs.folder / job / name).is_file()}
            state = await asyncio.to_thread(self.jobs.submit, order, files, OWNER)
        except (UserError, OSError) as error:
            yield self._updates(failure(one_line(error)), "")
            return
        async for updates in self._watched(state.id):
            yield updates

    def cancel(self, job: str) -> Any:
        """Cancel the job that is watched."""
        with contextlib.suppress(Unknown):
            self.jobs.cancel(job)
        return self._gr.update(interactive=False)

    def show_new(self, job: str, history: list[str]) -> list[Any]:
        """The result of the job that has just ended, if it has one; else what was shown stays."""
        gr = self._gr
        try:
            state = self.jobs.state(job)
        except Unknown:
            return [gr.skip()] * 9
        if state.status != DONE or job in history:
            return [gr.skip()] * 9
        history = [*history, job]
        choices = [(self._title(number, done), done) for number, done in enumerate(history, 1)]
        return [history, gr.update(choices=choices, value=job), *self._shown(state)]

    def show_earlier(self, job: str | None) -> list[Any]:
        """A result of this visit again."""
        try:
            state = self.jobs.state(job or "")
        except Unknown as error:
            return [failure(one_line(error)), "", self._gr.update(interactive=False), *[None] * 5]
        return [as_html(state, None), *self._shown(state)]

    # ---- Watching ----

    async def _watched(self, id: str) -> AsyncIterator[list[Any]]:
        """What is told of a job, at each change and each second; a visitor who leaves cancels it."""
        version, told_at = -1, 0.0
        try:
            while (state := self.jobs.state(id)).status not in ENDED:
                if state.version != version or time.monotonic() - told_at >= 1:
                    version, told_at = state.version, time.monotonic()
                    yield self._updates(as_html(state, self.jobs.preview(id)), id, running=True)
                await asyncio.sleep(POLL_SECONDS)
            yield self._updates(as_html(state, None), id)
        except Unknown as error:
            yield self._updates(failure(one_line(error)), "")
        finally:
            with contextlib.suppress(Unknown):
                if self.jobs.state(id).status not in ENDED:
                    self.jobs.cancel(id)

    def _updates(self, told: str, job: str, running: bool = False) -> list[Any]:
        """What is told, the id of the watched job, and which of the buttons to make and to cancel can be pressed."""
        return [told, job, self._gr.update(interactive=not running), self._gr.update(interactive=running)]

    def _title(self, number: int, id: str) -> str:
        try:
            order: Order = self.jobs.request(id)
        except Unknown:
            return f"{number}: swept"
        refined = any(name.endswith("_refined.glb") for name in self.jobs.state(id).files)
        return f"{number}: {order.name}{', refined' if refined else ''} (seed {order.seed})"

    def _shown(self, state: State) -> list[Any]:
        """The id of a result, whether it can be refined, its mesh, Gaussians, views, film and all its files.

        Files are copies that Gradio may serve; those of jobs that have been swept go.
        """
        if state.status != DONE:
            return [state.id, self._gr.update(interactive=False), *[None] * 5]
        (folder := self.served / state.id).mkdir(parents=True, exist_ok=True)
        for other in self.served.iterdir():
            try:
                self.jobs.state(other.name)
            except Unknown:
                shutil.rmtree(other, ignore_errors=True)
        copies = {}
        for name in state.files:
            copies[name] = folder / name
            if not copies[name].exists():
                shutil.copyfile(self.jobs.file(state.id, name), copies[name])
        turned = folder / "viewer" / "gaussians.ply"
        stem = self.jobs.request(state.id).name

        def first(*endings: str) -> str | None:
            return next((str(copies[f"{stem}{ending}"]) for ending in endings if f"{stem}{ending}" in copies), None)

        if (splats := first("_model.ply")) and not turned.is_file():
            turn_for_viewer(Path(splats), turned)
        shown = [first("_refined.glb", "_model.glb"), str(turned) if splats else None]
        shown += [first("_refined_views.png", "_views.png"), first("_refined.mp4", ".mp4")]
        can_refine = f"{stem}_model.ply" in copies and f"{stem}_refined.glb" not in copies
        files = [str(path) for path in copies.values()]
        return [state.id, self._gr.update(interactive=can_refine), *shown, files]


def turn_for_viewer(source: Path, target: Path) -> None:
    """Write the Gaussians of a file as Gradio's viewer wants them: -y up, seen from -z, as in captures."""
    from microdreamer.gaussians import captures
    from microdreamer.gaussians.model import GaussianModel
    from microdreamer.gaussians.splat_files import read_splats

    turned = captures.upright(read_splats(source).parameters, "-y")
    GaussianModel.from_arrays(turned, "cpu").save_ply(target)


def failure(line: str) -> str:
    return f'<div class="failed" role="alert">{html.escape(line)}</div>'


def notes(lines: list[str]) -> str:
    return "".join(f'<div class="notes">{html.escape(line)}</div>' for line in lines)


def as_html(state: State, preview: bytes | None) -> str:
    """A job's state, for people; whatever comes from outside is text in it."""
    if state.status == FAILED:
        return failure(state.error or "failed")
    if state.status == QUEUED:
        before = "next" if state.ahead == 0 else f"{state.ahead} before it"
        return f'<div role="status">waiting, {before}</div>'
    if state.status == DONE:
        return f'<div role="status">done in {clock(state.seconds)}</div>' + notes(list(state.notes))
    if state.status in ENDED:
        return f'<div role="status">{state.status}</div>'
    left = f", about {clock(state.seconds_left)} of rounds left" if state.seconds_left is not None else ""
    text = f"{state.note or 'starting'}: {state.fraction:.0%}, {clock(state.seconds)} so far{left}"
    shown = [f'<progress max="1" value="{state.fraction:.3f}"></progress><div role="status">{html.escape(text)}</div>']
    if preview:
        shown.append(f'<img alt="the object as it is now" src="data:image/jpeg;base64,{base64.b64encode(preview).decode()}">')
    return "".join(shown) + notes(list(state.notes))


def clock(seconds: float) -> str:
    """A time in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
