"""Sentences to assets: what is written is right, of every network and in company; films between sentences; renders for evaluation."""

import dataclasses
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from microdreamer.core.errors import Stopped, UserError
from microdreamer.evaluation import amortized
from microdreamer.generators.backgrounds import SharedBackground
from microdreamer.generators.text_to_shape import OneShape, TextToShape, VolsdfSettings
from microdreamer.guidance import load_sentence_encoder
from microdreamer.guidance.sentences import SentenceEncoder
from microdreamer.meshes.files import read_mesh
from microdreamer.meshes.topology import edges_of
from microdreamer.pipeline.launch import generate as generation
from microdreamer.pipeline.launch import views
from microdreamer.pipeline.launch.commands import launch
from microdreamer.pipeline.launch.config import load_launch_config
from microdreamer.pipeline.launch.generate import Author, between, generate, interpolate, mesh_of, render_library, write_renders
from microdreamer.pipeline.launch.result_folder import PROMPTS, RECORD, folder_names
from microdreamer.pipeline.launch.trainer import Shard, film_cameras
from tests.small_generators import BACKGROUNDS, MAKERS, SPECS, TEXT_WIDTH, small
from tests.tiny_clip import write_tiny_clip

ALL = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
SETTINGS = VolsdfSettings(proposals=24, samples=12)
WORDS = (
    *("data.eval_size=16", "data.n_test_views=4", "data.eval_camera_distance=5", "data.eval_fovy=49.1"),
    *("export.resolution=32", "export.texture_size=64", "export.faces=600"),
)


OF_LIBRARY = (
    *("prior=micro", "tag=run", "system.geometry.type=hyper_ingp", "system.prompt_processor.library=micro_8"),
    *("data.resolution_milestones=[]", "data.size=64", "data.batch_size=4"),
)


class WordEncoder(SentenceEncoder):
    """Each word has a vector of its own, drawn from its letters; a sentence's is their mean."""

    width, length, device = TEXT_WIDTH, 7, torch.device("cpu")

    def states(self, sentences):
        def vector(word):
            return torch.randn(TEXT_WIDTH, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))

        rows = torch.zeros(len(sentences), self.length, TEXT_WIDTH)
        for row, sentence in zip(rows, sentences, strict=True):
            for place, word in enumerate(sentence.split()[: self.length]):
                row[place] = vector(word)
        return rows.mean(1), rows

    def _identity(self):
        return "words"


def author_of(spec, background="shared", lively=True):
    geometry = small(spec) if lively else MAKERS[type(spec)](spec, torch.Generator().manual_seed(1))
    return Author(TextToShape(geometry, BACKGROUNDS[background](), SETTINGS), WordEncoder(), 7, torch.device("cpu"))


def config_of(*words):
    return load_launch_config(None, [*WORDS, *words])


def shape_of(author, sentence):
    return author.model.shape(author.shapes(author.read([sentence])))


@ALL
def test_every_file_is_whole_and_each_sentence_its_own(spec, tmp_path, monkeypatch):
    """Three sentences take two passes; what one gives does not depend on the others."""
    monkeypatch.setattr(generation, "SENTENCES_PER_PASS", 2)
    author, config = author_of(spec, "prompt"), config_of()
    sentences = ["a red car.", "a duck", "a/b"]
    stems = generate(config, sentences, tmp_path, author=author)
    assert [stem.name for stem in stems] == ["a_red_car", "a_duck", "a_b"]
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {f"{stem.name}{suffix}" for stem in stems for suffix in generation.SUFFIXES}
    (alone,) = generate(config, sentences[1:2], tmp_path / "alone", author=author)
    volumes = []
    for stem, sentence in zip(stems, sentences, strict=True):
        record = json.loads(stem.with_suffix(".json").read_text())
        assert record["prompt"] == sentence and record["mesh"]["watertight"] and record["failure"] is None and record["step"] == 7
        assert set(record["seconds"]) == {"text", "pass", "film", "mesh", "texture"} and min(record["seconds"].values()) >= 0
        assert record["mesh"]["faces"] <= 600
        painted, plain, obj = (read_mesh(stem.with_suffix(suffix)) for suffix in (".glb", ".ply", ".obj"))
        assert painted.has_texture and obj.has_texture and not plain.has_texture
        assert len(plain.faces) == len(painted.faces) == len(obj.faces) == record["mesh"]["faces"]
        assert (edges_of(plain.faces).sharing == 2).all()
        a, b, c = plain.vertices[plain.faces].astype(np.float64).swapaxes(0, 1)
        volumes.append((a * np.cross(b, c)).sum() / 6)
        on_surface = shape_of(author, sentence).sdf(torch.from_numpy(plain.vertices)).abs()
        assert float(on_surface.median()) < 0.03
    assert min(volumes) > 0 and len({round(volume, 4) for volume in volumes}) == 3
    for suffix in (".ply", ".obj", "_albedo.png", "_views.png", ".mp4"):
        assert alone.with_name(f"{alone.name}{suffix}").read_bytes() == (tmp_path / f"a_duck{suffix}").read_bytes()


