"""Which pictures a batch is of, and what their results are called."""

from pathlib import Path

import pytest

from microdreamer.batch.pictures import Item, items_of, names_many
from microdreamer.core.errors import UserError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    (folder / "within").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "notes.md", ".hidden.png", "within/c.png", "d.jpg", "d_rgba.png"):
        (folder / name).touch()
    return folder


def names(items: list[Item], folder: Path) -> dict[str, str]:
    return {item.picture.relative_to(folder).as_posix(): item.name for item in items}


def test_a_folder_is_its_pictures_by_name_and_a_cut_out_goes_before_its_photo(folder):
    assert names(items_of(str(folder), "out"), folder) == {"a.PNG": "a", "b.jpg": "b", "d_rgba.png": "d"}


def test_a_pattern_finds_pictures_in_folders_within(folder):
    assert names(items_of(f"{folder}/**/*.*", "out"), folder) == {"a.PNG": "a", "b.jpg": "b", "d_rgba.png": "d", "within/c.png": "c"}
    assert names(items_of(f"{folder}/[ab].*", "out"), folder) == {"a.PNG": "a", "b.jpg": "b"}


def test_a_list_is_relative_to_its_own_folder_and_keeps_what_is_missing(folder, tmp_path):
    (folder / "list.txt").write_text(
        f"# a remark\nb.jpg\n\nwithin/c.png\nmissing.png\n{tmp_path}/photos/d.jpg\nb.jpg\n", encoding="utf-8-sig"
    )
    assert names(items_of(str(folder / "list.txt"), "out"), folder) == {
        "b.jpg": "b",
        "within/c.png": "c",
        "missing.png": "missing",
        "d.jpg": "d",
    }


def test_no_two_results_have_one_name_whatever_the_file_system_makes_of_case(tmp_path):
    (tmp_path / "list.txt").write_text("x/Cup.png\ny/cup.jpg\ncup_2.png\nreport.png\nx/cup_rgba.png\n..png\n")
    items = items_of(str(tmp_path / "list.txt"), "out")
    assert [item.name for item in items] == ["Cup", "cup_2", "cup_2_2", "report_2", "cup_3", "object"]
    assert len({item.name.casefold() for item in items}) == len(items)


def test_a_picture_is_one_whatever_signs_its_name_has(folder, monkeypatch):
    (folder / "x[1].png").touch()
    monkeypatch.chdir(folder)
    assert not any(map(names_many, (None, "", "b.jpg", "x[1].png", "missing.png")))
    assert all(map(names_many, (".", "*.png", str(folder), "x[12].png")))
    (folder / "list.txt").touch()
    assert names_many("list.txt")
    assert items_of("x[1].png", "out") == [Item(Path("x[1].png"), "x[1]")]


def test_several_pictures_of_one_object_are_no_batch(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "x,y[1].png").touch()
    assert not any(map(names_many, ("b.jpg,d.jpg", "b.jpg,none.png", "x,y[1].png", "x,y[1].png,b.jpg", "none.png,b[1].png,d.jpg")))
    assert names_many("x,y*.png")
    assert items_of("b.jpg,x,y[1].png", ".") == [Item(Path("b.jpg"), "b", (Path("x,y[1].png"),))]


def test_a_line_of_a_list_may_name_several_pictures_of_one_object(folder, tmp_path):
    (folder / "list.txt").write_text("b.jpg, d.jpg\nwithin/c.png\nb.jpg\n")
    items = items_of(str(folder / "list.txt"), "out")
    assert [(item.name, [picture.name for picture in item.pictures]) for item in items] == [
        ("b", ["b.jpg", "d.jpg"]),
        ("c", ["c.png"]),
        ("b_2", ["b.jpg"]),
    ]
    assert items[0].text == f"{folder}/b.jpg,{folder}/d.jpg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photos/within/none", "none"),
        ("photos/*.tif", "no pictures match"),
        ("empty", "no pictures in that folder"),
        ("empty/list.txt", "no paths in that list"),
        ("bytes.txt", "UTF-8"),
    ],
)
def test_where_there_is_no_picture_one_line_says_so(folder, tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "list.txt").write_text("# nothing\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    if text == "photos/within/none":  # one picture that is missing, to be told when it is read
        assert items_of(text, "out") == [Item(Path(text), "none")]
        return
    with pytest.raises(UserError, match=message) as caught:
        items_of(text, "out")
    assert "\n" not in str(caught.value)


def test_results_do_not_go_where_they_would_be_taken_for_pictures(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for outdir in ("photos", folder, "photos/within/.."):
        with pytest.raises(UserError, match="choose another outdir"):
            items_of("photos", outdir)
    assert items_of("photos", "photos/out")
