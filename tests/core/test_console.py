"""Streams that cannot show everything: nothing is raised, and what cannot be shown is an escape."""

import subprocess
import sys

import pytest

SCRIPT = r"""
import sys
from microdreamer.core.console import accept_any_text
accept_any_text()
print("wrote grüne Ente \u202f \U0001f600 \udce9")
print("warning: 写真", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "encoding, out",
    [("ascii", "wrote gr\\xfcne Ente \\u202f \\U0001f600 \\udce9"), ("cp1252", "wrote grüne Ente \\u202f \\U0001f600 \\udce9")],
)
def test_pipes_of_other_encodings(encoding, out):
    environment = {"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path), "PATH": ""}
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.decode(encoding).strip() == out
    assert result.stderr.decode(encoding).strip() == "warning: \\u5199\\u771f"


def test_streams_that_are_none_of_a_file_are_left_alone(monkeypatch):
    import io

    from microdreamer.core.console import accept_any_text

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    accept_any_text()
