"""What is begun in the background changes nothing and never fails; a run asks for it before PyTorch is there."""

import subprocess
import sys

import pytest
import torch

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


def test_the_driver_is_left_alone_for_the_cpu(monkeypatch):
    import ctypes

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
