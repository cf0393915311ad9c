"""Fetching weights: mirrors, checks, and one line where there is no network. Nothing here goes to the network."""

import hashlib

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from microdreamer.guidance.published.presets import PRESETS
from microdreamer.guidance.published.random_weights import write_checkpoint
from scripts import download_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("zero123")
    write_checkpoint("stable_zero123", made, tiny=True)
    return made


@pytest.fixture
def hub(monkeypatch):
    """`hub[owner/name]` is the folder that a download of it gives; calls are recorded in hub.calls."""

    class Hub(dict):
        def __init__(self):
            super().__init__()
            self.calls = []

    found = Hub()

    def download(name, revision, allow_patterns=None, local_files_only=False):
        found.calls.append((name, revision, allow_patterns))
        if name not in found:
            raise LocalEntryNotFoundError("offline")
        return str(found[name])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return found


def test_a_download_is_checked_and_found_again(hub, folder, capsys):
    hub["ashawkey/stable-zero123-diffusers"] = folder
    assert download_models.main(["stable_zero123"]) == 0
    [(_, revision, patterns)] = hub.calls
    assert len(revision) == 40 and "unet/diffusion_pytorch_model.safetensors" in patterns
    out = capsys.readouterr().out
    assert "licence: Stability AI Non-Commercial" in out and "whole and checked" in out
    assert download_models.main(["stable_zero123", "--verify"]) == 0


def test_without_a_network_it_is_one_line(hub, capsys):
    for words in (["stable_diffusion"], ["mvdream", "--verify"], ["mvdream", "--repository", "me/mine"]):
        assert download_models.main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("download_models.py: ")
    assert [name for name, *_ in hub.calls[:3]] == [name.split("@")[0] for name in PRESETS["stable_diffusion"].repositories]


def test_a_mirror_is_taken_where_the_first_repository_is_gone(hub, tmp_path):
    write_checkpoint("stable_diffusion", tmp_path, tiny=True)
    hub["Manojb/stable-diffusion-2-1-base"] = tmp_path
    assert download_models.main(["stable_diffusion"]) == 0
    assert len(hub.calls) == 2 and "unet/diffusion_pytorch_model.fp16.safetensors" in hub.calls[0][2]


def test_a_repository_that_lacks_a_part_is_not_taken(hub, tmp_path, capsys):
    write_checkpoint("stable_zero123", tmp_path, tiny=True)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    hub["ashawkey/stable-zero123-diffusers"] = tmp_path
    assert download_models.main(["stable_zero123"]) == 2
    assert "has no vae/*.safetensors" in capsys.readouterr().err


def test_damage_is_found_by_the_checksum_in_the_cache(tmp_path):
    data = b"weights" * 1000
    blob = tmp_path / hashlib.sha256(data).hexdigest()
    blob.write_bytes(data)
    (tmp_path / "model.safetensors").symlink_to(blob)
    download_models.check_sum(tmp_path / "model.safetensors")
    blob.write_bytes(data[:-1] + b"!")
    with pytest.raises(ValueError, match="damaged"):
        download_models.check_sum(tmp_path / "model.safetensors")


def test_too_little_space_is_found_before_the_download(hub, monkeypatch, capsys):
    monkeypatch.setattr(download_models.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**6}))
    assert download_models.main(["mvdream"]) == 2
    assert "2.6 GB needed" in capsys.readouterr().err and not hub.calls
