"""OBJ and PLY files as people have them: polygons, names, colours, and what is not there."""

import struct

import numpy as np
import pytest
from PIL import Image

from microdreamer.images.colour import srgb_to_linear
from microdreamer.meshes.files import read_mesh, read_surface
from microdreamer.meshes.formats.mtl import parsed_map
from microdreamer.meshes.formats.pictures import find_file
from microdreamer.meshes.formats.polygons import triangulated
from scripts.make_mesh_files import checks, quarters

CORNERS = "v -0.5 -0.5 0\nv 0.5 -0.5 0\nv 0.5 0.5 0\nv -0.5 0.5 0\n"
COORDINATES = "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
TEXTURED = f"mtllib a.mtl\n{CORNERS}{COORDINATES}usemtl cloth\nf 1/1 2/2 3/3 4/4\n"


def area(points, faces):
    a, b, c = points[faces].transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


# ---- Polygons ----


def star(corners, seed, straight=True):
    """A polygon [K,2] around the origin with inward corners and one straight one, and its area."""
    rng = np.random.default_rng(seed)
    angles = (np.arange(corners) + 0.7 * rng.random(corners)) / corners * 2 * np.pi
    points = rng.uniform(0.1, 1, corners)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if straight and corners > 4:
        points[2] = (points[1] + points[3]) / 2
    x, y = points.T
    return points, abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@pytest.mark.parametrize("corners", [4, 5, 8, 13, 60])
@pytest.mark.parametrize("seed", range(6))
def test_concave_polygons_keep_their_area_and_side(corners, seed):
    flat, wanted = star(corners, seed)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    points = 10 * np.c_[flat, np.zeros(corners)] @ turn.T + 100
    faces, owners = triangulated([0], [corners], points)
    assert faces.shape == (corners - 2, 3) and (owners == 0).all()
    assert area(points, faces) == pytest.approx(100 * wanted, rel=1e-9)
    a, b, c = points[faces].transpose(1, 0, 2)
    outward = np.cross(b - a, c - a) @ turn[:, 2] * np.sign(np.linalg.det(turn)) * np.sign(np.linalg.det(turn))
    assert outward.min() > -1e-9  # none lies the other way round


def test_many_polygons_at_once_come_out_in_order():
    first, second = star(7, 1), star(5, 2)
    points = np.concatenate([np.c_[flat, np.zeros(len(flat))] for flat, _ in (first, second, first)])
    faces, owners = triangulated([0, 7, 12], [7, 5, 7], points)
    assert owners.tolist() == [0] * 5 + [1] * 3 + [2] * 5
    for number, wanted in enumerate((first[1], second[1], first[1])):
        assert area(points, faces[owners == number]) == pytest.approx(wanted)


def test_convex_polygons_are_fans_and_two_corners_are_nothing():
    ring = np.stack([np.cos(np.arange(6)), np.sin(np.arange(6)), 0 * np.arange(6)], axis=1)
    faces, _ = triangulated([0, 0, 0], [6, 2, 1], ring)
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]]


def test_a_bent_quad_and_a_polygon_that_crosses_itself_still_give_triangles():
    bent = np.array([[0, 0, 0], [1, 0, 0.2], [1, 1, 0], [0, 1, 0.2]])
    assert len(triangulated([0], [4], bent)[0]) == 2
    crossing = np.array([[0, 0, 0], [2, 2, 0], [2, 0, 0], [0, 2, 0], [1, 3, 0]], float)
    assert triangulated([0], [5], crossing)[0].shape == (3, 3)
    assert triangulated([0], [5], np.zeros((5, 3)))[0].shape == (3, 3)


