"""What is begun in the background changes nothing and never fails; a run asks for it before PyTorch is there."""

import ctypes
import os
import subprocess
import sys
import threading

import pytest
import torch

from microdreamer.core import ahead
from microdreamer.core.ahead import in_background, open_gpu, read_files
from microdreamer.core.machine import load_libraries
from microdreamer.guidance.published.presets import PRESETS, weights_of


def test_work_that_fails_is_silent(capfd, tmp_path):
    done = []
    for work in (lambda: done.append(1), lambda: open_gpu("cuda:99"), lambda: read_files([tmp_path / "none"]), lambda: 1 / 0):
        in_background(work).join()
    assert done == [1] and capfd.readouterr() == ("", "")


def test_all_files_of_weights_are_read_ahead(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint("mvdream")
    files = weights_of("mvdream", str(folder))
    assert sorted(files) == sorted(folder.glob("*/*.safetensors")) and len(files) == len(PRESETS["mvdream"].parts)
    read_files(files)
    with pytest.raises(FileNotFoundError, match="not a whole mvdream checkpoint"):
        weights_of("mvdream", tmp_path)


def test_a_run_begins_before_it_imports_pytorch():
    code = """
import sys
from microdreamer.core import ahead
from microdreamer.pipeline import commands
begun = []
commands.in_background = lambda work: begun.append("torch" in sys.modules)
commands.profiled(lambda config, quiet: 0, commands.Config(prior="mvdream"), True)
print(begun)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[False, False]\n", done.stderr


def test_a_program_that_ends_early_waits_for_work_in_pytorch():
    """A thread that came back from PyTorch into a Python that is gone would abort the process, whatever its exit code."""
    code = """
import sys, threading
import torch
from microdreamer.core.ahead import in_background
begun, x = threading.Event(), torch.randn(300, 300)
def work():
    for _ in range(200):
        begun.set()
        x @ x
    print("done", flush=True)
in_background(work)
begun.wait()
sys.exit(2)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "done\n", "")


def test_the_end_of_a_program_does_not_wait_for_ever(monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(ahead, "AT_EXIT", 0.05)
    thread = in_background(never.wait)
    ahead._finish()
    assert thread.is_alive()
    never.set()
    thread.join()


class Driver:
    """CUDA's driver as `open_gpu` calls it, with so many devices."""

    def __init__(self, devices: int) -> None:
        self.devices, self.opened, self.loading = devices, [], None

    def cuInit(self, _flags: int) -> int:
        self.loading = os.environ.get("CUDA_MODULE_LOADING")
        return 0 if self.devices else 100

    def cuDeviceGet(self, handle: object, number: int) -> int:
        handle._obj.value = number
        return 0 if number < self.devices else 101

    def cuDevicePrimaryCtxRetain(self, _context: object, handle: object) -> int:
        self.opened.append(handle.value)
        return 0


@pytest.mark.parametrize(
    ("device", "devices", "opened"), [("auto", 2, [0]), ("cuda", 1, [0]), ("cuda:1", 2, [1]), ("cuda:1", 1, []), ("auto", 0, [])]
)
def test_the_context_that_is_opened_is_the_device_s(monkeypatch, device, devices, opened):
    driver = Driver(devices)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    monkeypatch.setenv("CUDA_MODULE_LOADING", "")  # restored afterwards
    monkeypatch.delenv("CUDA_MODULE_LOADING")
    open_gpu(device)
    assert driver.opened == opened and driver.loading == "LAZY"


def test_the_driver_is_left_alone_for_the_cpu(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("the driver was loaded"))
    open_gpu("cpu")
    load_libraries("cpu", torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_context_that_is_open_serves_pytorch():
    code = """
from microdreamer.core.ahead import open_gpu
open_gpu("auto")
import torch
from microdreamer.core.machine import load_libraries
load_libraries("cuda", torch.float16)
print(float(torch.ones(3, device="cuda").sum()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "3.0\n", done.stderr
