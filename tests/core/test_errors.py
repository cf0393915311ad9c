"""Memory that runs out is an error of the user's: one line that says what to lower, exit code 2, and what was there stays."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from microdreamer.core.command import exit_code
from microdreamer.core.errors import UserError, memory_error, user_errors
from microdreamer.meshes.files import write_glb
from microdreamer.meshes.mesh import Mesh

ROOT = Path(__file__).resolve().parents[2]
HUGE = 1 << 46  # bytes: more than any machine has


def raised(work) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "error, said",
    [
        (lambda: raised(lambda: np.empty(HUGE, np.uint8)), "the memory is not enough (no more 64.0 TiB to be had)"),
        (lambda: raised(lambda: torch.empty(HUGE, dtype=torch.uint8)), f"the memory is not enough (no more {HUGE} bytes to be had)"),
        (lambda: MemoryError(), "the memory is not enough"),
        (lambda: RuntimeError("std::bad_alloc"), "the memory is not enough"),
        (lambda: OSError(errno.ENOMEM, "Cannot allocate memory"), "the memory is not enough"),
        (lambda: cv2.error("OpenCV(4.9) Insufficient memory (Failed to allocate 805306368 bytes)"), "the memory is not enough"),
        (
            lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB"),
            "the memory of the GPU is not enough (no more 2.50 GiB to be had)",
        ),
        (lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "the memory of the GPU is not enough"),
        (lambda: RuntimeError("CUDA error: out of memory"), "the memory of the GPU is not enough"),
        (lambda: RuntimeError("size mismatch"), None),
        (lambda: ValueError("the words out of memory in what a user gave"), None),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), None),
    ],
)
def test_what_says_that_memory_ran_out(error, said):
    found = memory_error(error())
    assert found == said or (said is not None and found is not None and said in found)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), OSError(errno.ENOMEM, "x")])
def test_a_command_ends_with_one_line_and_exit_code_2(capsys, error):
    def work() -> int:
        with user_errors():
            raise error

    assert exit_code("main.py", work, "lower texture_size") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("main.py: the memory ") and err.endswith("; lower texture_size\n") and err.count("\n") == 1


def test_other_errors_are_not_swallowed():
    with pytest.raises(RuntimeError, match="a bug"):
        exit_code("main.py", lambda: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(UserError), user_errors():
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are set as Linux does")
def test_a_run_in_too_little_memory(tmp_path):
    """8192 x 8192 texels of 12 bytes do not fit into 256 MiB more than the programs themselves take."""
    corners = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) - 0.3
    faces = [[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]
    write_glb(Mesh(corners, faces, np.full((4, 3), 0.4)), tmp_path / "a.glb")
    words = ["--from-mesh", str(tmp_path / "a.glb"), "prompt=a ball", "iters_refine=0", "texture_size=8192", f"outdir={tmp_path / 'out'}"]
    code = f"""
import resource, sys
from microdreamer.pipeline import subject
from microdreamer.pipeline.commands import refine
real = subject.load_subject
def limited(*arguments):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (256 << 20),) * 2)
    return real(*arguments)
from microdreamer.pipeline import refinement
refinement.load_subject = limited
sys.exit(refine({words!r} + ["device=cpu", "--quiet"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("main2.py: the memory is not enough") and done.stderr.count("\n") == 1 and "texture_size" in done.stderr
    assert not (tmp_path / "out").exists()