def test_an_arrow_of_four_corners_is_cut_at_its_notch(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 2 1 0\nv 0 2 0\nv 1 1 0\nf 1 2 3 4\n")
    surface = read_surface(tmp_path / "a.obj")
    assert area(surface.vertices, surface.faces) == pytest.approx(1)


# ---- OBJ: names ----


def textured(folder, mtl="newmtl cloth\nKd 0.8 0.8 0.8\nmap_Kd picture.png\n", obj=TEXTURED, picture="picture.png", name="a.obj"):
    Image.fromarray(quarters()).save(folder / picture)
    (folder / "a.mtl").write_bytes(mtl if isinstance(mtl, bytes) else mtl.encode())
    (folder / name).write_bytes(obj if isinstance(obj, bytes) else obj.encode())
    return read_mesh(folder / name)


def is_whole(mesh, pixels=None):
    """Whether the mesh has the texture as it is, upright on the square."""
    np.testing.assert_array_equal(np.rint(mesh.texture * 255), quarters() if pixels is None else pixels)
    np.testing.assert_allclose(mesh.uvs[mesh.uv_faces], mesh.vertices[mesh.faces][..., :2] + 0.5, atol=1e-6)
    return True


@pytest.mark.parametrize(
    "statement",
    [
        "map_Kd picture.png",
        "map_kd\tpicture.png  ",
        "\tMAP_KD   PICTURE.PNG",
        r"map_Kd C:\Users\me\textures\picture.png",
        r"map_Kd textures\picture.png",
        "map_Kd /home/someone/else/Picture.Png",
        "map_Kd ./picture.png",
        'map_Kd "picture.png"',
        "map_Kd -s 1 1 1 -o 0 0 0 -mm 0 1 -blendu on -texres 512 picture.png",
        "map_Kd -clamp on picture.png",
        "map_Kd -bm 0.5 -imfchan r picture.png",
    ],
)
def test_a_texture_is_found_by_what_people_write(tmp_path, statement):
    assert is_whole(textured(tmp_path, f"newmtl cloth\n{statement}\n"))


@pytest.mark.parametrize(
    "obj",
    [
        TEXTURED.replace("\n", "\r\n"),
        "\ufeff" + TEXTURED,
        TEXTURED.encode("utf-16"),
        TEXTURED.replace(" ", "\t"),
        TEXTURED.replace("a.mtl", "A.MTL"),
        TEXTURED.replace("a.mtl", "./a.mtl"),
        TEXTURED.replace("usemtl cloth", "usemtl CLOTH"),
        TEXTURED.replace("f 1/1 2/2 3/3 4/4", "f 1/1 2/2 \\\n 3/3 4/4"),
        TEXTURED.replace("f 1/1 2/2 3/3 4/4", "f -4/-4 -3/-3 -2/-2 -1/-1"),
        TEXTURED.replace("f 1/1 2/2 3/3 4/4", "f 1/1/1 2/2 3/3/ 4/4"),
        TEXTURED.replace("f 1/1 2/2 3/3 4/4", "f 1/1 2/2 3/3 # comment\nf 1/1 3/3 4/4"),
        TEXTURED.replace("v -0.5 -0.5 0", "v -0.5 -0.5 0 1.0").replace("vt 0 0", "vt 0 0 0"),
        "# comment\r\n\r\no thing\r\ng part\r\ns off\r\n" + TEXTURED + "l 1 2\np 1\nvp 1\n",
    ],
)
def test_an_obj_is_read_however_it_is_written(tmp_path, obj):
    assert is_whole(textured(tmp_path, obj=obj))


@pytest.mark.parametrize("name", ["ein Bild, №1.png", "two  spaces.png", "-s.png"])
def test_names_of_pictures_with_spaces_and_more(tmp_path, name):
    assert is_whole(textured(tmp_path, f"newmtl cloth\nmap_Kd {name}\n", picture=name))


def test_libraries_with_spaces_and_several_on_a_line(tmp_path):
    Image.fromarray(quarters()).save(tmp_path / "picture.png")
    (tmp_path / "my material file.mtl").write_text("newmtl cloth\nmap_Kd picture.png\n")
    (tmp_path / "other.mtl").write_text("newmtl other\nKd 1 0 0\n")
    (tmp_path / "a.obj").write_text(TEXTURED.replace("a.mtl", "my material file.mtl"))
    assert is_whole(read_mesh(tmp_path / "a.obj"))
    (tmp_path / "my material file.mtl").rename(tmp_path / "cloth.mtl")
    (tmp_path / "a.obj").write_text(TEXTURED.replace("a.mtl", "other.mtl cloth.mtl"))
    assert is_whole(read_mesh(tmp_path / "a.obj"))


def test_a_materials_file_with_a_mark_and_old_encoding(tmp_path):
    assert is_whole(textured(tmp_path, b"\xef\xbb\xbfnewmtl cloth\r\nmap_Kd picture.png\r\n"))
    text = TEXTURED.replace("cloth", "drap vert é")
    assert is_whole(textured(tmp_path, "newmtl drap vert é\nmap_Kd picture.png\n".encode("latin-1"), obj=text.encode("latin-1")))


def test_options_of_a_picture():
    found = parsed_map("-s 2 3 1 -o 0.5 -clamp on -mm 0 1 my picture.png")
    assert found.name == "my picture.png" and found.clamp
    assert found.scale.tolist() == [2, 3] and found.offset.tolist() == [0.5, 0]
    assert parsed_map("a  b.png").name == "a  b.png" and parsed_map("-unknown.png").name == "-unknown.png"


def test_scale_and_offset_change_the_coordinates(tmp_path):
    mesh = textured(tmp_path, "newmtl cloth\nmap_Kd -s 2 2 1 -o 0.5 0 0 picture.png\n")
    np.testing.assert_allclose(mesh.uvs[mesh.uv_faces], 2 * (mesh.vertices[mesh.faces][..., :2] + 0.5) + [0.5, 0], atol=1e-6)


def test_find_file_prefers_the_very_name(tmp_path):
    for name in ("a.png", "A.png"):
        (tmp_path / name).write_text(name)
    assert find_file("A.png", [tmp_path]).name == "A.png" and find_file("a.png", [tmp_path]).name == "a.png"
    assert find_file("b.png", [tmp_path]) is None and find_file("", [tmp_path]) is None and find_file("a\0b", [tmp_path]) is None
    assert find_file("x" * 5000, [tmp_path]) is None


# ---- OBJ: colours ----


def test_two_materials_with_pictures_keep_both(tmp_path):
    Image.fromarray(quarters()).save(tmp_path / "picture.png")
    Image.fromarray(checks((0, 0, 0), (255, 255, 255))).save(tmp_path / "checks.png")
    (tmp_path / "a.mtl").write_text("newmtl cloth\nmap_Kd picture.png\nnewmtl wood\nmap_Kd checks.png\n")
    (tmp_path / "a.obj").write_text(TEXTURED + "v 2 0 0\nusemtl wood\nf 2/1 5/2 3/3\n")
    surface = read_surface(tmp_path / "a.obj")
    assert surface.to_mesh() is None and len(surface.materials) == 2
    mesh = read_mesh(tmp_path / "a.obj")
    assert mesh.has_texture and len(mesh.faces) == 3
    found = {tuple(color) for color in np.rint(mesh.texture * 255).astype(int).reshape(-1, 3)}
    assert {(220, 30, 30), (30, 180, 30), (30, 60, 220), (230, 210, 30), (0, 0, 0), (255, 255, 255)} <= found


def test_a_coloured_factor_tints_its_picture_and_default_greys_do_not(tmp_path):
    tinted = textured(tmp_path, "newmtl cloth\nKd 1 0.5 0\nmap_Kd picture.png\n").texture
    plain = quarters() / 255
    wanted = np.stack([plain[..., 0], (srgb_to_linear(plain[..., 1]) * srgb_to_linear(np.array(0.5))), 0 * plain[..., 2]], axis=-1)
    np.testing.assert_allclose(tinted[..., 0], wanted[..., 0], atol=1e-3)
    np.testing.assert_allclose(srgb_to_linear(tinted[..., 1]), wanted[..., 1], atol=1e-3)
    assert not tinted[..., 2].any()
    for grey in ("0.8", "0.640000", "0.588", "0", "1"):
        assert is_whole(textured(tmp_path, f"newmtl cloth\nKd {grey} {grey} {grey}\nmap_Kd picture.png\n"))


COLOURED = "v 0 0 0 {}\nv 1 0 0 {}\nv 0 1 0 {}\n"
SHADES = np.array([[204, 25, 25], [25, 25, 204], [51, 255, 0]])


@pytest.mark.parametrize("scale", [255, 1])
@pytest.mark.parametrize("beside", ["", "usemtl grey\n"])
def test_vertex_colours_count_beside_a_material(tmp_path, scale, beside):
    (tmp_path / "a.mtl").write_text("newmtl grey\nKd 0.8 0.8 0.8\n")
    rows = [" ".join(f"{value * scale / 255:.6g}" for value in shade) for shade in SHADES]
    (tmp_path / "a.obj").write_text("mtllib a.mtl\n" + COLOURED.format(*rows) + beside + "f 1 2 3\n")
    mesh = read_mesh(tmp_path / "a.obj")
    np.testing.assert_allclose(mesh.vertex_colors * 255, SHADES, atol=0.01)


def test_white_at_all_vertices_leaves_the_materials_colour(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl red\nKd 1 0 0\n")
    (tmp_path / "a.obj").write_text("mtllib a.mtl\n" + COLOURED.format(*["1 1 1"] * 3) + "usemtl red\nf 1 2 3\n")
    np.testing.assert_allclose(read_mesh(tmp_path / "a.obj").vertex_colors, np.tile([1.0, 0, 0], (3, 1)))


def test_polypaint_comments(tmp_path):
    paint = "".join("ff" + bytes(shade.tolist()).hex() for shade in SHADES)
    (tmp_path / "a.obj").write_text(f"v 0 0 0\nv 1 0 0\nv 0 1 0\n#MRGB {paint}\nf 1 2 3\n")
    np.testing.assert_allclose(read_mesh(tmp_path / "a.obj").vertex_colors * 255, SHADES, atol=0.01)


def test_a_missing_library_is_a_line_and_a_mesh(tmp_path):
    (tmp_path / "a.obj").write_text(TEXTURED)
    surface = read_surface(tmp_path / "a.obj")
    assert len(surface.faces) == 2 and surface.notes == ["its materials a.mtl are not there; colours and textures are left out"]


def test_a_picture_that_is_none_is_told_by_its_name(tmp_path):
    for content, message in ((b"text", "of no format that is known"), (b"", "an empty file")):
        (tmp_path / "broken.png").write_bytes(content)
        with pytest.raises(ValueError, match=rf"its texture broken\.png is no picture that can be read \({message}\)"):
            textured(tmp_path, "newmtl cloth\nmap_Kd broken.png\n")


def test_pictures_of_materials_that_no_face_has_need_not_be_there(tmp_path):
    assert is_whole(textured(tmp_path, "newmtl other\nmap_Kd gone.png\nnewmtl cloth\nmap_Kd picture.png\n"))


def test_a_material_that_is_not_there_is_a_line(tmp_path):
    Image.fromarray(quarters()).save(tmp_path / "picture.png")
    (tmp_path / "a.mtl").write_text("newmtl other\nmap_Kd picture.png\n")
    (tmp_path / "a.obj").write_text(TEXTURED)
    assert read_surface(tmp_path / "a.obj").notes == ["no material is called cloth; its faces are without colour"]


def test_transparent_texels_of_a_picture_do_not_become_black(tmp_path):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[4:12, 4:12] = [30, 200, 40, 255]
    (tmp_path / "a.obj").write_text(TEXTURED)
    for line in ("", "map_d leaf.png\n"):
        Image.fromarray(pixels).save(tmp_path / "leaf.png")
        (tmp_path / "a.mtl").write_text(f"newmtl cloth\nmap_Kd leaf.png\n{line}")
        assert (np.rint(read_mesh(tmp_path / "a.obj").texture * 255) == [30, 200, 40]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 0 0 0\nv 1 0\nv 0 1 0\nf 1 2 3\n", "expected 3 numbers or more, got '1 0'"),
        ("v 0 0 zero\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "expected numbers, got '0 0 zero'"),
        (CORNERS + "f 1 2 five\n", "expected a corner of a face, got 'five'"),
        (CORNERS + "f 1 2 5\n", "a face names v 5, of which there are 4"),
        (CORNERS + "f 0 1 2\n", "a face names v 0, of which there are 4"),
        (CORNERS + "f -5 1 2\n", "a face names v -5, of which there are 4"),
        (CORNERS + "f 1/1 2/1 3/1\n", "a face names vt 1, of which there are 0"),
        (CORNERS + "f 1 2 99999999999999999999\n", "expected a corner of a face"),
        (CORNERS, "found no triangles"),
        (CORNERS + "f 1 2\nf 3\nf\n", "found no triangles"),
        ("", "an empty file"),
    ],
)
def test_a_wrong_obj_is_one_line(tmp_path, text, message):
    (tmp_path / "a.obj").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_surface(tmp_path / "a.obj")
    assert "\n" not in str(caught.value) and "a.obj" in str(caught.value)


def test_a_mesh_in_a_format_that_is_not_read_is_told_what_to_do(tmp_path):
    (tmp_path / "a.fbx").write_bytes(b"Kaydara FBX Binary  \0")
    with pytest.raises(ValueError, match=r"a\.fbx: \.fbx files are not read; save it as GLB"):
        read_surface(tmp_path / "a.fbx")


# ---- PLY ----


def ply(path, kind="ascii", faces=((0, 1, 2, 3),), vertex=(), face=(), vertex_rows=None, face_rows=None, comments=()):
    """A PLY of the square; vertex and face: further properties (type, name), with their rows."""
    order = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}[kind]
    codes = {"char": "b", "short": "h", "uint": "I", "uchar": "B", "float": "f", "ushort": "H", "int": "i", "double": "d"}
    points = [[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]]
    head = ["ply", f"format {kind} 1.0", *(f"comment {text}" for text in comments), "element vertex 4"]
    head += [f"property float {axis}" for axis in "xyz"] + [f"property {code} {name}" for code, name in vertex]
    head += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    head += [f"property {code} {name}" for code, name in face] + ["end_header\n"]
    rows = [[("f", value) for value in point] for point in points]
    for row, values in zip(rows, vertex_rows if vertex_rows is not None else [[]] * 4, strict=True):
        row += [(codes[code], value) for (code, _), value in zip(vertex, values, strict=True)]
    more = face_rows if face_rows is not None else [[]] * len(faces)
    for corners, values in zip(faces, more, strict=True):
        row = [("B", len(corners)), *(("i", corner) for corner in corners)]
        for (code, _), value in zip(face, values, strict=True):
            if code.startswith("list"):
                row += [("B", len(value)), *(("f", number) for number in value)]
            else:
                row.append((codes[code], value))
        rows.append(row)
    if order:
        body = b"".join(struct.pack(order + code, value) for row in rows for code, value in row)
    else:
        body = "\n".join(" ".join(str(value) for _, value in row) for row in rows).encode()
    path.write_bytes("\n".join(head).encode() + body)
    return path


KINDS = ["ascii", "binary_little_endian", "binary_big_endian"]
RGB = [("uchar", name) for name in ("red", "green", "blue")]
SHADES_4 = [[204, 25, 25], [25, 25, 204], [51, 255, 0], [1, 0, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_ply_vertex_colours(tmp_path, kind):
    mesh = read_mesh(ply(tmp_path / "a.ply", kind, vertex=RGB, vertex_rows=SHADES_4))
    np.testing.assert_allclose(mesh.vertex_colors * 255, SHADES_4, atol=0.01)
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("code", "scale"), [("float", 1 / 255), ("float", 1), ("ushort", 257), ("double", 1 / 255)])
def test_ply_colours_of_other_types(tmp_path, kind, code, scale):
    rows = np.array(SHADES_4) * scale
    rows = rows.astype(int).tolist() if code == "ushort" else rows.tolist()
    mesh = read_mesh(ply(tmp_path / "a.ply", kind, vertex=[(code, name) for _, name in RGB], vertex_rows=rows))
    np.testing.assert_allclose(mesh.vertex_colors * 255, SHADES_4, atol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_ply_face_colours_and_faces_of_different_sizes(tmp_path, kind):
    faces, shades = [(0, 1, 2), (0, 2, 3), (0, 1, 2, 3)], [[255, 0, 0], [0, 0, 255], [0, 255, 0]]
    surface = read_surface(ply(tmp_path / "a.ply", kind, faces, face=RGB, face_rows=shades))
    assert len(surface.faces) == 4
    np.testing.assert_allclose(surface.colors[:, 0, :3], np.array(shades)[[0, 1, 2, 2]] / 255, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wedges", [True, False])
def test_ply_textures(tmp_path, kind, wedges):
    Image.fromarray(quarters()).save(tmp_path / "A picture.png")
    corners = [[0, 0], [1, 0], [1, 1], [0, 1]]
    if wedges:
        more = {"face": [("list uchar float", "texcoord")], "face_rows": [[[0, 0, 1, 0, 1, 1, 0, 1]]]}
    else:
        more = {"vertex": [("float", "s"), ("float", "t")], "vertex_rows": corners}
    assert is_whole(read_mesh(ply(tmp_path / "a.ply", kind, comments=["TextureFile a picture.png"], **more)))


def test_ply_with_several_textures(tmp_path):
    Image.fromarray(quarters()).save(tmp_path / "0.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "1.png")
    face = [("list uchar float", "texcoord"), ("int", "texnumber")]
    rows = [[[0, 0, 1, 0, 1, 1], 1], [[0, 0, 1, 1, 0, 1], 0]]
    path = ply(
        tmp_path / "a.ply", faces=[(0, 1, 2), (0, 2, 3)], face=face, face_rows=rows, comments=["TextureFile 0.png", "TextureFile 1.png"]
    )
    surface = read_surface(path)
    assert surface.material.tolist() == [1, 0] and not surface.shade(np.array([0]), np.full((1, 3), 1 / 3))[0, :3].any()


def test_ply_strips(tmp_path):
    head = "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    body = "0 0 0\n1 0 0\n0 1 0\n1 1 0\n8 0 1 2 3 -1 0 1 2\n"
    (tmp_path / "a.ply").write_text(head + "element tristrips 1\nproperty list int int vertex_indices\nend_header\n" + body)
    assert read_surface(tmp_path / "a.ply").faces.tolist() == [[0, 1, 2], [1, 3, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:-6], "cut short"),
        (lambda d: d[:40], "its header does not end"),
        (lambda d: d.replace(b"element face 1", b"element face 0"), "found no triangles"),
        (lambda d: d.replace(b"element face 1", b"element face 99999999"), "more rows are announced"),
        (lambda d: d.replace(b"float x", b"quad x"), "a line of its header is not understood: 'property quad x'"),
        (lambda d: d.replace(b"float x", b"float a"), "no vertices with x, y and z"),
        (lambda d: d.replace(b"format ascii 1.0\n", b""), "names no format"),
        (lambda d: b"plx" + d[3:], "does not start as a PLY"),
    ],
)
def test_a_wrong_ply_is_one_line(tmp_path, change, message):
    path = ply(tmp_path / "a.ply")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        read_surface(path)
    assert "\n" not in str(caught.value) and "a.ply" in str(caught.value)


def test_a_ply_of_gaussians_is_told_where_it_belongs(tmp_path):
    path = ply(tmp_path / "a.ply", faces=(), vertex=[("float", "f_dc_0")], vertex_rows=[[0.0]] * 4)
    with pytest.raises(ValueError, match="of Gaussians, pass it as --from-splats"):
        read_surface(path)


def test_a_face_that_names_no_vertex_is_told(tmp_path):
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=f"a face names vertex {wrong} of 4"):
            read_surface(ply(tmp_path / "a.ply", "binary_little_endian", faces=[(0, 1, wrong)]))


# ---- Habits of several programs ----


def test_names_of_materials_that_differ_in_case_alone_are_two(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl Paint\nKd 1 0 0\nnewmtl paint\nKd 0 0 1\n")
    (tmp_path / "a.obj").write_text(
        "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nusemtl Paint\nf 1 2 3\nusemtl paint\nf 1 2 4\nusemtl PAINT\nf 2 3 4\n"
    )
    surface = read_surface(tmp_path / "a.obj")
    colors = np.array([surface.materials[number].color[:3] for number in surface.material])
    np.testing.assert_array_equal(colors, [[1, 0, 0], [0, 0, 1], [1, 0, 0]])  # in another case the first of that name


@pytest.mark.parametrize("kind", ["obj", "ply"])
def test_a_colour_a_little_above_one_is_rounding(tmp_path, kind):
    rows = ["1.0000001 0.5 0", "0.25 0.5 1.0", "0 1.000001 0.75"]
    if kind == "obj":
        (tmp_path / "a.obj").write_text(COLOURED.format(*rows) + "f 1 2 3\n")
    else:
        head = "ply\nformat ascii 1.0\nelement vertex 3\n" + "".join(
            f"property float {name}\n" for name in ("x", "y", "z", "red", "green", "blue")
        )
        places = ["0 0 0", "1 0 0", "0 1 0"]
        body = "".join(f"{place} {row}\n" for place, row in zip(places, rows, strict=True))
        (tmp_path / "a.ply").write_text(f"{head}element face 1\nproperty list uchar int vertex_indices\nend_header\n{body}3 0 1 2\n")
    found = read_mesh(tmp_path / f"a.{kind}").vertex_colors
    np.testing.assert_allclose(found, [[1, 0.5, 0], [0.25, 0.5, 1], [0, 1, 0.75]], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["char", "short", "ushort", "int", "uint"])
def test_bytes_of_colours_in_other_integers(tmp_path, kind, code):
    """What writers of 'property int red' mean is 0 to 255; a byte that is called signed is one all the same."""
    rows = np.array(SHADES_4).astype(np.uint8)
    rows = (rows.view(np.int8) if code == "char" else rows).tolist()
    mesh = read_mesh(ply(tmp_path / "a.ply", kind, vertex=[(code, name) for _, name in RGB], vertex_rows=rows))
    np.testing.assert_allclose(mesh.vertex_colors * 255, np.array(SHADES_4).astype(np.uint8), atol=0.01)


@pytest.mark.parametrize("sides", [(32, 8), (8, 32)])
def test_a_mask_of_another_size_than_its_picture_counts(tmp_path, sides):
    Image.fromarray(np.full((sides[0], sides[0], 3), (200, 40, 40), np.uint8)).save(tmp_path / "a.png")
    mask = np.zeros((sides[1], sides[1]), np.uint8)
    mask[:, sides[1] // 2 :] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (tmp_path / "a.mtl").write_text("newmtl cloth\nmap_Kd a.png\nmap_d mask.png\n")
    (tmp_path / "a.obj").write_text(TEXTURED)
    surface = read_surface(tmp_path / "a.obj")
    kept = area(surface.vertices, surface.faces)
    whole = area(*_square())
    assert kept == pytest.approx(whole / 2, rel=0.1)


def _square():
    return np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]])


def test_a_line_ends_where_programs_end_it_alone(tmp_path):
    """Signs that Python takes for ends of lines, as U+0085 (in cp1252 an ellipsis), may stand in names."""
    (tmp_path / "a.mtl").write_bytes("newmtl red\x85 \u2028paint\nKd 1 0 0\n".encode())
    (tmp_path / "a.obj").write_bytes("mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl red\x85 \u2028paint\nf 1 2 3\n".encode())
    surface = read_surface(tmp_path / "a.obj")
    assert surface.notes == [] and surface.materials[surface.material[0]].color.tolist() == [1, 0, 0, 1]