@ALL
def test_a_shape_that_learnt_nothing_is_the_ball_it_starts_from(spec):
    """Its radius is that of the specification, its volume that of a ball, each within 1 %."""
    author = author_of(spec, lively=False)
    if hasattr(author.model.geometry, "sdf_network"):  # the hash grid starts near zero by itself
        list(author.model.geometry.sdf_network.parameters())[-1].data.zero_()
    mesh = mesh_of(shape_of(author, "a ball"), config_of("export.resolution=64", "export.faces=20000"))
    radius = spec.sphere_bias
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), radius, rtol=0.01)
    a, b, c = mesh.vertices[mesh.faces].astype(np.float64).swapaxes(0, 1)
    assert (a * np.cross(b, c)).sum() / 6 == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.01)
    assert (edges_of(mesh.faces).sharing == 2).all() and mesh.vertex_colors is not None


def test_the_texture_has_the_colours_of_the_shape(tmp_path):
    author, config = author_of(SPECS["triplane_global"]), config_of("export.texture_size=256")
    (stem,) = generate(config, ["a red car"], tmp_path, author=author)
    mesh = read_mesh(stem.with_suffix(".glb"))
    corner = mesh.uv_faces.reshape(-1)
    texels = np.clip((mesh.uvs[corner] * [1, -1] + [0, 1]) * 256 - 0.5, 0, 255).round().astype(int)
    shown = torch.from_numpy(mesh.texture[texels[:, 1], texels[:, 0]])
    true = shape_of(author, "a red car").color(torch.from_numpy(mesh.vertices[mesh.faces.reshape(-1)]))
    assert float((shown - true).abs().median()) < 0.02
    plain = read_mesh(stem.with_suffix(".ply"))
    true = shape_of(author, "a red car").color(torch.from_numpy(plain.vertices))
    np.testing.assert_allclose(plain.vertex_colors, true, atol=0.51 / 255)


def test_only_the_mesh_files_that_are_asked_for_are_written(tmp_path):
    (stem,) = generate(config_of("export.mesh_format=glb"), ["a tree"], tmp_path, author=author_of(SPECS["hyper_ingp"]))
    assert {path.name.removeprefix(stem.name) for path in tmp_path.iterdir()} == {"_views.png", ".mp4", ".glb", ".ply", ".json"}


def test_without_a_surface_the_rest_is_written_and_one_line_says_so(tmp_path, monkeypatch):
    true = OneShape.sdf
    author = author_of(SPECS["hyper_ingp"])
    nothing = author.read(["nothing"]).text
    grown = author.model.geometry.condition(nothing).sdf[0]

    def sdf(self, points):
        found = true(self, points)
        return found + 9 if torch.equal(self.shapes.geometry.sdf[0], grown) else found

    monkeypatch.setattr(OneShape, "sdf", sdf)
    with pytest.raises(UserError, match=r"'nothing' has no mesh: .*the field has no surface") as error:
        generate(config_of(), ["nothing", "a tree"], tmp_path, author=author)
    assert "\n" not in str(error.value)
    assert (tmp_path / "a_tree.glb").is_file() and (tmp_path / "nothing.mp4").is_file() and not (tmp_path / "nothing.glb").exists()
    record = json.loads((tmp_path / "nothing.json").read_text())
    assert record["mesh"] is None and "no surface" in record["failure"]


