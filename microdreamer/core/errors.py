"""Errors that a user can mend: one line each. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator

# How PyTorch, OpenCV and CUDA's libraries, which have no exception of their own for it, say that memory ran out.
_OUT_OF_MEMORY = re.compile(r"(?i)out of memory|can't allocate memory|not enough memory|insufficient memory|bad_alloc|ALLOC_FAILED")
_WANTED = re.compile(r"(?i)(?:allocate|allocating) ([\d.]+ ?(?:bytes|[KMGT]i?B))")


class UserError(ValueError):
    """Something the user can mend; the message is one line that says what was expected, what came and what to do."""


class KernelsError(UserError, RuntimeError):
    """The compiled kernels are not what they should be; the message says how to build them."""


class Stopped(Exception):
    """Whoever called asked to stop; raised between two steps, where everything is whole."""


def one_line(error: Exception) -> str:
    """The message of an error in one line; of one of the operating system, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def memory_error(error: BaseException) -> str | None:
    """That, and where, memory ran out, in words, if that is what `error` says; else None."""
    if isinstance(error, OSError):
        ran_out = error.errno == errno.ENOMEM
    else:
        named = isinstance(error, RuntimeError) or type(error).__name__ == "error"  # the latter: OpenCV's
        ran_out = isinstance(error, MemoryError) or (named and _OUT_OF_MEMORY.search(str(error)) is not None)
    if not ran_out:
        return None
    wanted = _WANTED.search(str(error))
    where = " of the GPU" if re.search("CUDA|CUBLAS|CUDNN", str(error)) else ""
    return f"the memory{where} is not enough{f' (no more {wanted[1]} to be had)' if wanted else ''}"


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Whatever is found wrong with what the user gave becomes a UserError of one line. Memory that ran out stays what it is."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, OSError) as error:
        if memory_error(error):
            raise
        raise UserError(one_line(error)) from error
