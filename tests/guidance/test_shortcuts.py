"""What a sampler leaves out: the branches of guidance outside an interval, and deep features that several evaluations share."""

import threading
from contextlib import nullcontext

import pytest
import torch
from conftest import DEVICES, relative_l2
from fake_priors import StubPrior, tiny_micro_prior

from cam_utils import orbit_cameras, turntable
from microdreamer.core.cuda_graphs import uncaptured
from microdreamer.core.errors import UserError
from microdreamer.guidance import PRIORS, load_prior
from microdreamer.guidance.samplers import ddim_invert, ddim_sample
from microdreamer.guidance.several import NearestPictures, PosedConditions
from microdreamer.guidance.shortcuts import FeatureCache, Shortcuts
from microdreamer.pipeline.config import load_config

CAMERAS = orbit_cameras([-10.0] * 4 + [-20.0] * 4, [0, 90, 180, 270, 45, 135, 225, 315], width=64, height=64)


@pytest.fixture
def make(tiny_checkpoint):
    def load(name, device="cpu", precision="float32"):
        return tiny_micro_prior() if name == "micro" else load_prior(name, str(tiny_checkpoint(name)), device, precision)

    return load


def condition_of(prior, seed=0):
    picture = torch.rand(4, 64, 64, generator=torch.Generator().manual_seed(seed)) if "image" in prior.accepts else None
    return prior.condition(picture, "a red car" if "prompt" in prior.accepts else None)


def latents_of(prior, seed):
    return torch.randn(prior.latent_shape(8), generator=torch.Generator().manual_seed(seed)).to(prior.device)


def deep_part(prior):
    """A module below the level that is always evaluated."""
    network = prior.network
    found = network.deep[0] if prior.name == "micro" else getattr(network, "mid_block", None)
    return network.middle_block[0] if found is None else found.resnets[0] if hasattr(found, "resnets") else found


@pytest.mark.parametrize("name", PRIORS)
def test_features_that_are_the_same_give_the_same_answer(make, name):
    """And the deep part is left out: with the latents and level of the call whose features they are nothing changes."""
    prior, calls = make(name), []
    condition, x = condition_of(prior), latents_of(prior, 1)
    deep_part(prior).register_forward_hook(lambda *_: calls.append(1))
    plain = prior.predict_noise(x, 300, CAMERAS, condition, 3.0)
    assert len(calls) == 1
    with prior.sharing_features(3):
        shared = [prior.predict_noise(x, 300, CAMERAS, condition, 3.0) for _ in range(4)]
    assert len(calls) == 3  # the first and the fourth
    for noise in shared:
        assert relative_l2(noise, plain) < 1e-6


@pytest.mark.parametrize("name", PRIORS)
def test_every_other_evaluation_is_whole(make, name):
    prior, scales = make(name), (None, 1.0, 2.0)
    condition, x = condition_of(prior), [latents_of(prior, seed) for seed in range(3)]
    for scale in scales:
        plain = [prior.predict_noise(x[k], 900 - 400 * k, CAMERAS, condition, scale) for k in range(3)]
        counted = prior.evaluations
        with prior.sharing_features(2):
            shared = [prior.predict_noise(x[k], 900 - 400 * k, CAMERAS, condition, scale) for k in range(3)]
        assert prior.evaluations - counted == 3 * (2 if scale == 2.0 else 1)
        assert relative_l2(shared[0], plain[0]) < 1e-6 and relative_l2(shared[2], plain[2]) < 1e-6
        assert shared[1].isfinite().all() and relative_l2(shared[1], plain[1]) > 1e-3
        again = prior.predict_noise(x[1], 500, CAMERAS, condition, scale)  # after the block
        assert relative_l2(again, plain[1]) < 1e-6


def test_branches_pictures_and_threads_share_only_their_own(make):
    prior = make("stable_zero123")
    conditions, x = [condition_of(prior, seed) for seed in range(2)], [latents_of(prior, seed) for seed in range(3)]
    plain = [prior.predict_noise(x[k], 500, CAMERAS, conditions[k], 1.0) for k in range(2)]
    null, elsewhere = prior.predict_noise(x[2], 500, CAMERAS, conditions[0], None), []
    with prior.sharing_features(9):
        found = [prior.predict_noise(x[k], 500, CAMERAS, conditions[k], 1.0) for k in range(2)]
        unguided = prior.predict_noise(x[2], 500, CAMERAS, conditions[0], None)
        with prior.sharing_features(1):
            inner = prior.predict_noise(x[1], 500, CAMERAS, conditions[1], 1.0)
        thread = threading.Thread(target=lambda: elsewhere.append(prior.predict_noise(x[1], 500, CAMERAS, conditions[1], 1.0)))
        thread.start()
        thread.join()
    for actual, expected in zip([*found, unguided, inner, *elsewhere], [*plain, null, plain[1], plain[1]], strict=True):
        assert relative_l2(actual, expected) < 1e-6
    wrapped = NearestPictures(prior)
    posed = PosedConditions(tuple(conditions), ((0.0, 0.0), (0.0, 180.0)))
    expected = wrapped.predict_noise(x[0], 500, CAMERAS, posed, 2.0)
    with wrapped.sharing_features(4):
        for _ in range(2):
            assert relative_l2(wrapped.predict_noise(x[0], 500, CAMERAS, posed, 2.0), expected) < 1e-6


