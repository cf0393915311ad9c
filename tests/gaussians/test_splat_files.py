"""Files of Gaussians: what is written is read back, what others write is understood as their formats say."""

import gzip
import json
import logging
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree
from splat_scenes import angles, ball, changed, columns, opacities, ply_bytes, random_parameters

from microdreamer.gaussians.captures import turn_to_y
from microdreamer.gaussians.formats import gltf, spz
from microdreamer.gaussians.formats.common import base_colors
from microdreamer.gaussians.model import GaussianModel
from microdreamer.gaussians.rotation import turned
from microdreamer.gaussians.splat_files import WRITERS, log_remarks, read_splats, write_splats

DATA = Path(__file__).parent / "data"  # 40 Gaussians of degree 1 as written by splat-transform 2.7.1, from random_parameters(40, 1, seed=7)
EXTENSION = "KHR_gaussian_splatting"


def read(tmp_path, data: bytes, name="a.ply"):
    path = tmp_path / name
    path.write_bytes(data)
    found = read_splats(path)
    log_remarks(path, found.remarks)
    return found


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


# ---- Round trips ----


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("format", list(WRITERS))
def test_what_is_written_is_read_back(tmp_path, format, degree):
    parameters = random_parameters(degree=degree)
    path = tmp_path / f"größe.{format}"
    write_splats(path, parameters, format)
    again = read_splats(path).parameters
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in again.values())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if format == "ply":
        assert same(parameters, again)
        return
    if format == "splat":  # the largest and most opaque first, without higher harmonics
        order = np.argsort(-opacities(parameters) * np.exp(parameters["log_scales"].sum(1)))
        parameters = {name: values[order] for name, values in parameters.items()} | {"sh_rest": again["sh_rest"]}
        assert again["sh_rest"].shape == (60, 0, 3)
    # Half a step of the quantisation: of 2^-20 or none; a byte; a sixteenth; and of the quaternions' bits.
    step = {"splat": (0, 1 / 255, 1e-6, 1e-7, 2.0), "spz": (2**-20, 1 / 255, 1 / 16, 1 / 128, 0.4), "glb": (0, 1e-6, 1e-6, 0, 1e-4)}[format]
    position, byte, scale, harmonic, angle = step
    assert np.abs(again["means"] - parameters["means"]).max() <= position / 2 + 1e-7
    assert np.abs(opacities(again) - opacities(parameters)).max() <= byte / 2 + 1e-6
    color_step = byte / 0.15 * 0.2820948 if format == "spz" else byte
    assert np.abs(base_colors(again["sh_dc"]) - np.clip(base_colors(parameters["sh_dc"]), 0, 1)).max() <= color_step / 2 + 1e-6
    assert np.abs(again["log_scales"] - parameters["log_scales"]).max() <= scale / 2 + 1e-6
    assert np.abs(again["sh_rest"] - parameters["sh_rest"]).max(initial=0) <= harmonic / 2 + 1e-6
    assert angles(again["quaternions"], parameters["quaternions"]).max() < angle


@pytest.mark.parametrize("format", ["splat", "spz", "glb"])
def test_the_same_gaussians_give_the_same_bytes(tmp_path, format):
    for name in ("a", "b"):
        write_splats(tmp_path / name, random_parameters(), format)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_quantised_files_render_as_the_original(tmp_path):
    from cam_utils import orbit_cameras

    cameras = orbit_cameras([0, -30], [0, 120], width=96, height=96)
    model = GaussianModel.from_arrays(changed(ball(), sh_rest=np.random.default_rng(0).uniform(-0.2, 0.2, (1500, 8, 3))))
    original = model.render(cameras).image
    for format, bound in (("ply", 1e-7), ("glb", 1e-5), ("spz", 4e-3)):
        model.save(tmp_path / f"a.{format}", format)
        assert float((GaussianModel.load(tmp_path / f"a.{format}").render(cameras).image - original).detach().abs().mean()) < bound


# ---- What other programs write ----


