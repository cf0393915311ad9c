"""Progress where there is no terminal: a line now and then, and one at the end."""

import sys
from types import SimpleNamespace

import pytest

from microdreamer.pipeline import terminal
from microdreamer.pipeline.terminal import Steps


def test_lines_come_now_and_then_and_at_the_end(monkeypatch, capsys):
    clock = iter(range(0, 1000, 6))  # six seconds a step
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = Steps("a prior", 8)
    for _ in range(8):
        progress.step()
    written = capsys.readouterr()
    assert written.out == "" and written.err.splitlines() == [
        "a prior: 3/8, 00:18 so far, 00:30 left",
        "a prior: 6/8, 00:36 so far, 00:12 left",
        "a prior: 8/8, 00:48 so far",
    ]


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Steps("a prior", 2)
    progress.step()
    progress.step()
    assert "a prior: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("total", [1, 5])
def test_quick_work_says_one_line(total, capsys):
    progress = Steps("work", total)
    for _ in range(total):
        progress.step()
    assert capsys.readouterr().err == f"work: {total}/{total}, 00:00 so far\n"
