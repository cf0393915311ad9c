"""Sentences in numbers: text towers alone, and conditions of several sentences in one go."""

import dataclasses
import json
import shutil

import pytest
import torch
from conftest import DEVICES, relative_l2

from cam_utils import orbit_cameras
from microdreamer.guidance import SENTENCE_ENCODERS, load_prior, load_sentence_encoder
from microdreamer.guidance.base import CONDITIONAL, NULL, Branch
from microdreamer.guidance.micro.vocabulary import words_of
from microdreamer.guidance.names import PRIORS
from microdreamer.guidance.sentences import SentenceStates, distinct

SENTENCES = ["a red car", "a green wooden table with a lamp", "a fish"]


@pytest.fixture(scope="module")
def priors(tiny_checkpoint):
    made = {}

    def find(name):
        if name not in made:
            made[name] = load_prior(name, None if name == "micro" else str(tiny_checkpoint(name)), precision="float32")
        return made[name]

    return find


def tensors(condition):
    """All tensors of a condition, in order."""
    if isinstance(condition, torch.Tensor):
        return [condition]
    if dataclasses.is_dataclass(condition):
        condition = [getattr(condition, field.name) for field in dataclasses.fields(condition) if not field.name.startswith("_")]
    if isinstance(condition, dict):
        condition = [condition[key] for key in sorted(condition)]
    if isinstance(condition, (list, tuple)):
        return [tensor for part in condition for tensor in tensors(part)]
    return []


def count_runs(monkeypatch, network, name):
    """Rows of the first argument of every call of network.name."""
    runs, real = [], getattr(network, name)

    def counted(*arguments, **named):
        runs.append(len(next(iter((*arguments, *named.values())))))
        return real(*arguments, **named)

    monkeypatch.setattr(network, name, counted)
    return runs


@pytest.mark.parametrize("negative", [None, "a stone"])
@pytest.mark.parametrize("name", ["micro", "mvdream", "stable_diffusion"])
def test_conditions_of_several_sentences_are_those_of_each_to_the_last_bit(priors, name, negative):
    prior = priors(name)
    together = prior.condition_each(SENTENCES, negative)
    alone = prior.join([prior.condition(prompt=sentence, negative_prompt=negative) for sentence in SENTENCES])
    found, wanted = tensors(together), tensors(alone)
    assert len(found) == len(wanted) > 1
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape and torch.equal(one, other)
    other = tensors(prior.condition_each(SENTENCES, "a hat"))
    assert not all(map(torch.equal, found, other))


@pytest.mark.parametrize("name", ["micro", "mvdream", "stable_diffusion"])
def test_noise_under_conditions_of_several_sentences(priors, name):
    prior = priors(name)
    views = prior.views * len(SENTENCES)
    cameras = orbit_cameras([0.0] * views, [90.0 * view for view in range(views)])
    latents = torch.randn(prior.latent_shape(views))
    branches = [Branch(latents, 300, NULL), Branch(latents, 300, CONDITIONAL)]
    alone = prior.join([prior.condition(prompt=sentence) for sentence in SENTENCES])
    for one, other in zip(
        *(prior.predict_each(branches, cameras, condition) for condition in (prior.condition_each(SENTENCES), alone)), strict=True
    ):
        assert torch.equal(one, other)


def test_directions_are_sentences_of_their_own(priors):
    prior = priors("stable_diffusion")
    views = prior.condition_each(["a dog"]).views
    states = prior.text_encoder("a dog, front view", "a dog, side view", "a dog, back view", "a dog, overhead view")
    assert torch.equal(views[0], states)


def test_a_sentence_of_several_views_is_read_once(priors, monkeypatch):
    prior = priors("stable_diffusion")
    want = prior.join([prior.condition(prompt=sentence) for sentence in ("a dog", "a dog", "a cat", "a dog")])
    runs = count_runs(monkeypatch, prior.text_encoder, "look_up")
    got = prior.condition_each(["a dog", "a dog", "a cat", "a dog"])
    assert torch.equal(got.views, want.views) and got.null.shape == want.null.shape
    assert len(runs) == 2 * 4  # the null half was read before


