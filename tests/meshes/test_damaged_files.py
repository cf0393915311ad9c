"""Mesh files that are damaged in any way: a surface or one line that says what is wrong, and soon."""

import json
import struct
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from microdreamer.meshes.baking import baked
from microdreamer.meshes.files import read_surface
from scripts.make_mesh_files import GltfFile, binary, box, leaf, quarters, skinned

SECONDS = 5  # of the processor: no file of some kilobytes may take longer
ODD = [None, True, -1, 0, 1, 3, 255, 1 << 20, 1 << 40, 10**30, 0.5, -1e39, 1e308, "", "x", "POSITION", "../a", "data:,", [], [0], [[]], {}]
WORDS = [
    "",
    "0",
    "-1",
    "1",
    "4",
    "99999999999",
    "1e39",
    "nan",
    "-inf",
    "x",
    "1/1",
    "1//1",
    "/",
    "\\",
    "f",
    "v",
    "-s",
    "\0",
    "ü",
    "end_header",
]
LINES = [
    "usemtl a",
    "mtllib a.mtl",
    "f 1 2 3 4 5 6 7",
    "v 0 0 0 300 2 1",
    "vt 1",
    "#MRGB 00",
    "element face 3",
    "comment TextureFile a.png",
]


def gltf_with_everything(path):
    """Two materials with textures, colours, quantised numbers, a strip, a sparse accessor, a child and copies."""
    file = GltfFile()
    positions, faces, uvs = box()
    cloth = file.material(file.texture(quarters(8), {"wrapS": 33071, "magFilter": 9728}), color=[1, 0.5, 1, 1])
    card = file.material(file.texture(leaf(8)), alphaMode="MASK", emissiveFactor=[0.1, 0, 0])
    colors = (np.uint8(np.linspace(0, 255, 96).reshape(24, 4)), "normalized")
    first = file.primitive(positions, faces, cloth, TEXCOORD_0=uvs, COLOR_0=colors)
    second = file.primitive(positions[:4], None, card, mode=5, TEXCOORD_0=(np.uint16(uvs[:4] * 65535), "normalized"))
    rows, values = file.view(np.uint16([1]).tobytes()), file.view(np.float32([[2, 0, 0]]).tobytes())
    sparse = {"count": 1, "indices": {"bufferView": rows, "componentType": 5123}, "values": {"bufferView": values}}
    file.json["accessors"][second["attributes"]["POSITION"]]["sparse"] = sparse
    child = file.node([second], in_scene=False, rotation=[0, 0, 0.6, 0.8])
    file.node([first], children=[child], scale=[1, 2, 1], extensions={"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": 0}}})
    return file.write(path)


OBJ = (
    "mtllib a.mtl\nv 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 1 1 0 0 0 1\nv 0.5 0.2 0 1 1 0\nv 0 1 0 1 1 1\nvt 0 0\nvt 1 0\nvt 1 1\n"
    "usemtl a\nf 1/1 2/2 3/3 4/1 5/2\nusemtl b\nf -5//1 -4//1 -3//1\nf 1 2 3\n"
)
MTL = "newmtl a\nKd 0.8 0.8 0.8\nmap_Kd -s 2 2 1 -clamp on a.png\nmap_d a.png\nnewmtl b\nKd 1 0 0\nKe 0 0 1\n"
PLY_HEAD = (
    "ply\nformat {} 1.0\ncomment TextureFile a.png\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    "property uchar red\nproperty uchar green\nproperty uchar blue\nelement face 2\nproperty list uchar int vertex_indices\n"
    "property list uchar float texcoord\nend_header\n"
)
PLY_ROWS = "0 0 0 255 0 0\n1 0 0 0 255 0\n1 1 0 0 0 255\n0 1 0 9 9 9\n4 0 1 2 3 8 0 0 1 0 1 1 0 1\n3 0 1 2 6 0 0 1 0 1 1\n"


