"""Published checkpoints: their keys, the single-file layout and back, and refusal of whatever is damaged or foreign."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from microdreamer.guidance import PRIORS, load_prior
from microdreamer.guidance.published.configs import PUBLISHED, class_of, configurations
from microdreamer.guidance.published.ldm_keys import apply, map_keys
from microdreamer.guidance.published.presets import PRESETS, find_checkpoint, missing_parts, split_hub_name
from microdreamer.guidance.published.pretrained import build, load_weights, name_in, read_tensors
from scripts import convert_mvdream

MANIFESTS = {
    ("zero123_xl", "unet"): "zero123_unet",
    ("zero123_xl", "vae"): "vae",
    ("zero123_xl", "image_encoder"): "image_encoder_vit_l",
    ("zero123_xl", "clip_camera_projection"): "clip_camera_projection",
    ("mvdream", "unet"): "mvdream_unet",
    ("mvdream", "text_encoder"): "text_encoder_sd21",
    ("imagedream", "unet"): "imagedream_unet",
    ("imagedream", "image_encoder"): "image_encoder_vit_h",
    ("stable_diffusion", "unet"): "sd21_base_unet",
}


@pytest.mark.parametrize(("prior", "part"), MANIFESTS)
def test_every_published_key_is_matched_and_none_left_over(parity, prior, part):
    manifest = json.loads(parity(f"priors/manifest_{MANIFESTS[prior, part]}.json").read_text())
    config = PUBLISHED[prior][part]
    assert {key: config[key] for key in manifest["config_json"] if key in config} == {
        key: value for key, value in manifest["config_json"].items() if key in config
    }
    module = build({**manifest["config_json"], **config}, class_of(config), part)
    ours = {key: list(tensor.shape) for key, tensor in module.state_dict().items()}
    assert {name_in(ours, key): shape for key, (shape, _) in manifest["state_dict"].items()} == ours
    for ours_too in build(config, class_of(config), part).state_dict():  # what we write for random weights is enough to say it all
        assert ours_too in ours
    size = sum(parameter.numel() for parameter in module.parameters()) * 2 / 1e6
    assert PRESETS[prior].parts[part] == pytest.approx(size, abs=1)


@pytest.mark.parametrize("file", ["sd-v2.1-base-4view.pt", "sd-v2.1-base-4view-ipmv.pt"])
def test_single_file_names_map_as_published(parity, file):
    golden = json.loads(parity("priors/keymap_ldm_to_diffusers.json").read_text())[file]
    rows, unneeded = map_keys([*{row[0]: None for row in golden["map"]}, *golden["unmapped"]])
    assert {tuple(row) for row in rows} == {tuple(row) for row in golden["map"]}
    assert unneeded == golden["unmapped"]


@pytest.mark.parametrize(
    ("name", "file"), [("mvdream", "mvdream_ldm_sd-v2.1-base-4view"), ("imagedream", "imagedream_ldm_sd-v2.1-base-4view-ipmv")]
)
def test_single_file_shapes_become_those_of_the_folder(parity, name, file):
    manifest = json.loads(parity(f"priors/manifest_{file}.json").read_text())["state_dict"]
    rows, _ = map_keys(manifest)
    for part, config in PUBLISHED[name].items():
        wanted = {key: tuple(t.shape) for key, t in build(config, class_of(config), part).state_dict().items()}
        shapes = {r.target: apply(r.operation, torch.empty(manifest[r.source][0], device="meta")).shape for r in rows if r.part == part}
        assert {name_in(wanted, key): tuple(shape) for key, shape in shapes.items()} == wanted


def module_with(parity, part, config, rows, source, tmp_path):
    """The module of one part with tensors of the single file, through the real loading code."""
    state = {row.target: apply(row.operation, source[row.source]).float().clone() for row in rows if row.part == part}
    (tmp_path / part).mkdir()
    save_file(state, tmp_path / part / "model.safetensors")
    return load_weights(build(config, class_of(config), tmp_path), tmp_path / part, "cpu", torch.float32)


def test_encoders_from_a_single_file_compute_what_the_originals_did(parity, tmp_path):
    path = parity("priors/ldm_encoders_small_io.safetensors")
    with safe_open(path, "pt") as file:
        sizes = json.loads(file.metadata()["config"])
    golden, source = load_file(path), load_file(parity("priors/ldm_encoders_small_weights.safetensors"))
    published = {**PUBLISHED["imagedream"]}
    renamed = {f"model.diffusion_model.{key}" if key.startswith("unet") else key: tensor for key, tensor in source.items()}
    towers = {key.replace("cond_stage_model.model.", "clip_model.model."): tensor for key, tensor in renamed.items()}
    rows, _ = map_keys(towers)

    def close(actual, expected, tolerance=1e-5):
        assert float((actual - expected).abs().max()) < tolerance * float(expected.abs().max())

    vae = module_with(parity, "vae", {**published["vae"], **sizes["vae"], "scaling_factor": 0.18215}, rows, towers, tmp_path)
    mean, log_variance = vae.encode(golden["vae.in.image_pm1"]).chunk(2, dim=1)
    close(mean, golden["vae.out.mean"])
    close(log_variance, golden["vae.out.logvar"])
    close((log_variance / 2).exp(), golden["vae.out.std"])
    close(mean * vae.config.scaling_factor, golden["vae.out.scaled_mode"])
    close(vae.decode(golden["vae.out.mean"]), golden["vae.out.decoded_from_mean"])
    text = module_with(parity, "text_encoder", {**published["text_encoder"], **sizes["text"]}, rows, towers, tmp_path)
    close(text(golden["text.in.tokens"]).places, golden["text.out.hidden"])
    vision = module_with(parity, "image_encoder", {**published["image_encoder"], **sizes["vision"]}, rows, towers, tmp_path)
    close(vision.tokens(golden["vision.in.pixel_values"], leave_out=1), golden["vision.out.penultimate_tokens"])

    with safe_open(parity("priors/clip_vision_projection_small_weights.safetensors"), "pt") as file:
        config = {**PUBLISHED["zero123_xl"]["image_encoder"], **json.loads(file.metadata()["config"])}
    shutil.copytree(
        path.parent, tmp_path / "l", ignore=lambda _, names: [n for n in names if n != "clip_vision_projection_small_weights.safetensors"]
    )
    (tmp_path / "l" / "clip_vision_projection_small_weights.safetensors").rename(tmp_path / "l" / "model.safetensors")
    projected = load_weights(build(config, class_of(config), tmp_path), tmp_path / "l", "cpu", torch.float32)
    close(projected(golden["vision.in.pixel_values"]), golden["vision_projection.out.image_embeds"])


@pytest.mark.parametrize("name", sorted(set(PRIORS) - {"micro"}))
def test_every_prior_loads_from_its_folder(tiny_checkpoint, name):
    prior = load_prior(name, str(tiny_checkpoint(name)))
    assert prior.name == name and prior.accepts == PRIORS[name] and prior.resolution == 64
    assert missing_parts(tiny_checkpoint(name), PRESETS[name]) == []
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in prior.network.parameters())


@pytest.mark.parametrize("name", ["mvdream", "imagedream"])
def test_single_file_to_folder_and_back_is_the_same(parity, tmp_path, capsys, name):
    """With the originals' encoders (small) and a small network."""
    path, network = parity("priors/ldm_encoders_small_weights.safetensors"), parity(f"priors/mvunet_{name}_weights.safetensors")
    with safe_open(path, "pt") as encoders, safe_open(network, "pt") as unet:
        sizes, config = (json.loads(file.metadata()["config"]) for file in (encoders, unet))
    state = {f"model.diffusion_model.{key}": tensor for key, tensor in load_file(network).items()}
    for key, tensor in load_file(path).items():
        if name == "imagedream":  # which calls its parts otherwise and holds the picture tower too
            key = key.replace("first_stage_model.", "vae_model.").replace("cond_stage_model.model.", "clip_model.model.")
        elif key.startswith("clip_model."):
            continue
        state[key] = tensor
    state["betas"] = torch.rand(1000)
    sizes = {"unet": config, "vae": sizes["vae"], "text_encoder": sizes["text"], "image_encoder": sizes["vision"]}
    configs = {part: {**published, **sizes[part]} for part, published in PUBLISHED[name].items()}
    single, folder, back = tmp_path / "single.pt", tmp_path / "folder", tmp_path / "back.pt"
    torch.save(state, single)
    convert_mvdream.split_file(single, folder, configs)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(configs)
    assert convert_mvdream.main([str(folder), str(back)]) == 0
    returned = torch.load(back, weights_only=True)
    assert list(returned) == list(state)
    assert all(torch.equal(returned[key], state[key]) and returned[key].dtype == state[key].dtype for key in state)
    (folder / convert_mvdream.ROWS).unlink()
    assert convert_mvdream.main([str(folder), str(back)]) == 2
    assert "only a folder that this script wrote can be turned back" in capsys.readouterr().err


