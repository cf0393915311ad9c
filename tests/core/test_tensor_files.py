"""The digest of a file of tensors: it follows everything that matters, and nothing else."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from microdreamer.core import tensor_files

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(0), "d": torch.ones(3, dtype=torch.bfloat16)}
WORDS = {"format": "of a test"}


def test_what_is_written_is_read_and_passes(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(tensor_files.encoded(TENSORS, WORDS))
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - no dict
    assert metadata["format"] == "of a test" and len(metadata[tensor_files.DIGEST]) == 64
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    tensor_files.check(path, tensors, metadata, "")


def test_the_digest_is_the_same_everywhere():
    """Of a file that another machine wrote: SHA-256 of name, type, shape and bytes, then of the words."""
    expected = hashlib.sha256(b"x\0torch.float32\0[2]\0" + b"\0\0\x80\x3f\0\0\0\x40" + b"format\0of a test\0").hexdigest()
    assert tensor_files.digest_of({"x": torch.tensor([1.0, 2.0])}, WORDS) == expected
    assert tensor_files.digest_of({"x": torch.tensor([[1.0], [0], [2]])[::2, 0]}, WORDS) == expected  # however it lies in memory
    assert tensor_files.digest_of(dict(reversed(TENSORS.items())), WORDS) == tensor_files.digest_of(TENSORS, WORDS)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, words: ({**tensors, "a": tensors["a"] + torch.tensor([0, 0, 1e-6])}, words),
        lambda tensors, words: ({**tensors, "a": tensors["a"].reshape(3, 2)}, words),
        lambda tensors, words: ({**tensors, "b": tensors["b"].view(torch.float64)}, words),
        lambda tensors, words: ({("e" if name == "d" else name): tensor for name, tensor in tensors.items()}, words),
        lambda tensors, words: ({name: tensor for name, tensor in tensors.items() if name != "c"}, words),
        lambda tensors, words: (tensors, {**words, "format": "of a rest"}),
    ],
    ids=["value", "shape", "type", "name", "number", "words"],
)
def test_whatever_changes_is_noticed(change):
    told = {**WORDS, tensor_files.DIGEST: tensor_files.digest_of(TENSORS, WORDS)}
    tensors, words = change(TENSORS, told)
    with pytest.raises(ValueError, match=r"weights\.x: damaged: .* on its way\); fetch it again"):
        tensor_files.check(Path("weights.x"), tensors, words, "fetch it again")


def test_files_without_a_digest_pass():
    tensor_files.check(Path("weights.x"), TENSORS, WORDS, "")
