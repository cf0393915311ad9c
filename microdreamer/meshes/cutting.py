"""Cuts away what a surface's opacity hides: leaves on cards, grids, decals. What is left is opaque.

Faces of which only a part is seen are split until their edges are a few texels long, and then cut along the line where the opacity
falls below the material's cutoff, as marching triangles do.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from microdreamer.meshes.surface import SEEN, Material, Surface, Texture

SAMPLES, SAMPLES_A_SIDE = 500_000, (3, 8)  # that tell whether faces are seen: about how many, and how many a side
FINE, COARSE = 4.0, 8.0  # texels: edges are split down to the first, and faces with longer ones than the second stay whole
MAX_TEXELS = 8192  # edges that are longer, as where a texture repeats very often, are not split
MAX_PIECES = 60_000  # that splitting may make
NOTE = "transparent parts are cut away, and what shines through became opaque"


@dataclasses.dataclass
class _Pieces:
    """Faces with everything at their corners."""

    positions: np.ndarray  # [F,3,3]
    uvs: np.ndarray  # [F,3,4]
    colors: np.ndarray  # [F,3,4]
    material: np.ndarray  # [F]

    def take(self, faces: np.ndarray) -> _Pieces:
        return _Pieces(self.positions[faces], self.uvs[faces], self.colors[faces], self.material[faces])

    def mixed(self, weights: np.ndarray) -> _Pieces:
        """One new face [3] for each, whose corners are mixed of the old by weights [F,3,3] (new corner, old corner)."""
        values = (np.einsum("fnk,fkc->fnc", weights, corners) for corners in (self.positions, self.uvs, self.colors))
        return _Pieces(*values, self.material)

    @classmethod
    def joined(cls, parts: list[_Pieces]) -> _Pieces:
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(cls)))


def without_hidden(surface: Surface) -> Surface:
    """The surface without what is cut out or fully transparent; its notes say so.

    What is left of a texture below the cutoff, often black, takes the colours nearest by. Raises ValueError where nothing is seen.
    """
    cutoffs = np.array([0 if material.cutoff is None else material.cutoff for material in surface.materials])[surface.material]
    masked = np.flatnonzero(cutoffs > 0)
    materials = _cleared_materials(surface.materials)
    if not len(masked):
        return dataclasses.replace(surface, materials=materials)
    least, most = _opacities(surface, masked)
    cutoffs = cutoffs[masked]
    kept = np.ones(len(surface.faces), bool)
    kept[masked[least < cutoffs]] = False
    partly = masked[(least < cutoffs) & (most >= cutoffs)]
    parts = [surface.take(kept)]
    if len(partly):
        faces = surface.faces[partly]
        pieces = _Pieces(surface.vertices[faces], surface.uvs[partly], surface.colors[partly], surface.material[partly])
        pieces = _cut(_split(pieces, surface.materials), surface.materials)
        corners = np.arange(3 * len(pieces.material)).reshape(-1, 3)
        parts.append(Surface(pieces.positions.reshape(-1, 3), corners, pieces.uvs, pieces.colors, pieces.material, surface.materials))
    found = dataclasses.replace(Surface.joined(parts), materials=materials, notes=list(surface.notes))
    if not len(found.faces):
        raise ValueError("all of it is transparent; expected a mesh that can be seen")
    if not kept.all():
        found.notes.append(NOTE)
    return found


def _opacities(surface: Surface, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest opacity [N] that samples of faces [N] find."""
    side = int(np.clip((2 * SAMPLES / len(faces)) ** 0.5, *SAMPLES_A_SIDE))
    least, most = np.full(len(faces), np.inf), np.full(len(faces), -np.inf)
    for b, c in ((i / (side - 1), j / (side - 1)) for i in range(side) for j in range(side - i)):
        alpha = surface.shade(faces, np.broadcast_to([1 - b - c, b, c], (len(faces), 3)))[:, 3]
        least, most = np.minimum(least, alpha), np.maximum(most, alpha)
    return least, most


def _texels(pieces: _Pieces, materials: list[Material]) -> np.ndarray:
    """The longest edge of each face in texels of its texture [F]; 0 without one."""
    sizes = [(1, 1) if m.texture is None else m.texture.pixels.shape[1::-1] for m in materials]
    scale = np.array(sizes, np.float64)[pieces.material] * np.array([m.texture is not None for m in materials])[pieces.material, None]
    uvs = pieces.uvs[..., :2] * scale[:, None]
    return np.linalg.norm(uvs - np.roll(uvs, -1, axis=1), axis=-1).max(axis=1)