@pytest.mark.parametrize("name", ["micro", "mvdream", "stable_diffusion"])
def test_the_null_half_is_made_once(priors, name, monkeypatch):
    prior = priors(name)
    prior.condition_each(["a cup"], "a spoon")
    read = []
    encoder = prior.sentence_encoder()
    real = encoder.look_up
    monkeypatch.setattr(encoder, "look_up", lambda sentence: read.append(sentence) or real(sentence))
    prior.condition_each(["a cup", "a hat"], "a spoon")
    assert "a spoon" not in read and any(sentence.startswith("a hat") for sentence in read)
    read.clear()
    prior.condition_each(["a cup"], "a big hat")
    assert "a big hat" in read


def test_one_sentence_in_front_of_captions_alone(priors, monkeypatch):
    prior = priors("micro")
    prior.condition_each(["a cup"])
    references = count_runs(monkeypatch, prior.network, "encode_reference")
    prior.condition_each(SENTENCES)
    assert references == []  # without a picture they are all the null half's


@pytest.mark.parametrize("name", SENTENCE_ENCODERS)
def test_a_tower_alone_is_the_priors_own(tiny_checkpoint, priors, name):
    path = None if name == "micro" else str(tiny_checkpoint(name))
    encoder, own = load_sentence_encoder(name, path, precision="float32"), priors(name).sentence_encoder()
    assert (encoder.width, encoder.length, encoder.identity) == (own.width, own.length, own.identity)
    states, wanted = encoder.encode(SENTENCES, batch=2), own.encode(SENTENCES)
    assert states.pooled.shape == (3, encoder.width) and [row.shape for row in states.tokens] == [(encoder.length, encoder.width)] * 3
    assert torch.equal(states.pooled, wanted.pooled) and all(map(torch.equal, states.tokens, wanted.tokens))
    alone = encoder.encode(SENTENCES[1:2])
    assert torch.equal(alone.pooled[0], states.pooled[1]) and torch.equal(alone.tokens[0], states.tokens[1])


def test_a_tower_needs_nothing_else_of_a_checkpoint(tiny_checkpoint, tmp_path):
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(tiny_checkpoint("mvdream") / part, tmp_path / part)
    assert load_sentence_encoder("mvdream", str(tmp_path)).encode(["a"]).pooled.shape == (1, 32)
    with pytest.raises(FileNotFoundError, match=r"unet/config\.json is missing"):
        load_prior("mvdream", str(tmp_path))
    shutil.rmtree(tmp_path / "text_encoder")
    with pytest.raises(FileNotFoundError, match=r"text_encoder/config\.json is missing"):
        load_sentence_encoder("mvdream", str(tmp_path))


def test_identities_tell_towers_apart(tiny_checkpoint, priors):
    micro, clip = (priors(name).sentence_encoder() for name in ("micro", "mvdream"))
    other = load_sentence_encoder("mvdream", str(tiny_checkpoint("mvdream")))
    with torch.no_grad():
        next(other.model.parameters()).view(-1)[0] += 1
    assert len({micro.identity, clip.identity, other.identity}) == 3


def test_pooled_is_the_end_tokens_state(priors):
    encoder = priors("mvdream").sentence_encoder()
    states = encoder.encode(["abc", "a" * 200])
    ids = [encoder.look_up(sentence) for sentence in ("abc", "a" * 200)]
    end = max(ids[0])
    assert ids[0].index(end) == 4 and ids[1].index(end) == encoder.length - 1  # a sentence that is cut keeps its end
    for row, pooled, words in zip(states.tokens, states.pooled, ids, strict=True):
        assert torch.equal(row[words.index(end)], pooled)
    assert not torch.equal(*encoder.encode(["a" * 200, "b" * 200]).pooled)


