"""Progress lines on stdout: the log of a build pod is what a waiting user looks at. Called by every step."""

import sys
import time
from typing import Final

MIB: Final = 1 << 20
_EVERY_SECONDS: Final = 5.0
_EVERY_PERCENT: Final = 10
_ALL: Final = 100


def say(step: str, text: str) -> None:
    """One line of progress."""
    print(f"[{step}] {text}", flush=True)  # noqa: T201 - the pod's log is where a waiting user looks


def complain(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the same


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", MIB), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes"


class Bytes:
    """Counts bytes of a known total and says so now and then, not for every block."""

    def __init__(self, step: str, total: int, what: str = "") -> None:
        self._step = step
        self._total = total
        self._what = f" {what}" if what else ""
        self._done = 0
        self._said_percent = -_EVERY_PERCENT
        self._said_at = 0.0

    def add(self, count: int) -> None:
        """Count `count` more bytes."""
        self._done += count
        percent = min(_ALL, int(_ALL * self._done / self._total)) if self._total else _ALL
        due = percent - self._said_percent >= _EVERY_PERCENT or time.monotonic() - self._said_at > _EVERY_SECONDS
        if percent != self._said_percent and (due or percent == _ALL):
            self._said_percent = percent
            self._said_at = time.monotonic()
            say(self._step, f"{percent} % {self._done / MIB:.1f}/{self._total / MIB:.1f} MiB{self._what}")
