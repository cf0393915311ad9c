"""What programs write to the terminal, whatever it or the pipe in its place can show."""

from __future__ import annotations

import io
import sys


def accept_any_text() -> None:
    """Let stdout and stderr write what their encoding has no sign for as an escape (\\u2026) instead of raising UnicodeEncodeError.

    A pipe on Windows is often cp1252, one under LC_ALL=C ascii; names of files may hold bytes that are no text at all.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