@pytest.mark.parametrize("sentences", [[], [""], ["a tree", "  "]])
def test_sentences_without_words_are_refused_before_anything_is_loaded(sentences, tmp_path):
    with pytest.raises(UserError, match="expected a sentence of at least one word"):
        generate(config_of(), sentences, tmp_path)
    if sentences:
        with pytest.raises(UserError, match="expected a sentence of at least one word"):
            interpolate(config_of(), "a tree", sentences[-1], tmp_path)
    assert not list(tmp_path.iterdir())


def test_sentences_of_pages_are_refused_before_anything_is_loaded(tmp_path):
    long = "a red car " * 101
    for make in (
        lambda: generate(config_of(), ["a tree", long], tmp_path),
        lambda: interpolate(config_of(), "a tree", long, tmp_path),
    ):
        with pytest.raises(
            UserError, match=r"a sentence of 1010 characters \('a red car .*'\.\.\.\): expected at most 1000; .* fewer words"
        ):
            make()
    assert not list(tmp_path.iterdir())


def test_whoever_stops_it_finds_whole_assets_alone(tmp_path):
    asked = []

    def stop():
        asked.append(True)
        return (tmp_path / "a_tree.json").exists()

    with pytest.raises(Stopped):
        generate(config_of(), ["a tree", "a duck"], tmp_path, author=author_of(SPECS["hyper_ingp"]), should_stop=stop)
    assert {path.name.partition(".")[0].removesuffix("_views").removesuffix("_albedo") for path in tmp_path.iterdir()} == {"a_tree"}


# ---- Between two sentences ----


@ALL
def test_a_film_between_two_sentences_goes_from_the_first_to_the_second(spec, tmp_path):
    author, config = author_of(spec, "prompt"), config_of()
    texts = author.read(["a red car", "an old wooden chair"])
    film = torch.cat(list(between(author, config, texts, 6)))
    for number, sentence in ((0, "a red car"), (5, "an old wooden chair")):
        camera = film_cameras(config, 6, 16, author.device, [number])
        torch.testing.assert_close(
            film[number : number + 1], shape_of(author, sentence).render(camera).image.clamp(0, 1), rtol=0, atol=1e-6
        )
    same = author.read(["a red car"] * 2)
    assert not torch.equal(film[2], torch.cat(list(between(author, config, same, 6)))[2])
    stem = interpolate(config, "a red car", "an old wooden chair", tmp_path, 6, author=author)
    assert stem.name == "a_red_car_to_an_old_wooden_chair"
    assert {path.name.removeprefix(stem.name) for path in tmp_path.iterdir()} == {"_views.png", ".mp4", ".json"}
    record = json.loads(stem.with_suffix(".json").read_text())
    assert record["first"] == "a red car" and record["film"]["frames"] == 6


def test_a_film_of_one_frame_lies_between_nothing(tmp_path):
    with pytest.raises(UserError, match="1 frames between two sentences: expected at least 2"):
        interpolate(config_of(), "a", "b", tmp_path, 1, author=author_of(SPECS["hyper_ingp"]))


# ---- Renders for evaluation ----

PROMPT_LIST = ["a red car, shiny.", "a tree", "A/B", "a tree"]


@pytest.fixture
def author():
    return author_of(SPECS["hyper_ingp"], "prompt")


