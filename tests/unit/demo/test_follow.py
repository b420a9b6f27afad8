"""The demo's lines: whole in a log, one changing line on a terminal."""

import io

import pytest

from demo.follow import StageLine

LONG = "minilm/1: " + "as long as a message may be " * 10


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_each_stage_once_with_its_whole_message() -> None:
    out = io.StringIO()
    line = StageLine(out, clock=lambda: 1.0)
    for detail in (LONG, "more of it"):
        line.show("Building", detail)
    line.show("Ready")
    assert out.getvalue() == f"     0.0 s  Building     {LONG}\n     0.0 s  Ready        \n"


def test_a_terminals_line_never_wraps_and_says_how_long_a_stage_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out, now = Terminal(), [1.0]
    line = StageLine(out, clock=lambda: now[0])
    line.show("Building", LONG)
    assert len(out.getvalue().removeprefix("\r\033[K")) == 59
    now[0] = 3.5
    line.show("Ready")
    assert "Building     took 2.5 s\n" in out.getvalue()