@pytest.mark.parametrize(
    ("name", "turn"),
    [("compressed.ply", "y"), ("v3.spz", "-y"), ("v4.spz", "-y"), ("glb", None)],
)
def test_files_of_splat_transform(name, turn):
    """It takes PLY to be Y-down, so that what it writes for formats that are Y-up is turned by a half turn (about z for glTF)."""
    if name == "v4.spz":
        pytest.importorskip("zstandard")
    path = next(DATA.glob(f"*{name}"))
    expected = random_parameters(40, 1, seed=7)
    found = turned(read_splats(path).parameters, turn_to_y(turn) if turn else np.diag([-1.0, -1, 1]))
    distance, order = cKDTree(found["means"]).query(expected["means"])  # compressed files are reordered
    found = {key: values[order] for key, values in found.items()}
    assert len(set(order)) == 40 and distance.max() < {"compressed.ply": 2e-3, "glb": 1e-6}.get(name, 2e-4)
    is_exact = name == "glb"
    np.testing.assert_allclose(opacities(found), opacities(expected), atol=1e-6 if is_exact else 0.5 / 255 + 1e-6)
    np.testing.assert_allclose(found["sh_dc"], expected["sh_dc"], atol=1e-6 if is_exact else 0.5 / 255 / 0.15 + 1e-5)
    np.testing.assert_allclose(found["log_scales"], expected["log_scales"], atol=1e-6 if is_exact else 0.5 / 16 + 1e-5)
    np.testing.assert_allclose(found["sh_rest"], expected["sh_rest"], atol=1e-6 if is_exact else 0.07)
    covariances = [
        GaussianModel.from_arrays(p | {"log_scales": expected["log_scales"]}).covariances().detach().numpy() for p in (found, expected)
    ]
    error = np.linalg.norm(covariances[0] - covariances[1], axis=1) / np.linalg.norm(covariances[1], axis=1)
    assert error.max() < (1e-5 if is_exact else 0.01)


def test_spz_of_version_1_and_2(tmp_path):
    """Half floats and 24-bit numbers; rotations as three bytes."""
    turn = np.array([0.5, -0.5, 0.25])  # x, y, z
    rotation = np.round((turn + 1) * 127.5).astype(np.uint8).tobytes()
    rest = bytes([128]) + bytes([64, 192, 128] * 8)[1:]
    tail = bytes([255]) + bytes([128, 0, 255]) + bytes([160, 80, 0]) + rotation + rest
    fixed = b"".join(int(v * 4096).to_bytes(3, "little", signed=True) for v in (1.5, -2.25, 0.125))
    for version, position in ((1, np.array([1.5, -2.25, 0.125], "<f2").tobytes()), (2, fixed)):
        data = gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, version, 1, 2, 12, 0, 0) + position + tail)
        parameters, up, _ = read(tmp_path, data, "a.spz")
        assert up == "y"
        np.testing.assert_array_equal(parameters["means"], [[1.5, -2.25, 0.125]])
        np.testing.assert_allclose(parameters["log_scales"], [[0, -5, -10]])
        np.testing.assert_allclose(opacities(parameters), [1])
        np.testing.assert_allclose(parameters["sh_dc"][0, 0], (np.array([128, 0, 255]) / 255 - 0.5) / 0.15, rtol=1e-5)
        np.testing.assert_allclose(parameters["quaternions"][0], [np.sqrt(1 - (turn**2).sum()), *turn], atol=0.01)
        np.testing.assert_array_equal(parameters["sh_rest"][0, 1], [-0.5, 0.5, 0])


