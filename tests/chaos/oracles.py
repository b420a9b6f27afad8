"""What a plan's end is judged by. Pure."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from chaos.calls import Call
from chaos.state import Difference

BAD: Final = frozenset({"error", "critical"})
_KOPF_RETRIES: Final = "Request attempt #"
"""kopf's own words for a listing or a watch that it tries again by itself; it has no milder level for them."""
MOST: Final = 8
"""Differences that are told of one plan."""


def log_faults(log: str, *, kills: int = 0, troubled: bool = True) -> list[str]:
    """Errors and tracebacks in an operator's log.

    Args:
        log: all it has said, over all its lives.
        kills: how often it was killed: each may have cut a line short.
        troubled: whether its own requests were made to fail.
    """
    found, torn = [], 0
    for line in log.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            torn += 1
            if torn > kills:
                found.append(f"log: no JSON: {line[:200]}")
            continue
        if _bad(told, troubled=troubled):
            trace = str(told.get("exception") or "").strip().splitlines()
            found.append(
                f"log: {told.get('level')}: {told.get('message', '')[:300]} {trace[-1] if trace else ''}".strip()
            )
    return found[:MOST]


def _bad(told: Mapping[str, Any], *, troubled: bool) -> bool:
    if troubled and str(told.get("message", "")).startswith(_KOPF_RETRIES):
        return False
    return told.get("level") in BAD or "exception" in told


def told(differences: Iterable[Difference]) -> list[str]:
    """The first of many, and how many more."""
    lines = [str(one) for one in differences]
    return lines if len(lines) <= MOST else [*lines[:MOST], f"and {len(lines) - MOST} more differences"]


def count_faults(found: Mapping[str, int], want: Mapping[str, int], loose: Iterable[str] = ()) -> list[str]:
    """Objects that were created or deleted more or less often than without faults.

    Args:
        found: by the plan's operator.
        want: by a reference run's.
        loose: what differs between two reference runs.
    """
    wrong = [key for key in sorted(found.keys() | want.keys()) if found.get(key, 0) != want.get(key, 0)]
    return [
        f"count: {key}: {found.get(key, 0)} times, {want.get(key, 0)} times in a run without faults"
        for key in wrong
        if key not in set(loose)
    ]


def retry_after_faults(trace: Iterable[tuple[float, Call, str]], seconds: float) -> list[str]:
    """Whether a 429's Retry-After was kept by whoever sends that very request again.

    Args:
        trace: (time, call, fault) in order.
        seconds: what was asked for.
    """
    refused: dict[Call, float] = {}
    found = []
    for at, call, fault in trace:
        if call in refused and at - refused.pop(call) < seconds - 0.05:
            found.append(f"Retry-After of {seconds} s: {call.kind} {call.name} came again earlier")
        if fault == "429":
            refused[call] = at
    return found
