"""Folders of sentences: named as published where that can be, each with a name of its own, found again in order."""

import json

import pytest
from PIL import Image

from microdreamer.pipeline.launch.result_folder import (
    PROMPTS,
    folder_names,
    frames_of,
    published_name,
    read_prompts,
    read_record,
    rendered,
    text_of,
    write_json,
)


def test_plain_sentences_have_the_published_name():
    prompt = "a DSLR photo of a corgi, wearing a top hat."
    assert published_name(prompt) == "a_DSLR_photo_of_a_corgi_wearing_a_top_hat"
    assert folder_names([prompt]) == {published_name(prompt): prompt}
    assert text_of(published_name(prompt)) == "a DSLR photo of a corgi wearing a top hat"


def test_every_sentence_has_a_folder_that_can_be_made(tmp_path):
    prompts = [
        "a car",
        "a car.",
        "A car",
        "a/b",
        "a_b",
        "a, b",
        "..",
        "",
        " a car",
        "con",
        "x" * 500,
        "x" * 501,
        "car: 50% <new>?",
        "ein Bär",
    ]
    prompts += ["a car 2", "a car"]
    names = folder_names(prompts)
    assert list(names.values()) == prompts[:-1]  # each once, in order
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        (tmp_path / name).mkdir()
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert folder_names(prompts) == names


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("10.png", "2.png", "1.PNG", "a.jpg", ".hidden.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "film.mp4").touch()
    assert [path.name for path in frames_of(tmp_path)] == ["1.PNG", "2.png", "10.png", "a.jpg"]


def test_what_is_written_is_read(tmp_path):
    names = folder_names(["ein Bär, grün", "a/b"])
    write_json(tmp_path / PROMPTS, names)
    assert read_prompts(tmp_path) == names and read_record(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object, got list"),
        ("{}", "expected"),
        ('{"a": 3}', "expected"),
        (b"\xff\xfe{", "not JSON"),
    ],
)
def test_a_damaged_list_of_prompts_is_one_line(tmp_path, text, message):
    (tmp_path / PROMPTS).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_prompts(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path / PROMPTS) in str(error.value)


def test_folders_without_renders_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        rendered(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"got none; launch\.py --test writes one"):
        rendered(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="got none; pass the folder above"):
        rendered(tmp_path)
    (tmp_path / ".a.new").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "prompts.json").write_text(json.dumps({"b": "b"}))
    assert rendered(tmp_path) == [tmp_path / "b"]