def test_packed_words_of_a_compressed_ply(tmp_path):
    """One Gaussian by hand: 11, 10, 11 bits; the largest component's place and three of 10 bits; four bytes."""
    ranges = {"x": (-1, 1), "y": (0, 4), "z": (10, 20), "scale_x": (-8, -2), "scale_y": (-6, -2), "scale_z": (-4, -2)}
    chunk = [(f"{end}_{axis}", value) for axis, bounds in ranges.items() for end, value in zip(("min", "max"), bounds, strict=True)]
    words = [
        2047 << 21 | 0 << 11 | 1024,
        1 << 30 | 1023 << 20 | 512 << 10 | 512,
        0 << 21 | 1023 << 11 | 2047,
        255 << 24 | 0 << 16 | 51 << 8 | 128,
    ]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        "element chunk 1",
        *(f"property float {name}" for name, _ in chunk),
        "element vertex 1",
    ]
    lines += [f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")] + ["element sh 1"]
    lines += [f"property uchar f_rest_{index}" for index in range(9)] + ["end_header", ""]
    harmonics = bytes([0, 128, 255, *[127] * 6])
    data = (
        "\n".join(lines).encode() + np.array([value for _, value in chunk], "<f4").tobytes() + np.array(words, "<u4").tobytes() + harmonics
    )
    parameters, *_ = read(tmp_path, data)
    np.testing.assert_allclose(parameters["means"], [[1, 0, 10 + 10 * 1024 / 2047]])
    np.testing.assert_allclose(parameters["log_scales"], [[-8, -2, -2]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(parameters["quaternions"], [[half, half, 0, 0]], atol=2e-3)  # x is the largest: w comes first of the others
    np.testing.assert_allclose(base_colors(parameters["sh_dc"]), [[1, 0, 0.2]], atol=1e-6)
    np.testing.assert_allclose(opacities(parameters), [128 / 255], rtol=1e-6)
    np.testing.assert_allclose(parameters["sh_rest"][0, :, 0], [-4, 0.5 / 32, 4], atol=1e-6)  # red: the first three bytes


def test_renamed_properties_and_long_comments(tmp_path):
    parameters = random_parameters(degree=1)
    values = {name if name in "xyz" else f"scalar_{name}": column for name, column in columns(parameters).items()}
    again, up, _ = read(tmp_path, ply_bytes(values, ("Created by CloudCompare", "option=value " * 20_000), kind="double"))
    assert same(parameters, again) and up is None


def test_the_vertical_axis_that_a_comment_states(tmp_path):
    values = columns(random_parameters())
    assert read(tmp_path, ply_bytes(values, ("Generated by Nerfstudio 1.1.5", "Vertical Axis: z"))).up == "z"
    assert read(tmp_path, ply_bytes(values, ("vertical axis: -Y",))).up == "-y"
    write_splats(tmp_path / "own.ply", random_parameters())
    assert read_splats(tmp_path / "own.ply").up == "y"


def test_two_scales_are_flat_gaussians(tmp_path, caplog):
    parameters = random_parameters(degree=0)
    values = columns(parameters)
    del values["scale_2"]
    again, *_ = read(tmp_path, ply_bytes(values))
    assert (np.exp(again["log_scales"][:, 2]) == 0).all() and "two scales" in caplog.text
    np.testing.assert_array_equal(again["log_scales"][:, :2], parameters["log_scales"][:, :2])


def test_values_after_their_activations_are_recognised(tmp_path, caplog):
    parameters = random_parameters(degree=0)
    values = columns(parameters)
    values["opacity"] = opacities(parameters)
    values |= {f"scale_{axis}": np.exp(parameters["log_scales"][:, axis]) for axis in range(3)}
    again, *_ = read(tmp_path, ply_bytes(values, kind="double"))
    np.testing.assert_allclose(again["log_scales"], parameters["log_scales"], rtol=1e-5)
    np.testing.assert_allclose(again["opacity_logits"], parameters["opacity_logits"], atol=1e-5)
    assert "not as logits and logarithms" in caplog.text


def test_raw_values_that_look_activated_are_kept_where_the_file_is_our_own(tmp_path):
    wide = changed(random_parameters(degree=0), opacity_logits=np.full(60, 0.5), log_scales=np.full((60, 3), 0.3))
    write_splats(tmp_path / "a.ply", wide)
    assert same(wide, read_splats(tmp_path / "a.ply").parameters)


def test_the_3d_filter_is_applied(tmp_path):
    """Mip-Splatting: s' = sqrt(s^2 + f^2), and the opacity times sqrt(det S^2 / det S'^2)."""
    parameters, widths = random_parameters(degree=0), np.random.default_rng(1).uniform(0, 0.1, 60)
    widths[0] = 0
    again, *_ = read(tmp_path, ply_bytes(columns(parameters) | {"filter_3D": widths}))
    scales = np.exp(parameters["log_scales"].astype(float))
    expected = np.sqrt(scales**2 + widths[:, None] ** 2)
    np.testing.assert_allclose(np.exp(again["log_scales"]), expected, rtol=1e-5)
    np.testing.assert_allclose(opacities(again), opacities(parameters) * scales.prod(1) / expected.prod(1), rtol=1e-4)


def test_harmonics_of_degree_4_are_cut_to_3(tmp_path, caplog):
    parameters = random_parameters(degree=4)
    again, *_ = read(tmp_path, ply_bytes(columns(parameters)))
    np.testing.assert_array_equal(again["sh_rest"], parameters["sh_rest"][:, :15])
    assert "above degree 3 are left out" in caplog.text


# ---- Values that are not finite ----


def test_infinite_logits_and_logarithms_mean_what_their_functions_say(tmp_path):
    parameters = random_parameters(degree=0)
    parameters["opacity_logits"][:2] = np.inf, -np.inf
    parameters["log_scales"][2] = [-np.inf, -3, -4]
    parameters["quaternions"][3] = 0
    again, *_ = read(tmp_path, ply_bytes(columns(parameters)))
    model = GaussianModel.from_arrays(again)
    assert len(model) == 60 and all(np.isfinite(values).all() for values in again.values())
    assert model.opacities[0] == 1 and model.opacities[1] == 0 and model.scales[2, 0] == 0
    np.testing.assert_array_equal(again["quaternions"][3], [1, 0, 0, 0])
    np.testing.assert_array_equal(again["means"], parameters["means"])


@pytest.mark.parametrize("format", list(WRITERS))
def test_extremes_survive_every_format(tmp_path, format):
    extreme = random_parameters(8, 0)
    extreme["opacity_logits"][:2] = 104, -104
    extreme["log_scales"][2] = -104
    write_splats(tmp_path / f"a.{format}", extreme, format)
    again = read_splats(tmp_path / f"a.{format}").parameters
    found = sorted(opacities(again))
    assert len(found) == 8 and found[0] < 1e-6 and found[-1] > 1 - 1e-6
    assert format == "spz" or np.exp(again["log_scales"]).min() == 0


@pytest.mark.parametrize("name", ["x", "f_dc_1", "f_rest_4", "opacity", "scale_1", "rot_2"])
def test_a_row_with_nan_is_dropped_with_a_line(tmp_path, caplog, name):
    parameters = random_parameters(degree=1)
    values = columns(parameters)
    values[name] = values[name].copy()
    values[name][7] = np.nan
    with caplog.at_level(logging.WARNING):
        again, *_ = read(tmp_path, ply_bytes(values))
    assert same({key: np.delete(rows, 7, axis=0) for key, rows in parameters.items()}, again)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'a.ply'}: 1 of 60 Gaussians are not finite and are left out"
    ]


@pytest.mark.parametrize(("name", "value"), [("x", np.inf), ("scale_1", np.inf), ("scale_1", 90), ("rot_0", -np.inf), ("f_dc_0", np.inf)])
def test_a_row_of_infinite_size_place_or_colour_is_dropped(tmp_path, name, value):
    values = columns(random_parameters(degree=0))
    values[name] = values[name].copy()
    values[name][7] = value
    assert len(read(tmp_path, ply_bytes(values)).parameters["means"]) == 59
    values[name][:] = value
    with pytest.raises(ValueError, match=r"a\.ply: none of its 60 Gaussians is finite; the file is damaged"):
        read(tmp_path, ply_bytes(values))


# ---- glTF ----


def glb(document: dict, binary: bytes) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def taken_apart(data: bytes) -> tuple[dict, bytes]:
    size = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def test_gltf_follows_the_ratified_extension():
    parameters = random_parameters(degree=2)
    document, binary = taken_apart(gltf.encoded(parameters))
    (primitive,) = document["meshes"][0]["primitives"]
    assert document["extensionsUsed"] == [EXTENSION] and primitive["mode"] == 0
    assert primitive["extensions"][EXTENSION]["kernel"] == "ellipse"
    assert primitive["extensions"][EXTENSION]["colorSpace"] == "srgb_rec709_display"
    names = {"POSITION", "COLOR_0", *(f"{EXTENSION}:{name}" for name in ("ROTATION", "SCALE", "OPACITY", "SH_DEGREE_0_COEF_0"))}
    names |= {f"{EXTENSION}:SH_DEGREE_{d}_COEF_{i}" for d in (1, 2) for i in range(2 * d + 1)}
    assert set(primitive["attributes"]) == names

    def stored(name):
        accessor = document["accessors"][primitive["attributes"][name]]
        view = document["bufferViews"][accessor["bufferView"]]
        return np.frombuffer(binary, "<f4", view["byteLength"] // 4, view["byteOffset"]).reshape(60, -1)

    np.testing.assert_allclose(stored(f"{EXTENSION}:SCALE"), np.exp(parameters["log_scales"]), rtol=1e-6)  # linear
    np.testing.assert_allclose(stored(f"{EXTENSION}:OPACITY")[:, 0], opacities(parameters), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(stored(f"{EXTENSION}:ROTATION"), axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(stored(f"{EXTENSION}:SH_DEGREE_2_COEF_1"), parameters["sh_rest"][:, 4])


def test_gltf_nodes_place_what_they_hold(tmp_path):
    parameters = random_parameters(degree=1)
    document, binary = taken_apart(gltf.encoded(parameters))
    turn = turn_to_y("z")
    document["nodes"] = [
        {"children": [1], "scale": [2, 2, 2], "translation": [1, 2, 3]},
        {"mesh": 0, "rotation": [-np.sqrt(0.5), 0, 0, np.sqrt(0.5)]},
    ]
    found, up, _ = read(tmp_path, glb(document, binary), "a.glb")
    expected = turned(parameters, turn)
    assert up == "y"
    np.testing.assert_allclose(found["means"], 2 * expected["means"] + [1, 2, 3], atol=1e-5)
    np.testing.assert_allclose(found["log_scales"], parameters["log_scales"] + np.log(2), atol=1e-5)
    np.testing.assert_allclose(found["sh_rest"], expected["sh_rest"], atol=1e-5)
    assert angles(found["quaternions"], expected["quaternions"]).max() < 1e-3
    document["nodes"][0]["scale"] = [1, 2, 1]
    with pytest.raises(ValueError, match="a node stretches or mirrors its Gaussians"):
        read(tmp_path, glb(document, binary), "a.glb")


def test_gltf_quantised_strided_and_of_drafts(tmp_path, caplog):
    parameters = random_parameters(degree=0)
    document, binary = taken_apart(gltf.encoded(parameters))
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    rows = np.zeros(60, [("turn", "<i2", 4), ("gap", "<i4")])
    unit = parameters["quaternions"] / np.linalg.norm(parameters["quaternions"], axis=1, keepdims=True)
    rows["turn"] = np.round(unit[:, [1, 2, 3, 0]] * 32767)
    logarithms = parameters["log_scales"].tobytes()
    for name, data, extra in (("ROTATION", rows.tobytes(), {"byteStride": 12}), ("SCALE", logarithms, {})):
        accessor = document["accessors"][attributes[f"{EXTENSION}:{name}"]]
        accessor["bufferView"] = len(document["bufferViews"])
        accessor |= {"componentType": 5122, "normalized": True} if name == "ROTATION" else {}
        document["accessors"][attributes[f"{EXTENSION}:{name}"]] = accessor
        document["bufferViews"].append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(data), **extra})
        binary += data
    found, *_ = read(tmp_path, glb(document, binary), "a.glb")
    np.testing.assert_array_equal(found["log_scales"], parameters["log_scales"])
    assert angles(found["quaternions"], parameters["quaternions"]).max() < 0.01 and "as in drafts" in caplog.text


def test_gltf_with_buffers_beside_it_in_the_text_and_as_spz(tmp_path):
    parameters = random_parameters(degree=1)
    document, binary = taken_apart(gltf.encoded(parameters))
    (tmp_path / "der Puffer.bin").write_bytes(binary)
    document["buffers"][0]["uri"] = "der%20Puffer.bin"
    beside = read(tmp_path, json.dumps(document).encode(), "a.gltf").parameters
    packed = spz.encoded(parameters)
    primitive = document["meshes"][0]["primitives"][0]
    primitive["extensions"][EXTENSION]["extensions"] = {f"{EXTENSION}_compression_spz_2": {"bufferView": 0}}
    document |= {"bufferViews": [{"buffer": 0, "byteLength": len(packed)}], "extensionsRequired": [f"{EXTENSION}_compression_spz_2"]}
    document["buffers"] = [{"byteLength": len(packed)}]
    inside = read(tmp_path, glb(document, packed), "b.glb").parameters
    np.testing.assert_array_equal(beside["means"], parameters["means"])
    np.testing.assert_allclose(inside["means"], parameters["means"], atol=2**-20)


# ---- Errors ----


def spz_bytes(version=3, count=1, degree=0, body=bytes(20)):
    return gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, version, count, degree, 12, 0, 0) + body, mtime=0)