def test_renders_are_what_the_evaluation_reads(author, tmp_path):
    folder, clip = tmp_path / "renders", tmp_path / "clip"
    clip.mkdir()
    write_tiny_clip(clip)
    config = config_of("data.n_test_views=6")
    assert write_renders(author, config, PROMPT_LIST, folder) == folder
    names = {"a_red_car_shiny": "a red car, shiny.", "a_tree": "a tree", "A_B": "A/B"}
    assert json.loads((folder / PROMPTS).read_text()) == names == folder_names(PROMPT_LIST)
    assert {path.name for path in folder.iterdir()} == {PROMPTS, RECORD, *names, *(f"{name}.mp4" for name in names)}
    record = json.loads((folder / RECORD).read_text())
    assert record["frames"] == 6 and record["elevation"] == config.data.eval_elevation and record["step"] == 7
    for name, prompt in names.items():
        frames = sorted((folder / name).iterdir())
        assert [path.name for path in frames] == [f"{number:03d}.png" for number in range(6)]
        for number in (0, 4):
            expected = shape_of(author, prompt).render(film_cameras(config, 6, 16, author.device, [number])).image[0].clamp(0, 1)
            shown = amortized.read_frame(frames[number], 16)
            torch.testing.assert_close(shown, expected, rtol=0, atol=0.51 / 255)
    assert amortized.main(["--result_dir", str(folder), "--clip", str(clip), "--device", "cpu"]) == 0
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["prompts"] == 3 and found["frames"] == 18 and found["each"]["A_B"]["prompt"] == "A/B"


def test_renders_go_on_where_they_stopped(author, tmp_path):
    config, calls = config_of(), []

    def stop():
        calls.append(True)
        return (tmp_path / "a_tree").is_dir()

    with pytest.raises(Stopped):
        write_renders(author, config, PROMPT_LIST, tmp_path, should_stop=stop)
    assert not (tmp_path / "A_B").exists() and (tmp_path / "a_red_car_shiny").is_dir()
    (tmp_path / ".A_B.part").mkdir()  # what a killed run leaves
    (tmp_path / ".A_B.part" / "009.png").touch()
    lost = tmp_path / "a_tree" / "002.png"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a_red_car_shiny").iterdir()}
    bytes_before = lost.read_bytes()
    lost.unlink()
    told = []
    write_renders(author, config, PROMPT_LIST, tmp_path, on_progress=told.append)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a_red_car_shiny").iterdir()} == before
    assert lost.read_bytes() == bytes_before and len(list((tmp_path / "A_B").iterdir())) == 4
    assert not list(tmp_path.glob(".*")) and [update.note for update in told if update.note] == ["prompt 2/3", "prompt 3/3"]


def test_several_processes_share_the_prompts(author, tmp_path):
    for rank in (1, 0):
        write_renders(author, config_of(), PROMPT_LIST, tmp_path / "shared", shard=Shard(rank, 2))
        assert len([path for path in (tmp_path / "shared").iterdir() if path.is_dir()]) == (1 if rank else 3)
    write_renders(author, config_of(), PROMPT_LIST, tmp_path / "alone")
    for path in (tmp_path / "alone").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "shared" / path.relative_to(tmp_path / "alone")).read_bytes()


