"""What a plan's end is judged by."""

import json

import pytest

from chaos import oracles
from chaos.calls import Call

CREATE = Call(verb="create", resource="jobs", name="build")
RETRY = json.dumps({"level": "error", "message": "Request attempt #1/9 failed; will retry: GET /pods"})


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        (json.dumps({"level": "info", "message": "applied"}), False),
        (json.dumps({"level": "warning", "message": "Conflict; trying again in 0.5 s"}), False),
        (json.dumps({"level": "error", "message": "boom"}), True),
        (json.dumps({"level": "warning", "message": "x", "exception": "Traceback\nKeyError: 1"}), True),
        ("Traceback (most recent call last):", True),
        (RETRY, False),
    ],
)
def test_errors_and_tracebacks_are_found(line: str, *, bad: bool) -> None:
    assert bool(oracles.log_faults(line)) == bad


def test_kopfs_retries_are_errors_where_nothing_was_made_to_fail() -> None:
    assert oracles.log_faults(RETRY, troubled=False)


def test_each_kill_may_cut_one_line_short() -> None:
    assert oracles.log_faults('{"level": "in', kills=1) == []
    assert oracles.log_faults('{"level": "in\n{"le', kills=1)


def test_what_was_made_twice_is_found_unless_that_differs_anyway() -> None:
    found, want = {"CREATE jobs build": 2}, {"CREATE jobs build": 1}
    assert len(oracles.count_faults(found, want)) == 1
    assert oracles.count_faults(found, want, loose=found) == []


def test_retry_after_is_kept_by_the_same_request_only() -> None:
    other = Call(verb="create", resource="jobs", name="other")
    assert oracles.retry_after_faults([(0, CREATE, "429"), (1, other, ""), (2.1, CREATE, "")], 2) == []
    assert len(oracles.retry_after_faults([(0, CREATE, "429"), (1, CREATE, "")], 2)) == 1
