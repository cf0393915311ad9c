"""Several pictures of one object: each view is led by the pictures nearest to it, which the prior sees as its front."""

import pytest
import torch
from fake_priors import StubPrior, tiny_micro_prior

from cam_utils import orbit_cameras
from microdreamer.guidance.several import NearestPictures, conditioned, nearness
from microdreamer.images.reference import PosedPicture

SIDES = (0.0, 90.0, 180.0, 270.0)


def picture(value: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(value))
    return torch.rand(4, 32, 32, generator=generator)


class Remembering(StubPrior):
    """Its condition is the mean of the picture's red, its conditional noise that and where it was asked from."""

    def __init__(self):
        super().__init__(None)
        self.asked = []

    def condition(self, image=None, prompt=None, negative_prompt=None, elevation=0.0):
        return 0.0 if image is None else float(image[0].mean())

    def predict_noise(self, latents, t, cameras, condition, guidance_scale):
        assert guidance_scale in (None, 1.0)
        self.asked.append((condition, cameras.azimuth.tolist(), guidance_scale))
        self.evaluations += 1
        return torch.full_like(latents, 7.0 if guidance_scale is None else condition)


def test_no_picture_or_one_in_front_is_the_prior_itself():
    prior = tiny_micro_prior()
    for pictures in ([], [PosedPicture(picture(0), -10.0, 0.0)]):
        asked, condition = conditioned(prior, pictures, "a red car")
        assert asked is prior and condition.has_image == (bool(pictures),)


def test_a_picture_elsewhere_is_the_front_of_a_world_turned_to_it():
    prior = tiny_micro_prior()
    latents = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    turned, condition = conditioned(prior, [PosedPicture(picture(0), -10.0, 90.0)], "a red car")
    own = prior.condition(picture(0), "a red car", None, -10.0)
    views = orbit_cameras(-5.0, [110.0, 200.0, 290.0, 380.0], width=32, height=32)
    same = orbit_cameras(-5.0, [20.0, 110.0, 200.0, 290.0], width=32, height=32)
    none, led, guided = (turned.predict_noise(latents, 300, views, condition, scale) for scale in (None, 1.0, 3.0))
    torch.testing.assert_close(led, prior.predict_noise(latents, 300, same, own, 1.0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(none, prior.predict_noise(latents, 300, views, own, None))  # told nothing, it knows the world's front
    torch.testing.assert_close(guided, none + 3 * (led - none), rtol=1e-4, atol=1e-4)


def test_shares_fall_with_the_angle_and_add_up_to_one():
    places = [(0.0, 0.0), (0.0, 90.0), (-60.0, 0.0)]
    cameras = orbit_cameras([0.0, 0.0, 0.0, -60.0, -30.0], [0.0, 90.0, 45.0, 0.0, 0.0])
    shares = nearness(cameras, places)
    torch.testing.assert_close(shares.sum(1), torch.ones(5))
    assert float(shares[0, 0]) > 0.93 and float(shares[1, 1]) > 0.95 and float(shares[3, 2]) > 0.93
    torch.testing.assert_close(shares[2, 0], shares[2, 1])  # halfway between two
    torch.testing.assert_close(shares[4, 0], shares[4, 2])


@pytest.mark.parametrize("scale, branches", [(1.0, 2), (3.0, 3), (None, 1)])
def test_noise_is_that_of_the_nearest_picture_guided_by_the_null_one(scale, branches):
    prior = Remembering()
    pictures = [PosedPicture(picture(1), 0.0, 0.0), PosedPicture(picture(2), 0.0, 180.0)]
    asked, condition = conditioned(prior, pictures)
    assert isinstance(asked, NearestPictures) and asked.views == 4 and asked.schedule is prior.schedule
    cameras = orbit_cameras(0.0, SIDES, width=8, height=8)
    noise = asked.predict_noise(torch.zeros(4, 3, 8, 8), 100, cameras, condition, scale)
    assert asked.evaluations == prior.evaluations == branches == len(prior.asked)
    front, back = (float(one.picture[0].mean()) for one in pictures)
    if scale is None:
        assert noise.unique().tolist() == [7.0]
        return
    assert prior.asked[0] == (front, [0.0, 90.0, -180.0, -90.0], 1.0)
    assert prior.asked[1] == (back, [-180.0, -90.0, 0.0, 90.0], 1.0)
    middle = (front + back) / 2
    told = [7 + scale * (value - 7) for value in (front, middle, back, middle)]
    torch.testing.assert_close(noise[:, 0, 0, 0], torch.tensor(told), rtol=0, atol=1e-3)


class Several(Remembering):
    """Takes three pictures at once, and remembers them."""

    references = 3

    def condition(self, image=None, prompt=None, negative_prompt=None, elevation=0.0, others=()):
        self.given = [(image, elevation, 0.0), *others]
        return 1.0


def test_a_prior_that_takes_several_is_given_them_at_once_with_their_places_from_the_first():
    pictures = [PosedPicture(picture(number), -5.0 * number, 90.0 * number) for number in (1, 2, 3)]
    prior = Several()
    asked, condition = conditioned(prior, pictures)
    assert isinstance(asked, NearestPictures) and condition.places == ((-5.0, 90.0),)  # the first is not in front: one world, turned
    assert [(one[1], one[2]) for one in prior.given] == [(-5.0, 0.0), (-10.0, 90.0), (-15.0, 180.0)]
    assert all(torch.equal(one[0], own.picture) for one, own in zip(prior.given, pictures, strict=True))
    asked, condition = conditioned(prior, [one._replace(azimuth=one.azimuth - 90.0) for one in pictures])
    assert asked is prior and condition == 1.0
    four = [PosedPicture(picture(number), 0.0, 90.0 * number) for number in range(4)]  # one more than it takes: one by one
    _, condition = conditioned(prior, four)
    assert len(condition.conditions) == 4 and len(prior.given) == 1


def test_cameras_that_change_are_turned_anew():
    prior = Remembering()
    asked, condition = conditioned(prior, [PosedPicture(picture(1), 0.0, 90.0)])
    for start in (0.0, 10.0):
        cameras = orbit_cameras(0.0, [start + side for side in SIDES], width=8, height=8)
        asked.predict_noise(torch.zeros(4, 3, 8, 8), 100, cameras, condition, 1.0)
        assert prior.asked[-1][1] == [start - 90, start, start + 90, (start + 180 + 180) % 360 - 180]


def test_surfaces_of_a_view_are_told_by_the_picture_nearest_to_it():
    """Each picture's condition tells surfaces of its own; a view has all of them from one."""
    prior = tiny_micro_prior(geometry=True)
    pictures = [PosedPicture(picture(0), 0.0, 0.0), PosedPicture(picture(1), 0.0, 170.0)]
    led, condition = conditioned(prior, pictures)
    assert led.tells_surfaces and not conditioned(tiny_micro_prior(), pictures)[0].tells_surfaces
    views = orbit_cameras(0.0, SIDES, width=32, height=32)
    latents = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    colours, surfaces = led.predict_surfaces(latents, 300, views, condition)
    for one, turn, seen in ((0, 0.0, [0, 3]), (1, 170.0, [1, 2])):
        alone, own = prior.predict_surfaces(latents, 300, views.turned(turn), condition.conditions[one])
        torch.testing.assert_close(colours[seen], alone[seen])
        for name in ("depth", "coverage", "albedo"):
            torch.testing.assert_close(getattr(surfaces, name)[seen], getattr(own, name)[seen])
