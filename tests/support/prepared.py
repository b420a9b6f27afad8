"""Runs build steps as forks of this process, which has imported PyTorch and friends: that takes seconds each time.

`Prepared().run(...)` answers like a step that was started anew: a process of its own with its own environment. Make it
before PyTorch has computed anything: threads don't survive a fork, and who waits for them waits forever.
"""

import importlib
import json
import os
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn, Self, TextIO

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
"""In the order of their file descriptors."""


class Prepared:
    """A fork of this process that all steps are forks of; close it by leaving the `with` block."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with warnings.catch_warnings():
            # Python warns of the threads of linear algebra libraries; these start theirs anew after a fork.
            warnings.simplefilter("ignore")
            self._process = os.fork()
        if not self._process:
            ours.close()
            _serve(theirs)
        theirs.close()
        with ours:
            self._lines = ours.makefile("rw")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        os.waitpid(self._process, 0)

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], text: str = "") -> tuple[int, str, str]:
        """`python -m bert_build <arguments>`: exit status, what it printed, what it said on standard error.

        Args:
            arguments: the step and its options.
            environment: all of it.
            text: its standard input.
        """
        self._lines.write(json.dumps([list(arguments), dict(environment), text]) + "\n")
        self._lines.flush()
        code, out, err = json.loads(self._lines.readline())
        return code, out, err


def _serve(connection: socket.socket) -> NoReturn:
    """Fork for each line, answer when the fork has ended; the end of the input is the end."""
    try:
        warnings.resetwarnings()  # a test runner makes errors of them, a step doesn't
        with connection, connection.makefile("rw") as lines:
            _answer(lines)
    except BaseException:  # noqa: BLE001 - a fork must never return into the tests
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _answer(lines: TextIO) -> None:
    while line := lines.readline():
        arguments, environment, text = json.loads(line)
        files = [os.memfd_create(name) for name, _ in _STREAMS]
        os.pwrite(files[0], text.encode(), 0)
        child = os.fork()
        if not child:
            _step(arguments, environment, files)
        _, status = os.waitpid(child, 0)
        said = [os.pread(file, os.fstat(file).st_size, 0).decode() for file in files[1:]]
        for file in files:
            os.close(file)
        lines.write(json.dumps([os.waitstatus_to_exitcode(status), *said]) + "\n")
        lines.flush()


def _step(arguments: list[str], environment: dict[str, str], files: Sequence[int]) -> NoReturn:
    """Be `python -m bert_build`."""
    code = 1
    try:
        for number, (name, mode) in enumerate(_STREAMS):
            os.dup2(files[number], number)
            # A test runner has put its own there.
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
        os.environ.clear()
        os.environ.update(environment)
        code = importlib.import_module("bert_build.__main__").main(arguments)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - a fork must never return into the loop
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
