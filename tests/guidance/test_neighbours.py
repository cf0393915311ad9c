"""Words that the micro prior was not taught are read as near ones; colours as the nearest basic colour."""

import logging

import numpy as np
import pytest

from microdreamer.guidance.micro import neighbours
from microdreamer.guidance.micro.neighbours import WordVectors, dequantise, oklab, quantise
from microdreamer.guidance.micro.prior import MicroPrior


@pytest.fixture(scope="module")
def vectors():
    return WordVectors.shipped()


def test_four_bits_keep_directions():
    vectors = np.random.default_rng(0).normal(size=(500, 100)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = (dequantise(quantise(vectors)) * vectors).sum(axis=1)
    assert float(likeness.mean()) == pytest.approx((1 - 0.01154) ** 0.5, abs=2e-3)  # the distortion that Max (1960) gives


def test_oklab_of_published_colours():
    """White is (1, 0, 0); red as published with the definition (Ottosson 2020): L .628, a .225, b .126."""
    np.testing.assert_allclose(oklab("white"), [1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(oklab("red"), [0.628, 0.225, 0.126], atol=1e-3)


def test_colours_go_by_colour(vectors):
    known = ["armchair", "blue", "brown", "gray", "green", "purple", "red", "yellow"]
    expected = {
        "crimson": "red",
        "scarlet": "red",
        "navy": "blue",
        "azure": "blue",
        "indigo": "purple",
        "emerald": "green",
        "charcoal": "gray",
    }
    assert {word: vectors.nearest(word, known) for word in expected} == expected
    assert vectors.nearest("crimson", ["armchair", "table"]) is None  # no colour among them, and neither is near


def test_things_go_by_meaning(vectors):
    known = ["a", "car", "cat", "dog", "guitar", "shark", "table", "the", "tower", "truck"]
    expected = {"kitten": "cat", "puppy": "dog", "lorry": "truck", "crocodile": "shark", "lighthouse": "tower", "violin": "guitar"}
    assert {word: vectors.nearest(word, known) for word in expected} == expected
    assert vectors.nearest("very", known) is None and vectors.nearest("qwxzy", known) is None
    assert vectors.nearest("kitten", []) is None


def test_a_sentence_with_an_unknown_word_is_read_with_its_neighbour(caplog):
    prior = MicroPrior.load()
    assert "crimson" not in prior.vocabulary.words
    with caplog.at_level(logging.WARNING):
        strange = prior.condition(prompt="a crimson armchair").halves["conditional"].pooled
    assert "reads crimson as red" in caplog.text and "does not know" not in caplog.text
    assert bool((strange == prior.condition(prompt="a red armchair").halves["conditional"].pooled).all())
    assert prior.condition(prompt="crimson").has_image == (False,)  # nothing else is known of it: refused without the vectors


def test_missing_or_damaged_vectors_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "FILE", tmp_path / "words.npz")
    load = WordVectors.shipped.__func__.__wrapped__
    with pytest.raises(FileNotFoundError, match=r"words\.npz: missing; restore it"):
        load(WordVectors)
    (tmp_path / "words.npz").write_bytes(b"PK\x03\x04 not whole")
    with pytest.raises(ValueError, match="damaged"):
        load(WordVectors)
