"""Errors that a user can mend: one line each. Imports nothing heavy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """Something the user can mend; the message is one line that says what was expected, what came and what to do."""


class Stopped(Exception):
    """Whoever called asked to stop; raised between two steps, where everything is whole."""


def one_line(error: Exception) -> str:
    """The message of an error in one line; of one of the operating system, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Whatever is found wrong with what the user gave becomes a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise UserError(one_line(error)) from error
