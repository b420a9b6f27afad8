import os
import subprocess
from pathlib import Path

import pytest

from localcluster.errors import ClusterError, tail
from localcluster.processes import Process, parse_start_time, run
from localcluster.waiting import wait_until

_FIELDS_4_TO_21 = " ".join(str(number) for number in range(4, 22))


def test_the_start_time_is_found_behind_any_name() -> None:
    assert parse_start_time(f"7 (a (b) c) S {_FIELDS_4_TO_21} 4242 0") == 4242


def test_a_zombie_is_not_running() -> None:
    assert parse_start_time(f"7 (x) Z {_FIELDS_4_TO_21} 4242 0") is None


def test_a_later_process_with_the_same_number_is_another_one() -> None:
    assert not Process("x", os.getpid(), started=1, health="").is_running


def test_a_process_that_ended_is_not_running() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert not Process("x", child.pid, started=1, health="").is_running


def test_a_failing_command_says_what_it_printed() -> None:
    with pytest.raises(ClusterError, match=r"failed \(3\): broken"):
        run(["sh", "-c", "echo broken >&2; exit 3"])


def test_a_command_reads_its_input_from_a_file(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_text("text")
    assert run(["cat"], stdin=source) == "text"


def test_waiting_ends_with_the_evidence() -> None:
    with pytest.raises(ClusterError, match=r"the moon: not within 0 s; it is day"):
        wait_until(lambda: False, seconds=0, what="the moon", evidence=lambda: "it is day")


def test_a_tail_is_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("\n".join(f"line {number}" for number in range(100)))
    assert "line 99" in tail(log)
    assert "line 9\n" not in tail(log)


def test_a_missing_log_is_told(tmp_path: Path) -> None:
    assert "never written" in tail(tmp_path / "x.log")
