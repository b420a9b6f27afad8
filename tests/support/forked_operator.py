"""Operators as forks of one process that has imported all they need: that takes two seconds of a processor each time.

`start` gives what `subprocess.Popen` of `kopf run` would: a process of its own with its own environment and log.
"""

import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["support.forked_operator_imports"])


class ForkedOperator:
    """One running `kopf run`; the part of Popen that tests use."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start it: the arguments of `kopf`, all of its environment, and the file for what it prints."""
        self._process = _FORKS.Process(target=_run, args=(list(arguments), dict(environment), str(log)), daemon=True)
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, minus the signal's number where one ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        """Its exit code once it has ended.

        Raises:
            TimeoutError: it still runs after that many seconds.
        """
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            msg = f"the operator still runs after {timeout} s"
            raise TimeoutError(msg)
        return code


def _run(arguments: Sequence[str], environment: Mapping[str, str], log: str) -> None:
    """Be `kopf` from now on."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["kopf", *arguments]
    importlib.import_module("kopf.cli").main(args=list(arguments), prog_name="kopf")
