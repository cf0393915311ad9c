"""Checkpoints: whole or not there, read without pickle, foreign ones refused in a line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from microdreamer.core.errors import UserError
from microdreamer.pipeline.launch import checkpoint

STATE = {
    "step": 7,
    "config": {"name": "a", "data": {"size": [8, 16]}, "tag": None},
    "learner": {"model": {"a.b": torch.arange(6.0).reshape(2, 3)}, "optimizer": {"state": {"0": {"step": torch.tensor(3.0)}}}},
}


def test_a_state_comes_back_as_it_was(tmp_path):
    checkpoint.save(tmp_path / "ckpt" / "step_7.ckpt", STATE)
    again = checkpoint.load(tmp_path / "ckpt" / "step_7.ckpt")
    assert again["config"] == STATE["config"] and again["step"] == 7
    assert torch.equal(again["learner"]["model"]["a.b"], STATE["learner"]["model"]["a.b"])
    assert float(again["learner"]["optimizer"]["state"]["0"]["step"]) == 3


def test_tensors_that_share_memory_or_are_views_are_stored_apart(tmp_path):
    whole = torch.arange(4.0)
    checkpoint.save(tmp_path / "a.ckpt", {"x": whole, "y": whole, "z": whole[1:].expand(2, 3)})
    again = checkpoint.load(tmp_path / "a.ckpt")
    assert torch.equal(again["x"], whole) and torch.equal(again["y"], whole) and torch.equal(again["z"], whole[1:].expand(2, 3))


def test_a_cut_file_is_refused_in_a_line(tmp_path):
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, STATE)
    data = path.read_bytes()
    for length in (0, 4, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="take an earlier one") as caught:
            checkpoint.load(path)
        assert "\n" not in str(caught.value)


def test_a_changed_byte_is_noticed_wherever_it_is(tmp_path):
    """In the tensors, in what the file says of itself and in its table of contents; a lost digest alone loses nothing."""
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, STATE)
    data = path.read_bytes()
    written = checkpoint.load(path)
    told = 0
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            found = checkpoint.load(path)
        except UserError as error:
            told += 1
            assert "a.ckpt" in str(error) and "\n" not in str(error)
        else:
            assert json.dumps(found, default=torch.Tensor.tolist) == json.dumps(written, default=torch.Tensor.tolist)
    assert len(data) - told <= 20  # the digest's name, blanks that fill the table up
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 64]))
    with pytest.raises(UserError, match=r"damaged: its content is not what was written .* take an earlier checkpoint, or copy it anew"):
        checkpoint.load(path)


def test_files_of_before_there_was_a_digest_load(tmp_path):
    values = {"format": checkpoint.FORMAT, "state": json.dumps({"step": 1, "learner": {"model": {"a": "tensor:learner.model.a"}}})}
    save_file({"learner.model.a": torch.ones(2)}, tmp_path / "old.ckpt", values)
    assert torch.equal(checkpoint.load(tmp_path / "old.ckpt")["learner"]["model"]["a"], torch.ones(2))


def test_foreign_files_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "threestudio.ckpt")
    with pytest.raises(UserError, match=r"no checkpoint of launch\.py"):
        checkpoint.load(tmp_path / "threestudio.ckpt")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"not a checkpoint of launch\.py"):
        checkpoint.load(tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"missing\.ckpt"):
        checkpoint.load(tmp_path / "missing.ckpt")


def test_a_failing_write_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, STATE)
    before = path.read_bytes()

    def full(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {**STATE, "step": 8})
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]


def test_the_latest_is_found_and_the_old_ones_go(tmp_path):
    for step in (10, 20, 30, 100):
        checkpoint.save(checkpoint.path_of(tmp_path, step), {"step": step})
    (tmp_path / "ckpt" / "notes.txt").write_text("mine")
    assert checkpoint.find(tmp_path).name == "step_100.ckpt" == checkpoint.find(tmp_path / "ckpt").name
    checkpoint.drop_old(tmp_path, keep={10})
    assert sorted(path.name for path in (tmp_path / "ckpt").iterdir()) == ["notes.txt", "step_10.ckpt", "step_100.ckpt", "step_30.ckpt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.find(tmp_path / "empty")


def test_what_ships_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = checkpoint.find(Path("hyper_ingp_micro"))
    assert found.name == "step_832.ckpt" and checkpoint.load(found)["config"]["system"]["geometry"]["type"] == "hyper_ingp"
    (tmp_path / "hyper_ingp_micro").mkdir()  # one's own comes first
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.find(Path("hyper_ingp_micro"))


def test_what_a_file_says_of_itself_is_read_without_its_tensors(tmp_path):
    path = checkpoint.path_of(tmp_path, 3)
    checkpoint.save(path, {"step": 3, "config": {"seed": 1}, "learner": {"model": {"a": torch.ones(2)}}})
    found = checkpoint.load_numbers(path)
    assert found["step"] == 3 and found["config"] == {"seed": 1}
    assert not isinstance(found["learner"]["model"]["a"], torch.Tensor)
