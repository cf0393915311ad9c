"""The bodies of requests, as the OpenAPI page tells them. Needs the extra `web`: imported by `create_api` alone."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from microdreamer.core.errors import UserError
from microdreamer.web import orders
from microdreamer.web.orders import PRESETS, TYPES, Order

# Settings of other models, which mean nothing here.
OTHERS = frozenset({"octree_resolution", "num_inference_steps", "guidance_scale", "num_chunks", "remove_background"})
STL_SIZE = 100.0  # mm along the longest side, where none was asked for
BASE64 = "in base64, with or without the head of a data URL"


class NewJob(BaseModel):
    """A picture, a sentence or both; or a mesh, to be refined by either; or Gaussians, to be made a mesh."""

    model_config = ConfigDict(extra="forbid")

    picture: str | None = Field(None, description=f"the object's picture {BASE64}; without alpha its background is cut out")
    pictures: list[str] | None = Field(
        None, min_length=1, max_length=len(orders.PICTURES), description="several pictures of the object, in place of picture"
    )
    azimuth: list[float] | None = Field(
        None, description="where each picture's camera stands in degrees: 0 front, 90 right, 180 back, 270 left; without: found"
    )
    prompt: str | None = Field(None, description="what the object is")
    negative_prompt: str | None = Field(None, description="what it is not")
    mesh: str | None = Field(None, description=f"a GLB to paint and refine, {BASE64}")
    splats: str | None = Field(None, description=f"Gaussians of any program as PLY, .spz or .glb, to be made a textured mesh, {BASE64}")
    size_mm: float | None = Field(None, description="also write STL for a printer, so many millimetres along its longest side")
    preset: str = Field("normal", description="; ".join(f"{name}: {words}" for name, (words, _) in PRESETS.items()))
    refine: bool = Field(False, description="stage 2 after stage 1, whatever the preset")
    seed: int = Field(0, ge=0, le=2**63 - 1)
    elevation: float | list[float] = Field(
        0.0, description="of the picture's camera in degrees, or of each picture's; negative looks from above"
    )
    faces: int | None = Field(None, description=f"most faces of the mesh, at most {orders.MAX_FACES}")
    texture_size: int | None = Field(None, description=f"texels a side, at most {orders.MAX_TEXTURE}")
    name: str = Field("object", description="what the files are called")

    def read(self) -> tuple[Order, dict[str, bytes]]:
        """The order and its uploads. Raises UserError."""
        if self.picture and self.pictures:
            raise UserError("picture and pictures: expected one of them")
        pictures = self.pictures or ([self.picture] if self.picture else [])
        named = [f"pictures.{index}" for index in range(len(pictures))] if self.pictures else ["picture"]
        files = dict(zip(orders.PICTURES, zip(named, pictures, strict=bool(pictures)), strict=False)) if pictures else {}
        files |= {orders.MESH: ("mesh", self.mesh), orders.SPLATS: ("splats", self.splats)}
        keys = ("prompt", "negative_prompt", "preset", "refine", "seed", "faces", "texture_size", "size_mm", "name")
        places = {key: tuple(value) if isinstance(value := getattr(self, key), list) else value for key in ("elevation", "azimuth")}
        return Order(**{key: getattr(self, key) for key in keys}, **places), _decoded(files)


class Generate(BaseModel):
    """What 3D tools post to /generate and /send. Settings of other models are ignored, and named in the header `X-Ignored`."""

    model_config = ConfigDict(extra="allow")

    image: str | None = Field(None, description=f"the object's picture {BASE64}")
    text: str | None = Field(None, description="what the object is")
    mesh: str | None = Field(None, description=f"a GLB to paint and refine, {BASE64}")
    seed: int = Field(0, ge=0, le=2**63 - 1)
    face_count: int | None = Field(None, description=f"most faces of the mesh, at most {orders.MAX_FACES}")
    texture: bool = Field(True, description="false: the bare shape (glb, obj)")
    type: str = Field("glb", description=f"one of {', '.join(TYPES)}; ply, splat and spz are Gaussians, zip holds everything")
    preset: str = Field("normal", description="as of /v1/jobs")

    @property
    def ignored(self) -> list[str]:
        """Fields that were sent and mean nothing here."""
        return sorted(self.model_extra or {})

    def read(self) -> tuple[Order, dict[str, bytes]]:
        """The order and its uploads. Raises UserError."""
        extra: dict[str, Any] = self.model_extra or {}
        if views := [key for key in extra if key.startswith("image_") and extra[key]]:
            raise UserError(f"{views[0]}: one picture here, as image; POST /v1/jobs takes several, as pictures")
        if unknown := sorted(key for key in extra if key not in OTHERS and not key.startswith("image_")):
            raise UserError(f"{unknown[0]}: no such field; see /docs")
        if self.type not in TYPES:
            raise UserError(f"type={self.type}: expected one of {', '.join(TYPES)}")
        files = _decoded({orders.PICTURE: ("image", self.image), orders.MESH: ("mesh", self.mesh)})
        if self.mesh and self.type not in ("glb", "obj", "stl", "zip"):
            raise UserError(f"type={self.type}: expected glb, obj, stl or zip for a mesh that is refined")
        order = Order(
            prompt=self.text,
            preset=self.preset,
            seed=self.seed,
            faces=self.face_count,
            textured=self.texture,
            size_mm=STL_SIZE if self.type == "stl" else None,
            type=self.type,
        )
        return order, files


def _decoded(fields: dict[str, tuple[str, str | None]]) -> dict[str, bytes]:
    return {name: decoded(field, text) for name, (field, text) in fields.items() if text}


def read_model(model: type[BaseModel], data: bytes) -> Any:
    """The body as a model. Raises UserError, in one line, for what does not fit it."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {first['msg']}" if where else f"the body: {first['msg']}") from None


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI is told of a body that is read by hand."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


def decoded(field: str, text: str) -> bytes:
    """The bytes of base64, with or without the head of a data URL. Raises UserError."""
    head, comma, _ = text[:200].partition(",")
    body = text[len(head) + 1 :] if comma and head.startswith("data:") else text
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{field}: expected base64") from None
