"""What a program will wait for, begun in the background before it asks. Needs no PyTorch: importing that takes as long as all of this.

Nothing here fails or tells: whoever asks for the thing itself finds out what is wrong with it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path


def in_background(work: Callable[[], object]) -> threading.Thread:
    """A thread that does `work` and keeps what that raises to itself."""

    def quietly() -> None:
        with contextlib.suppress(Exception):
            work()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    return thread


def open_gpu(device: str) -> None:
    """Start the CUDA driver and this process's context on `device` (auto, cuda or cuda:N), which PyTorch then finds open.

    It takes half a second, in which Python can go on.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda"):
        return
    import ctypes

    driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(handle), int(number or 0)) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle)


def read_files(paths: Iterable[Path]) -> None:
    """Have the operating system read whole files into its memory, where it takes such advice."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in paths:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
