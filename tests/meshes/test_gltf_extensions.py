"""Extensions of glTF and formats of its pictures: what is read, what is named, what it needs."""

import base64
import json

import numpy as np
import pytest
from gltf_squares import CENTERS, QUARTERS, SQUARE, SQUARE_FACES, seen, square
from PIL import Image

from microdreamer.meshes.files import read_surface
from scripts.make_mesh_files import GltfFile, box, quarters


def test_what_is_required_and_not_known_is_named(tmp_path):
    file = GltfFile()
    file.use("NASA_warp_drive", required=True)
    with pytest.raises(ValueError, match=r"square\.glb: it needs the glTF extension NASA_warp_drive"):
        read_surface(square(file=file, path=tmp_path))


@pytest.mark.parametrize("required", [True, False])
def test_gaussians_are_told_where_they_belong(tmp_path, required):
    file = GltfFile()
    file.use("KHR_gaussian_splatting", required)
    file.node([file.primitive(SQUARE, None, mode=0)])
    with pytest.raises(ValueError, match=r"a\.glb: it holds Gaussians, no mesh; pass it as --from-splats"):
        read_surface(file.write(tmp_path / "a.glb"))


def test_what_is_ignored_is_one_line(tmp_path):
    file = GltfFile()
    for name in ("NASA_warp_drive", "KHR_materials_transmission", "KHR_lights_punctual"):
        file.use(name)
    surface = read_surface(square(file=file, path=tmp_path))
    assert surface.notes == ["glTF extensions without effect: NASA_warp_drive, KHR_materials_transmission"]


@pytest.mark.parametrize(("extension", "package"), [("KHR_draco_mesh_compression", "DracoPy"), ("EXT_meshopt_compression", "meshopt")])
def test_compressions_name_their_package(tmp_path, monkeypatch, extension, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)  # not installed
    file = GltfFile()
    part = file.primitive(SQUARE, SQUARE_FACES)
    file.use(extension, required=True)
    if package == "DracoPy":
        part["extensions"] = {extension: {"bufferView": 0, "attributes": {"POSITION": 0}}}
    else:
        packed = {"buffer": 0, "byteOffset": 0, "byteLength": 4, "byteStride": 12, "mode": "ATTRIBUTES", "count": 4}
        file.json["bufferViews"][0]["extensions"] = {extension: packed}
    file.node([part])
    with pytest.raises(ValueError, match=rf"pip install {package}"):
        read_surface(file.write(tmp_path / "a.glb"))


def test_draco_gives_the_same_mesh(tmp_path):
    DracoPy = pytest.importorskip("DracoPy")
    positions, faces, uvs = box()
    data = DracoPy.encode(positions, faces, tex_coord=uvs.astype(np.float64), preserve_order=True, quantization_bits=16)
    numbers = {len(entry["data"][0]): entry["unique_id"] for entry in DracoPy.decode(data).attributes}
    file = GltfFile()
    file.use("KHR_draco_mesh_compression", required=True)
    part = file.primitive(positions, faces, file.material(file.texture(quarters())), TEXCOORD_0=uvs)
    for accessor in file.json["accessors"]:
        del accessor["bufferView"]
    attributes = {"POSITION": numbers[3], "TEXCOORD_0": numbers[2]}
    part["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": file.view(data), "attributes": attributes}}
    file.node([part])
    surface = read_surface(file.write(tmp_path / "a.glb"))
    front = seen(surface, [(x * 0.8, y * 0.8) for x, y in CENTERS])
    np.testing.assert_allclose(np.abs(surface.vertices), 0.4, atol=1e-3)
    assert {tuple(color) for color in np.rint(front).astype(int)} == set(QUARTERS.values())


def test_draco_of_normalised_integers(tmp_path):
    DracoPy = pytest.importorskip("DracoPy")
    positions, faces, _ = box(half=1)
    data = DracoPy.encode(np.int32(positions * 32767), faces, preserve_order=True)
    file = GltfFile()
    file.use("KHR_draco_mesh_compression", required=True)
    part = file.primitive((np.int16(positions * 32767), "normalized"), faces)
    number = DracoPy.decode(data).attributes[0]["unique_id"]
    part["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": file.view(data), "attributes": {"POSITION": number}}}
    file.node([part])
    np.testing.assert_allclose(np.abs(read_surface(file.write(tmp_path / "a.glb")).vertices), 1, atol=1e-3)


