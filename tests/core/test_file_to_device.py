"""Tensors of a file on a device: the same bits as the library reads, however they are cut into pieces; damaged files are told."""

import threading
import time

import pytest
import torch
from conftest import DEVICES
from safetensors.torch import load_file, save_file
from torch.multiprocessing.reductions import StorageWeakRef

from microdreamer.core import file_to_device
from microdreamer.core.file_to_device import read_tensors_to


@pytest.fixture
def path(tmp_path):
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "large": torch.randn(300, 701, generator=draw),
        "half": torch.randn(5, generator=draw).half(),
        "bfloat": torch.randn(333, 3, generator=draw).bfloat16(),
        "scalar": torch.tensor(3),
        "empty": torch.empty(3, 0, 2),
        "flags": torch.rand(7, generator=draw) > 0.5,
    }
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("piece", "group"), [(8 * 2**20, 512 * 2**20), (5000, 10_000), (4096, 1)])
def test_tensors_are_the_file_s_to_the_last_bit(path, monkeypatch, device, piece, group):
    monkeypatch.setattr(file_to_device, "PIECE", piece)
    monkeypatch.setattr(file_to_device, "GROUP", group)
    for dtype in (torch.float32, torch.float16):
        found, expected = read_tensors_to(path, device, dtype), load_file(path)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].device.type == device and torch.equal(found[name].cpu(), tensor.to(dtype)), name


def test_a_file_that_ends_early_is_told(path):
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"a\.safetensors: ends before its header says"):
        read_tensors_to(path, "cpu", torch.float32)


def test_types_that_nothing_computes_in_are_told(tmp_path):
    save_file({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="a is stored as F8_E4M3; expected one of F64, F32"):
        read_tensors_to(tmp_path / "b.safetensors", "cpu", torch.float32)


@pytest.mark.parametrize("failing", [0, 2])
def test_readers_stop_where_one_of_them_fails(path, monkeypatch, failing):
    calls = []

    def fill(*_: object) -> None:
        calls.append(threading.get_ident())
        if list(dict.fromkeys(calls)).index(threading.get_ident()) == failing:  # that one of the readers, in the order of their calls
            raise OSError("a disk that broke")
        time.sleep(0.1)

    monkeypatch.setattr(file_to_device, "PIECE", 1024)  # 800 pieces of the file
    monkeypatch.setattr(file_to_device, "_fill", fill)
    running = threading.active_count()
    with pytest.raises(OSError, match="broke"):
        read_tensors_to(path, "cpu", torch.float32)
    assert len(calls) < 100 and threading.active_count() == running


def test_one_group_at_a_time_is_in_memory_in_the_file_s_type(path, monkeypatch):
    made, groups, cut = [], [], file_to_device._pieces

    def pieces(tensors):
        assert all(earlier.expired() for earlier in made)
        groups.append(len(tensors))
        made.extend(StorageWeakRef(tensor.untyped_storage()) for _, tensor in tensors)
        return cut(tensors)

    monkeypatch.setattr(file_to_device, "GROUP", 1)
    monkeypatch.setattr(file_to_device, "_pieces", pieces)
    read_tensors_to(path, "cpu", torch.float64)
    assert len(made) == sum(groups) == 6 and len(groups) > 3
