"""Materials of glTF: the colour that a surface has of its own, its textures, and what of it is seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from microdreamer.meshes.formats.gltf_document import Document
from microdreamer.meshes.surface import CLAMP, MIRROR, REPEAT, SEEN, Material, Texture

_WRAPS = {33071: CLAMP, 33648: MIRROR, 10497: REPEAT}
_NEAREST = 9728
SOURCES = ("EXT_texture_webp", "EXT_texture_avif", "KHR_texture_basisu", "MSFT_texture_dds")  # of pictures, by who can read them
UNMOVED = np.array([[1.0, 0, 0], [0, 1, 0]])


class Layer(NamedTuple):
    """Where a texture's coordinates come from: the number of the set, None for no texture, and what they are multiplied by [2,3]."""

    uv_set: int | None = None
    matrix: np.ndarray = UNMOVED


class Materials:
    """The materials of a file, each read once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.notes: list[str] = []
        self.without_statement = Material(stated=False)
        self.without_statement_but_colours = Material()
        self._known: dict[tuple, tuple[Material, tuple[Layer, Layer]]] = {}
        self._textures: dict[tuple, Texture] = {}
        self._pictures: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}

    def get(self, index: int | None, uv_names: list[str]) -> tuple[Material, tuple[Layer, Layer]]:
        """A material for vertices with the texture coordinates `uv_names`, and the layers of its texture and of its emission's."""
        if index is None:
            return self.without_statement, (Layer(), Layer())
        key = (index, *uv_names)
        if key not in self._known:
            self._known[key] = self._read(self.document.item("materials", index), uv_names)
        return self._known[key]

    def _read(self, material: dict, uv_names: list[str]) -> tuple[Material, tuple[Layer, Layer]]:
        extensions = material.get("extensions", {})
        old = extensions.get("KHR_materials_pbrSpecularGlossiness")
        base = material.get("pbrMetallicRoughness", {}) if old is None else old
        color = _numbers(base, "baseColorFactor" if old is None else "diffuseFactor", [1, 1, 1, 1])
        texture, layer = self._texture(base.get("baseColorTexture" if old is None else "diffuseTexture"), uv_names)
        emission, emission_texture, emission_layer = np.zeros(3), None, Layer()
        if "KHR_materials_unlit" not in extensions:
            strength = float(extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1))
            emission = _numbers(material, "emissiveFactor", [0, 0, 0]) * strength
            if emission.any():
                emission_texture, emission_layer = self._texture(material.get("emissiveTexture"), uv_names)
        silent = not any(key.startswith(("baseColor", "diffuse")) for key in base)
        if texture is None and (color[:3] == 1).all() and (emission_texture is not None or (silent and emission.any())):
            color = np.array([0, 0, 0, color[3]])  # a white that nobody chose: all there is to see is emitted
        if emission_texture is not None and texture is not None and emission_texture.pixels is texture.pixels:
            emission, emission_texture, emission_layer = np.zeros(3), None, Layer()  # one picture, said twice so that no light is needed
        mode = material.get("alphaMode", "OPAQUE")
        cutoff = {"MASK": float(material.get("alphaCutoff", 0.5)), "BLEND": SEEN}.get(mode)
        if cutoff is None:
            color = np.array([*color[:3], 1.0])
            texture = self._opaque(texture)
        return Material(color, texture, emission, emission_texture, cutoff), (layer, emission_layer)

    def _texture(self, info: dict | None, uv_names: list[str]) -> tuple[Texture | None, Layer]:
        """The texture that a material names, and its layer; none where the vertices lack its coordinates."""
        if info is None:
            return None, Layer()
        moved = info.get("extensions", {}).get("KHR_texture_transform", {})
        uv_set = moved.get("texCoord", info.get("texCoord", 0))
        if f"TEXCOORD_{uv_set}" not in uv_names:
            self.notes.append("a texture is left out where the mesh has no coordinates for it")
            return None, Layer()
        number = info["index"]
        if number not in self._textures:
            entry = self.document.item("textures", number)
            sampler = self.document.item("samplers", entry["sampler"]) if "sampler" in entry else {}
            wrap = (_WRAPS.get(sampler.get("wrapS"), REPEAT), _WRAPS.get(sampler.get("wrapT"), REPEAT))
            self._textures[number] = Texture(*self._picture(entry), wrap, sampler.get("magFilter") == _NEAREST)
        return self._textures[number], Layer(uv_set, _uv_matrix(moved))

    def _picture(self, texture: dict) -> tuple[np.ndarray, np.ndarray | None]:
        """The first of a texture's pictures that can be read; formats that every reader knows come first."""
        extensions = texture.get("extensions", {})
        choices = [texture, *(extensions[name] for name in SOURCES if name in extensions)]
        problem: Exception = ValueError("one of its textures has no picture; save the mesh with PNG or JPEG textures")
        for number in (choice["source"] for choice in choices if "source" in choice):
            try:
                if number not in self._pictures:
                    self._pictures[number] = self.document.picture(number)
                return self._pictures[number]
            except (ValueError, ImportError) as error:
                problem = error
        raise problem

    def _opaque(self, texture: Texture | None) -> Texture | None:
        """The texture without its alpha, the same object for the same texture."""
        if texture is None or texture.alpha is None:
            return texture
        key = ("opaque", id(texture))
        if key not in self._textures:
            self._textures[key] = Texture(texture.pixels, None, texture.wrap, texture.nearest)
        return self._textures[key]


def _uv_matrix(moved: dict) -> np.ndarray:
    """[2,3] of KHR_texture_transform: scaled, turned counter-clockwise as seen with v down, moved.

    The listing in the extension's text turns the other way than its words, its sample models and all viewers do
    (https://github.com/KhronosGroup/glTF/issues/1563).
    """
    angle = float(moved.get("rotation", 0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    offset = _numbers(moved, "offset", [0, 0])
    return np.concatenate([turn * _numbers(moved, "scale", [1, 1]), offset[:, None]], axis=1)


def _numbers(found: dict, key: str, default: list[float]) -> np.ndarray:
    values = np.array(found.get(key, default), np.float64)
    if values.shape != (len(default),) or not np.isfinite(values).all():
        raise ValueError(f"{key}: expected {len(default)} numbers, got {str(found.get(key))[:100]}")
    return values
