"""test_data/: what its README says of the files, and that the script makes them again."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microdreamer.pipeline.pictures import caption_beside, load_picture
from microdreamer.shapes.packed import TENSORS, load_packed
from scripts.make_test_data import make_test_data

FOLDER = Path(__file__).resolve().parent.parent / "test_data"
CUT_OUTS = sorted(FOLDER.glob("*_rgba.png"))
PHOTOS = sorted(FOLDER.glob("*.jpg"))


def name_of(path):
    return path.name


@pytest.fixture(scope="module")
def made_again(tmp_path_factory):
    folder = tmp_path_factory.mktemp("test_data")
    make_test_data(folder)
    return folder


def test_there_is_enough_and_it_is_small():
    assert len(CUT_OUTS) >= 8 and len(PHOTOS) >= 2
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1.5e6


@pytest.mark.parametrize("path", CUT_OUTS, ids=name_of)
def test_cut_outs_have_straight_alpha_and_a_whole_centred_object(path):
    with Image.open(path) as picture:
        assert picture.mode == "RGBA" and picture.size == (512, 512)
        rgba = np.asarray(picture)
    alpha = rgba[..., 3]
    assert not alpha[0].any() and not alpha[-1].any() and not alpha[:, 0].any() and not alpha[:, -1].any()
    assert 0.08 < (alpha == 255).mean() < 0.7
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    assert abs(rows[0] + rows[-1] - 511) <= 12 and abs(columns[0] + columns[-1] - 511) <= 12
    # Premultiplied colours would be darker at the edge than beside it.
    edge, solid = rgba[(alpha > 64) & (alpha < 192), :3].mean(), rgba[alpha == 255, :3].mean()
    assert edge > 0.7 * solid


@pytest.mark.parametrize("path", PHOTOS, ids=name_of)
def test_photos_have_no_alpha_and_can_be_cut_out(path):
    with Image.open(path) as picture:
        assert picture.mode == "RGB" and picture.size == (512, 512)
    rgba = load_picture(path)
    assert rgba.shape[0] == 4 and 0.1 < float((rgba[3] > 0.5).float().mean()) < 0.8


def test_captions_belong_to_pictures():
    captions = {path.name: caption_beside(path) for path in CUT_OUTS if caption_beside(path)}
    assert captions == {"mushroom_rgba.png": "an orange mushroom", "robot_rgba.png": "a white robot"}


# The pictures were made on one machine and are made again on this one, whose arithmetic rounds otherwise: by a level of a byte where
# a colour is continuous. Where a sample, one of 16 of a pixel, lies on the edge between two surfaces or in both to within rounding, it may
# show either, which moves its pixel by any amount. There are few such pixels: moving the object by a millionth of its size changes up to
# one in 1000.
ON_AN_EDGE = 2e-3  # share of pixels


def differences(name, made_again):
    """Of the stored picture and the one made here, [512,512,channels] bytes each: the stored one, and by how much they differ."""
    stored, made = (np.asarray(Image.open(folder / name)).astype(int) for folder in (FOLDER, made_again))
    return stored, np.abs(stored - made)


def test_the_script_makes_the_same_files(made_again):
    assert {path.name for path in made_again.iterdir()} == {path.name for path in FOLDER.iterdir()} - {"README.md"}


@pytest.mark.parametrize("name", [path.name for path in CUT_OUTS])
def test_the_script_makes_the_same_cut_outs(made_again, name):
    stored, difference = differences(name, made_again)
    assert (difference[..., 3] > 1).mean() < ON_AN_EDGE
    visible = stored[..., 3] > 127  # the colour under the faintest alpha, a quotient of small bytes, is as exact as its alpha
    assert (difference[visible, :3] > 1).any(-1).mean() < ON_AN_EDGE
    assert difference[visible, :3].mean() < 0.02


@pytest.mark.parametrize("name", [path.name for path in PHOTOS])
def test_the_script_makes_the_same_photos(made_again, name):
    """JPEG spreads a pixel over its block of 16x16, and its decoders differ by a level or two."""
    _, difference = differences(name, made_again)
    blocks = difference.max(-1).reshape(32, 16, 32, 16).max((1, 3))
    assert (blocks > 2).mean() < 0.05 and difference.mean() < 0.1


def test_the_pack_loads_and_is_made_again(made_again):
    stored, made = load_packed(FOLDER / "objects_small.npz"), load_packed(made_again / "objects_small.npz")
    assert len(stored) == 6 and stored.ids == made.ids and stored.captions == made.captions
    assert all(captions and captions[0] for captions in stored.captions)
    rounding = {"vertices": 1e-6, "corner_colors": 1, "corner_normals": 1}  # of float32, of bytes; whose faces and which, exactly
    for name in TENSORS:
        difference = getattr(stored, name).double() - getattr(made, name).double()
        assert float(difference.abs().max()) <= rounding.get(name, 0), name
    for index in range(6):
        vertices = stored.vertices[stored.vertex_offset[index] : stored.vertex_offset[index + 1]]
        assert float(vertices.norm(dim=1).max()) == pytest.approx(0.8, abs=1e-3)
