"""A slim checkpoint is small, can be used, and says why it cannot be trained on."""

import pytest
import torch
from launch_bench import config_of, trainer_of

from microdreamer.core.errors import UserError
from microdreamer.pipeline.launch import checkpoint, run
from scripts import slim_checkpoint


@pytest.fixture
def slim(tmp_path):
    trainer = trainer_of(f"exp_root_dir={tmp_path}")
    trainer.step(0)
    whole = run.save(trainer, run.run_folder(trainer.config), 1)
    out = tmp_path / "slim" / "step_1.ckpt"
    assert slim_checkpoint.main([str(whole), str(out)]) == 0
    assert out.stat().st_size < whole.stat().st_size / 2
    return whole, out


def test_it_is_used_like_the_whole_one(tmp_path, slim):
    models = [run.trained(config_of(f"exp_root_dir={tmp_path}", f"resume={path}"))[0] for path in slim]
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        torch.testing.assert_close(models[1].geometry.density(points), models[0].geometry.density(points), rtol=1e-2, atol=1e-2)


def test_where_its_run_wrote_is_not_in_it(tmp_path, slim):
    assert str(tmp_path) not in str(checkpoint.load(slim[1])["config"])


def test_training_does_not_go_on_from_it(tmp_path, slim):
    with pytest.raises(UserError, match="without the optimiser's state") as caught:
        run.restore(trainer_of(f"exp_root_dir={tmp_path}"), slim[1])
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_one_line(tmp_path, capsys):
    (tmp_path / "x.ckpt").write_bytes(b"nothing")
    assert slim_checkpoint.main([str(tmp_path / "x.ckpt"), str(tmp_path / "y.ckpt")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "x.ckpt" in said and not (tmp_path / "y.ckpt").exists()
