"""What a mesh file of another tool shows: triangles with several materials, each of a texture, a colour and the corners' colours.

A `Mesh` holds one texture and nothing else, which is what this project fits and writes. `Surface.to_mesh` makes one where nothing is
lost by it; everything else is baked (`meshes.baking.baked`). All colours here are light intensities ("linear"): that is the space in
which glTF multiplies and blends them.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from microdreamer.core.unique_rows import unique_rows
from microdreamer.images.colour import LINEAR_OF_BYTE, linear_to_srgb, srgb_to_linear
from microdreamer.meshes.mesh import Mesh

REPEAT, MIRROR, CLAMP = "repeat", "mirror", "clamp"
UV_TOLERANCE = 1e-5  # by which texture coordinates may leave [0,1]
SEEN = 0.1  # opacity from which a blended surface counts as there
SHARP_SIDE = 512  # texels to which textures of hard-edged texels are enlarged where filters would blur them


@dataclasses.dataclass(eq=False)
class Texture:
    """pixels [H,W,3] uint8 sRGB, the first row at v = 1; alpha [H,W] uint8, None where it is 255 or without meaning.

    wrap: what lies beyond [0,1] in u and in v: REPEAT, MIRROR or CLAMP. nearest: texels have hard edges.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    wrap: tuple[str, str] = (REPEAT, REPEAT)
    nearest: bool = False

    def same(self, other: Texture) -> bool:
        """Whether both show the same."""
        if self is other:
            return True
        if (self.wrap, self.nearest, self.pixels.shape) != (other.wrap, other.nearest, other.pixels.shape):
            return False
        return np.array_equal(self.pixels, other.pixels) and (self.alpha is None) == (other.alpha is None)

    @functools.cached_property
    def _levels(self) -> list[np.ndarray]:
        """Mip levels from the first on, [h,w,4] float32 of intensities and alpha: level k is the mean of 2^k x 2^k texels."""
        height, width = self.pixels.shape[:2]
        fine, levels = self._texels(np.s_[: max(1, height // 2 * 2), : max(1, width // 2 * 2)]), []
        while min(fine.shape[:2]) > 1:
            fine = fine[: fine.shape[0] // 2 * 2, : fine.shape[1] // 2 * 2]
            fine = (fine[::2] + fine[1::2]) / 2
            fine = (fine[:, ::2] + fine[:, 1::2]) / 2
            levels.append(fine)
        return levels

    def _texels(self, where: tuple) -> np.ndarray:
        """Intensities and alpha [...,4] of the texels at an index; the file's bytes stay bytes until here, as pictures may be large."""
        found = np.ones((*self.pixels[where].shape[:-1], 4), np.float32)
        found[..., :3] = LINEAR_OF_BYTE[self.pixels[where]]
        if self.alpha is not None:
            found[..., 3] = self.alpha[where].astype(np.float32) / 255
        return found

    def sample(self, uv: np.ndarray, footprint: np.ndarray | None = None) -> np.ndarray:
        """Intensities and alpha [N,4] at coordinates uv [N,2] (v up).

        footprint [N]: the length in texels of what one sample stands for; above 1 a mean of about that many is taken.
        """
        if footprint is None or self.nearest or footprint.max(initial=0) < 1.5:
            return self._sample_level(0, uv)
        level = np.rint(np.log2(np.maximum(footprint, 1))).astype(int).clip(0, len(self._levels))
        found = np.empty((len(uv), 4), np.float32)
        for number in np.unique(level):
            own = level == number
            found[own] = self._sample_level(number, uv[own])
        return found

    def _sample_level(self, number: int, uv: np.ndarray) -> np.ndarray:
        texels = self._levels[number - 1] if number else self.pixels
        pick = texels.__getitem__ if number else self._texels
        height, width = texels.shape[:2]
        x, y = uv[:, 0] * width, (1 - uv[:, 1]) * height
        columns, rows = (functools.partial(_wrapped, size=size, mode=mode) for size, mode in zip((width, height), self.wrap, strict=True))
        if self.nearest:
            return pick((rows(np.floor(y)), columns(np.floor(x))))
        x0, y0 = np.floor(x - 0.5), np.floor(y - 0.5)
        fx, fy = (x - 0.5 - x0)[:, None].astype(np.float32), (y - 0.5 - y0)[:, None].astype(np.float32)
        left, right, top, bottom = columns(x0), columns(x0 + 1), rows(y0), rows(y0 + 1)
        upper = pick((top, left)) * (1 - fx) + pick((top, right)) * fx
        lower = pick((bottom, left)) * (1 - fx) + pick((bottom, right)) * fx
        return upper * (1 - fy) + lower * fy


def _wrapped(number: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Which of `size` texels stands at whole numbers of any size."""
    if mode == CLAMP:
        return number.clip(0, size - 1).astype(int)
    if mode == MIRROR:
        number = number % (2 * size)
        return np.where(number < size, number, 2 * size - 1 - number).astype(int)
    return (number % size).astype(int)


@dataclasses.dataclass(eq=False)
class Material:
    """color [4] and the texture are multiplied, with the corners' colours too; emission [3] times its texture is added.

    cutoff: the opacity below which nothing is seen, None for a surface that is opaque whatever its alpha.
    stated: whether the file says anything about the colour.
    """

    color: np.ndarray = dataclasses.field(default_factory=lambda: np.ones(4))
    texture: Texture | None = None
    emission: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3))
    emission_texture: Texture | None = None
    cutoff: float | None = None
    stated: bool = True

    @property
    def has_texture(self) -> bool:
        return self.texture is not None or self.emission_texture is not None

    def shade(self, uvs: np.ndarray, colors: np.ndarray, stretch: np.ndarray | None = None) -> np.ndarray:
        """Intensities and alpha [N,4] where the corners' colours are colors [N,4] and the coordinates uvs [N,4].

        stretch [N,4]: how much uvs change from one sample to the next.
        """
        found = colors * self.color
        if self.texture is not None:
            found = found * self.texture.sample(uvs[:, :2], _footprint(self.texture, stretch, 0))
        light = np.broadcast_to(self.emission, (len(found), 3))
        if self.emission_texture is not None:
            light = light * self.emission_texture.sample(uvs[:, 2:], _footprint(self.emission_texture, stretch, 2))[:, :3]
        found[:, :3] = np.minimum(found[:, :3] + light, 1)
        return found


def _footprint(texture: Texture, stretch: np.ndarray | None, first: int) -> np.ndarray | None:
    if stretch is None:
        return None
    height, width = texture.pixels.shape[:2]
    return np.maximum(stretch[:, first] * width, stretch[:, first + 1] * height)


@dataclasses.dataclass
class Surface:
    """vertices [V,3] float64, +Y up; faces [F,3], counter-clockwise seen from outside; at their corners colors [F,3,4] (linear, with
    opacity) and uvs [F,3,4]: those of the material's texture (u to the right, v up), then those of its emission's.

    material [F]: which of `materials` a face has. notes: what of the file was left out, a line each.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray
    colors: np.ndarray
    material: np.ndarray
    materials: list[Material]
    notes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def plain(
        cls,
        vertices: np.ndarray,
        faces: np.ndarray,
        material: Material | None = None,
        *,
        uvs: np.ndarray | None = None,
        colors: np.ndarray | None = None,
    ) -> Surface:
        """One material; uvs [F,3,2] or [F,3,4] and colors [F,3,3] or [F,3,4] may be left out."""
        faces = np.asarray(faces, np.int64).reshape(-1, 3)
        count = len(faces)
        all_uvs, all_colors = np.zeros((count, 3, 4)), np.ones((count, 3, 4), np.float32)
        if uvs is not None:
            all_uvs[..., : uvs.shape[-1]] = uvs
        if colors is not None:
            all_colors[..., : colors.shape[-1]] = colors
        material = material or Material(stated=colors is not None)
        vertices = np.asarray(vertices, np.float64).reshape(-1, 3)
        return cls(vertices, faces, all_uvs, all_colors, np.zeros(count, int), [material])

    @classmethod
    def of_mesh(cls, mesh: Mesh) -> Surface:
        """What a mesh shows; its texture in bytes."""
        if mesh.has_texture:
            texture = Texture(np.rint(mesh.texture.clip(0, 1) * 255).astype(np.uint8))
            return cls.plain(mesh.vertices, mesh.faces, Material(texture=texture), uvs=mesh.uvs[mesh.uv_faces])
        colors = None if mesh.vertex_colors is None else srgb_to_linear(mesh.vertex_colors.clip(0, 1))[mesh.faces]
        return cls.plain(mesh.vertices, mesh.faces, colors=colors)

    @classmethod
    def joined(cls, parts: list[Surface]) -> Surface:
        """All parts as one surface."""
        starts = np.cumsum([0, *(len(part.vertices) for part in parts)])[:-1]
        materials = list({id(material): material for part in parts for material in part.materials}.values())
        number_of = {id(material): number for number, material in enumerate(materials)}
        numbers = [np.array([number_of[id(material)] for material in part.materials], int)[part.material] for part in parts]
        return cls(
            np.concatenate([part.vertices for part in parts]),
            np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=True)]),
            np.concatenate([part.uvs for part in parts]),
            np.concatenate([part.colors for part in parts]),
            np.concatenate(numbers),
            materials,
            list(dict.fromkeys(note for part in parts for note in part.notes)),
        )

    def take(self, faces: np.ndarray) -> Surface:
        """The surface of some of its faces; all vertices stay."""
        chosen = {name: getattr(self, name)[faces] for name in ("faces", "uvs", "colors", "material")}
        return dataclasses.replace(self, **chosen)

    @property
    def has_texture(self) -> bool:
        return any(self.materials[number].has_texture for number in np.unique(self.material))

    @property
    def is_white(self) -> bool:
        """Whether nothing on it has a colour."""
        if self.has_texture or (self.colors[..., :3] != 1).any():
            return False
        used = [self.materials[number] for number in np.unique(self.material)]
        return all((material.color[:3] == 1).all() for material in used)

    def shade(self, faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Intensities and alpha [N,4] at points of the surface: of faces [N] with the corners' weights [N,3]."""
        uvs = np.einsum("nkc,nk->nc", self.uvs[faces], weights)
        colors = np.einsum("nkc,nk->nc", self.colors[faces], weights)
        return self.shade_at(faces, uvs, colors)

    def shade_at(self, faces: np.ndarray, uvs: np.ndarray, colors: np.ndarray, stretch: np.ndarray | None = None) -> np.ndarray:
        """`Material.shade` of each face's own material."""
        found, material = np.empty((len(faces), 4), np.float32), self.material[faces]
        for number in np.unique(material):
            own = material == number
            found[own] = self.materials[number].shade(uvs[own], colors[own], None if stretch is None else stretch[own])
        return found

    def checked(self) -> Surface:
        """The surface, if it can be shown. Raises ValueError for no faces, corners that do not exist, numbers that are not finite."""
        if len(self.faces) == 0:
            raise ValueError("expected a mesh, found no triangles")
        low, high = self.faces.min(), self.faces.max()
        if low < 0 or high >= len(self.vertices):
            raise ValueError(f"faces: expected numbers from 0 to {len(self.vertices) - 1}, got {low} to {high}")
        with np.errstate(over="ignore"):  # a double beyond float32 counts as infinite
            for name, values in (("vertices", self.vertices.astype(np.float32)), ("uvs", self.uvs), ("colors", self.colors)):
                if bad := int((~np.isfinite(values)).sum()):
                    raise ValueError(f"{name}: {bad} values are not finite; mend the mesh")
        return self

    def to_mesh(self) -> Mesh | None:
        """The surface as a `Mesh`, or None where that would lose something: where there are several textures, or one whose colours are
        changed differently from face to face, or that is continued beyond [0,1] otherwise than by repeating."""
        if not self.has_texture:
            return self._coloured()
        used = [self.materials[number] for number in np.unique(self.material)]
        first = used[0]
        if any(material.texture is None or material.emission.any() for material in used):
            return None
        if not all(material.texture.same(first.texture) and np.allclose(material.color[:3], first.color[:3]) for material in used):
            return None
        tint = self.colors[0, 0, :3]
        if np.abs(self.colors[..., :3] - tint).max() > 1e-4:
            return None
        uvs = self.uvs[..., :2]
        if first.texture.wrap != (REPEAT, REPEAT) and (uvs.min() < -UV_TOLERANCE or uvs.max() > 1 + UV_TOLERANCE):
            return None
        texture = _tinted(first.texture, tint * first.color[:3])
        vertices, _, index = unique_rows(self.vertices.astype(np.float32))
        rows, _, uv_faces = unique_rows(uvs.reshape(-1, 2).astype(np.float32))
        return Mesh(vertices, index[self.faces], uvs=rows, uv_faces=uv_faces.reshape(-1, 3), texture=texture)

    def _coloured(self) -> Mesh:
        """The surface with sRGB colours at its vertices; vertices whose colours differ between faces are repeated."""
        factors = np.stack([material.color[:3] for material in self.materials])
        light = np.stack([material.emission for material in self.materials])
        colors = self.colors[..., :3] * factors[self.material][:, None] + light[self.material][:, None]
        colors = linear_to_srgb(colors.clip(0, 1).astype(np.float64)).astype(np.float32).reshape(-1, 3)
        corners = self.faces.reshape(-1)
        per_vertex = np.ones((len(self.vertices), 3), np.float32)
        per_vertex[corners] = colors
        vertices = self.vertices.astype(np.float32)
        if np.array_equal(per_vertex[corners], colors):
            return Mesh(vertices, self.faces, per_vertex)
        rows = np.concatenate([corners[:, None], colors], axis=1)
        rows, _, faces = unique_rows(rows)
        return Mesh(vertices[rows[:, 0].astype(int)], faces.reshape(-1, 3), rows[:, 1:])


def _tinted(texture: Texture, factor: np.ndarray) -> np.ndarray:
    """sRGB [H,W,3] in [0,1] of a texture times a linear factor [3]; hard-edged texels are enlarged so that filters leave them so."""
    pixels = texture.pixels
    if texture.nearest and max(pixels.shape[:2]) < SHARP_SIDE:
        times = SHARP_SIDE // max(pixels.shape[:2])
        pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    if (np.abs(factor - 1) < 1e-4).all():
        return np.divide(pixels, np.float32(255), dtype=np.float32)
    table = linear_to_srgb((LINEAR_OF_BYTE[:, None] * factor).clip(0, 1)).astype(np.float32)
    found = np.empty(pixels.shape, np.float32)
    for channel in range(3):
        found[..., channel] = table[pixels[..., channel], channel]
    return found