def changed_gltf(**changes):
    document, binary = taken_apart(gltf.encoded(random_parameters(degree=0)))
    return glb(document | changes, binary)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.ksplat", b"\0" * 4096, "not a format this can read; expected a PLY, .splat, .spz or .glb of Gaussians"),
        ("a.splat", bytes(33), "33 bytes are no multiple of 32"),
        ("a.spz", b"x\x9c" + bytes(30), "it is not one gzip stream"),
        ("a.spz", gzip.compress(b"NG", mtime=0), "the header has no end"),
        ("a.spz", gzip.compress(bytes(40), mtime=0), "not a .spz file"),
        ("a.spz", spz_bytes(version=9), "version 9; expected 1 to 4"),
        ("a.spz", spz_bytes(degree=7), "harmonics of degree 7"),
        ("a.spz", spz_bytes(count=2), "2 Gaussians are announced and not all there"),
        ("a.spz", spz_bytes(count=2**32 - 1), "4294967295 Gaussians in"),
        ("a.spz", spz_bytes()[:-12], "not a whole .spz file"),
        ("a.spz", struct.pack("<IIIBBBBI", 0x5053474E, 4, 1, 0, 12, 0, 6, 32) + bytes(12), "its table of contents is not there"),
        ("a.spz", struct.pack("<IIIBBBBI", 0x5053474E, 3, 1, 0, 12, 0, 6, 32) + bytes(12), "without compression"),
        ("a.glb", b"glTF" + struct.pack("<II", 1, 12), "not a whole GLB: version 1"),
        ("a.glb", changed_gltf()[:-40], "not a whole GLB"),
        ("a.glb", changed_gltf(accessors=[]), "not a whole glTF file: IndexError"),
        ("a.glb", changed_gltf(meshes=[{"primitives": [{"attributes": {"POSITION": 0}}]}]), "this looks like a mesh"),
        ("a.glb", changed_gltf(extensionsRequired=["EXT_meshopt_compression"]), "requires EXT_meshopt_compression"),
        ("a.glb", changed_gltf(buffers=[{"uri": "../secret", "byteLength": 9}]), "no such file beside it"),
        ("a.gltf", b"{", "its JSON cannot be read"),
    ],
)
def test_what_is_not_whole_or_of_another_kind_is_one_line(tmp_path, name, data, message):
    with pytest.raises(ValueError, match=re.escape(name) + f".*{re.escape(message)}") as caught:
        read(tmp_path, data, name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.spz: no such file; expected a PLY, \.splat, \.spz or \.glb of Gaussians"):
        read_splats(tmp_path / "none.spz")


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path):
    far = changed(random_parameters(), means=np.full((60, 3), 1e8))
    with pytest.raises(ValueError, match="holds positions up to"):
        write_splats(tmp_path / "a.spz", far, "spz")
    with pytest.raises(ValueError, match="cannot hold none"):
        write_splats(tmp_path / "a.glb", {name: values[:0] for name, values in random_parameters().items()}, "glb")
    with pytest.raises(ValueError, match="format=usdz: expected one of ply, splat, spz, glb"):
        write_splats(tmp_path / "a.usdz", random_parameters(), "usdz")
    assert not list(tmp_path.iterdir())
    for format in ("ply", "splat", "spz"):  # no Gaussians at all are still a file
        write_splats(tmp_path / f"a.{format}", {name: values[:0] for name, values in random_parameters(degree=0).items()}, format)
        assert len(read_splats(tmp_path / f"a.{format}").parameters["means"]) == 0