def test_renders_of_something_else_are_not_mixed(author, tmp_path):
    write_renders(author, config_of(), ["a tree"], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for word, message in (("data.n_test_views=8", "frames=4, now 8"), ("data.eval_elevation=0", r"elevation=15\.0, now 0\.0")):
        with pytest.raises(UserError, match=f"holds renders with {message}; remove them"):
            write_renders(author, config_of(word), ["a tree"], tmp_path)
    with pytest.raises(UserError, match="holds renders of other prompts"):
        write_renders(author, config_of(), ["a tree", "a car"], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        write_renders(author, config_of(), ["a tree"], tmp_path / "file" / "x")
    (tmp_path / "file").unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_where_films_cannot_be_made_frames_are_all_the_same(author, tmp_path, monkeypatch, caplog):
    def fail(path, frames, fps=30):
        raise OSError("ffmpeg could not be run")

    monkeypatch.setattr(views, "write_video", fail)
    write_renders(author, config_of(), ["a tree"], tmp_path)
    assert "no film was written, the rest was: ffmpeg could not be run" in caplog.text
    assert Image.open(tmp_path / "a_tree" / "000.png").size == (48, 16)


@pytest.fixture
def trained_hyper_ingp(monkeypatch):
    """A network for the micro prior's embeddings in the place of a run's checkpoint."""
    spec = dataclasses.replace(SPECS["hyper_ingp"], text_width=load_sentence_encoder("micro").width)
    model = TextToShape(small(spec), SharedBackground("sh3"), SETTINGS)
    monkeypatch.setattr(generation, "trained", lambda config: (model, 5, torch.device("cpu")))
    return model


def test_a_library_is_rendered_as_the_micro_prior_reads_it(trained_hyper_ingp, tmp_path):
    library = tmp_path / "two.json"
    library.write_text(json.dumps({"train": ["a cup"], "val": ["a red car"], "test": ["a tree", "a red car"]}))
    config = config_of(*OF_LIBRARY, f"system.prompt_processor.library={library}", f"exp_root_dir={tmp_path}")
    folder = render_library(config)
    assert folder == tmp_path / config.name / "run" / "save" / "step_5_test"
    assert json.loads((folder / PROMPTS).read_text()) == {"a_tree": "a tree", "a_red_car": "a red car"}
    pooled = load_sentence_encoder("micro").encode(["a red car"]).text("global")
    with torch.no_grad():
        shapes = trained_hyper_ingp.condition(pooled, pooled)
        expected = trained_hyper_ingp.render(film_cameras(config, 4, 16, torch.device("cpu"), [1]), shapes).image[0].clamp(0, 1)
    torch.testing.assert_close(amortized.read_frame(folder / "a_red_car" / "001.png", 16), expected, rtol=0, atol=0.51 / 255)
    assert {path.name for path in render_library(config, "val").iterdir() if path.is_dir()} == {"a_red_car"}


def test_a_sentence_that_the_prior_does_not_know_is_one_line(trained_hyper_ingp, tmp_path):
    sentences = ["a tree", "a cup", "a car", "a house", "a hat", "xyzzy"]  # more than one pass takes
    with pytest.raises(UserError, match="'xyzzy': the micro prior knows none of these words"):
        generate(config_of(*OF_LIBRARY), sentences, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_on_one_sentence_generates_nothing(tmp_path):
    for call in (lambda config: generate(config, ["a tree"], tmp_path), render_library):
        with pytest.raises(UserError, match=r"system\.geometry\.type=field holds one object"):
            call(config_of("prior=micro", "tag=run"))
    assert not list(tmp_path.iterdir())


# ---- The command ----

COMMAND = (*OF_LIBRARY, "device=cpu", *WORDS)


def test_the_command_writes_where_it_is_told(trained_hyper_ingp, tmp_path, capsys):
    out = tmp_path / "my assets"
    words = ["--generate", "a tree", "--generate", "a red car", "--interpolate", "a tree", "a red car", "--out", str(out)]
    assert launch([*words, f"exp_root_dir={tmp_path / 'runs'}", *COMMAND]) == 0
    names = {path.name for path in out.iterdir()}
    assert {"a_tree.glb", "a_red_car.glb", "a_tree_to_a_red_car.mp4"} <= names
    shown = capsys.readouterr().err
    assert f"wrote {out}\n" in shown and f"wrote {out / 'a_tree_to_a_red_car'}.*" in shown and "pass: " in shown
    assert not (tmp_path / "runs").exists()
    assert launch(["--generate", "a tree", "--quiet", f"exp_root_dir={tmp_path / 'runs'}", "export.mesh_format=glb", *COMMAND]) == 0
    (record,) = (tmp_path / "runs").rglob("a_tree.json")
    assert record.parent.name == "step_5_generated" and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--generate"], "--generate: expected one argument"),
        (["--generate", "seed=3"], "'seed=3' stands where a sentence was expected; --interpolate takes two, --generate one"),
        (["--generate", " "], "expected a sentence of at least one word"),
        (["--interpolate", "a tree", "seed=3"], "'seed=3' stands where a sentence was expected; --interpolate takes two, --generate one"),
        (["--interpolate", "a tree", ""], "expected a sentence of at least one word"),
        (["--test", "--out", "x"], "--out FOLDER goes with --generate or --interpolate"),
        (["--generate", "a tree", "--out", "FILE/x"], "cannot be written to"),
        (["--generate", "a tree"], "no checkpoint there; make one with --train"),
        (["--test"], "no checkpoint there; make one with --train"),
        (["--export"], '--export: hyper_ingp has a shape for every sentence; pass --generate "a sentence"'),
        (["--generate", "a tree", "system.geometry.type=field", "system.prompt_processor.library=null"], "=field holds one object"),
        ([], "nothing to do: pass --train, --test or --export, or --generate or --interpolate"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(words, message, tmp_path, capsys):
    (tmp_path / "FILE").touch()
    words = [str(tmp_path / word) if word.startswith("FILE") else word for word in words]
    assert launch([f"exp_root_dir={tmp_path}", *COMMAND, *words]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and message in shown
    assert [path.name for path in tmp_path.rglob("*")] == ["FILE"]


def test_without_a_network_the_one_that_ships_is_named(capsys):
    assert launch(["--generate", "a tree"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "resume=hyper_ingp_micro" in said


def test_a_command_that_is_stopped_says_so(trained_hyper_ingp, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("microdreamer.core.command.Interrupt.__call__", lambda self: any((tmp_path / "out").glob("a_tree.glb")))
    words = ["--generate", "a tree", "--out", str(tmp_path / "out")]
    assert launch([*words, "--generate", "a cup", *COMMAND]) == 130
    assert f"stopped; {tmp_path / 'out'} has what is whole\n" in capsys.readouterr().err and not list((tmp_path / "out").glob("a_cup*"))
    assert launch([*words, *COMMAND]) == 130
    assert "stopped; nothing was written\n" in capsys.readouterr().err
    monkeypatch.setattr("microdreamer.core.command.Interrupt.__call__", lambda self: True)
    assert launch(["--test", f"exp_root_dir={tmp_path / 'runs'}", *COMMAND]) == 130
    assert "step_5_test has what is whole\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind", ["triplane_transformer", pytest.param("hyper_iNGP", marks=pytest.mark.slow), pytest.param("3dconv_net", marks=pytest.mark.slow)]
)
def test_from_a_library_to_assets_by_the_micro_prior(kind, tmp_path, capsys):
    """The words of a user, with the configuration that ships and everything small."""
    small_words = ["data.batch_size=4", "data.size=8", "trainer.max_steps=1", "system.prompt_processor.library=micro_8", "device=cpu"]
    small_words += ["system.renderer.num_proposals=12", "system.renderer.num_fine_samples=6", "system.geometry.log2_hashmap_size=8"]
    small_words += ["system.generator.channels=[8,8,6]", "system.generator.layers=1", "system.generator.token_side=4"]
    small_words += ["system.generator.width=24", "system.generator.attention_heads=3", "system.generator.plane_channels=8"]
    small_words += [f"exp_root_dir={tmp_path / 'runs'}", *(word for word in WORDS if "distance" not in word and "fovy" not in word)]
    config = ["--config", str(Path(__file__).resolve().parents[3] / "configs" / "multi-prompt" / f"{kind}_micro.yaml")]
    assert launch([*config, "--train", "--test", "--generate", "a red car", "--out", str(tmp_path / "out"), *small_words]) == 0
    folder = tmp_path / "runs" / f"{kind}_micro" / "micro_8" / "save" / "step_1_test"
    assert f"wrote {folder}\n" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"a_blue_car", "a_green_mushroom", "a_yellow_armchair", "a_red_cup"}
    assert json.loads((tmp_path / "out" / "a_red_car.json").read_text())["mesh"]["watertight"]
    resume = f"resume={folder.parents[1] / 'ckpt' / 'step_1.ckpt'}"
    assert launch(["--interpolate", "a red car", "a blue cup", "--out", str(tmp_path / "out"), resume, "--quiet"]) == 0
    assert (tmp_path / "out" / "a_red_car_to_a_blue_cup.json").is_file()
