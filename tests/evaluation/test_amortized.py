"""The evaluation of renders: CLIP's measure by its golden values and by hand, a prior's on true pictures, bad folders in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import write_tiny_clip

from cam_utils import orbit_cameras
from microdreamer.evaluation import amortized
from microdreamer.evaluation.amortized import by_clip, clip_scores, read_frame, renders_of
from microdreamer.evaluation.clip_similarity import Clip
from microdreamer.images.writing import to_bytes
from microdreamer.pipeline.launch.result_folder import PROMPTS, RECORD, folder_names, write_json
from microdreamer.shapes.packed import load_packed
from microdreamer.shapes.render import over_white, render_views

ROOT = Path(__file__).resolve().parents[2]
PROMPT_LIST = ["a red car, shiny.", "a tree", "A/B"]


def test_clip_scores_are_the_published_ones(parity):
    golden = np.load(parity("generators/clip_metric_derived.npz"))
    texts = torch.from_numpy(golden["text_features"])
    found = [clip_scores(torch.from_numpy(golden[f"image_features_{k}"]), texts, k) for k in range(len(texts))]
    np.testing.assert_allclose([similarity for similarity, _ in found], golden["similarity_per_prompt"], atol=1e-6)
    np.testing.assert_allclose([recall for _, recall in found], golden["recall1_per_prompt"], atol=1e-6)
    assert np.mean([similarity for similarity, _ in found]) == pytest.approx(float(golden["similarity"]), abs=1e-6)
    assert np.mean([recall for _, recall in found]) == pytest.approx(float(golden["recall1"]), abs=1e-6)


def test_clip_scores_by_hand():
    texts = torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    pictures = torch.tensor([[3.0, 4.0], [1.0, 0.0]])  # cosines 0.6 and 0.8; 1 and 0
    assert clip_scores(pictures, texts, 0) == (pytest.approx(0.8), 0.5)
    assert clip_scores(pictures, texts, 1) == (pytest.approx(0.4), 0.5)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_tiny_clip(folder)
    return folder


@pytest.fixture
def results(tmp_path):
    """Three prompts, five frames each, of two tiles of which the right one must not count."""
    names = folder_names(PROMPT_LIST)
    draw = np.random.default_rng(0)
    for name in names:
        (tmp_path / name).mkdir()
        base = draw.integers(0, 255, (6, 6, 3))
        for number in range(5):
            left = Image.fromarray(np.clip(base + draw.integers(-40, 40, (6, 6, 3)), 0, 255).astype(np.uint8)).resize((32, 32))
            frame = Image.fromarray(draw.integers(0, 255, (32, 64, 3), dtype=np.uint8))
            frame.paste(left, (0, 0))
            frame.save(tmp_path / name / f"{number}.png")
    write_json(tmp_path / PROMPTS, names)
    return tmp_path


def test_only_the_left_square_counts(results):
    path = next(results.glob("a_tree/*.png"))
    before = read_frame(path, 28)
    picture = Image.open(path).convert("RGB")
    assert torch.equal(before, torch.from_numpy(np.array(picture.crop((0, 0, 32, 32)).resize((28, 28), 2))).permute(2, 0, 1) / 255)
    picture.paste((9, 9, 9), (32, 0, 64, 32))
    picture.save(path)
    assert torch.equal(read_frame(path, 28), before)


def test_the_measure_is_that_of_the_library(results, clip_folder):
    """Picture by picture with transformers' own model and processor; sentences as names have them, and as they are."""
    from microdreamer.guidance.published.text import Tokenizer

    transformers = pytest.importorskip("transformers")
    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    processor = transformers.CLIPImageProcessor(size={"height": 28, "width": 28}, do_center_crop=False, resample=Image.Resampling.BILINEAR)
    renders = renders_of(results)
    means, each = by_clip(Clip(clip_folder), renders)
    told = {"specified": ["A B", "a red car shiny", "a tree"], "corrected": ["A/B", "a red car, shiny.", "a tree"]}
    assert [one.folder for one in renders] == ["A_B", "a_red_car_shiny", "a_tree"]
    for kind, sentences in told.items():
        ids = torch.tensor([Tokenizer(clip_folder)(sentence, 77) for sentence in sentences])
        similarities, recalls = [], []
        for index, one in enumerate(renders):
            pictures = [Image.open(path).convert("RGB").crop((0, 0, 32, 32)) for path in one.frames]
            with torch.no_grad():
                output = model(pixel_values=processor(pictures, return_tensors="pt").pixel_values, input_ids=ids)
                cosines = output.logits_per_image / model.logit_scale.exp()
            similarities.append(float(cosines[:, index].mean()))
            recalls.append(float((cosines.argmax(1) == index).float().mean()))
            assert each[one.folder][kind]["similarity"] == pytest.approx(similarities[-1], abs=1e-4)
            assert each[one.folder][kind]["recall_at_1"] == pytest.approx(recalls[-1])
        assert means[kind]["similarity"] == pytest.approx(np.mean(similarities), abs=1e-4)
        assert means[kind]["recall_at_1"] == pytest.approx(np.mean(recalls)) and means[kind]["candidates"] == 3
    assert means["specified"]["similarity"] != means["corrected"]["similarity"]


