"""Prompt libraries: what ships, what is refused, and that every sentence has its turn."""

import json
from collections import Counter

import pytest

from microdreamer.core.errors import UserError
from microdreamer.core.paths import shipped_folder
from microdreamer.generators.library import DOWNLOADS, LIBRARIES, load_library, sentences_of_step
from microdreamer.guidance.micro.vocabulary import Vocabulary, words_of

GOOD = {"train": ["a red car", "a car"], "val": ["a cup"], "test": ["a hat"]}


def write(folder, content, name="mine.json"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.fixture(scope="module")
def known_words():
    return set(Vocabulary(json.loads((shipped_folder("weights") / "micro_prior/config.json").read_text())["words"]).words)


def test_what_ships_is_what_is_named():
    assert {path.stem for path in (shipped_folder("configs") / "corpora").glob("*.json")} == set(LIBRARIES)


@pytest.mark.parametrize(
    ("name", "counts", "repeats", "seen"),
    [
        ("MG15", (15, 15, 15), 0, 15),
        ("DF415", (415, 16, 415), 0, 415),
        ("AT2520", (2520, 56, 2520), 0, 2520),
        ("DL17k", (17241, 100, 100), 3690, 35),
    ],
)
def test_the_published_libraries_are_whole(name, counts, repeats, seen):
    library = load_library(name)
    assert (len(library.train), len(library.val), len(library.test)) == counts
    assert (library.repeats, library.seen, library.name) == (repeats, seen, name)


def test_stray_spaces_stay():
    sentences = load_library("DF415").train
    assert any(sentence != " ".join(sentence.split()) for sentence in sentences)
    assert list(sentences) == json.loads((shipped_folder("configs") / "corpora/DF415.json").read_text(encoding="utf-8"))["train"]


@pytest.mark.parametrize(("name", "counts", "objects"), [("micro", (64, 16, 32), 16), ("micro_8", (8, 4, 4), 4)])
def test_libraries_of_the_micro_prior_hold_known_words_and_new_combinations(name, counts, objects, known_words):
    library = load_library(name)
    lists = (library.train, library.val, library.test)
    assert tuple(map(len, lists)) == counts
    assert len(set().union(*lists)) == sum(counts)  # disjoint, no repeats
    assert {word for sentences in lists for sentence in sentences for word in words_of(sentence)} <= known_words
    trained = Counter(word for sentence in library.train for word in sentence.split()[1:])
    assert {word for sentences in lists for sentence in sentences for word in sentence.split()[1:]} == set(
        trained
    )  # only combinations are new
    assert sorted({sentence.split()[2] for sentence in library.val}) == sorted(sentence.split()[2] for sentence in library.val)
    assert len({sentence.split()[2] for sentence in library.test}) == objects


def test_a_file_of_ones_own(tmp_path):
    content = {"train": [" two  spaces ", "café", "café"], "val": ["日本"], "test": ["x"], "licence": "CC0"}
    library = load_library(write(tmp_path, b"\xef\xbb\xbf" + json.dumps(content).encode()))
    assert (library.train, library.val, library.test) == ((" two  spaces ", "café", "café"), ("日本",), ("x",))
    assert (library.name, library.repeats, library.seen) == ("mine", 1, 0)
    assert str(library) == "mine: 3 sentences to train (1 of them repeats), 1 to validate, 1 to test, 0 of which are trained"


def test_the_digest_is_of_the_sentences(tmp_path):
    digest = load_library(write(tmp_path, GOOD)).digest
    assert load_library(write(tmp_path, json.dumps(GOOD, indent=3).encode() + b"\n\n", "other.json")).digest == digest
    moved = {**GOOD, "train": GOOD["train"][:1], "val": GOOD["train"][1:] + GOOD["val"]}
    for other in (moved, {**GOOD, "train": GOOD["train"][::-1]}, {**GOOD, "test": ["a hat "]}):
        assert load_library(write(tmp_path, other)).digest != digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b'{"train": ["\xff"]}', "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (["a car"], "expected an object, got a list"),
        (3, "expected an object, got a number"),
        ({"train": ["a"], "test": ["b"]}, "no list 'val', only 'train', 'test'"),
        ({}, "no list 'train', only nothing"),
        ({**GOOD, "val": "a car"}, "'val' is a string, expected a list"),
        ({**GOOD, "train": []}, "'train' is empty"),
        ({**GOOD, "test": []}, "'test' is empty"),
        ({**GOOD, "train": ["a car", 7]}, "entry 1 of 'train' is a number"),
        ({**GOOD, "train": ["a car", None]}, "entry 1 of 'train' is null"),
        ({**GOOD, "train": ["a car", ["b"]]}, "entry 1 of 'train' is a list"),
        ({**GOOD, "val": [" \t"]}, "entry 0 of 'val' is blank"),
        (b'{"train": ["\\ud800"], "val": ["a"], "test": ["a"]}', "half a character"),
    ],
)
def test_what_is_no_library_is_said_in_a_line(tmp_path, content, words):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        load_library(path)
    assert words in str(caught.value) and str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 600