def test_pooled_of_the_micro_prior_is_the_mean_of_its_words(priors):
    encoder = priors("micro").sentence_encoder()
    states = encoder.encode(SENTENCES)
    for sentence, pooled, tokens in zip(SENTENCES, states.pooled, states.tokens, strict=True):
        torch.testing.assert_close(pooled, tokens[: len(words_of(sentence))].mean(dim=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["micro", "mvdream"])
def test_paddings_states_tell_of_the_sentence(priors, name):
    """So leaving them out would change what networks read."""
    encoder = priors(name).sentence_encoder()
    red, blue = encoder.encode(["a red car", "a big car"]).tokens
    assert float((red[-1] - blue[-1]).abs().max()) > 1e-3


def test_text_is_as_stores_keep_it():
    states = SentenceStates(torch.full((2, 3), 1.0001), [torch.ones(4, 3), torch.zeros(4, 3)])
    assert torch.equal(states.text("global"), torch.ones(2, 3)) and states.text("global").dtype == torch.float32
    assert states.text("local").shape == (2, 4, 3)
    with pytest.raises(ValueError, match=r"kind=nearby: expected one of global, local"):
        states.text("nearby")


def test_what_cannot_be_read(priors, tiny_checkpoint, caplog):
    for name in sorted(set(PRIORS) - set(SENTENCE_ENCODERS)):
        with pytest.raises(ValueError, match=f"prior={name}: gives no embeddings.*micro, mvdream"):
            load_sentence_encoder(name)
    with pytest.raises(ValueError, match="needs a sentence"):
        priors("mvdream").condition_each(["a", ""])
    micro = priors("micro")
    with pytest.raises(ValueError, match="knows none of these words"):
        micro.condition_each(["a car", "qwxz"])
    caplog.clear()
    for _ in range(3):
        micro.condition_each(["a qwxzy car"])
    assert caplog.text.count("does not know qwxzy") == 1  # not in every step


def test_distinct():
    assert distinct(["b", "a", "b", "c", "a"]) == (["b", "a", "c"], [0, 1, 0, 2, 1])


def test_micro_folder_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no micro prior there"):
        load_sentence_encoder("micro", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"network": {}}))
    with pytest.raises(ValueError, match="not a micro prior's configuration"):
        load_sentence_encoder("micro", str(tmp_path))


@pytest.mark.gpu
@pytest.mark.parametrize("device", DEVICES[1:])
@pytest.mark.parametrize("name", ["micro", "mvdream", "stable_diffusion"])
def test_conditions_on_a_gpu_are_those_of_each_and_wait_for_nothing(tiny_checkpoint, name, device):
    prior = load_prior(name, None if name == "micro" else str(tiny_checkpoint(name)), device, "float32")
    alone = prior.join([prior.condition(prompt=sentence) for sentence in SENTENCES])
    prior.condition_each(SENTENCES)
    torch.cuda.set_sync_debug_mode("error")
    try:
        together = prior.condition_each(SENTENCES)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(tensors(together), tensors(alone), strict=True):
        assert relative_l2(one, other) < 1e-3


def test_what_is_cut_from_a_long_sentence_is_said_once(caplog):
    encoder = load_sentence_encoder("micro")
    words = "red car " * encoder.length
    with caplog.at_level("WARNING", logger="microdreamer"):
        long, cut = encoder.encode([words, words]).tokens[0], encoder.encode([words[: 4 * encoder.length]]).tokens[0]
    assert torch.equal(long, cut)
    assert caplog.text.count(f"prompt: {encoder.length} words too many for the micro prior; the end is cut") == 1


def test_a_sentence_is_checked_without_a_word(priors, caplog):
    """Before it waits: words that are known, or near to one that is, pass; none of either is refused, as it would be later."""
    prior = priors("micro")
    for sentence in ("a wooden chair", "a crimson xyzzy chair", "xyzzy chair"):
        prior.check_sentence(sentence)
    with pytest.raises(ValueError, match="knows none of these words"):
        prior.check_sentence("xyzzy plugh")
    assert caplog.messages == []
