"""The HTTP API: `/v1/jobs`, and the three calls that 3D tools speak (`/generate`, `/send`, `/status`), over one queue (docs/api.md).

Needs the extra `web`. Uploads are read a few at a time and each within bounds; errors are JSON, `{"error": "one line"}`.
"""

import asyncio
import base64
import dataclasses
import hmac
import io
import json
import logging
import zipfile
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from microdreamer.core.errors import UserError, one_line
from microdreamer.web import orders
from microdreamer.web.jobs import DONE, ENDED, FAILED, Full, Jobs, State, Unknown
from microdreamer.web.making import SHAPE
from microdreamer.web.orders import TYPES, Order

if TYPE_CHECKING:
    from fastapi import FastAPI

    from microdreamer.web.making import Maker

log = logging.getLogger(__name__)

OWNER = "api"
MAX_BODY = orders.MAX_UPLOAD * 3 // 2 + orders.MIB  # bytes: a picture in base64, or several of that size together, or one and a small mesh
UPLOADS_AT_ONCE, UPLOAD_SECONDS = 4, 60.0
POLL_SECONDS = 0.2
REFINED_TYPES = ("glb", "obj", "stl")
MEDIA = {
    ".glb": "model/gltf-binary",
    ".obj": "model/obj",
    ".mtl": "model/mtl",
    ".stl": "model/stl",
    ".png": "image/png",
    ".mp4": "video/mp4",
    ".json": "application/json",
    ".zip": "application/zip",
}


class Refused(Exception):
    """An answer other than success: its HTTP status and its line."""

    def __init__(self, status: int, line: str, **headers: str) -> None:
        super().__init__(line)
        self.status, self.headers = status, headers


