"""Steps run as soon as what they wait for is done; a failure stops only what waits for it."""

import asyncio
import io
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stages.graph import Runner, Step, counts, failures, table


def python(name: str, code: str, *after: str, always: bool = False) -> Step:
    return Step(name=name, command=[sys.executable, "-c", code], after=after, always=always)


async def test_a_failed_step_stops_only_its_followers(tmp_path: Path) -> None:
    steps = [
        python("bad", "print('why'); raise SystemExit(3)"),
        python("follower", "pass", "bad"),
        python("other", "pass"),
        python("cleaning", "pass", "follower", always=True),
    ]
    out = io.StringIO()
    results = await Runner(steps, tmp_path, out).run()
    assert [(r.name, r.code == 0, r.skipped) for r in results] == [
        ("bad", False, False),
        ("follower", False, True),
        ("other", True, False),
        ("cleaning", True, False),
    ]
    assert "| why" in out.getvalue()
    assert "failed (3)" in table(results)


async def test_a_follower_sees_what_its_forerunner_did(tmp_path: Path) -> None:
    file = tmp_path / "x"
    steps = [
        python("second", f"print(open({str(file)!r}).read())", "first"),
        python("first", f"open({str(file)!r}, 'w').write('done')"),
    ]
    results = await Runner(steps, tmp_path, io.StringIO()).run()
    assert [r.code for r in results] == [0, 0]


async def test_what_comes_behind_a_step_waits_for_its_end_and_runs_though_it_failed(tmp_path: Path) -> None:
    file = tmp_path / "x"
    steps = [
        replace(python("behind", f"print(open({str(file)!r}).read())"), behind=("bad",)),
        python("bad", f"open({str(file)!r}, 'w').write('tried'); raise SystemExit(1)"),
    ]
    results = await Runner(steps, tmp_path, io.StringIO()).run()
    assert [(r.name, r.code) for r in results] == [("behind", 0), ("bad", 1)]


async def test_told_to_stop_it_takes_everything_along_that_it_started(tmp_path: Path) -> None:
    pipe = tmp_path / "open as long as a process of the step lives"
    os.mkfifo(pipe)
    step = Step(name="long", command=["sh", "-c", 'exec 3> "$0"; sleep 600 & wait', str(pipe)])
    running = asyncio.create_task(Runner([step], tmp_path, io.StringIO()).run())
    with await asyncio.to_thread(pipe.open, "rb") as reading:
        os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(asyncio.CancelledError):
            await running
        assert await asyncio.to_thread(reading.read) == b""


def test_a_step_that_waits_for_nobody_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nobody"):
        Runner([python("a", "pass", "nobody")], tmp_path)


@pytest.mark.parametrize(
    ("closing", "expected"),
    [
        ("===== 3 passed, 1 skipped in 2.00s =====", {"passed": 3, "skipped": 1}),
        ("1 failed, 2 passed, 1 error in 61.2s (0:01:01)", {"failed": 1, "passed": 2, "error": 1}),
        ("nothing of pytest's", {}),
    ],
)
def test_closing_lines_are_counted(tmp_path: Path, closing: str, expected: dict[str, int]) -> None:
    log = tmp_path / "log"
    log.write_text(f"the text\n{closing}\n")
    assert counts(log) == expected


def test_tests_that_failed_are_named(tmp_path: Path) -> None:
    log = tmp_path / "log"
    named = ["FAILED tests/a.py::test_b[c] - assert 1 == 2", "ERROR tests/d.py::test_e - TooLate: x"]
    log.write_text("\n".join(["E   FAILED to do", "FAILED", *named, "1 failed, 1 error in 2.00s", ""]))
    assert failures(log) == named
    assert failures(None) == []