def test_meshopt_gives_the_same_mesh(tmp_path):
    meshopt = pytest.importorskip("meshopt")
    file = GltfFile()
    positions, faces, _ = box()
    part = file.primitive(positions, faces)
    file.use("EXT_meshopt_compression", required=True)
    for index, (values, mode) in enumerate(((positions, "ATTRIBUTES"), (faces.reshape(-1).astype(np.uint16), "TRIANGLES"))):
        source = values.astype(np.uint32) if mode == "TRIANGLES" else values
        data = bytes(meshopt.encode_gltf_buffer(source, mode))
        stride = values.dtype.itemsize * (3 if values.ndim == 2 else 1)
        packed = {"buffer": 0, "byteLength": len(data), "byteStride": stride, "mode": mode, "count": len(values)}
        packed["byteOffset"] = file.json["bufferViews"][file.view(data)]["byteOffset"]
        file.json["bufferViews"][file.json["accessors"][index]["bufferView"]]["extensions"] = {"EXT_meshopt_compression": packed}
    file.node([part])
    surface = read_surface(file.write(tmp_path / "a.glb"))
    np.testing.assert_array_equal(surface.vertices[surface.faces].min((0, 1)), positions.min(0))
    a, b, c = surface.vertices[surface.faces].transpose(1, 0, 2)
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(6 * 0.8**2)


def test_a_picture_that_another_reader_needs_falls_back_to_the_plain_one(tmp_path):
    def material(file):
        file.use("KHR_texture_basisu")
        index = file.texture(quarters())
        ktx = file.add("images", bufferView=file.view(b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(80)), mimeType="image/ktx2")
        file.json["textures"][index]["extensions"] = {"KHR_texture_basisu": {"source": ktx}}
        return file.material(index)

    np.testing.assert_allclose(seen(read_surface(square(material, path=tmp_path)), CENTERS), list(QUARTERS.values()), atol=1)


def test_ktx2_alone_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opengl_basisu", None)

    def material(file):
        file.use("KHR_texture_basisu", required=True)
        ktx = file.add("images", bufferView=file.view(b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(80)), mimeType="image/ktx2")
        return file.material(file.add("textures", extensions={"KHR_texture_basisu": {"source": ktx}}))

    with pytest.raises(ValueError, match=r"KTX2 file, which takes a package: pip install opengl-basisu"):
        read_surface(square(material, path=tmp_path))


# `quarters(16)` as ETC1S, by Basis Universal 2.1
KTX2 = (
    "q0tUWCAyMLsNChoKAAAAAAEAAAAQAAAAEAAAAAAAAAAAAAAAAQAAAAEAAAABAAAAaAAAACwAAACUAAAAJAAAALgAAAAAAAAAkwAAAAAAAABLAQAAAAAAAAQAAAAAAAAA"
    "AAAAAAAAAAAsAAAAAAAAAAIAKACjAQIAAwMAAAgAAAAAAAAAAAA/AAAAAAAAAAAA/////x8AAABLVFh3cml0ZXIAQmFzaXMgVW5pdmVyc2FsIDIuMTAAAAQAAgAzAAAA"
    "CQAAAC8AAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAZQNwAAQAAQFB9EA1iBTAlAAAAAACADFBRAFMABAAAAEDQjLYHwASAAAAAABAUM/ZTOQusqqqqUlVVVQUUwEQA"
    "AAAAAAASQQCYAAAAAAAAQBgCogQMAAAAwsYlkghEOQIwAwAAAAAAgCQgAEjNYQU="
)


def test_ktx2_is_decoded(tmp_path):
    pytest.importorskip("opengl_basisu")

    def material(file):
        file.use("KHR_texture_basisu", required=True)
        ktx = file.add("images", bufferView=file.view(base64.b64decode(KTX2)), mimeType="image/ktx2")
        return file.material(file.add("textures", extensions={"KHR_texture_basisu": {"source": ktx}}))

    np.testing.assert_allclose(seen(read_surface(square(material, path=tmp_path)), CENTERS), list(QUARTERS.values()), atol=4)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "JPEG"])
def test_picture_formats(tmp_path, file_format):
    surface = read_surface(square(lambda file: file.material(file.texture(quarters(), file_format=file_format)), path=tmp_path))
    np.testing.assert_allclose(seen(surface, CENTERS), list(QUARTERS.values()), atol=6)


def test_files_beside_it_by_names_that_are_encoded(tmp_path):
    Image.fromarray(quarters()).save(tmp_path / "ein Bild №1.png")
    file = GltfFile()
    image = file.add("images", uri="ein%20Bild%20%E2%84%961.png")
    path = square(lambda f: f.material(f.add("textures", source=image)), suffix="gltf", path=tmp_path, file=file)
    document = json.loads(path.read_text())
    document["buffers"][0]["uri"] = "data%20file.bin"
    (tmp_path / "data file.bin").write_bytes(bytes(file.blob))
    path.write_text(json.dumps(document))
    np.testing.assert_allclose(seen(read_surface(path), CENTERS), list(QUARTERS.values()), atol=1)
    (tmp_path / "ein Bild №1.png").unlink()
    with pytest.raises(ValueError, match=r"square\.gltf: .*ein%20Bild.* is not there"):
        read_surface(path)


def test_a_sixteen_bit_picture_is_not_cut_off(tmp_path):
    Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)).save(tmp_path / "grey.png")
    file = GltfFile()
    image = file.add("images", uri="grey.png")
    path = square(lambda f: f.material(f.add("textures", source=image)), path=tmp_path, file=file)
    np.testing.assert_allclose(seen(read_surface(path), [(0, 0.1)]), [[128] * 3], atol=0.5)