def create_api(jobs: Jobs, maker: "Maker", token: str | None = None) -> "FastAPI":
    """The application. token: what `Authorization: Bearer TOKEN` has to say; None lets everybody in who reaches the port."""
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException

    from microdreamer.web.bodies import Generate, NewJob, read_model, schema_of

    app = FastAPI(title="MicroDreamerOptimized", description=DESCRIPTION, version="1", docs_url="/docs", redoc_url=None)
    if token:
        app.add_middleware(TokenGuard, token=token)
    uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)

    # ---- Errors ----

    def failure(status: int, line: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": line}, status, headers=headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return failure(error.status, str(error), error.headers)

    @app.exception_handler(HTTPException)
    async def not_found(_: Request, error: HTTPException) -> JSONResponse:
        return failure(error.status_code, str(error.detail).lower() + "; see /docs")

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> JSONResponse:
        return failure(500, f"a fault of the program ({type(error).__name__}); its log has the details")

    @app.exception_handler(UserError)
    async def user_error(_: Request, error: UserError) -> JSONResponse:
        if isinstance(error, Full):
            return failure(429, one_line(error), {"Retry-After": "30"})
        return failure(404 if isinstance(error, Unknown) else 400, one_line(error))

    async def body_of(request: Request, model: type) -> Any:
        """The request's body, read within bounds, as a model."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # Which a page of another origin cannot send without being asked first.
            raise Refused(415, "expected JSON with the header `Content-Type: application/json`")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > MAX_BODY:
            raise Refused(413, TOO_LARGE)

        async def read() -> bytearray:
            data = bytearray()
            async for part in request.stream():
                data += part
                if len(data) > MAX_BODY:
                    raise Refused(413, TOO_LARGE)
            return data

        try:
            data = await asyncio.wait_for(read(), UPLOAD_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            raise Refused(408, f"the upload took more than {UPLOAD_SECONDS:.0f} seconds") from None
        return await run_in_threadpool(read_model, model, bytes(data))

    async def submitted(request: Request, model: type) -> tuple[Any, State]:
        async with uploads:
            body = await body_of(request, model)
            order, files = await run_in_threadpool(body.read)
            try:
                return body, await run_in_threadpool(submit, jobs, maker, order, files, OWNER)
            except OSError as error:
                log.error("an upload could not be kept", exc_info=error)
                raise Refused(507, "the server cannot keep the upload: its disk is full, or cannot be written to") from None

    async def watched(id: str, request: Request) -> AsyncIterator[State]:
        """A job's state now and at each change, until it has ended or nobody listens."""
        version = -1
        while not await request.is_disconnected():
            state = jobs.state(id)
            if state.version != version:
                version = state.version
                yield state
            if state.status in ENDED:
                return
            await asyncio.sleep(POLL_SECONDS)

    # ---- What 3D tools speak ----

    @app.post("/generate", tags=["as other 3D servers"], openapi_extra=schema_of(Generate))
    async def generate(request: Request) -> Response:
        """Make one object and answer with its file. Hanging up cancels it."""
        body, state = await submitted(request, Generate)
        id = state.id
        async for state in watched(id, request):  # noqa: B007
            pass
        if state.status not in ENDED:
            jobs.cancel(id)
        if state.status != DONE:
            raise Refused(422 if state.status == FAILED else 409, state.error or "the job was cancelled")
        name, data = await run_in_threadpool(packed, jobs, state)
        headers = {"X-Job": id, "Content-Disposition": f'attachment; filename="object.{body.type}"'}
        if ignored := body.ignored:
            headers["X-Ignored"] = ", ".join(ignored)
        return Response(data, media_type=media_type(name), headers=headers)

    @app.post("/send", tags=["as other 3D servers"], openapi_extra=schema_of(Generate))
    async def send(request: Request) -> dict[str, str]:
        """Queue one object; `/status/UID` tells of it."""
        _, state = await submitted(request, Generate)
        return {"uid": state.id}

    @app.get("/status/{uid}", tags=["as other 3D servers"])
    async def status(uid: str) -> Response:
        """`{"status": "processing"}`, `{"status": "completed", "model_base64": ...}` or `{"status": "error", "message": ...}`."""
        try:
            state = jobs.state(uid)
        except Unknown as error:
            return JSONResponse({"status": "error", "message": one_line(error), "error": one_line(error)}, 404)
        if state.status == DONE:
            _, data = await run_in_threadpool(packed, jobs, state)
            return JSONResponse({"status": "completed", "model_base64": base64.b64encode(data).decode()})
        if state.status in ENDED:
            return JSONResponse({"status": "error", "message": state.error or "the job was cancelled"})
        return JSONResponse({"status": "processing", "fraction": state.fraction, "ahead": state.ahead})

    @app.get("/health", tags=["as other 3D servers"])
    async def health() -> dict[str, Any]:
        return {"status": "healthy", "waiting": jobs.waiting}

    # ---- Jobs ----

    @app.get("/v1", tags=["jobs"])
    async def about() -> dict[str, Any]:
        """What this server takes and how much of it."""
        return {
            "prior": maker.config.prior,
            "accepts": sorted(maker.prior.accepts),
            "presets": {name: words for name, (words, _) in orders.PRESETS.items()},
            "types": list(TYPES),
            "limits": {
                "upload_bytes": orders.MAX_UPLOAD,
                "megapixels": orders.MAX_MEGAPIXELS,
                "pictures": len(orders.PICTURES),
                "prompt_characters": orders.MAX_PROMPT,
                "faces": orders.MAX_FACES,
                "texture_size": orders.MAX_TEXTURE,
                "waiting_jobs": jobs.most_waiting,
            },
            "waiting": jobs.waiting,
        }

    @app.post("/v1/jobs", status_code=202, tags=["jobs"], openapi_extra=schema_of(NewJob))
    async def new_job(request: Request, response: Response) -> dict[str, Any]:
        """Queue a job."""
        _, state = await submitted(request, NewJob)
        response.headers["Location"] = f"/v1/jobs/{state.id}"
        return described(state)

    @app.get("/v1/jobs", tags=["jobs"])
    async def all_jobs() -> dict[str, Any]:
        """The jobs that came over HTTP and have not been swept yet, the oldest first."""
        return {"jobs": [described(state) for state in jobs.states(OWNER)], "waiting": jobs.waiting}

    @app.get("/v1/jobs/{id}", tags=["jobs"])
    async def one_job(id: str) -> dict[str, Any]:
        """How far a job is."""
        return described(jobs.state(id))

    @app.delete("/v1/jobs/{id}", tags=["jobs"])
    async def cancel(id: str) -> dict[str, Any]:
        """Cancel a job that waits or runs; one that has ended stays as it is."""
        return described(jobs.cancel(id))

    @app.get("/v1/jobs/{id}/events", tags=["jobs"])
    async def events(id: str, request: Request) -> Response:
        """Server-sent events: each a state as JSON, at every change until the job has ended."""
        jobs.state(id)

        async def lines() -> AsyncIterator[str]:
            try:
                async for state in watched(id, request):
                    yield f"data: {json.dumps(described(state))}\n\n"
            except Unknown as error:  # swept meanwhile
                yield f"event: error\ndata: {json.dumps({'error': one_line(error)})}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.get("/v1/jobs/{id}/preview.jpg", tags=["jobs"])
    async def preview(id: str) -> Response:
        """The newest picture of the object while it is made."""
        if (data := jobs.preview(id)) is None:
            raise Unknown(f"job {id}: no picture yet")
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    @app.get("/v1/jobs/{id}/files/{name:path}", tags=["jobs"])
    async def file(id: str, name: str) -> Response:
        """A file of a job that is done, by its name in `files`."""
        path = jobs.file(id, name)
        return FileResponse(path, media_type=media_type(path.name), filename=path.name)

    return app


class TokenGuard:
    """Answers 401 to whoever asks for a guarded path without the token."""

    def __init__(self, app: Any, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith(GUARDED):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                line = "expected the header `Authorization: Bearer TOKEN` with this server's token"
                headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": json.dumps({"error": line}).encode()})
                return
        await self._app(scope, receive, send)


GUARDED = ("/v1", "/generate", "/send", "/status", "/docs", "/openapi.json")
TOO_LARGE = f"the request is too large: expected at most {MAX_BODY // orders.MIB} MiB"
DESCRIPTION = 'A picture, a sentence or both become 3D Gaussians and a textured mesh. Errors are JSON: `{"error": "one line"}`.'


def submit(jobs: Jobs, maker: "Maker", order: Order, files: dict[str, bytes], owner: str) -> State:
    """Queue an order and its uploads, checked. Raises UserError."""
    orders.check(order, files, maker.config, maker.prior)
    return jobs.submit(order, files, owner, check=lambda folder: orders.check_files(folder, list(files)))


def described(state: State) -> dict[str, Any]:
    """A state as JSON, with the addresses of its files."""
    files = {name: f"/v1/jobs/{state.id}/files/{name}" for name in state.files}
    return dataclasses.asdict(state) | {"files": files}


def packed(jobs: Jobs, state: State) -> tuple[str, bytes]:
    """The one file that stands for a result, of the type that was asked for: its name and bytes. Raises UserError."""
    order: Order = jobs.request(state.id)
    type, stem = order.type, order.name
    if type == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in state.files:
                archive.write(jobs.file(state.id, name), name)
        return "object.zip", buffer.getvalue()
    endings = [f"_refined.{type}", TYPES[type]] if type in REFINED_TYPES else [TYPES[type]]
    if not order.textured and type in ("glb", "obj"):
        endings = [f"_refined{SHAPE}.{type}", f"{SHAPE}.{type}"]
    for ending in endings:
        if (name := f"{stem}{ending}") in state.files:
            return name, jobs.file(state.id, name).read_bytes()
    raise UserError(f"type={type}: this job made none; it made {', '.join(state.files)}")


def media_type(name: str) -> str:
    return MEDIA.get(name[name.rfind(".") :], "application/octet-stream")