def binary_ply():
    body = b"".join(
        struct.pack("<fffBBB", *row) for row in ((0, 0, 0, 255, 0, 0), (1, 0, 0, 0, 255, 0), (1, 1, 0, 0, 0, 255), (0, 1, 0, 9, 9, 9))
    )
    body += struct.pack("<B4iB8f", 4, 0, 1, 2, 3, 8, 0, 0, 1, 0, 1, 1, 0, 1) + struct.pack("<B3iB6f", 3, 0, 1, 2, 6, 0, 0, 1, 0, 1, 1)
    return PLY_HEAD.format("binary_little_endian").encode() + body


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder that files are written to, and the whole files by name; `a.mtl` and `a.png` lie beside them."""
    folder = tmp_path_factory.mktemp("whole")
    Image.fromarray(quarters(8)).save(folder / "a.png")
    (folder / "a.mtl").write_text(MTL)
    files = {"a.glb": gltf_with_everything(folder / "w.glb").read_bytes(), "b.glb": skinned(folder / "w.glb").read_bytes()}
    files |= {"a.obj": OBJ.encode(), "a.ply": (PLY_HEAD.format("ascii") + PLY_ROWS).encode(), "b.ply": binary_ply()}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        assert len(read_surface(folder / name).faces) > 0  # each is good before it is damaged
    return folder, files


def damaged_bytes(draw, data: bytes) -> bytes:
    """Some bytes changed, left out, doubled or cut off."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.integers(1, 8))
        kind = draw(st.sampled_from(["change", "remove", "double", "cut"]))
        if kind == "change":
            data[start : start + size] = draw(st.binary(min_size=size, max_size=size))
        elif kind == "remove":
            del data[start : start + size]
        elif kind == "double":
            data[start:start] = data[start : start + size]
        else:
            del data[start:]
    return bytes(data)


def damaged_words(draw, data: bytes) -> bytes:
    """Some words or lines of a text changed."""
    lines = [line.split(b" ") for line in data.split(b"\n")]
    for _ in range(draw(st.integers(1, 4))):
        line = draw(st.integers(0, len(lines) - 1))
        if draw(st.booleans()):
            word = draw(st.integers(0, len(lines[line]) - 1))
            lines[line][word] = draw(st.sampled_from(WORDS)).encode()
        else:
            lines.insert(line, draw(st.sampled_from([*LINES, *WORDS])).encode().split(b" "))
    return b"\n".join(b" ".join(line) for line in lines)


def damaged_structure(draw, data: bytes) -> bytes:
    """Some values of a GLB's JSON changed, removed or exchanged for each other."""
    size = struct.unpack_from("<I", data, 12)[0]
    document, blob = json.loads(data[20 : 20 + size]), data[28 + size :]
    for _ in range(draw(st.integers(1, 3))):
        places = [(holder, key) for holder in _containers(document) for key in (holder if isinstance(holder, dict) else range(len(holder)))]
        if not places:
            break
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        if draw(st.booleans()):
            other, other_key = places[draw(st.integers(0, len(places) - 1))]
            holder[key] = json.loads(json.dumps(other[other_key])) if draw(st.booleans()) else draw(st.sampled_from(ODD))
        elif isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = draw(st.sampled_from(ODD))
    return binary(document, blob)


def _containers(value):
    if isinstance(value, dict | list):
        yield value
        for child in value.values() if isinstance(value, dict) else value:
            yield from _containers(child)


def check(data, whole):
    folder, files = whole
    name = data.draw(st.sampled_from(sorted(files)))
    ways = [damaged_bytes, damaged_structure if name.endswith("glb") else damaged_words]
    content = data.draw(st.sampled_from(ways))(data.draw, files[name])
    path, library = folder / name, MTL.encode()
    if name == "a.obj" and data.draw(st.booleans()):
        content, library = files[name], data.draw(st.sampled_from([damaged_bytes, damaged_words]))(data.draw, library)
    path.write_bytes(content)
    (folder / "a.mtl").write_bytes(library)
    begin = time.process_time()
    try:
        surface = read_surface(path)
        if surface.to_mesh() is None:
            baked(surface, 16)
    except (ValueError, OSError) as error:
        assert str(error).strip() and "\n" not in str(error)
    assert time.process_time() - begin < SECONDS


SETTINGS = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(SETTINGS, max_examples=300)
@given(data=st.data())
def test_a_damaged_file_is_a_surface_or_one_line(whole, data):
    check(data, whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(SETTINGS, max_examples=10_000, print_blob=True)
@given(data=st.data())
def test_ten_thousand_damaged_files(whole, data):
    check(data, whole)
