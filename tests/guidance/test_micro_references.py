"""Several posed pictures, relative poses in attention, and the surfaces beside colours, in small networks."""

import dataclasses

import pytest
import torch

from cam_utils import RADIUS, orbit_cameras, turntable
from microdreamer.guidance.base import Branch
from microdreamer.guidance.micro.network import SLOTS, MultiViewNetwork, NetworkConfig, camera_features, pixel_rays
from microdreamer.guidance.micro.prior import MicroPrior, tan_half
from microdreamer.guidance.micro.relative import Poses, RelativeGates, view_poses
from microdreamer.guidance.micro.vocabulary import Vocabulary
from microdreamer.guidance.several import conditioned
from microdreamer.images.reference import PosedPicture

PLAIN = NetworkConfig(resolution=32, channels=(16, 32, 64), depth=(1, 1, 3, 1, 1), head_width=16, condition_width=32, text_width=32)
WHOLE = dataclasses.replace(PLAIN, references=SLOTS, relative_cameras=True, geometry=True)


def random_network(config: NetworkConfig) -> MultiViewNetwork:
    """A network whose zero-initialised layers and gates were redrawn, so that every path matters."""
    network = MultiViewNetwork(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        parameter.add_((0.5 if ".relative." in name else 0.05) * torch.randn(parameter.shape, generator=generator))
    return network


def features(azimuth: torch.Tensor, up: torch.Tensor, is_reference: bool) -> tuple[torch.Tensor, torch.Tensor]:
    ones = torch.ones_like(azimuth)
    rays = pixel_rays(azimuth, up, RADIUS, tan_half(), PLAIN.resolution // 4)
    return rays, camera_features(azimuth, up, is_reference=is_reference, known=ones, present=ones)


def inputs(batch: int = 3) -> dict[str, torch.Tensor]:
    """Of `batch` samples of which the last has SLOTS pictures."""
    generator = torch.Generator().manual_seed(1)
    rays, camera = features(torch.tensor([0.0, 90, 180, 270]).expand(batch, 4), torch.full((batch, 4), 15.0), False)
    turn = torch.tensor([0.0] * batch + [90.0, 200.0, 310.0])
    picture_rays, picture_camera = features(turn, torch.full_like(turn, 20.0), True)
    views, pictures = (torch.randn(*shape, 3, 32, 32, generator=generator) for shape in ((batch, 4), (len(turn),)))
    tokens = torch.randint(0, 50, (batch, PLAIN.text_tokens), generator=generator)
    names = ("noisy", "log_snr", "rays", "camera", "pictures", "picture_rays", "picture_camera", "tokens")
    return dict(
        zip(names, (views, torch.linspace(-6, -1, batch), rays, camera, pictures, picture_rays, picture_camera, tokens), strict=True)
    )


def encoded(network: MultiViewNetwork, given: dict, first: int, pictures: int, sample: int):
    part = slice(first, first + pictures)
    own = (given[name][part][None] for name in ("pictures", "picture_rays", "picture_camera"))
    return network.encode_reference(*own, given["tokens"][sample, None])


def test_poses_are_those_of_the_cameras():
    azimuth, up = torch.tensor([0.0, 30.0, 200.0]), torch.tensor([0.0, 20.0, -35.0])
    expected = orbit_cameras((-up).tolist(), azimuth.tolist()).world_to_camera.float()
    expected[:, :3, 3] /= RADIUS
    torch.testing.assert_close(view_poses(features(azimuth, up, False)[1]), expected, rtol=0, atol=1e-6)


def test_attention_with_open_gates_depends_on_relative_poses_alone():
    """Scores q P_i P_j^-1 k, and values in the frame of the one that looks, whatever world the poses are told in."""
    gates, generator = RelativeGates(2), torch.Generator().manual_seed(0)
    torch.nn.init.ones_(gates.scores)
    torch.nn.init.ones_(gates.values)
    query, key, value = (torch.randn(2, 5, 2, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    gates.double()
    pose = view_poses(features(torch.tensor([10.0, 130.0]), torch.tensor([5.0, -20.0]), False)[1]).double()
    moved = pose @ view_poses(features(torch.tensor([77.0]), torch.tensor([33.0]), False)[1]).double()

    def seen(matrices):
        poses = Poses(matrices, torch.linalg.inv(matrices).mT, matrices.mT)
        q, k, v = gates.into_frames(query, key, value, poses)
        weights = torch.einsum("iqhc,jkhc->ijqkh", q, k)
        brought = torch.einsum("ijqkh,jkhc->iqhc", weights, v)
        return weights, gates.out_of_frames(brought, poses)

    for one, other in zip(seen(pose), seen(moved), strict=True):
        torch.testing.assert_close(one, other)
    relative = pose[0] @ torch.linalg.inv(pose[1])
    by_hand = query[0, 1, 0, :4] @ relative @ key[1, 2, 0, :4] + query[0, 1, 0, 4:] @ key[1, 2, 0, 4:]
    torch.testing.assert_close(seen(pose)[0][0, 1, 1, 2, 0], by_hand)


def test_repeated_blocks_turn_four_channels_each():
    camera = features(torch.tensor([40.0]), torch.tensor([10.0]), False)[1]
    matrices, pose = Poses.of(camera, 8, torch.float32), view_poses(camera)
    torch.testing.assert_close(matrices.of_results[0], torch.block_diag(pose[0].T, pose[0].T))
    torch.testing.assert_close(matrices.of_keys[0], torch.block_diag(*[torch.linalg.inv(pose[0]).T] * 2), rtol=0, atol=1e-6)


def test_closed_gates_change_nothing():
    old, given = random_network(PLAIN), inputs()
    new = MultiViewNetwork(dataclasses.replace(PLAIN, relative_cameras=True)).eval().requires_grad_(False)
    assert set(new.load_state_dict(old.state_dict(), strict=False).missing_keys) == {
        f"deep.{k}.attention.relative.{gate}" for k in (0, 2) for gate in ("scores", "values")
    }
    torch.testing.assert_close(new(**given), old(**given), rtol=0, atol=2e-6)
    new.deep[0].attention.relative.scores.fill_(1.0)
    assert float((new(**given) - old(**given)).abs().max()) > 1e-4


def test_samples_with_one_and_several_pictures_share_a_pass():
    network, given = random_network(WHOLE), inputs()
    clean, surfaces = network(**given, geometry=2)
    assert surfaces.depth.shape == (2, 4, 1, 32, 32) and surfaces.albedo.shape == (2, 4, 3, 32, 32)
    for sample, pictures in ((0, 1), (1, 1), (2, SLOTS)):
        own = {name: given[name][sample, None] for name in ("noisy", "log_snr", "rays", "camera")}
        alone, told = network.denoise(**own, cache=encoded(network, given, sample, pictures, sample), geometry=True)
        torch.testing.assert_close(alone[0], clean[sample], rtol=0, atol=5e-6)
        if sample < 2:
            torch.testing.assert_close(told.coverage[0], surfaces.coverage[sample], rtol=0, atol=5e-6)


def test_pictures_do_not_see_each_other_and_their_order_does_not_matter():
    network, given = random_network(WHOLE), inputs()
    own = {name: given[name][2, None] for name in ("noisy", "log_snr", "rays", "camera")}
    several, first = encoded(network, given, 2, SLOTS, 2), encoded(network, given, 2, 1, 2)
    for (keys, _), (alone, _) in zip(several.reference, first.reference, strict=True):
        torch.testing.assert_close(keys[:, : alone.shape[1]], alone, rtol=0, atol=1e-5)
    for name in ("pictures", "picture_rays", "picture_camera"):
        given[name] = torch.cat([given[name][:2], given[name][2:].flip(0)])
    turned = network.denoise(**own, cache=encoded(network, given, 2, SLOTS, 2))
    torch.testing.assert_close(turned, network.denoise(**own, cache=several), rtol=0, atol=5e-6)
    assert float((turned - network.denoise(**own, cache=first)).abs().max()) > 1e-4


@pytest.fixture(scope="module")
def prior():
    return MicroPrior(random_network(WHOLE), Vocabulary(["a", "box", "red"]))


def pictures(count: int) -> list[torch.Tensor]:
    return list(torch.rand(count, 4, 40, 40, generator=torch.Generator().manual_seed(2)))


def test_a_condition_of_several_pictures(prior):
    front, side, back = pictures(3)
    cameras, latents = turntable(4, width=32, height=32), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))

    def clean(*others, **options):
        condition = prior.condition(front, others=others, **options)
        return prior.predict_clean(latents, 600, cameras, condition, 1.0)

    one = clean()
    assert float((clean((side, 0.0, 90.0)) - one).abs().max()) > 1e-4
    assert float((clean((side, 0.0, 90.0)) - clean((side, 0.0, 180.0))).abs().max()) > 1e-4  # where it was taken from matters
    three = clean((side, -10.0, 90.0), (back, 0.0, 180.0), (side, 5.0, 270.0))
    again = clean((side, 5.0, 270.0), (back, 0.0, 180.0), (side, -10.0, 90.0))
    torch.testing.assert_close(three, again, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="5 pictures: these weights of the micro prior take at most 4"):
        clean(*[(side, 0.0, 0.0)] * 4)
    with pytest.raises(ValueError, match="without the first one"):
        prior.condition(others=[(side, 0.0, 0.0)])
    with pytest.raises(ValueError, match=r"expected RGBA"):
        clean((side[:3], 0.0, 0.0))


def test_a_prior_of_several_pictures_takes_them_at_once_where_one_is_its_front(prior):
    side, front, odd = pictures(3)
    asked, condition = conditioned(prior, [PosedPicture(side, -5.0, 90.0), PosedPicture(front, -10.0)], "a red box")
    cameras, latents = turntable(4, width=32, height=32), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    expected = prior.condition(front, "a red box", elevation=-10.0, others=[(side, -5.0, 90.0)])
    answers = [prior.predict_clean(latents, 600, cameras, one, 1.0) for one in (condition, expected)]
    assert asked is prior and torch.equal(*answers)
    assert conditioned(prior, [PosedPicture(side, 0.0, 90.0), PosedPicture(odd, 0.0, 200.0)])[0] is not prior


def test_conditions_of_one_and_several_pictures_join(prior):
    front, side = pictures(2)
    conditions = [prior.condition(front), prior.condition(front, "a red box", others=[(side, 0.0, 90.0)])]
    cameras = orbit_cameras([0.0] * 8, [0, 90, 180, 270] * 2, width=32, height=32)
    latents = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    joined = prior.predict_clean(latents, 600, cameras, prior.join(conditions), 1.0)
    alone = prior.predict_clean(latents[4:], 600, cameras[4:], conditions[1], 1.0)
    torch.testing.assert_close(joined[4:], alone, rtol=0, atol=1e-5)
    guided = prior.predict_each([Branch(latents[:4], 600), Branch(latents[:4], 600, "null")], cameras[:4], conditions[1])
    assert len(guided) == 2 and bool(torch.isfinite(guided[0]).all())


def test_surfaces_come_in_units_of_the_scene(prior):
    (front,), cameras = pictures(1), turntable(4, width=32, height=32)
    latents = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    condition = prior.condition(front)
    views, surfaces = prior.predict_surfaces(latents, 600, cameras, condition)
    torch.testing.assert_close(views, prior.decode(prior.predict_clean(latents, 600, cameras, condition, 1.0)), rtol=0, atol=1e-5)
    assert surfaces.depth.shape == surfaces.coverage.shape == (4, 1, 32, 32) and surfaces.albedo.shape == (4, 3, 32, 32)
    assert float(surfaces.depth.mean()) == pytest.approx(RADIUS, abs=0.5)
    with pytest.raises(ValueError, match="colours alone"):
        MicroPrior(random_network(PLAIN), Vocabulary(["a"])).predict_surfaces(latents, 600, cameras, condition)