def test_sentences_of_any_number_and_length_are_embedded(clip_folder, monkeypatch):
    clip, sentences = Clip(clip_folder), ["a tree", "a red car", "x " * 200, "x " * 300 + "red", ""]
    each = torch.cat([clip.embed_sentence(sentence) for sentence in sentences])
    monkeypatch.setattr("microdreamer.evaluation.clip_similarity.SENTENCES_PER_CALL", 2)
    torch.testing.assert_close(clip.embed_sentences(sentences), each, rtol=0, atol=1e-6)
    assert float((each[2] - each[0]).abs().max()) > 1e-3  # the end token, which says what the sentence is, is still there


def run(*words):
    return amortized.main([str(word) for word in words])


def test_the_command_measures_with_clip(results, clip_folder, capsys, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "scores" / "s.json"
    assert run("--result_dir", results, "--clip", clip_folder, "--device", "cpu", "--out", out) == 0
    found = json.loads(out.read_text())
    shown = capsys.readouterr().out
    assert "| CLIP, true sentence |" in shown and f"{found['clip']['corrected']['similarity']:.4f}" in shown and "| 3 | 0.3333 |" in shown
    assert found["each"]["A_B"]["prompt"] == "A/B" and found["each"]["A_B"]["text"] == "A B"
    (results / PROMPTS).unlink()
    assert run("--result_dir", results, "--clip", clip_folder, "--device", "cpu") == 0
    assert set(json.loads((results / "evaluation.json").read_text())["clip"]) == {"model", "specified"}


@pytest.fixture(scope="module")
def true_renders(tmp_path_factory):
    """Pictures of the objects that ship, as true renders of their captions."""
    folder, objects = tmp_path_factory.mktemp("true"), load_packed(ROOT / "test_data" / "objects_small.npz")
    names = folder_names(captions[0] for captions in objects.captions)
    cameras = orbit_cameras(-15, [0.0, 90, 180, 270], 2.0, fov_y=49.1, width=128, height=128)
    for index, name in enumerate(names):
        (folder / name).mkdir()
        for number, frame in enumerate(to_bytes(over_white(render_views(objects, index, cameras)))):
            Image.fromarray(frame).save(folder / name / f"{number}.png")
    write_json(folder / PROMPTS, names)
    return folder


def test_the_micro_prior_knows_true_pictures(true_renders, capsys):
    """Every one of the objects is told from the others; with the sentences dealt out anew, none is."""
    words = ("--device", "cpu", "--levels", "1", "--groups", "1")
    assert run("--result_dir", true_renders, *words) == 0
    found = json.loads((true_renders / "evaluation.json").read_text())["prior"]
    assert found["denoising"] == found["calibrated"] == {"recall_at_1": 1, "mean_rank": 1}
    assert found["candidates"] == 6 and found["chance"] == pytest.approx(1 / 6)
    assert found["loss"] < found["other_loss"]
    shown = capsys.readouterr().out
    for name in ("denoising", "calibrated"):
        assert f"| micro prior, {name} | - | 1.0000 | 1.00 (chance 3.5) | 6 | 0.1667 |" in shown
    names = json.loads((true_renders / PROMPTS).read_text())
    write_json(true_renders / PROMPTS, dict(zip(names, [*list(names.values())[1:], next(iter(names.values()))], strict=True)))
    assert run("--result_dir", true_renders, *words) == 0
    assert json.loads((true_renders / "evaluation.json").read_text())["prior"]["calibrated"]["recall_at_1"] == 0
    write_json(true_renders / PROMPTS, names)


def test_bad_folders_are_one_line(results, clip_folder, tmp_path_factory, capsys):
    def line(*words):
        assert run("--device", "cpu", *words) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
        return captured.err

    empty = tmp_path_factory.mktemp("empty")
    assert "no such folder" in line("--result_dir", empty / "missing")
    assert "expected a folder of pictures for each prompt, got none" in line("--result_dir", empty)
    assert "no such folder" in line("--result_dir", results / PROMPTS)
    assert "the following arguments are required: --result_dir" in line()
    assert "--candidates: '1': expected a whole number of at least 2" in line("--result_dir", results, "--candidates", "1")
    assert "no CLIP there" in line("--result_dir", results, "--clip", empty)
    assert "5 frames around the object: expected a multiple of 4" in line("--result_dir", results)
    assert "invalid choice" in line("--result_dir", results, "--prior", "zero123_xl")
    (results / RECORD).write_text('{"elevation": "high"}')
    assert "elevation: expected a number, got 'high'" in line("--result_dir", results)
    (results / RECORD).unlink()
    (results / "a_tree" / "5.png").write_bytes(b"no picture")
    assert "5.png" in line("--result_dir", results, "--clip", clip_folder) and not (results / "evaluation.json").exists()
    (results / "a_tree" / "5.png").unlink()
    Image.new("RGB", (8, 32), "red").save(results / "a_tree" / "0.png")
    assert "expected a square picture, or tiles beside each other, got 8x32" in line("--result_dir", results, "--clip", clip_folder)
    (results / "extra").mkdir()
    assert "extra: no pictures there" in line("--result_dir", results)
    Image.new("RGB", (8, 8), "red").save(results / "extra" / "0.png")
    assert "does not say what the prompt of extra is" in line("--result_dir", results)
    write_json(results / PROMPTS, {name: "xyzzy" for name in ("a_tree", "A_B", "a_red_car_shiny", "extra")})
    for name in ("a_tree", "A_B", "a_red_car_shiny", "extra"):
        for path in (results / name).iterdir():
            path.unlink()
        for number in range(4):
            Image.new("RGB", (8, 8), "red").save(results / name / f"{number}.png")
    assert "prompt 'xyzzy': the micro prior knows none of these words" in line("--result_dir", results)


def test_one_prompt_alone_has_nothing_to_be_told_from(tmp_path, capsys):
    (tmp_path / "a_tree").mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "a_tree" / f"{number}.png")
    assert run("--result_dir", tmp_path, "--device", "cpu") == 2
    assert "expected the renders of at least 2 prompts, got 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("-m", "evaluation.amortized"), ("evaluation/CLIP/evaluation_amortized.py",)])
def test_the_names_that_users_know_lead_here(command, tmp_path):
    done = subprocess.run([sys.executable, *command, "--result_dir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and f"{tmp_path}: expected a folder of pictures for each prompt, got none" in done.stderr
