"""launch.py with the published checkpoints of ScaleDreamer: made-up ones of the right names in small, the real ones' lists of tensors."""

import json
import re
from pathlib import Path

import pytest
import torch
from library_bench import SMALL

from microdreamer.core.errors import UserError
from microdreamer.fields.published import names_of
from microdreamer.generators.published import BACKGROUND, DEVIATION, GEOMETRY
from microdreamer.guidance import load_sentence_encoder
from microdreamer.pipeline.launch import published, run
from microdreamer.pipeline.launch.commands import config_of, launch
from microdreamer.pipeline.launch.config import load_launch_config
from microdreamer.pipeline.launch.generator_learner import make_model
from microdreamer.pipeline.launch.trainer import film_cameras
from tests.small_generators import lively

KINDS = {"hyper_ingp": "hyper_iNGP_micro", "conv3d": "3dconv_net_micro", "triplane": "triplane_transformer_micro"}
MANIFESTS = {
    "hyper_ingp__MG15": "asd_sd_hyper_iNGP_MG15",
    "conv3d_net__DF415_100k": "asd_sd_3dconv_net_DF415",
    "conv3d_net__AT2520_50k": "asd_sd_3dconv_net_DF415",  # of the same sizes
    "conv3d_net__CP100k_300k": "asd_sd_3dconv_net_CP100k",
    "triplane_transformer__DL17k": "asd_mv_triplane_transformer_DL17k",
}
SIZES = (
    *(word for word in SMALL if word.startswith(("system.generator", "system.renderer", "system.geometry.log2", "system.geometry.n_"))),
    *("data.eval_size=16", "data.n_test_views=4", "export.resolution=24", "export.texture_size=32", "export.faces=300"),
    *("system.prompt_processor.library=micro_8", "system.geometry.radius=2"),
)


def words_of(kind, folder):
    yaml = Path(__file__).resolve().parents[3] / "configs" / "multi-prompt" / f"{KINDS[kind]}.yaml"
    background = "prompt" if kind == "hyper_ingp" else "environment"
    return ["--config", str(yaml)], [*SIZES, f"system.background.type={background}", "device=cpu", f"exp_root_dir={folder / 'runs'}"]


def published_file(kind, folder, change=lambda found: found):
    """A file as ScaleDreamer writes them, of a network that the micro prior's sentences fit, and the model that it is of."""
    (_, yaml), words = words_of(kind, folder)
    width = load_sentence_encoder("micro").width
    model = make_model(load_launch_config(yaml, words), width, torch.Generator().manual_seed(5), axes="threestudio").eval()
    lively(model.geometry), lively(model.background)
    state = {"renderer.bbox": torch.tensor([[-2.0] * 3, [2.0] * 3]), DEVIATION: torch.tensor(0.3)}
    for module, prefix in ((model.geometry, GEOMETRY), (model.background, BACKGROUND)):
        state |= {prefix + theirs: module.state_dict()[ours].clone() for theirs, ours in names_of(module).items()}
    path = folder / "published.pth"
    torch.save(change({"state_dict": state, "epoch": 0, "global_step": 42}), path)
    return path, model


@pytest.mark.parametrize("kind", KINDS)
def test_its_pictures_are_those_of_the_model_that_it_holds(kind, tmp_path):
    path, model = published_file(kind, tmp_path)
    config = load_launch_config(words_of(kind, tmp_path)[0][1], [*words_of(kind, tmp_path)[1], f"resume={path}"])
    loaded, step, device = run.trained(config)
    assert step == 42 and device.type == "cpu" and loaded.settings.sharpness == pytest.approx(20.0855, rel=1e-4)  # e^3
    model.settings = loaded.settings
    cameras, width = film_cameras(config, 2, 16, torch.device("cpu")), loaded.geometry.spec.text_width
    text = torch.randn((1, width) if loaded.geometry.text == "global" else (1, 5, width))
    with torch.no_grad():
        pictures = [one.render(cameras, one.condition(text, torch.ones(1, width))).image for one in (model, loaded)]
    assert torch.equal(*pictures) and pictures[0].std() > 1e-3


