"""CLIP similarity: the metric equals a direct computation, either layout gives the same, and wrong folders are one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import EMBEDDING, WIDTH, write_tiny_clip

from microdreamer.evaluation.clip_similarity import HALF_EXTENT, Clip, load_mesh, similarity, views_of
from microdreamer.guidance.published.random_weights import write_tokenizer
from microdreamer.meshes.files import read_mesh, write_glb, write_obj
from microdreamer.meshes.mesh import Mesh
from scripts import cal_sim


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny random CLIP in transformers' layout."""
    folder = tmp_path_factory.mktemp("clip")
    write_tiny_clip(folder)
    return folder


@pytest.fixture(scope="module")
def open_clip_folder(clip_folder, tmp_path_factory):
    """The same in OpenCLIP's layout, renamed here by hand."""
    folder = tmp_path_factory.mktemp("open_clip")
    source, state = load_file(clip_folder / "model.safetensors"), {}
    for ours, theirs in (("vision_model", "visual."), ("text_model", "")):
        for block in range(2):
            here, there = f"{ours}.encoder.layers.{block}", f"{theirs}transformer.resblocks.{block}"
            for leaf in ("weight", "bias"):
                state[f"{there}.attn.in_proj_{leaf}"] = torch.cat([source[f"{here}.self_attn.{name}_proj.{leaf}"] for name in "qkv"])
                state[f"{there}.attn.out_proj.{leaf}"] = source[f"{here}.self_attn.out_proj.{leaf}"]
                for a, b in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
                    state[f"{there}.{b}.{leaf}"] = source[f"{here}.{a}.{leaf}"]
    for leaf in ("weight", "bias"):
        state[f"visual.ln_pre.{leaf}"] = source[f"vision_model.pre_layrnorm.{leaf}"]
        state[f"visual.ln_post.{leaf}"] = source[f"vision_model.post_layernorm.{leaf}"]
        state[f"ln_final.{leaf}"] = source[f"text_model.final_layer_norm.{leaf}"]
    state["visual.class_embedding"] = source["vision_model.embeddings.class_embedding"]
    state["visual.conv1.weight"] = source["vision_model.embeddings.patch_embedding.weight"]
    state["visual.positional_embedding"] = source["vision_model.embeddings.position_embedding.weight"]
    state["token_embedding.weight"] = source["text_model.embeddings.token_embedding.weight"]
    state["positional_embedding"] = source["text_model.embeddings.position_embedding.weight"]
    state["visual.proj"], state["text_projection"] = source["visual_projection.weight"].T, source["text_projection.weight"].T
    state["logit_scale"] = source["logit_scale"]
    save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, folder / "open_clip_model.safetensors")
    vision = {"image_size": 28, "layers": 2, "width": WIDTH, "head_width": 16, "patch_size": 14, "mlp_ratio": 2.0}
    text = {"context_length": 77, "vocab_size": 514, "width": WIDTH, "heads": 4, "layers": 2, "mlp_ratio": 2.0}
    config = {"model_cfg": {"embed_dim": EMBEDDING, "vision_cfg": vision, "text_cfg": text}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return folder


@pytest.fixture
def views():
    return torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def test_similarity_equals_a_direct_computation(clip_folder, views):
    """By the library's own model, processor of pictures and logits."""
    transformers = pytest.importorskip("transformers")
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    bytes_ = (views * 255).round().byte()
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    clip, sentence = Clip(clip_folder), "a red car!"
    ids = torch.tensor([clip_ids(clip_folder, sentence)])
    with torch.no_grad():
        logits = model(pixel_values=processor(bytes_, return_tensors="pt").pixel_values, input_ids=ids).logits_per_image
        expected = float(logits.mean() / model.logit_scale.exp())
    assert similarity(clip, bytes_ / 255, sentence) == pytest.approx(expected, abs=2e-3)
    embedded = clip.embed_pictures(views)
    assert similarity(clip, views, views[:1]) == pytest.approx(float((embedded @ embedded[0]).mean()), abs=1e-6)
    assert similarity(clip, views[:1], views[:1]) == pytest.approx(1, abs=1e-5)


def clip_ids(folder, sentence):
    from microdreamer.guidance.published.text import Tokenizer

    return Tokenizer(folder)(sentence, 77)


def test_both_layouts_give_the_same(clip_folder, open_clip_folder, views):
    ours, theirs = Clip(clip_folder), Clip(open_clip_folder)
    torch.testing.assert_close(ours.embed_pictures(views), theirs.embed_pictures(views), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.embed_sentence("a tree"), theirs.embed_sentence("a tree"), rtol=0, atol=1e-5)
    assert float((ours.embed_sentence("a tree") - ours.embed_sentence("a car")).abs().max()) > 1e-3


@pytest.fixture
def result(tmp_path):
    """A coloured tetrahedron as main.py leaves it, made from a picture with a sentence."""
    corners = np.array([[0.0, 0, 0], [3, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = np.array([[0, 2, 1], [0, 3, 2], [0, 1, 3], [1, 2, 3]])
    mesh = Mesh(corners, faces, np.tile([[0.8, 0.2, 0.1]], (4, 1)))
    write_glb(mesh, tmp_path / "a_model.glb")
    write_obj(mesh, tmp_path / "a_model.obj")
    picture = tmp_path / "a_rgba.png"
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[4:28, 4:28] = 200, 120, 60, 255
    Image.fromarray(rgba).save(picture)
    (tmp_path / "a.json").write_text(json.dumps({"config": {"input": str(picture), "prompt": "a red tetrahedron"}}))
    return tmp_path


def test_meshes_fill_the_same_box_and_show_their_own_colours(result):
    for suffix in ("glb", "obj"):
        mesh = load_mesh(result / f"a_model.{suffix}")
        assert float(mesh.vertices.abs().max()) == pytest.approx(HALF_EXTENT, abs=1e-5)
        seen = views_of(mesh)
        assert seen.shape == (8, 3, 512, 512)
        colours = {tuple(pixel) for pixel in (seen[1] * 255).round().int().flatten(1).T.tolist()}
        assert (204, 51, 26) in colours or (204, 51, 25) in colours


def test_a_folder_of_results_is_scored(result, clip_folder, capsys):
    out = result / "scores" / "s.json"
    assert cal_sim.main([str(result), f"--clip={clip_folder}", f"--out={out}", "--device=cpu"]) == 0
    against_picture = json.loads(out.read_text())["similarity"]["a"]
    assert cal_sim.main([str(result), f"--clip={clip_folder}", f"--out={out}", "--against=prompt", "--device=cpu"]) == 0
    assert json.loads(out.read_text())["similarity"]["a"] != against_picture
    assert "mean of 1:" in capsys.readouterr().out


def test_a_refined_mesh_is_scored_as_a_result_of_its_own(result, clip_folder):
    """main2.py's record names its mesh in full: NAME_refined.json stands beside NAME_refined.obj or .glb."""
    out = result / "scores" / "s.json"
    (result / "a_refined.json").write_text((result / "a.json").read_text())
    coarse = read_mesh(result / "a_model.glb")
    refined = result / "a_refined.glb"
    write_glb(Mesh(coarse.vertices, coarse.faces, np.tile([[0.1, 0.2, 0.9]], (len(coarse.vertices), 1))), refined)
    assert cal_sim.mesh_of(result / "a_refined.json") == refined and cal_sim.mesh_of(result / "a.json") == result / "a_model.obj"
    assert cal_sim.main([str(result), f"--clip={clip_folder}", f"--out={out}", "--device=cpu"]) == 0
    scores = json.loads(out.read_text())["similarity"]
    assert set(scores) == {"a", "a_refined"} and abs(scores["a"] - scores["a_refined"]) > 1e-5
    refined.unlink()  # the mesh of stage 1 does not stand in for it
    assert cal_sim.main([str(result), f"--clip={clip_folder}", f"--out={out}", "--device=cpu"]) == 2
    assert set(json.loads(out.read_text())["similarity"]) == {"a"}


def test_wrong_input_is_one_line(result, clip_folder, tmp_path_factory, capsys):
    empty = tmp_path_factory.mktemp("empty")
    (result / "b.json").write_text("{}")
    (result / "b_model.obj").write_text((result / "a_model.obj").read_text())
    cases = [
        ([str(empty), f"--clip={clip_folder}"], "no results there"),
        ([str(result), f"--clip={empty}"], "no CLIP there"),
        ([str(result / "b.json"), f"--clip={clip_folder}"], "not a record of main.py"),
        ([str(result / "c.json"), f"--clip={clip_folder}"], "no mesh beside c.json"),
    ]
    for words, message in cases:
        assert cal_sim.main([*words, "--device=cpu"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