class Trap:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_a_pickle_is_read_and_never_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.pt").write_bytes(pickle.dumps(Trap()))
    torch.save({"a": torch.zeros(2), "b": Trap()}, tmp_path / "trap2.pt")
    for name in ("trap.pt", "trap2.pt"):
        assert convert_mvdream.main([name, "out"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and name in error
    assert not (tmp_path / "executed").exists() and not (tmp_path / "out").exists()
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    assert convert_mvdream.main(["other.pt", "out"]) == 2
    assert "expected MVDream's or ImageDream's original file" in capsys.readouterr().err
    assert convert_mvdream.main(["nothing.pt", "out"]) == 2


@pytest.mark.parametrize("archive", [True, False])
def test_pickled_weights_of_tensors_alone_are_read(tmp_path, archive):
    torch.save({"state_dict": {"a": torch.arange(3.0)}}, tmp_path / "a.bin", _use_new_zipfile_serialization=archive)
    [(key, read, shape)] = read_tensors(tmp_path / "a.bin")
    assert (key, read().tolist(), shape) == ("a", [0, 1, 2], (3,))


def test_memory_bounds_what_one_call_takes(tiny_checkpoint):
    cramped, roomy = (load_prior("zero123_xl", str(tiny_checkpoint("zero123_xl")), "cpu", "float32", gib) for gib in (0.02, 2.0))
    assert 1 <= cramped.max_latents < 6 and roomy.max_latents == pytest.approx(100 * cramped.max_latents, rel=0.3)
    assert cramped.max_pictures < roomy.max_pictures
    pictures = torch.rand(5, 3, 64, 64)
    torch.testing.assert_close(cramped.decode(cramped.encode(pictures)), roomy.decode(roomy.encode(pictures)), rtol=0, atol=1e-5)


def test_damaged_and_foreign_checkpoints_are_refused_in_one_line(tiny_checkpoint, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint("zero123_xl"), folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()

    def refused(error, match):
        with pytest.raises(error, match=match) as caught:
            load_prior("zero123_xl", str(folder))
        assert "\n" not in str(caught.value)

    weights.write_bytes(whole[: len(whole) // 2])
    refused(ValueError, "unet/diffusion_pytorch_model.safetensors: truncated")
    weights.unlink()
    refused(FileNotFoundError, r"unet/\*.safetensors is missing.*download_models.py zero123_xl fetches 2.5 GB.*licence: MIT")
    state = load_file(tiny_checkpoint("zero123_xl") / "unet" / weights.name)
    save_file({key: tensor for key, tensor in state.items() if key != "conv_in.bias"}, weights)
    refused(ValueError, "conv_in.bias is missing; these are not weights of UNet")
    save_file({**state, "zzz": torch.zeros(1)}, weights)
    refused(ValueError, "unexpected zzz")
    save_file({**state, "conv_in.bias": torch.zeros(3)}, weights)
    refused(ValueError, r"conv_in.bias has shape \(3,\), expected \(32,\)")
    weights.write_bytes(whole)
    (folder / "vae" / "config.json").write_text("{")
    refused(ValueError, "vae/config.json: not a configuration")
    (folder / "vae" / "config.json").write_text('{"_class_name": "Other"}')
    refused(ValueError, "vae/config.json: describes a Other, expected a AutoencoderKL")
    shutil.copytree(tiny_checkpoint("mvdream"), tmp_path / "mv")
    with pytest.raises(FileNotFoundError, match=r"image_encoder/config\.json is missing"):
        load_prior("imagedream", str(tmp_path / "mv"))
    (tmp_path / "mv" / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer/merges\.txt is missing"):
        load_prior("mvdream", str(tmp_path / "mv"))


def test_names_and_buffers_of_other_library_versions_are_understood(tiny_checkpoint, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint("stable_diffusion"), folder)
    text, vae = folder / "text_encoder" / "model.safetensors", folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = {key.removeprefix("text_model."): tensor for key, tensor in load_file(text).items()}
    prefixed = {f"text_model.{key}": tensor for key, tensor in state.items()}
    old_vae = {}
    for key, tensor in load_file(vae).items():
        for new, old in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")):
            key = key.replace(new, old) if "attentions" in key else key
        old_vae[key] = tensor
    save_file(old_vae, vae)
    contexts = []
    for version in (state, {**prefixed, "text_model.embeddings.position_ids": torch.arange(77)[None]}):
        save_file(version, text)
        contexts.append(load_prior("stable_diffusion", str(folder)).condition(None, "a red car").views)
    assert torch.equal(*contexts)


def test_a_cut_sentence_keeps_its_end_token_and_a_short_one_is_padded_with_zeros(tiny_checkpoint, caplog):
    encoder = load_prior("mvdream", str(tiny_checkpoint("mvdream"))).text_encoder
    short, long = encoder.tokenizer("a!", 77), encoder.tokenizer("wheel " * 40, 77)
    assert short == [512, 64 + 256, 256, 513] + [0] * 73  # "!" is a word although its letter pads
    assert len(long) == 77 and long[-1] == 513 and "tokens too many" in caplog.text


def test_missing_weights_are_one_line_that_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("microdreamer.guidance.published.presets.in_cache", lambda _: None)
    for name, preset in PRESETS.items():
        with pytest.raises(FileNotFoundError) as caught:
            find_checkpoint(name)
        message = str(caught.value)
        assert "\n" not in message and f"python scripts/download_models.py {name} fetches" in message
        assert preset.licence in message and all(f"{part} {size} MB" in message for part, size in preset.parts.items())
    with pytest.raises(FileNotFoundError, match="mvdream --repository me/mine@abc fetches"):
        find_checkpoint("mvdream", "me/mine@abc")


def test_a_repository_is_named_with_its_revision():
    assert split_hub_name("me/mine@abc") == ("me/mine", "abc")
    for text in ("me/mine", "mine", "a/b/c@d", "no such folder/x"):
        with pytest.raises(ValueError, match="expected a folder or owner/name@revision"):
            split_hub_name(text)


def test_the_first_repository_that_is_whole_is_taken(monkeypatch, tiny_checkpoint, tmp_path):
    folders = dict(zip(PRESETS["stable_diffusion"].repositories, (None, tmp_path, tiny_checkpoint("stable_diffusion")), strict=True))
    monkeypatch.setattr("microdreamer.guidance.published.presets.in_cache", folders.__getitem__)
    assert find_checkpoint("stable_diffusion") == tiny_checkpoint("stable_diffusion")


def test_configurations_in_miniature_are_of_the_same_make():
    for name in PUBLISHED:
        for part, config in configurations(name, tiny=True).items():
            assert class_of(config) == class_of(PUBLISHED[name][part])