def _opacity(pieces: _Pieces, materials: list[Material]) -> np.ndarray:
    """By how much the opacity at the corners is above the cutoff [F,3]."""
    found = np.empty(pieces.positions.shape[:2])
    for number in np.unique(pieces.material):
        own, material = pieces.material == number, materials[number]
        shades = material.shade(pieces.uvs[own].reshape(-1, 4), pieces.colors[own].reshape(-1, 4))
        found[own] = shades[:, 3].reshape(-1, 3) - material.cutoff
    return found


def _split(pieces: _Pieces, materials: list[Material]) -> _Pieces:
    """Faces quartered until their edges are fine or there are too many; pieces that are seen whole, or not at all, are not split on."""
    a, b, c = np.eye(3)
    endless = _texels(pieces, materials) > MAX_TEXELS
    done, pieces = [pieces.take(endless)], pieces.take(~endless)
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    quarters = [np.stack(rows) for rows in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    while len(pieces.material):
        long = _texels(pieces, materials) > FINE
        if not long.any() or 4 * len(pieces.material) > MAX_PIECES:
            break
        done.append(pieces.take(~long))
        pieces = pieces.take(long)
        count = len(pieces.material)
        pieces = _Pieces.joined([pieces.mixed(np.broadcast_to(quarter, (count, 3, 3))) for quarter in quarters])
        surface = Surface(
            pieces.positions.reshape(-1, 3), np.arange(12 * count).reshape(-1, 3), pieces.uvs, pieces.colors, pieces.material, materials
        )
        least, most = _opacities(surface, np.arange(4 * count))
        cutoffs = np.array([material.cutoff or 0 for material in materials])[pieces.material]
        done.append(pieces.take(least >= cutoffs))
        pieces = pieces.take((least < cutoffs) & (most >= cutoffs))
    return _Pieces.joined([*done, pieces])


def _cut(pieces: _Pieces, materials: list[Material]) -> _Pieces:
    """What of each face lies where the opacity is above the cutoff; faces that are too coarse for that stay whole."""
    above = _opacity(pieces, materials)
    coarse = _texels(pieces, materials) > COARSE
    inside = (above >= 0).sum(axis=1)
    parts = [pieces.take(coarse | (inside == 3))]
    for count in (1, 2):
        own = np.flatnonzero(~coarse & (inside == count))
        # The corner that is alone on its side comes first, so that neighbours find the same points on the edge that they share.
        alone = ((above[own] >= 0) == (count == 1)).argmax(axis=1)
        order = (alone[:, None] + np.arange(3)) % 3
        turned = _Pieces(
            *(np.take_along_axis(v[own], order[..., None], axis=1) for v in (pieces.positions, pieces.uvs, pieces.colors)),
            pieces.material[own],
        )
        heights = np.take_along_axis(above[own], order, axis=1)
        first, second = _crossing(heights, 1), _crossing(heights, 2)
        corner = np.broadcast_to(np.eye(3), (len(own), 3, 3))
        if count == 1:
            parts.append(turned.mixed(np.stack([corner[:, 0], first, second], axis=1)))
        else:
            parts.append(turned.mixed(np.stack([first, corner[:, 1], corner[:, 2]], axis=1)))
            parts.append(turned.mixed(np.stack([first, corner[:, 2], second], axis=1)))
    return _Pieces.joined(parts)


def _crossing(heights: np.ndarray, other: int) -> np.ndarray:
    """Weights [F,3] of the point between corner 0 and `other` at which heights [F,3] are 0."""
    share = heights[:, 0] / (heights[:, 0] - heights[:, other])
    weights = np.zeros((len(heights), 3))
    weights[:, 0], weights[:, other] = 1 - share, share
    return weights


def _cleared_materials(materials: list[Material]) -> list[Material]:
    """The materials with textures that have no alpha, and of which no hidden texel shows."""
    cleared: dict[tuple[int, float], Texture] = {}
    found = []
    for material in materials:
        texture = material.texture
        if texture is not None and texture.alpha is not None:
            least = (material.cutoff or SEEN) / max(float(material.color[3]), 1e-6)
            key = (id(texture), least)
            if key not in cleared:
                cleared[key] = _cleared(texture, texture.alpha >= 255 * least)
            material = dataclasses.replace(material, texture=cleared[key])
        found.append(material)
    return found


def _cleared(texture: Texture, seen: np.ndarray) -> Texture:
    """The texture with the colour of the nearest texel that is seen [H,W] in those that are not, and no alpha."""
    pixels = texture.pixels
    if seen.any() and not seen.all():
        from scipy.ndimage import distance_transform_edt

        rows, columns = distance_transform_edt(~seen, return_distances=False, return_indices=True)
        pixels = pixels[rows, columns]
    return dataclasses.replace(texture, pixels=pixels, alpha=None)