@pytest.mark.parametrize(
    "kind", ["conv3d", pytest.param("hyper_ingp", marks=pytest.mark.slow), pytest.param("triplane", marks=pytest.mark.slow)]
)
def test_launch_generates_and_tests_with_it(kind, tmp_path, capsys):
    path, _ = published_file(kind, tmp_path)
    config, words = words_of(kind, tmp_path)
    words = [*words, f"resume={path}"]
    assert launch([*config, "--generate", "a red car", "--out", str(tmp_path / "out"), "--test", *words]) == 0
    record = json.loads((tmp_path / "out" / "a_red_car.json").read_text())
    assert record["step"] == 42 and record["config"]["resume"] == str(path) and record["mesh"]["faces"] <= 300
    assert (tmp_path / "runs" / KINDS[kind] / "micro_8" / "save" / "step_42_test" / "prompts.json").is_file()
    capsys.readouterr()
    for wrong, said in (
        (["--export"], '--export: .* has a shape for every sentence; pass --generate "a sentence"'),
        (["--train"], "published.pth: a published network is there to be used"),
    ):
        assert launch([*config, *wrong, *words]) == 2
        told = capsys.readouterr().err
        assert told.strip().count("\n") == 0
        assert re.search(said, told)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_published_configuration_is_found_by_the_tensors(parity, name, tmp_path):
    """Of full size; each tensor stores one number."""
    manifest = json.loads(parity(f"generators/manifests/{name}.json").read_text())
    state = {entry["key"]: torch.zeros(()).expand(entry["shape"]) for entry in manifest["entries"]}
    torch.save({"state_dict": state, "epoch": 0, "global_step": 9}, tmp_path / "last.pth")
    config = config_of(None, [f"resume={tmp_path / 'last.pth'}", "data.eval_size=99"])
    expected = load_launch_config(Path(__file__).resolve().parents[3] / "configs" / "multi-prompt" / f"{MANIFESTS[name]}.yaml", [])
    assert config.name == MANIFESTS[name] and config.system == expected.system and config.data.eval_size == 99
    assert published.text_width(published.read(tmp_path / "last.pth")) == 1024


FOREIGN = {
    "a field of one object": (lambda found: {"state_dict": {"geometry.density_network.layers.0.weight": torch.zeros(2)}}, "no network of"),
    "nothing in it": (lambda found: {"state_dict": {}}, r"holds no network of sentences \(nothing"),
    "weights alone": (lambda found: found["state_dict"], "holds no state_dict of a system"),
    "a list": (lambda found: [1, 2], "holds no state_dict of a system"),
    "more than tensors": (lambda found: {**found, "path": Path("x")}, "holds more than tensors and is not read"),
    "another kind": (
        lambda found: {"state_dict": {"geometry.space_generator.pos_embed": torch.zeros(1, 12, 4)}},
        "holds a network triplane, not system.geometry.type=hyper_ingp; leave --config out",
    ),
    "a tensor too few": (
        lambda found: {"state_dict": {k: v for k, v in found["state_dict"].items() if k != "geometry.hypernet.layers.3.bias"}},
        "does not fit this configuration .*without geometry.hypernet.layers.3.bias",
    ),
    "no width": (
        lambda found: {"state_dict": {k: v for k, v in found["state_dict"].items() if "hypernet.layers.0" not in k}},
        "does not fit this configuration .*hypernet.layers.0.weight",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_something_else_is_told_in_a_line(what, tmp_path):
    change, message = FOREIGN[what]
    path, _ = published_file("hyper_ingp", tmp_path, change)
    config, words = words_of("hyper_ingp", tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        run.trained(config_of(config[1], [*words, f"resume={path}"]))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 520


def test_a_cut_file_is_told_in_a_line(tmp_path):
    path, _ = published_file("hyper_ingp", tmp_path)
    data = path.read_bytes()
    for length in (0, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"published\.pth: (damaged|cut off)") as caught:
            config_of(None, [f"resume={path}"])
        assert "\n" not in str(caught.value)


def test_a_background_of_one_colour_is_told(tmp_path):
    path, _ = published_file("conv3d", tmp_path)
    config, words = words_of("conv3d", tmp_path)
    with pytest.raises(UserError, match=r"system\.background\.type=solid: published networks have environment or prompt"):
        run.trained(load_launch_config(config[1], [*words, "system.background.type=solid", f"resume={path}"]))
