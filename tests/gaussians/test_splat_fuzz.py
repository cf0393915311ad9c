"""Damaged and made-up files of Gaussians: a result that is finite, or ValueError or OSError in one line; nothing else, and soon."""

import gzip
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from splat_scenes import columns, ply_bytes, random_parameters

from microdreamer.gaussians.formats import gltf, spz
from microdreamer.gaussians.splat_files import read_splats, write_splats


def ascii_ply(values):
    count = len(next(iter(values.values())))
    lines = ["ply", "format ascii 1.0", f"element vertex {count}", *(f"property float {name}" for name in values), "end_header"]
    return "\n".join([*lines, *(" ".join(map(str, row)) for row in zip(*values.values(), strict=True)), ""]).encode()


def compressed_ply(count):
    chunk = [f"{end}_{name}" for name in ("x", "y", "z", "scale_x", "scale_y", "scale_z", "r", "g", "b") for end in ("min", "max")]
    lines = ["ply", "format binary_little_endian 1.0", "element chunk 1", *(f"property float {name}" for name in chunk)]
    lines += [f"element vertex {count}", *(f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color"))]
    lines += [f"element sh {count}", *(f"property uchar f_rest_{index}" for index in range(9)), "end_header", ""]
    random = np.random.default_rng(0)
    body = random.normal(size=18).astype("<f4").tobytes() + random.bytes(16 * count) + random.bytes(9 * count)
    return "\n".join(lines).encode() + body


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Whole files of each kind, by suffix."""
    folder, parameters = tmp_path_factory.mktemp("seeds"), random_parameters(6, 1)
    write_splats(folder / "a.splat", parameters, "splat")
    document = gltf.encoded(parameters)
    size = struct.unpack_from("<I", document, 12)[0]
    return [
        (".ply", ply_bytes(columns(parameters), ("a",))),
        (".ply", ply_bytes(columns(parameters) | {"filter_3D": np.full(6, 0.1)}, kind="double")),
        (".ply", ascii_ply(columns(parameters))),
        (".ply", compressed_ply(6)),
        (".splat", (folder / "a.splat").read_bytes()),
        (".spz", spz.encoded(parameters)),
        (".spz", struct.pack("<IIIBBBBI", 0x5053474E, 4, 6, 1, 12, 0, 6, 32) + bytes(12) + struct.pack("<QQ", 20, 54) * 6 + bytes(120)),
        (".glb", document),
        (".gltf", document[20 : 20 + size]),
    ]


WORDS = [b"0", b"-1", b"9999999999", b"1e400", b"nan", b"list uchar", b"\n", b"null", b"[]", b"{}", b'"', b"5126", b"true", b"\xff\xfe"]
EDIT = st.tuples(
    st.sampled_from(["set", "cut", "insert", "drop", "digits"]), st.integers(0, 10**6), st.binary(max_size=8) | st.sampled_from(WORDS)
)


def edited(data: bytes, edits) -> bytes:
    """The bytes with bytes set, the end cut off, words put in, stretches left out, or numbers in the text replaced."""
    for kind, place, content in edits:
        place %= len(data) + 1
        if kind == "set":
            data = data[:place] + content + data[place + len(content) :]
        elif kind == "cut":
            data = data[:place]
        elif kind == "insert":
            data = data[:place] + content + data[place:]
        elif kind == "drop":
            data = data[:place] + data[place + len(content) :]
        else:
            start = next((at for at in range(place, len(data)) if data[at : at + 1].isdigit()), len(data))
            end = next((at for at in range(start, len(data)) if not data[at : at + 1].isdigit()), len(data))
            data = data[:start] + content + data[end:]
    return data


def damaged(suffix: str, data: bytes, edits, inside: bool) -> bytes:
    """Edits of the file's bytes or, `inside`, of what it wraps, with lengths that fit again so that the damage is reached."""
    if inside and suffix == ".spz" and data[:2] == b"\x1f\x8b":
        return gzip.compress(edited(zlib.decompress(data, 31), edits))
    if inside and suffix == ".glb":
        size = struct.unpack_from("<I", data, 12)[0]
        text, rest = edited(data[20 : 20 + size], edits), data[20 + size :]
        return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest
    return edited(data, edits)


def check(path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        parameters, up, remarks = read_splats(path)
    except (ValueError, OSError) as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return
    counts = {len(values) for values in parameters.values()}
    assert len(counts) == 1 and all(values.dtype == np.float32 and np.isfinite(values).all() for values in parameters.values())
    assert not any("\n" in remark for remark in remarks)
    assert up is None or up.lstrip("-") in ("x", "y", "z")


def fuzz(examples: int):
    quick = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.large_base_example]
    arguments = {"which": st.integers(0, 8), "edits": st.lists(EDIT, min_size=1, max_size=6), "inside": st.booleans()}

    def decorate(test):
        return settings(max_examples=examples, deadline=10_000, suppress_health_check=quick, database=None)(given(**arguments)(test))

    return decorate


@fuzz(300)
def test_damaged_files(seeds, tmp_path, which, edits, inside):
    suffix, data = seeds[which]
    check(tmp_path / f"a{suffix}", damaged(suffix, data, edits, inside))


@pytest.mark.slow
@fuzz(20_000)
def test_many_damaged_files(seeds, tmp_path, which, edits, inside):
    suffix, data = seeds[which]
    check(tmp_path / f"a{suffix}", damaged(suffix, data, edits, inside))


@settings(max_examples=200, deadline=10_000, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([b"", b"ply\n", b"ply\nformat ascii 1.0\n", b"\x1f\x8b", b"NGSP\4\0\0\0", b"glTF\2\0\0\0", b"{"]),
    st.binary(max_size=300),
    st.sampled_from([".ply", ".splat", ".spz", ".glb", ".gltf", ".xyz"]),
)
def test_made_up_files(tmp_path, start, rest, suffix):
    check(tmp_path / f"a{suffix}", start + rest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=200, deadline=10_000, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_gltf_with_one_value_replaced(tmp_path, data):
    """Any value of the document by any other: of another kind, out of range, missing."""
    binary = gltf.encoded(random_parameters(4, 1))
    size = struct.unpack_from("<I", binary, 12)[0]
    document = json.loads(binary[20 : 20 + size])
    document["nodes"][0] |= {"translation": [1, 2, 3], "children": []}
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or data.draw(st.integers(0, 3)) == 0:
            break
        node = node[key]
    if data.draw(st.booleans()):
        node[key] = data.draw(JSON)
    else:
        del node[key]
    text = json.dumps(document).encode()
    rest = binary[20 + size :]
    check(tmp_path / "a.glb", struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest)
