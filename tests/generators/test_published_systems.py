"""Published checkpoints by their own names: every tensor has its place, and what does not fit is said and changes nothing."""

import copy
import dataclasses
import json

import pytest
import torch
from small_generators import GRID, MAKERS, SPECS, TEXT_WIDTH, lively, points_of, sentences

from microdreamer.fields import published
from microdreamer.generators.backgrounds import PromptBackground, SharedBackground
from microdreamer.generators.conv3d import Conv3dSpec
from microdreamer.generators.hyper_ingp import HyperIngpSpec
from microdreamer.generators.published import load_system
from microdreamer.generators.triplane_transformer import TriplaneTransformerSpec

FULL_SIZE = {
    "hyper_ingp__MG15": HyperIngpSpec(axes="threestudio"),
    "conv3d_net__DF415_100k": Conv3dSpec(axes="threestudio"),
    "conv3d_net__AT2520_50k": Conv3dSpec(axes="threestudio"),
    "conv3d_net__CP100k_300k": Conv3dSpec(axes="threestudio", channel_multiplier=2),
    "triplane_transformer__DL17k": TriplaneTransformerSpec(axes="threestudio"),
}


def published_box(radius=2.0):
    return torch.tensor([[-radius] * 3, [radius] * 3])


@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_key_of_a_manifest_has_its_place(parity, name):
    manifest = json.loads(parity(f"generators/manifests/{name}.json").read_text())
    spec = FULL_SIZE[name]
    with torch.device("meta"):
        generator = MAKERS[type(spec)](spec)
        background = (PromptBackground if "background.hypernet.layers.0.weight" in str(manifest) else SharedBackground)(axes="threestudio")
        state = {entry["key"]: torch.empty(entry["shape"]) for entry in manifest["entries"]}
    state |= {key: published_box() for key in ("geometry.bbox", "renderer.bbox")}
    state["renderer.variance._inv_std"] = torch.tensor(0.340119)
    assert len(state) == manifest["n_entries"]
    assert float(load_system(state, generator, background)) == pytest.approx(30, rel=1e-4)
    for module, part in ((generator, "geometry"), (background, "background")):
        assert sum(parameter.numel() for parameter in module.parameters()) == manifest["parameter_totals"][part]
    kinds = {entry["key"].removeprefix("geometry."): entry["kind"] for entry in manifest["entries"]}
    parameters = {name for name, _ in generator.named_parameters()}
    for theirs, ours in published.names_of(generator).items():
        assert (ours in parameters) == (kinds[theirs] == "parameter"), theirs


# ---- In small, with names of the same kind ----


def system(name, seed):
    """A generator with a background, and the state_dict that a system of theirs would write."""
    spec = dataclasses.replace(SPECS[name], axes="threestudio")
    draw = torch.Generator().manual_seed(seed)
    generator = lively(MAKERS[type(spec)](spec, draw))
    if name == "hyper_ingp":
        background = lively(PromptBackground(TEXT_WIDTH, draw, grid=GRID, axes="threestudio"))
    else:
        background = SharedBackground("sh3", draw, axes="threestudio")
    state = {"renderer.variance._inv_std": torch.tensor(0.3), "renderer.bbox": published_box(), "geometry.bbox": published_box()}
    for module, prefix in ((generator, "geometry."), (background, "background.")):
        state |= {prefix + theirs: module.state_dict()[ours].clone() for theirs, ours in published.names_of(module).items()}
    if name != "hyper_ingp":
        state["background.encoding.encoding.encoding.params"] = torch.zeros(0)  # harmonics have none
    return generator, background, state


@pytest.mark.parametrize("name", SPECS)
def test_round_trip(name):
    generator, background, state = system(name, 1)
    other, other_background, _ = system(name, 2)
    text, where = sentences(generator, 2), points_of(2)
    summary = torch.randn(2, TEXT_WIDTH)
    assert float(load_system(state, other, other_background)) == pytest.approx(20.0855, rel=1e-4)  # e^3
    torch.testing.assert_close(other.field(where, other.condition(text)), generator.field(where, generator.condition(text)), rtol=0, atol=0)
    assert torch.equal(other_background(where, other_background.condition(summary)), background(where, background.condition(summary)))


CHANGES = {
    "a name too many": (
        lambda state: state | {"geometry.sdf_network.layers.9.weight": torch.zeros(1)},
        "with geometry.sdf_network.layers.9",
    ),
    "a misspelt one": (
        lambda state: {name.replace("sdf_network.layers.0", "sdf_network.layer.0"): t for name, t in state.items()},
        "without geometry.sdf_network.layers.0.weight and with geometry.sdf_network.layer.0.weight",
    ),
    "another part": (lambda state: state | {"guidance.lora": torch.zeros(1)}, r"got guidance.lora too"),
    "no sharpness": (
        lambda state: {n: t for n, t in state.items() if "variance" not in n},
        "got none of the name renderer.variance._inv_std",
    ),
    "another box": (
        lambda state: state | {"geometry.bbox": published_box(1.0)},
        "geometry.bbox: expected .* make the field with that radius",
    ),
    "another box to render": (lambda state: state | {"renderer.bbox": published_box(1.0)}, "renderer.bbox: expected"),
    "another size": (
        lambda state: state | {"geometry.sdf_network.layers.0.weight": torch.zeros(3, 3)},
        r"geometry.sdf_network.layers.0.weight: expected shape \[16, 8\], got \[3, 3\]",
    ),
    "half a background": (
        lambda state: {n: t for n, t in state.items() if n != "background.network.layers.4.weight"},
        "without background.network.layers.4.weight",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_changes_nothing(change):
    _, _, state = system("conv3d", 1)
    generator, background, _ = system("conv3d", 2)
    before = copy.deepcopy([generator.state_dict(), background.state_dict()])
    changed, message = CHANGES[change]
    with pytest.raises(ValueError, match=message):
        load_system(changed(state), generator, background)
    for module, kept in zip((generator, background), before, strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in module.state_dict().items())


def test_published_generators_stand_in_their_own_world():
    _, _, state = system("conv3d", 1)
    ours = MAKERS[Conv3dSpec](SPECS["conv3d"])
    with pytest.raises(ValueError, match='make the field with axes="threestudio"'):
        ours.load_published(state)
