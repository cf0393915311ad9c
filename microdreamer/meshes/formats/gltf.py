"""glTF 2.0 scenes, binary and JSON, as a `Surface`: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html

The default scene in its rest pose: nodes, instances, skins and morph targets' default weights, all kinds of triangles. Colour is the base
colour (or the diffuse one of KHR_materials_pbrSpecularGlossiness) and what the material emits; light and shine are not part of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from microdreamer.meshes.formats.gltf_document import COMPONENTS, MESHOPT, Document, normalised
from microdreamer.meshes.formats.gltf_materials import Layer, Materials
from microdreamer.meshes.surface import Surface

INSTANCING, DRACO = "EXT_mesh_gpu_instancing", "KHR_draco_mesh_compression"
SPLATS = "KHR_gaussian_splatting"
POINTS, TRIANGLES, STRIP, FAN = 0, 4, 5, 6
MAX_FACES = 30_000_000
USED = ("TEXCOORD_", "JOINTS_", "WEIGHTS_")  # attributes, beside POSITION and COLOR_0
READ = {
    *MESHOPT,
    *(DRACO, INSTANCING, "KHR_mesh_quantization", "KHR_node_visibility", "KHR_texture_transform", "KHR_materials_unlit"),
    *("KHR_materials_pbrSpecularGlossiness", "KHR_materials_emissive_strength"),
    *("KHR_texture_basisu", "EXT_texture_webp", "EXT_texture_avif", "MSFT_texture_dds"),
}
# These say nothing of shape and colour, or something of how light is reflected, which is left out as the rest of that.
SILENT = {
    *("KHR_lights_punctual", "KHR_xmp", "KHR_xmp_json_ld", "KHR_materials_variants", "KHR_animation_pointer", "KHR_materials_ior"),
    *("KHR_materials_specular", "KHR_materials_clearcoat", "KHR_materials_sheen", "KHR_materials_iridescence"),
    *("KHR_materials_anisotropy", "KHR_materials_dispersion", "EXT_lights_image_based", "KHR_audio", "KHR_physics_rigid_bodies"),
    *("KHR_node_hoverability", "KHR_node_selectability", "KHR_interactivity", "FB_geometry_metadata"),
}
SEE_THROUGH = {"KHR_materials_transmission", "KHR_materials_volume", "KHR_materials_diffuse_transmission", "KHR_materials_volume_scatter"}


def read_gltf(path: Path) -> Surface:
    """The default scene. Raises ValueError and what `Document` raises; OSError for a buffer or a picture that is not there."""
    return _Scene(Document(path)).surface()


class _Scene:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.nodes: list = document.json.get("nodes", [])
        self.materials = Materials(document)
        self.notes: list[str] = []
        self.faces = 0
        self._check_extensions()

    def _check_extensions(self) -> None:
        required, used = (self._names(key) for key in ("extensionsRequired", "extensionsUsed"))
        known = READ | SILENT | SEE_THROUGH
        if SPLATS in required or (SPLATS in used and not self._has_triangles()):
            raise ValueError("it holds Gaussians, no mesh; pass it as --from-ply")
        if unknown := [name for name in required if name not in known]:
            raise ValueError(f"it needs the glTF extension {', '.join(unknown)}, which is not read; save it without")
        if ignored := [name for name in dict.fromkeys([*used, *required]) if name not in READ | SILENT]:
            self.notes.append(f"glTF extensions without effect: {', '.join(ignored)}")

    def _has_triangles(self) -> bool:
        primitives = [primitive for mesh in self.document.json.get("meshes", []) for primitive in mesh["primitives"]]
        return any(primitive.get("mode", TRIANGLES) != POINTS for primitive in primitives)

    def _names(self, key: str) -> list[str]:
        return [str(name)[:100] for name in self.document.json.get(key, [])]

    def surface(self) -> Surface:
        parts = []
        for number, world in self._placed_nodes():
            node = self.document.item("nodes", number)
            if "mesh" not in node:
                continue
            mesh = self.document.item("meshes", node["mesh"])
            weights = node.get("weights", mesh.get("weights", []))
            joints = self._joint_matrices(node["skin"]) if "skin" in node else None
            for primitive in mesh["primitives"]:
                parts += self._parts(primitive, weights, joints, self._instances(node, world))
        if not parts:
            raise ValueError("expected a mesh, found no triangles")
        surface = Surface.joined(parts)
        surface.notes = list(dict.fromkeys([*self.notes, *self.materials.notes]))
        return surface

    # ---- Nodes ----

    def _roots(self) -> list[int]:
        document = self.document.json
        if "scenes" in document:
            return self.document.item("scenes", document.get("scene", 0)).get("nodes", [])
        children = {child for node in self.nodes for child in node.get("children", [])}
        return [number for number in range(len(self.nodes)) if number not in children]

    def _placed_nodes(self) -> list[tuple[int, np.ndarray]]:
        """The nodes that the scene shows, with their matrices to the world."""
        stack, found, seen = [(number, np.eye(4)) for number in reversed(self._roots())], [], set()
        while stack:
            number, parent = stack.pop()
            if number in seen:
                raise ValueError(f"nodes[{number}] stands in the scene twice")
            seen.add(number)
            node = self.document.item("nodes", number)
            if not node.get("extensions", {}).get("KHR_node_visibility", {}).get("visible", True):
                continue
            world = parent @ self._local_matrix(number)
            found.append((number, world))
            stack += [(child, world) for child in reversed(node.get("children", []))]
        return found

    def _world_matrices(self) -> dict[int, np.ndarray]:
        """Of all nodes, whether or not the scene shows them: a skin's joints may stand elsewhere."""
        parents = {child: number for number, node in enumerate(self.nodes) for child in node.get("children", [])}
        matrices: dict[int, np.ndarray] = {}
        for number in range(len(self.nodes)):
            chain = [number]
            while chain[-1] in parents and parents[chain[-1]] not in matrices:
                chain.append(parents[chain[-1]])
                if len(chain) > len(self.nodes):
                    raise ValueError(f"nodes[{number}] is its own ancestor")
            for link in reversed(chain):
                parent = matrices.get(parents.get(link, -1), np.eye(4))
                matrices[link] = parent @ self._local_matrix(link)
        return matrices

    def _local_matrix(self, number: int) -> np.ndarray:
        node = self.document.item("nodes", number)
        try:
            if "matrix" in node:
                return np.array(node["matrix"], np.float64).reshape(4, 4).T
            return _matrix_of(node.get("translation", [0, 0, 0]), node.get("rotation", [0, 0, 0, 1]), node.get("scale", [1, 1, 1]))
        except (ValueError, TypeError) as error:
            raise ValueError(f"nodes[{number}] is not placed by numbers as it should be ({error})") from error

    def _joint_matrices(self, index: int) -> np.ndarray:
        """[J,4,4]: from the pose in which a skin was bound to the world. The matrix of the skinned node itself has no say."""
        skin = self.document.item("skins", index)
        worlds = self._world_matrices()
        joints = np.stack([worlds[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" not in skin:
            return joints
        inverse = self.document.accessor(skin["inverseBindMatrices"]).astype(np.float64).reshape(-1, 4, 4)
        return joints @ inverse[: len(joints)]

    def _instances(self, node: dict, world: np.ndarray) -> np.ndarray:
        """Matrices [I,4,4] of the copies of a node's mesh."""
        attributes = node.get("extensions", {}).get(INSTANCING, {}).get("attributes", {})
        columns = {name: self._floats(attributes[name]) for name in ("TRANSLATION", "ROTATION", "SCALE") if name in attributes}
        if not columns:
            return world[None]
        count = min(len(values) for values in columns.values())
        defaults = {"TRANSLATION": [0, 0, 0], "ROTATION": [0, 0, 0, 1], "SCALE": [1, 1, 1]}
        rows = {name: columns.get(name, np.broadcast_to(default, (count, len(default)))) for name, default in defaults.items()}
        return np.stack([world @ _matrix_of(*(rows[name][i] for name in defaults)) for i in range(count)])

    def _floats(self, accessor: int) -> np.ndarray:
        return self.document.accessor(accessor).astype(np.float64)

    # ---- Triangles ----

    def _parts(self, primitive: dict, weights: list, joints: np.ndarray | None, worlds: np.ndarray) -> list[Surface]:
        mode = primitive.get("mode", TRIANGLES)
        if mode not in (TRIANGLES, STRIP, FAN):
            self.notes.append("points and lines are left out")
            return []
        attributes, indices = self._attributes(primitive, weights)
        positions = attributes["POSITION"]
        corners = np.arange(len(positions)) if indices is None else indices
        if len(corners) and corners.max() >= len(positions):
            raise ValueError(f"a face names vertex {corners.max()} of {len(positions)}")
        faces = _triangles(corners, mode)
        self.faces += len(faces) * len(worlds)
        if self.faces > MAX_FACES:
            raise ValueError(f"it has more than {MAX_FACES} triangles; simplify it first")
        if not len(faces):
            return []
        if joints is not None and "JOINTS_0" in attributes:
            positions, worlds = _skinned(positions, attributes, joints), np.eye(4)[None]
        material, layers = self.materials.get(primitive.get("material"), [name for name in attributes if name.startswith("TEXCOORD_")])
        uvs = np.concatenate([_placed_uvs(attributes, layer) for layer in layers], axis=1)
        colors = attributes.get("COLOR_0")
        if colors is not None and material.stated is False:
            material = self.materials.without_statement_but_colours
        parts = []
        for world in worlds:
            moved = positions @ world[:3, :3].T + world[:3, 3]
            turned = faces[:, ::-1] if np.linalg.det(world[:3, :3]) < 0 else faces
            parts.append(Surface.plain(moved, turned, material, uvs=uvs[turned], colors=None if colors is None else colors[turned]))
        return parts

    def _attributes(self, primitive: dict, weights: list) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Vertex attributes [N,K] by name, float64, and the indices [C] or None."""
        packed = primitive.get("extensions", {}).get(DRACO)
        if packed is None:
            found = {name: self.document.accessor(index) for name, index in _used(primitive["attributes"])}
            indices = self.document.accessor(primitive["indices"])[:, 0].astype(np.int64) if "indices" in primitive else None
        else:
            found, indices = self._from_draco(primitive, packed)
        count = len(found["POSITION"])
        attributes = {}
        for name, values in found.items():
            if name == "COLOR_0":
                values = normalised(values).clip(0, 1)
            if len(values) < count:
                raise ValueError(f"{name[:40]} has {len(values)} values for {count} vertices")
            attributes[name] = values[:count].astype(np.float64)
        for weight, target in zip(weights, primitive.get("targets", []), strict=False):
            for name, index in target.items():
                if weight and name in attributes:
                    attributes[name] = attributes[name] + weight * self._floats(index)[:count, : attributes[name].shape[1]]
        if attributes["POSITION"].shape[1] != 3:
            raise ValueError("POSITION is no VEC3")
        return attributes, indices

    def _from_draco(self, primitive: dict, packed: dict) -> tuple[dict[str, np.ndarray], np.ndarray]:
        try:
            import DracoPy
        except ImportError:
            raise ImportError("its meshes are compressed with Draco, which takes a package: pip install DracoPy") from None
        data = self.document.view(packed["bufferView"])
        try:
            mesh = DracoPy.decode(data)
            found = {name: np.asarray(mesh.get_attribute_by_unique_id(number)["data"]) for name, number in _used(packed["attributes"])}
            indices = np.asarray(mesh.faces, np.int64).reshape(-1)
        except Exception as error:
            raise ValueError(f"its Draco data cannot be read ({' '.join(str(error).split())})") from error
        for name, index in _used(primitive["attributes"]):
            if name not in found:
                found[name] = self.document.accessor(index)
            else:  # decoders may widen the numbers; the accessor says what they are
                accessor = self.document.item("accessors", index)
                stored = found[name].astype(COMPONENTS[accessor["componentType"]])
                found[name] = normalised(stored) if accessor.get("normalized") else stored
        return found, indices


def _used(attributes: dict) -> list[tuple[str, int]]:
    """The attributes that say something of shape and colour."""
    return [(name, index) for name, index in attributes.items() if name in ("POSITION", "COLOR_0") or name.startswith(USED)]


def _triangles(corners: np.ndarray, mode: int) -> np.ndarray:
    """[F,3] of the corners of separate triangles, a strip or a fan."""
    if mode == TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    step = np.arange(max(0, len(corners) - 2))
    if mode == FAN:
        faces = corners[np.stack([step + 1, step + 2, 0 * step], axis=1)]
    else:
        odd = step % 2
        faces = corners[np.stack([step, step + 1 + odd, step + 2 - odd], axis=1)]
    a, b, c = faces.T
    return faces[(a != b) & (b != c) & (c != a)]


def _placed_uvs(attributes: dict[str, np.ndarray], layer: Layer) -> np.ndarray:
    """Coordinates [N,2] with v up of one texture; zeros where it has none."""
    if layer.uv_set is None:
        return np.zeros((len(attributes["POSITION"]), 2))
    uvs = attributes[f"TEXCOORD_{layer.uv_set}"][:, :2] @ layer.matrix[:, :2].T + layer.matrix[:, 2]
    return uvs * [1, -1] + [0, 1]


def _skinned(positions: np.ndarray, attributes: dict[str, np.ndarray], joints: np.ndarray) -> np.ndarray:
    """Positions [N,3] as the joints [J,4,4] hold them."""
    matrices, total = np.zeros((len(positions), 4, 4)), np.zeros(len(positions))
    number = 0
    while f"JOINTS_{number}" in attributes and f"WEIGHTS_{number}" in attributes:
        chosen, weights = attributes[f"JOINTS_{number}"].astype(np.int64), attributes[f"WEIGHTS_{number}"]
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(joints)):
            raise ValueError(f"a vertex names joint {chosen.max()} of {len(joints)}")
        for column in range(min(chosen.shape[1], weights.shape[1])):
            matrices += weights[:, column, None, None] * joints[chosen[:, column]]
            total += weights[:, column]
        number += 1
    held = total > 0
    matrices[held] /= total[held, None, None]
    matrices[~held] = np.eye(4)
    return np.einsum("nij,nj->ni", matrices[:, :3, :3], positions) + matrices[:, :3, 3]


def _matrix_of(translation, rotation, scale) -> np.ndarray:
    """[4,4] of a translation [3], a quaternion xyzw [4] and factors [3]."""
    x, y, z, w = np.asarray(rotation, np.float64) / max(float(np.linalg.norm(rotation)), 1e-30)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= np.asarray(scale, np.float64)
    matrix[:3, 3] = translation
    return matrix
