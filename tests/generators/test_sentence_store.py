"""The store of a library's embeddings: what it gives, how it is kept, and what becomes of files that are not right."""

import hashlib
import threading
from collections import namedtuple

import numpy as np
import pytest
import torch

from microdreamer.core.errors import UserError
from microdreamer.generators import sentence_store
from microdreamer.generators.sentence_store import HEADER, MAGIC, SentenceStore
from microdreamer.guidance import load_prior
from microdreamer.guidance.base import CONDITIONAL
from microdreamer.guidance.sentences import BATCH, SentenceEncoder

SENTENCES = ["a red car", "a blue hat", "a red car", " a cup", "ein Fisch, ä"]


class HashEncoder(SentenceEncoder):
    """States drawn from the sentence itself."""

    width, length, device = 6, 5, torch.device("cpu")

    def __init__(self, name="hash", stop_after=None):
        self.name, self.encoded, self.stop_after, self.lock = name, [], stop_after, threading.Lock()

    def _identity(self):
        return self.name

    def states(self, sentences):
        with self.lock:
            self.encoded += sentences
        if self.stop_after is not None and len(self.encoded) > self.stop_after:
            raise KeyboardInterrupt
        seeds = [int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:4], "big") for sentence in sentences]
        drawn = torch.stack([torch.randn(1 + self.length, self.width, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        return drawn[:, 0], drawn[:, 1:]


class Prior:
    """What a store asks of a prior."""

    name = "hash"

    def __init__(self, encoder=None):
        self.encoder = encoder or HashEncoder()

    def sentence_encoder(self):
        return self.encoder

    def condition_each(self, prompts, negative_prompt=None):
        return list(prompts), negative_prompt


@pytest.fixture(scope="module")
def micro():
    return load_prior("micro", precision="float32")


@pytest.mark.parametrize("kind", ["global", "local"])
def test_text_is_what_the_tower_gives(tmp_path, kind):
    store = SentenceStore.open(SENTENCES, Prior(), None, tmp_path, kinds=(kind,))
    wanted = HashEncoder().encode([SENTENCES[index] for index in (4, 0, 2, 0)]).text(kind)
    found = store.text([4, 0, 2, 0], kind, "cpu")
    assert torch.equal(found, wanted) and found.dtype == torch.float32
    assert (len(store), store.width, store.length) == (5, 6, 5)
    found.zero_()  # the file is not what was given
    assert torch.equal(store.text([4, 0, 2, 0], kind, "cpu"), wanted)


def test_real_towers_and_conditions(tmp_path, micro):
    sentences = ["a red car", "a green fish", "a table"]
    store = SentenceStore.open(sentences, micro, "a stone", tmp_path)
    assert torch.equal(store.text([2, 1], "global", "cpu"), micro.sentence_encoder().encode(["a table", "a green fish"]).text("global"))
    condition = store.condition([2, 1])
    alone = micro.join([micro.condition(prompt=prompt, negative_prompt="a stone") for prompt in ("a table", "a green fish")])
    assert torch.equal(condition.halves[CONDITIONAL].pooled, alone.halves[CONDITIONAL].pooled)
    assert torch.equal(condition.halves["null"].text[0][0], alone.halves["null"].text[0][0])


def test_what_is_there_is_not_made_again(tmp_path):
    first = Prior()
    said = []
    SentenceStore.open(SENTENCES, first, None, tmp_path, lambda done, total: said.append((done, total)), kinds=("global", "local"))
    assert said == [(4, 4), (4, 4)] and sorted(set(first.encoder.encoded)) == sorted(set(SENTENCES))
    assert len(list(tmp_path.iterdir())) == 2  # one file for each kind, none for a sentence
    second = Prior()
    store = SentenceStore.open(SENTENCES, second, "another negative prompt", tmp_path, pytest.fail, kinds=("global", "local"))
    assert second.encoder.encoded == []
    assert torch.equal(store.text([1], "local", "cpu"), HashEncoder().encode(SENTENCES[1:2]).text("local"))


def test_other_sentences_and_other_towers_have_other_files(tmp_path):
    Case = namedtuple("Case", "sentences prior")
    cases = [
        Case(SENTENCES, Prior()),
        Case(SENTENCES[1:] + SENTENCES[:1], Prior()),
        Case(SENTENCES[:4], Prior()),
        Case(["a red car ", *SENTENCES[1:]], Prior()),
        Case(SENTENCES, Prior(HashEncoder("other weights"))),
    ]
    paths = {SentenceStore.open(case.sentences, case.prior, None, tmp_path).path("global") for case in cases}
    assert len(paths) == len(cases) == len(list(tmp_path.iterdir()))


def test_a_kind_that_was_not_asked_for_is_opened_when_it_is_read(tmp_path):
    store = SentenceStore.open(SENTENCES, Prior(), None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [store.path("global").name]
    assert torch.equal(store.text([0], "local", "cpu"), HashEncoder().encode(SENTENCES[:1]).text("local"))
    assert store.path("local").is_file()


def test_many_batches(tmp_path):
    sentences = [f"thing number {number}" for number in range(2 * BATCH + 3)]
    said = []
    store = SentenceStore.open(sentences, Prior(), None, tmp_path, lambda done, total: said.append(done))
    assert said == [BATCH, 2 * BATCH, 2 * BATCH + 3]
    assert torch.equal(store.text(range(len(sentences)), "global", "cpu"), HashEncoder().encode(sentences).text("global"))


def cut(data):
    return data[:-3]


def flipped(data):
    return data[: HEADER + 7] + bytes([data[HEADER + 7] ^ 1]) + data[HEADER + 8 :]


def foreign(data):
    return b"PK\x03\x04" + data[4:]


def empty(data):
    return b""


def another(data):
    return data.replace(b'"kind": "global"', b'"kind": "nearby"')


def grown(data):
    return data + b"\0"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "bytes of"),
        (grown, "bytes of"),
        (flipped, "its content is not what was written"),
        (another, "its content is not what was written"),
        (foreign, "not a file of sentences"),
        (empty, "not a file of sentences"),
    ],
)
def test_a_file_that_is_not_right_is_written_anew(tmp_path, caplog, damage, words):
    path = SentenceStore.open(SENTENCES, Prior(), None, tmp_path).path("global")
    whole = path.read_bytes()
    assert whole.startswith(MAGIC)
    path.write_bytes(damage(whole))
    store = SentenceStore.open(SENTENCES, Prior(), None, tmp_path)
    assert path.read_bytes() == whole and words in caplog.text and len(caplog.records) == 1
    assert torch.equal(store.text([0], "global", "cpu"), HashEncoder().encode(SENTENCES[:1]).text("global"))


def test_a_run_that_is_stopped_leaves_nothing(tmp_path):
    sentences = [f"thing {number}" for number in range(3 * BATCH)]
    with pytest.raises(KeyboardInterrupt):
        SentenceStore.open(sentences, Prior(HashEncoder(stop_after=BATCH)), None, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".0123.sentences").write_bytes(MAGIC)  # of a process that was killed
    assert torch.isfinite(SentenceStore.open(sentences, Prior(), None, tmp_path).text([5], "global", "cpu")).all()


def test_several_open_at_once(tmp_path):
    start, stores, faults = threading.Barrier(4), [], []

    def work():
        start.wait()
        try:
            stores.append(SentenceStore.open(SENTENCES, Prior(), None, tmp_path / "new folder"))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [] and len(stores) == 4
    wanted = HashEncoder().encode(SENTENCES).text("global")
    assert all(torch.equal(store.text(range(5), "global", "cpu"), wanted) for store in stores)
    assert [path.suffix for path in (tmp_path / "new folder").iterdir()] == [".sentences"]


def test_the_file_is_mapped_and_of_the_size_that_was_said(tmp_path):
    store = SentenceStore.open(SENTENCES, Prior(), None, tmp_path, kinds=("local",))
    assert store.path("local").stat().st_size == store.bytes("local") == HEADER + 4 * 5 * 6 * 2
    mapped = store._open("local", None)
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable


def test_no_room_is_said_before_anything_is_encoded(tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(sentence_store.shutil, "disk_usage", lambda folder: Usage(100, 90, 10))
    prior = Prior()
    with pytest.raises(UserError, match=r"embeddings of 4 sentences take 0\.00 GB, 0\.00 GB are free"):
        SentenceStore.open(SENTENCES, prior, None, tmp_path)
    assert prior.encoder.encoded == [] and list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_is_said_when_it_is_opened(tmp_path, micro):
    with pytest.raises(ValueError, match="knows none of these words"):
        SentenceStore.open(["a car", "qwxz"], micro, None, tmp_path)
    with pytest.raises(ValueError, match="knows none of these words"):
        SentenceStore.open(["a car"], micro, "qwxz", tmp_path)
    with pytest.raises(ValueError, match="expected one of global, local"):
        SentenceStore.open(["a car"], micro, None, tmp_path, kinds=("nearby",))
    with pytest.raises(ValueError, match="no sentences"):
        SentenceStore.open([], micro, None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tower_beside_the_priors(tmp_path):
    class Towerless(Prior):
        def sentence_encoder(self):
            raise ValueError("none")

    with pytest.raises(ValueError, match="none"):
        SentenceStore.open(SENTENCES, Towerless(), None, tmp_path)
    store = SentenceStore.open(SENTENCES, Towerless(), "x", tmp_path, encoder=HashEncoder())
    assert store.condition([3]) == ([" a cup"], "x") and store.text([0], "global", "cpu").shape == (1, 6)
