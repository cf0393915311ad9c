"""launch.py from its words to its files: what it writes, what it says, how it is stopped and goes on, and what it refuses."""

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from launch_bench import SMALL, Witness, config_of, picture, trainer_of
from PIL import Image
from recipe_bench import film
from torch.nn.functional import mse_loss

from cam_utils import orbit_cameras
from microdreamer.meshes.files import read_mesh
from microdreamer.pipeline import cli
from microdreamer.pipeline.launch import checkpoint, run, views
from microdreamer.pipeline.launch.commands import launch
from microdreamer.pipeline.launch.trainer import Trainer

ROOT = Path(__file__).resolve().parents[3]
STAGES = ("data.size=[16,24]", "data.batch_size=[4,8]", "data.resolution_milestones=[2]", "trainer.max_steps=4")


@pytest.fixture
def prior(monkeypatch):
    prior = Witness()
    monkeypatch.setattr(run, "load_prior", lambda *_: prior)
    return prior


@pytest.fixture
def program(tmp_path, capsys, prior):
    """`program(words...)` -> exit code and what was said; the run's folder is `field/thing` in `tmp_path`."""

    def call(*words, small=SMALL):
        code = launch([f"exp_root_dir={tmp_path}", *small, *words])
        heard = capsys.readouterr()
        assert not heard.out
        return code, heard.err

    return call


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "field" / "thing"


def refused(result):
    """The line that a refused run said."""
    code, said = result
    assert code == 2 and said.count("\n") == 1 and said.startswith("launch.py: "), (code, said)
    return said


def learnt(path):
    return checkpoint.load(path)["learner"]


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# ---- What it writes and says ----


def test_one_line_trains_films_and_exports(program, folder):
    code, said = program("--train", "--test", "--export")
    assert code == 0
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    stem = "save/step_6"
    mesh = {f"{stem}_mesh.{suffix}" for suffix in ("obj", "mtl", "glb")} | {f"{stem}_mesh_albedo.png"}
    film_files = {f"{stem}.mp4", f"{stem}.json", f"{stem}_views.png"}
    assert names == {"config.yaml", "ckpt/step_6.ckpt", "save/preview.png", *mesh, *film_files}
    assert film(folder / f"{stem}.mp4").shape[:3] == (2, 3, 16)
    record = json.loads((folder / f"{stem}.json").read_text())
    assert (record["step"], record["frames"], record["config"]["system"]["prompt_processor"]["prompt"]) == (6, 2, "thing")
    assert 0 < len(read_mesh(folder / f"{stem}_mesh.glb").faces) <= 300
    for wrote in (folder / "ckpt" / "step_6.ckpt", folder / f"{stem}.*", folder / f"{stem}_mesh.*"):
        assert f"wrote {wrote}\n" in said


def test_quiet_says_nothing(program, folder):
    assert program("--quiet", "--train", "--test", "--export", "trainer.max_steps=1", "export.mesh_format=glb") == (0, "")
    assert (folder / "save" / "step_1_mesh.glb").is_file()


def test_a_stage_after_the_other_ends_in_the_bits_of_both_in_one_go(program, tmp_path, folder):
    code, said = program("--train", *STAGES)
    assert code == 0
    command = re.search(r"for the next stage add (--train_highres) (resume=.*)\n", said).groups()
    assert command == ("--train_highres", f"resume={folder / 'ckpt' / 'step_2.ckpt'}")
    code, said = program("--train", *command, small=())  # the rest is as the checkpoint has it
    assert code == 0 and "for the next stage" not in said
    code, said = program("--train", "--train_highres", *STAGES, "tag=one_go")
    assert code == 0 and "for the next stage" not in said
    first, second = (learnt(tmp_path / "field" / tag / "ckpt" / "step_4.ckpt") for tag in ("thing", "one_go"))
    assert same(first, second)
    assert {path.name for path in (folder / "ckpt").iterdir()} == {"step_2.ckpt", "step_4.ckpt"}


def test_test_and_export_find_the_last_checkpoint(program, folder):
    words = ("--train", "trainer.checkpoint_every=1", "trainer.max_steps=3")
    assert program(*words)[0] == 0
    assert [step for step, _ in checkpoint.written(folder)] == [2, 3]
    assert program("--test", "--export", "export.mesh_format=glb")[0] == 0
    assert {path.stem for path in (folder / "save").iterdir()} == {"preview", "step_3", "step_3_views", "step_3_mesh"}
    assert program("--test", f"resume={folder / 'ckpt' / 'step_2.ckpt'}", small=())[0] == 0
    assert (folder / "save" / "step_2.mp4").is_file()


