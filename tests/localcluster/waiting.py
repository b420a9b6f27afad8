"""Waiting with a deadline: the only place that sleeps."""

import time
from collections.abc import Callable

from localcluster.errors import ClusterError

_PAUSE_SECONDS = 0.05


def wait_until(is_true: Callable[[], bool], *, seconds: float, what: str, evidence: Callable[[], str]) -> None:
    """Poll until `is_true`; past the deadline raise what was waited for, with the evidence of why."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            msg = f"{what}: not within {seconds:.0f} s; {evidence()}"
            raise ClusterError(msg)
        time.sleep(_PAUSE_SECONDS)