@pytest.mark.parametrize("name", ["stable_zero123", "mvdream"])
def test_parts_of_a_batch_share_as_the_whole_does(make, name):
    prior = make(name)
    condition, answers = condition_of(prior), []
    for _ in range(2):
        with prior.sharing_features(2):
            answers.append([prior.predict_noise(latents_of(prior, k), 900 - 400 * k, CAMERAS, condition, 3.0) for k in range(2)])
        prior.max_latents = 1
    for whole, parts in zip(*answers, strict=True):
        assert relative_l2(parts, whole) < 2e-4  # sums of other batches are ordered differently


def test_samplers_begin_with_features_of_their_own(make):
    prior, whole = make("mvdream"), []
    condition, cameras = condition_of(prior), CAMERAS[:4]
    deep_part(prior).register_forward_hook(lambda *_: whole.append(1))
    shortcuts = Shortcuts(feature_interval=2)
    up = ddim_invert(prior, latents_of(prior, 0)[:4], cameras, condition, [1, 201, 401, 601], shortcuts=shortcuts)
    assert len(whole) == 2 and prior.features is None
    ddim_sample(prior, up, cameras, condition, [601, 401, 201], 3.0, shortcuts=shortcuts)
    assert len(whole) == 4 and prior.features is None


def test_only_levels_within_the_interval_are_guided():
    prior = StubPrior(lambda x, t, scale: 0.1 * x)
    ddim_sample(prior, (4, 3, 8, 8), turntable(4), None, [801, 501, 500, 200, 199, 1], 3.0, shortcuts=Shortcuts((0.2, 0.5)))
    assert prior.calls == [(801, 1.0), (501, 1.0), (500, 3.0), (200, 3.0), (199, 1.0), (1, 1.0)]
    assert prior.evaluations == 8
    ddim_invert(prior, torch.zeros(4, 3, 8, 8), turntable(4), None, [1, 101], shortcuts=Shortcuts((0.5, 0.5)))
    assert prior.calls[-1] == (1, None)
    shortcuts = Shortcuts((0.5, 1.0))
    assert [shortcuts.scale_at(t, prior.schedule, 1.0) for t in (1, 999)] == [1.0, 1.0]


def test_shortcuts_out_of_range_are_refused():
    for interval in ((0.5, 0.2), (-0.1, 1.0), (0.0, 1.1)):
        with pytest.raises(ValueError, match="cfg_interval="):
            Shortcuts(interval)
    with pytest.raises(ValueError, match="feature_interval=0: expected at least 1"):
        Shortcuts(feature_interval=0)
    assert load_config(None, []).shortcuts == Shortcuts()
    given = load_config(None, ["cfg_interval=[0.1,0.6]", "feature_interval=2"])
    assert given.shortcuts == Shortcuts((0.1, 0.6), 2)
    for word in ("cfg_interval=[0.6,0.1]", "cfg_interval=0.5", "feature_interval=0"):
        with pytest.raises(UserError, match="expected"):
            load_config(None, [word])


def test_a_cache_hands_out_what_it_was_given_last():
    cache, whole = FeatureCache(3), iter(range(10))

    def evaluate():
        number = torch.tensor(next(whole))
        return number, number

    seen = [int(cache.answer("a", evaluate, lambda features: features + 100)) for _ in range(7)]
    assert seen == [0, 100, 100, 1, 101, 101, 2]
    assert int(cache.answer("b", evaluate, lambda features: features)) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("device", DEVICES[1:])
@pytest.mark.parametrize("name", ["stable_zero123", "mvdream", "stable_diffusion"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_graphs_share_features_as_plain_calls_do(make, name, precision, device):
    prior = make(name, device, precision)
    condition, cameras, answers = condition_of(prior), CAMERAS.to(device), []
    x = [latents_of(prior, seed) for seed in range(10)]
    for context in (uncaptured(), nullcontext()):
        with context, prior.sharing_features(2):
            answers.append([prior.predict_noise(x[k], 900 - 80 * k, cameras, condition, 3.0) for k in range(10)])
    for plain, graphed in zip(*answers, strict=True):
        assert relative_l2(graphed, plain) < 1e-3