def test_what_was_done_to_a_picture_is_told_unless_quiet(program, tmp_path, caplog):
    path = picture(tmp_path / "thing_rgba.png")
    aside = Image.new("RGBA", (96, 96))
    aside.paste(Image.open(path).resize((24, 24)), (60, 60))
    aside.save(path)
    words = ("--train", f"input={path}", "trainer.max_steps=1")
    assert program(*words)[0] == 0
    assert [message for message in caplog.messages if message.startswith(f"{path}: ")]
    caplog.clear()
    assert program("--quiet", *words, "tag=quiet") == (0, "") and not caplog.messages


def test_rounds_of_sir_have_no_stages_to_go_on_to(program):
    code, said = program("--train", "system.guidance.objective=sir", *STAGES, "system.sir.total_steps=1")
    assert code == 0 and "for the next stage" not in said


def test_microdreamer_launch_is_the_same_program(prior, tmp_path, capsys):
    assert cli.main(["launch", "--quiet", "--train", f"exp_root_dir={tmp_path}", *SMALL, "trainer.max_steps=1"]) == 0
    assert (tmp_path / "field" / "thing" / "ckpt" / "step_1.ckpt").is_file()
    assert cli.main(["launch"]) == 2
    assert capsys.readouterr().err.startswith("microdreamer launch: nothing to do")
    assert cli.main(["start"]) == 2 and "launch" in capsys.readouterr().err