def test_names_that_are_no_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"library=MG16: neither a file nor one of MG15, .*CP100k"):
        load_library("MG16")
    with pytest.raises(UserError, match="directory"):
        load_library(tmp_path)
    with pytest.raises(
        UserError, match=r"library=CP100k does not ship; fetch https://\S+, load/cap3d_100k_prompt_library.json, and .*CP100k.json"
    ):
        load_library("CP100k")


def test_a_downloaded_library_is_found_where_it_was_said(tmp_path, monkeypatch):
    (tmp_path / "corpora").mkdir()
    write(tmp_path / "corpora", GOOD, "CP100k.json")
    monkeypatch.setattr("microdreamer.generators.library.shipped_folder", lambda name: tmp_path)
    assert load_library("CP100k").train == tuple(GOOD["train"]) and "CP100k" in DOWNLOADS


@pytest.mark.parametrize(("count", "per_step"), [(8, 1), (8, 8), (9, 4), (3, 7), (1, 3)])
def test_each_sentence_comes_once_in_an_epoch(count, per_step):
    steps = -(-4 * count // per_step)
    drawn = [index for step in range(steps) for index in sentences_of_step(count, per_step, step, seed=3)]
    assert len(drawn) == steps * per_step
    epochs = [drawn[start : start + count] for start in range(0, 4 * count, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert count < 4 or len(set(map(tuple, epochs))) == 4


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shards_of_any_number_of_processes_cover_an_epoch_without_overlap(processes):
    count, per_step = 60, 12
    shares = [[] for _ in range(processes)]
    for step in range(count // per_step):
        for rank in range(processes):
            shares[rank] += sentences_of_step(count, per_step, step, seed=1)[rank::processes]
    assert sorted(index for share in shares for index in share) == list(range(count))
    assert {len(share) for share in shares} == {count // processes}


def test_the_order_depends_on_seed_and_step_alone():
    want = [sentences_of_step(50, 8, step, seed=11) for step in range(20)]
    assert [sentences_of_step(50, 8, step, seed=11) for step in reversed(range(20))] == want[::-1]
    assert [sentences_of_step(50, 8, step, seed=12) for step in range(20)] != want
    assert sorted(sentences_of_step(5, 5, 0, seed=-1)) == list(range(5))
    assert sentences_of_step(5, 5, 0, seed=0) == [3, 2, 1, 0, 4]  # in whatever version of NumPy


@pytest.mark.parametrize("bad", [(0, 1, 0), (3, 0, 0), (3, 1, -1)])
def test_counts_out_of_range(bad):
    with pytest.raises(ValueError, match="expected at least one"):
        sentences_of_step(*bad, seed=0)
