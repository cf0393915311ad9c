"""Write six small GLB files as other programs write them, and a sheet of how they are read.

python scripts/make_mesh_files.py FOLDER                     the files
python scripts/make_mesh_files.py FOLDER --sheet sheet.jpg   and a picture of each, as `read_mesh` has it
    --before FOLDER    a second row of these: GLB files of the same names that another version made of them

The files have several materials, quantised numbers, colours at the vertices, a moved texture, cut-out leaves, and a skin.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import struct
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

CODES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
SIZE = 192  # px of a picture of the sheet


class GltfFile:
    """A glTF file in the making. Methods that add something return its number."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.json: dict = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]}

    def add(self, kind: str, **entry) -> int:
        self.json.setdefault(kind, []).append(entry)
        return len(self.json[kind]) - 1

    def view(self, data: bytes, **entry) -> int:
        self.blob += bytes(-len(self.blob) % 4)
        start = len(self.blob)
        self.blob += data
        return self.add("bufferViews", buffer=0, byteOffset=start, byteLength=len(data), **entry)

    def accessor(self, values: np.ndarray, **entry) -> int:
        """values [N,K] or [N], stored in their own type; rows are padded to multiples of four bytes."""
        values = np.atleast_2d(values.T).T
        kind = values.dtype.newbyteorder("<")
        row = values.shape[1] * kind.itemsize
        padded = np.zeros((len(values), row + -row % 4 if values.shape[1] > 1 else row), np.uint8)
        padded[:, :row] = np.ascontiguousarray(values, kind).view(np.uint8).reshape(len(values), row)
        stride = {"byteStride": padded.shape[1]} if padded.shape[1] != row else {}
        view = self.view(padded.tobytes(), **stride)
        code, limits = CODES[values.dtype.str[1:]], {}
        if values.shape[1] == 3:
            limits = {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        return self.add("accessors", bufferView=view, componentType=code, count=len(values), type=TYPES[values.shape[1]], **limits, **entry)

    def texture(self, pixels: np.ndarray, sampler: dict | None = None, file_format: str = "PNG") -> int:
        """A texture of pixels [H,W,3 or 4] uint8."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=file_format, lossless=True)
        image = self.add("images", bufferView=self.view(buffer.getvalue()), mimeType=f"image/{file_format.lower()}")
        chosen = {} if sampler is None else {"sampler": self.add("samplers", **sampler)}
        if file_format == "WEBP":
            self.use("EXT_texture_webp", required=True)
            return self.add("textures", extensions={"EXT_texture_webp": {"source": image}}, **chosen)
        return self.add("textures", source=image, **chosen)

    def material(self, texture: int | None = None, color: list[float] | None = None, **entry) -> int:
        """A matt material; `texture` may be a number or the whole description of a texture."""
        base: dict = {"metallicFactor": 0.0}
        if texture is not None:
            base["baseColorTexture"] = texture if isinstance(texture, dict) else {"index": texture}
        if color is not None:
            base["baseColorFactor"] = color
        return self.add("materials", pbrMetallicRoughness=base, **entry)

    def use(self, extension: str, required: bool = False) -> None:
        for key in ("extensionsUsed", "extensionsRequired")[: 1 + required]:
            if extension not in self.json.setdefault(key, []):
                self.json[key].append(extension)

    def primitive(
        self, positions: np.ndarray, faces: np.ndarray | None, material: int | None = None, mode: int | None = None, **more
    ) -> dict:
        """A primitive; `more`: attributes, as arrays, or as (array, "normalized")."""
        attributes = {}
        for name, values in {"POSITION": positions, **more}.items():
            values, extra = (values[0], {"normalized": True}) if isinstance(values, tuple) else (values, {})
            attributes[name] = self.accessor(values, **extra)
        found: dict = {"attributes": attributes}
        if faces is not None:
            found["indices"] = self.accessor(np.asarray(faces).reshape(-1).astype(np.uint16))
        if material is not None:
            found["material"] = material
        return found if mode is None else {**found, "mode": mode}

    def node(self, primitives: list[dict] | None = None, in_scene: bool = True, **entry) -> int:
        if primitives is not None:
            entry["mesh"] = self.add("meshes", primitives=primitives)
        number = self.add("nodes", **entry)
        if in_scene:
            self.json["scenes"][0]["nodes"].append(number)
        return number

    def write(self, path: Path) -> Path:
        """As GLB, or as JSON that holds its buffer in itself."""
        document = {**self.json, "buffers": [{"byteLength": len(self.blob)}]}
        if path.suffix == ".gltf":
            document["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(self.blob).decode()
            path.write_text(json.dumps(document))
            return path
        path.write_bytes(binary(document, bytes(self.blob)))
        return path


def binary(document: dict, blob: bytes) -> bytes:
    """A GLB of its two chunks."""
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    blob += bytes(-len(blob) % 4)
    head = struct.pack("<4sIIII", b"glTF", 2, 28 + len(text) + len(blob), len(text), 0x4E4F534A)
    return head + text + struct.pack("<II", len(blob), 0x004E4942) + blob


# ---- Shapes and pictures ----


def box(center=(0.0, 0.0, 0.0), half=0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [24,3], faces [12,3] and coordinates [24,2] (v down) of a box, each side with the whole texture."""
    positions, uvs, faces = [], [], []
    for axis in range(3):
        for sign in (1, -1):
            normal, across = np.eye(3)[axis] * sign, np.eye(3)[(axis + 1) % 3]
            up = np.cross(normal, across)
            faces += [[len(positions) + corner for corner in face] for face in ((0, 1, 2), (0, 2, 3))]
            positions += [normal + a * across + b * up for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            uvs += [[0, 1], [1, 1], [1, 0], [0, 0]]
    return np.float32(np.array(positions) * half + center), np.array(faces), np.float32(uvs)


def quarters(size: int = 64) -> np.ndarray:
    """Red, green (above), blue and yellow quarters."""
    y, x = np.mgrid[:2, :2].repeat(size // 2, axis=1).repeat(size // 2, axis=2)
    return np.uint8([[220, 30, 30], [30, 180, 30], [30, 60, 220], [230, 210, 30]])[2 * y + x]


def checks(first, second, size: int = 64, cells: int = 8) -> np.ndarray:
    y, x = np.mgrid[:size, :size] * cells // size
    return np.where(((x + y) % 2)[..., None], np.uint8(first), np.uint8(second))


def leaf(size: int = 128) -> np.ndarray:
    """A green leaf on transparent black, RGBA."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size * 2 - 1
    inside = np.abs(x) < 0.75 * (1 - y**2)
    vein = np.minimum(np.abs(x), np.abs((y + 0.6 * np.abs(x)) % 0.4 - 0.2)) < 0.03
    color = np.where(vein[..., None], [150, 200, 90], [40, 130, 40])
    return np.concatenate([np.where(inside[..., None], color, 0), 255 * inside[..., None]], axis=2).astype(np.uint8)


# ---- The six ----


def several_materials(path: Path) -> Path:
    """A toy house: walls and roof of different textures, a door of one colour."""
    file = GltfFile()
    positions, faces, uvs = box((0, -0.15, 0), 0.35)
    bricks = file.material(file.texture(checks((190, 80, 60), (220, 210, 200))))
    parts = [file.primitive(positions, faces, bricks, TEXCOORD_0=uvs)]
    roof = np.float32([[-0.45, 0.2, 0.45], [0.45, 0.2, 0.45], [0.45, 0.2, -0.45], [-0.45, 0.2, -0.45], [0, 0.6, 0]])
    tiles = file.material(file.texture(checks((60, 70, 110), (110, 120, 170))))
    sides = [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4], [0, 2, 1], [0, 3, 2]]
    parts.append(file.primitive(roof, sides, tiles, TEXCOORD_0=np.float32([[0, 1], [1, 1], [0, 1], [1, 1], [0.5, 0]])))
    door, faces, _ = box((0, -0.3, 0.34), 0.5)
    door = np.float32((door - [0, -0.3, 0.34]) * [0.2, 0.4, 0.06] + [0, -0.3, 0.34])
    parts.append(file.primitive(door, faces, file.material(color=[0.05, 0.25, 0.08, 1])))
    file.node(parts)
    return file.write(path)


def quantised(path: Path) -> Path:
    """A box of 16-bit integers that the node scales back."""
    file = GltfFile()
    file.use("KHR_mesh_quantization", required=True)
    positions, faces, uvs = box((0, 0, 0), 1)
    texture = file.material(file.texture(quarters(), file_format="WEBP"))
    more = {"TEXCOORD_0": (np.uint16(uvs * 65535), "normalized")}
    part = file.primitive(np.int16(positions * 32767), faces, texture, **more)
    file.json["accessors"][part["attributes"]["POSITION"]]["normalized"] = True
    file.node([part], scale=[0.4, 0.3, 0.4], translation=[0, 0.1, 0])
    return file.write(path)


def vertex_colours(path: Path) -> Path:
    """A box whose grey texture is tinted by colours of 8 bits at its vertices and by the material's factor."""
    file = GltfFile()
    positions, faces, uvs = box()
    tint = np.where(positions[:, 1:2] > 0, [255, 160, 20], [20, 60, 255])
    material = file.material(file.texture(checks((255, 255, 255), (150, 150, 150))), color=[1, 1, 1, 1])
    file.node([file.primitive(positions, faces, material, TEXCOORD_0=uvs, COLOR_0=(np.uint8(tint), "normalized"))])
    return file.write(path)


def moved_texture(path: Path) -> Path:
    """A box that shows a turned and repeated part of an atlas by its second coordinates, mirrored at its edges."""
    file = GltfFile()
    file.use("KHR_texture_transform")
    positions, faces, uvs = box()
    texture = file.texture(quarters(), {"wrapS": 33648, "wrapT": 33648})
    moved = {"KHR_texture_transform": {"offset": [0.25, 0.5], "rotation": 0.5, "scale": [1.5, 1.5], "texCoord": 1}}
    material = file.material({"index": texture, "extensions": moved})
    file.node([file.primitive(positions, faces, material, TEXCOORD_0=np.zeros_like(uvs), TEXCOORD_1=uvs)])
    return file.write(path)


def cut_out_leaves(path: Path) -> Path:
    """Crossed cards with a leaf that is cut out, on a plain pot."""
    file = GltfFile()
    card = file.material(file.texture(leaf()), alphaMode="MASK", alphaCutoff=0.5, doubleSided=True)
    parts = []
    for angle in (0.3, 1.9):
        across, up = np.array([np.cos(angle), 0, np.sin(angle)]), np.array([0, 1, 0])
        corners = np.float32([a * across * 0.4 + b * up * 0.45 + [0, 0.1, 0] for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
        parts.append(file.primitive(corners, [[0, 1, 2], [0, 2, 3]], card, TEXCOORD_0=np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])))
    positions, faces, _ = box((0, -0.4, 0), 0.14)
    parts.append(file.primitive(positions, faces, file.material(color=[0.45, 0.12, 0.05, 1])))
    file.node(parts)
    return file.write(path)


def skinned(path: Path) -> Path:
    """A tower in hundredths, whose joints bend it and bring it to size; the node of the mesh itself has a misleading matrix."""
    file = GltfFile()
    rows = 12
    heights = np.linspace(0, 80, rows + 1)
    ring = np.array([[-12, 12], [12, 12], [12, -12], [-12, -12]])
    positions = np.float32([[x, y, z] for y in heights for x, z in ring])
    faces = []
    for row in range(rows):
        for side in range(4):
            a, b = 4 * row + side, 4 * row + (side + 1) % 4
            faces += [[a, b, b + 4], [a, b + 4, a + 4]]
    top = 4 * rows
    faces += [[0, 2, 1], [0, 3, 2], [top, top + 1, top + 2], [top, top + 2, top + 3]]
    upper = (positions[:, 1:2] / 80) ** 2
    colors = np.where((positions[:, 1:2] // 20) % 2 == 0, [0.8, 0.1, 0.1], [0.8, 0.8, 0.75])
    attributes = {
        "JOINTS_0": np.uint8(np.where(upper > 0, [0, 1, 0, 0], 0)),
        "WEIGHTS_0": np.float32(np.concatenate([1 - upper, upper, 0 * upper, 0 * upper], axis=1)),
        "COLOR_0": np.float32(colors),
    }
    part = file.primitive(positions, faces, **attributes)
    bend = file.node(in_scene=False, translation=[0, 40, 0], rotation=[0, 0, float(np.sin(-0.4)), float(np.cos(-0.4))])
    root = file.node(in_scene=False, children=[bend], scale=[0.01, 0.01, 0.01], translation=[0, -0.4, 0])
    file.json["scenes"][0]["nodes"].append(root)
    inverse = np.stack([np.eye(4), np.eye(4)])
    inverse[1, 1, 3] = -40
    matrices = file.accessor(np.float32(inverse.transpose(0, 2, 1).reshape(2, 16)))
    skin = file.add("skins", joints=[root, bend], inverseBindMatrices=matrices)
    file.node([part], skin=skin, translation=[5, 5, 5], scale=[3, 3, 3])
    return file.write(path)


SIX = (several_materials, quantised, vertex_colours, moved_texture, cut_out_leaves, skinned)


def rendered(path: Path) -> Image.Image:
    """A view of the mesh as this version reads it, its box fitted into the picture; grey where it cannot be read."""
    import torch

    from cam_utils import orbit_cameras
    from microdreamer.images.writing import to_bytes
    from microdreamer.meshes.files import read_mesh
    from microdreamer.meshes.model import MeshModel

    try:
        mesh = read_mesh(path)
    except ValueError:
        return Image.new("RGB", (SIZE, SIZE), (200, 200, 200))
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    mesh.vertices = (mesh.vertices - (low + high) / 2) / np.float32(np.linalg.norm(high - low))
    camera = orbit_cameras(-25, 30, 1.9, fov_y=35, width=2 * SIZE, height=2 * SIZE)
    with torch.no_grad():
        image = MeshModel(mesh).render(camera, 1.0).image
    return Image.fromarray(to_bytes(image)[0]).resize((SIZE, SIZE), Image.Resampling.BOX)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--before", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    paths = [make(options.folder / f"{make.__name__}.glb") for make in SIX]
    if options.sheet:
        rows = [paths] if options.before is None else [[options.before / path.name for path in paths], paths]
        sheet = Image.new("RGB", (len(paths) * (SIZE + 4) - 4, len(rows) * (SIZE + 4) - 4), "white")
        for y, row in enumerate(rows):
            for x, path in enumerate(row):
                sheet.paste(rendered(path), (x * (SIZE + 4), y * (SIZE + 4)))
        sheet.save(options.sheet, quality=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