def test_help_is_quick_and_needs_no_pytorch():
    code = """
import sys, time
from microdreamer.pipeline.launch.commands import launch
try:
    launch(["--help"])
finally:
    print(sorted({"torch", "numpy", "scipy", "PIL", "cv2"} & set(sys.modules)), time.process_time() < 0.5, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "[] True\n"
    assert "--train_highres" in done.stdout and "  system.guidance.recon_std_rescale=0.5  " in done.stdout


# ---- Stopped, and on again ----


@pytest.mark.parametrize("objective", ["x0sds", "sir"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_bits_of_the_unbroken_one(program, monkeypatch, tmp_path, folder, objective, number):
    name = "round" if objective == "sir" else "step"
    word, whole = f"system.guidance.objective={objective}", getattr(Trainer, name)

    def stops(trainer, index, *more):
        if index == 1:
            signal.raise_signal(number)
        return whole(trainer, index, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, name, stops)
        code, said = program("--train", "--export", word, "trainer.max_steps=3")
    assert code == 128 + number
    (path,) = re.findall(r"stopped; go on with (resume=.*)\n", said)
    assert path == f"resume={folder / 'ckpt' / 'step_2.ckpt'}" and not (folder / "save").exists()
    assert program("--train", path, small=())[0] == 0
    assert program("--train", word, "trainer.max_steps=3", "tag=unbroken")[0] == 0
    assert same(*(learnt(tmp_path / "field" / tag / "ckpt" / "step_3.ckpt") for tag in ("thing", "unbroken")))


def test_ctrl_c_while_a_film_is_made_writes_none(program, monkeypatch, folder):
    assert program("--train", "trainer.max_steps=1")[0] == 0
    whole = views.film_cameras
    monkeypatch.setattr(views, "film_cameras", lambda *given: signal.raise_signal(signal.SIGINT) or whole(*given))
    code, said = program("--test", "--export")
    assert code == 130 and "nothing was written" in said
    assert [path.name for path in (folder / "save").iterdir()] == ["preview.png"]


# ---- Refusals: one line, exit code 2, nothing written ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train", "prompt="], "nothing to make: pass prompt="),
        ([], "nothing to do: pass --train, --test or --export"),
        (["--train", "trainer.max_step=5"], "unknown key 'trainer.max_step'; the nearest valid key is 'trainer.max_steps'"),
        (["--train", "--highres"], "'--highres' is not understood"),
        (["--train", "--config", "none.yaml"], "none.yaml: no such configuration file"),
        (["--train", "tag=../up"], "tag=../up: expected a plain name"),
        (["--train", "device=tpu"], "device=tpu"),
        (["--test"], "field/thing: no checkpoint there; make one with --train"),
        (["--export"], "field/thing: no checkpoint there; make one with --train"),
        (["--train", "data.n_view=2", "data.batch_size=2"], "data.batch_size=2: the micro prior takes a multiple of 4 views"),
        (["--train", "data.n_view=2", "data.batch_size=4"], "the micro prior takes views 90 degrees apart"),
        (["--train", "data.n_view=1", "data.batch_size=3", "system.guidance.objective=sir"], "takes a multiple of 4 views"),
        (["--train", "system.guidance.objective=asd", "system.guidance.guidance_perp_neg=-0.5"], "guidance_perp_neg is for priors"),
        (["--train", "system.geometry.n_features_per_level=3"], "expected"),
        (["--train", "system.guidance.max_step_percent=1"], "max_step_percent"),
        (["--train", "system.guidance.max_step_percent=[0,0.9,0.1,50]"], "min_step_percent=0.2 at step 50: expected at most"),
        (["--train", "system.guidance.max_step_percent=[0,0.9,0.5,50.0]"], "a whole number"),
        (["--train", "input=none.png"], "none.png"),
    ],
)
def test_what_cannot_work_is_one_line(program, tmp_path, monkeypatch, words, message):
    monkeypatch.delenv("USE_CUDA_GAUSS", raising=False)
    if "device=tpu" in words:
        monkeypatch.undo()  # the true prior would be loaded there
    assert message in refused(program(*words))
    assert list(tmp_path.iterdir()) == []


def test_words_that_the_micro_prior_does_not_know(tmp_path, capsys):
    code = launch(["--train", f"exp_root_dir={tmp_path}", *SMALL, "prior=micro", "prompt=qwxz vlorb"])
    assert "qwxz" in refused((code, capsys.readouterr().err))
    assert list(tmp_path.iterdir()) == []


class Sentences(Witness):
    """Knows sentences alone."""

    accepts = frozenset({"prompt"})


def test_a_picture_for_a_prior_that_takes_none(program, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "load_prior", lambda *_: Sentences())
    word = f"input={picture(tmp_path / 'thing_rgba.png')}"
    assert "does not take a picture; priors that do: " in refused(program("--train", word, "prompt="))
    assert [path.name for path in tmp_path.iterdir()] == ["thing_rgba.png"]
    assert program("--train", word, "trainer.max_steps=1", "--quiet") == (0, "")  # beside a sentence it is the reference view


def test_a_corrupt_picture(program, tmp_path):
    path = picture(tmp_path / "thing_rgba.png")
    path.write_bytes(path.read_bytes()[:300])
    assert "thing_rgba.png" in refused(program("--train", f"input={path}"))


def test_a_folder_that_cannot_be_written_to(program, tmp_path):
    (tmp_path / "file").touch()
    assert "choose another" in refused(program("--train", f"exp_root_dir={tmp_path / 'file'}"))


def foreign(kind, tmp_path):
    """A path that nothing can go on from."""
    path = tmp_path / "other" / f"{kind}.ckpt"
    path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "threestudio":
        torch.save({"state_dict": {"geometry.encoding.params": torch.zeros(4)}, "global_step": 5}, path)
    elif kind == "text":
        path.write_text("not a checkpoint\n" * 100)
    elif kind in ("cut", "neurons", "gaussians"):
        words = {"neurons": ["system.geometry.n_neurons=8"], "gaussians": ["system.geometry.type=gaussians"]}.get(kind, [])
        made = run.save(trainer_of(*words), tmp_path / "other" / "run", 1)
        shutil.move(made, path)
        if kind == "cut":
            path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file; a run writes its checkpoints to its folder ckpt/"),
        ("folder", "no checkpoint in"),
        ("threestudio", "holds no network of"),
        ("text", "no checkpoint of launch.py"),
        ("cut", "take an earlier one"),
        ("neurons", "was trained with system.geometry.n_neurons=8, now 16"),
        ("gaussians", "was trained with system.geometry.type=gaussians, now field"),
    ],
)
@pytest.mark.parametrize("work", ["--train", "--test", "--export"])
def test_what_cannot_be_gone_on_from(program, tmp_path, kind, message, work):
    path = foreign(kind, tmp_path)
    before = path.read_bytes() if path.is_file() else None
    assert message in refused(program(work, f"resume={path}", "system.geometry.type=field"))
    assert not (tmp_path / "field").exists() and (path.read_bytes() if path.is_file() else None) == before


def test_a_run_that_is_complete_and_one_of_another_kind(program, folder):
    assert program("--train", "trainer.max_steps=2")[0] == 0
    config = (folder / "config.yaml").read_bytes()
    assert "has 2 steps of 2 already; raise trainer.max_steps" in refused(program("--quiet", "--train", f"resume={folder}", small=()))
    other = ("--quiet", "--train", f"resume={folder}", "system.guidance.objective=sir")
    assert "objective=x0sds, now sir; sir counts rounds" in refused(program(*other))
    assert (folder / "config.yaml").read_bytes() == config
    assert program("--train", f"resume={folder}", "trainer.max_steps=3", small=())[0] == 0


def test_a_second_run_does_not_mix_with_the_first(program, folder):
    """Its checkpoints would have lower numbers, and be taken for old ones."""
    words = ("--train", "trainer.checkpoint_every=1")
    assert program(*words, "trainer.max_steps=3")[0] == 0
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for more in ((), (f"resume={folder / 'ckpt' / 'step_2.ckpt'}",)):
        said = refused(program("--quiet", *words, *more, "seed=1"))
        assert f"go on with resume={folder / 'ckpt' / 'step_3.ckpt'}" in said and "tag=NAME" in said
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    assert program(*words, "tag=second", "trainer.max_steps=1")[0] == 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), MemoryError()])
def test_more_views_than_memory_holds(program, monkeypatch, error):
    def step(*_):
        raise error

    monkeypatch.setattr(Trainer, "step", step)
    said = refused(program("--quiet", "--train"))
    assert "the memory" in said and "lower data.batch_size, data.size" in said


def test_a_checkpoint_that_does_not_fit_the_memory_is_not_called_foreign(monkeypatch, tmp_path):
    trainer = trainer_of()
    path = run.save(trainer, tmp_path, 1)

    def load(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(type(trainer.learner), "load", load)
    with pytest.raises(torch.OutOfMemoryError):
        run.restore(trainer, path)


# ---- Checkpoints in peril ----


def test_a_full_disk_leaves_the_earlier_checkpoint(program, monkeypatch, folder):
    whole = Path.write_bytes

    def write_bytes(path, data):
        if path.suffix == ".ckpt" and any(path.parent.glob("step_2.ckpt")):
            whole(path, data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return whole(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    said = refused(program("--quiet", "--train", "trainer.checkpoint_every=2"))
    assert "step_4.ckpt: No space left on device" in said
    assert [path.name for path in (folder / "ckpt").iterdir()] == ["step_2.ckpt"]
    monkeypatch.undo()
    assert checkpoint.load(folder / "ckpt" / "step_2.ckpt")["step"] == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and kills as Linux has them")
def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_earlier_ones(tmp_path, monkeypatch):
    """SIGKILL with half of the file written; then at moments while a run writes one after another. The next run tidies up."""
    torch.set_num_threads(1)
    trainer = trainer_of("system.geometry.log2_hashmap_size=14")
    run.save(trainer, tmp_path, 1)
    whole = Path.write_bytes

    def child(work, seconds=None):
        number = os.fork()
        if number == 0:
            try:
                work()
            finally:
                os._exit(0)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(number, signal.SIGKILL)
        return os.waitpid(number, 0)[1]

    def half(path, data):
        whole(path, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    def dies():
        monkeypatch.setattr(Path, "write_bytes", half)
        run.save(trainer, tmp_path, 2)

    assert os.WTERMSIG(child(dies)) == signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "ckpt").iterdir())
    assert len(left) == 2 and left[1] == "step_1.ckpt" and left[0].startswith(".")
    assert checkpoint.find(tmp_path).name == "step_1.ckpt" and checkpoint.load(checkpoint.find(tmp_path))["step"] == 1

    def many():
        for step in range(2, 1000):
            run.save(trainer, tmp_path, step)

    for moment in (0.05, 0.11, 0.2):
        child(many, moment)
        files = checkpoint.written(tmp_path)
        assert files and all(checkpoint.load(path)["step"] == step for step, path in files)
    run.save(trainer, tmp_path, 2000)
    assert all(path.name.startswith("step_") for path in (tmp_path / "ckpt").iterdir())


# ---- Pictures ----


@pytest.mark.parametrize("objective", ["x0sds", "sir"])
@pytest.mark.parametrize("elevation", [0, 30])
def test_a_field_learns_the_picture_from_where_it_was_taken(prior, tmp_path, objective, elevation):
    """The picture alone teaches: seen from its own elevation the field comes nearer to it than from the opposite one."""
    words = [f"input={picture(tmp_path / 'thing_rgba.png')}", f"elevation={elevation}", "system.loss.lambda_guidance=0"]
    words += [
        f"system.guidance.objective={objective}",
        "system.sir.init_steps=60",
        "system.optimizer.lr_feature=0.03",
        "system.sir.total_steps=1",
    ]
    trainer = run.make_trainer(config_of(*words))
    assert prior.given["elevation"] == -elevation and prior.given["image"].shape == (4, 48, 48)
    for step in range(60) if trainer.objective else (0,):
        trainer.step(step) if trainer.objective else trainer.round(step)
    reference = trainer.reference(16)
    assert float(reference.camera.centers[0, 1]) == pytest.approx(2 * math.sin(math.radians(elevation)), abs=1e-4)
    elsewhere = orbit_cameras(elevation, 0 if elevation else 90, 2.0, fov_y=49.1, width=16, height=16)  # from below, or from the side
    model = trainer.learner.model.eval()
    with torch.no_grad():
        own, other = (float(mse_loss(model.render(view, 1.0).image, reference.image)) for view in (reference.camera, elsewhere))
    assert own < 0.6 * other
