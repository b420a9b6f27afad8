"""Follows a BertDeployment to Ready: one line a stage, changing in place on a terminal."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from support.kube import POLL_SECONDS, Kube, TooLate, condition


def until_ready(kube: Kube, name: str, *, seconds: float, out: TextIO = sys.stderr) -> dict[str, Any]:
    """Print each stage and how long it took until the resource is Ready for its present spec.

    Raises:
        TooLate: it isn't in time, or it is stuck; the text says why and what to do.
    """
    line = StageLine(out)
    deadline = time.monotonic() + seconds
    while True:
        live = kube.get("bertdeployment", name)
        status = (live or {}).get("status") or {}
        line.show((status.get("summary") or {}).get("stage") or "Accepted", _detail(live))
        if live and condition(live, "Ready").get("status") == "True":
            line.end()
            return live
        degraded = condition(live, "Degraded")
        stuck = degraded.get("status") == "True" and condition(live, "Progressing").get("status") == "False"
        if stuck or time.monotonic() > deadline:
            line.end()
            raise TooLate(f"{name} is not Ready: {degraded.get('reason', 'no reason')}: {degraded.get('message', '')}")
        time.sleep(POLL_SECONDS)


def until_condition(kube: Kube, name: str, kind: str, *, seconds: float, out: TextIO = sys.stderr) -> dict[str, Any]:
    """Print each reason of a condition and how long it lasted, until it is True.

    Raises:
        TooLate: it isn't in time, or it turned False; the text says why.
    """
    line = StageLine(out)
    deadline = time.monotonic() + seconds
    while True:
        live = kube.get("bertdeployment", name)
        found = condition(live, kind)
        line.show(found.get("reason", "Waiting"), str(found.get("message", "")))
        if live and found.get("status") == "True":
            line.end()
            return live
        if found.get("status") == "False" or time.monotonic() > deadline:
            line.end()
            raise TooLate(f"{name} is not {kind}: {found.get('reason', 'no reason')}: {found.get('message', '')}")
        time.sleep(POLL_SECONDS)


def _detail(live: dict[str, Any] | None) -> str:
    return str(condition(live, "Progressing").get("message", ""))


class StageLine:
    """One line for the present stage; it becomes permanent when the next one begins."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._began = self._since = clock()
        self._stage = ""
        self._live = out.isatty()

    def show(self, stage: str, detail: str = "") -> None:
        """Say where it stands."""
        if stage != self._stage:
            self.end()
            self._stage, self._since = stage, self._clock()
            if not self._live:
                print(f"  {self._clock() - self._began:6.1f} s  {stage:<12} {detail}", file=self._out, flush=True)
        if self._live:
            text = f"  {self._clock() - self._began:6.1f} s  {stage:<12} {detail}"
            # A line that wraps can't be written over.
            print(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}", end="", file=self._out, flush=True)

    def end(self) -> None:
        """The present stage is over."""
        if self._live and self._stage:
            took = self._clock() - self._since
            print(
                f"\r\033[K  {self._clock() - self._began:6.1f} s  {self._stage:<12} took {took:.1f} s", file=self._out
            )
