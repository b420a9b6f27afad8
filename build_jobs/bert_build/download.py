"""Brings one file over a network that breaks: hashes and bounds it on the way, goes on where it broke off.

Called by remote. Knows neither the hub nor S3: they hand in how to open a file at a byte, and what their errors mean.
"""

import errno
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Self, TypeVar

from bert_build import progress
from bert_build.failures import BuildError
from bert_operator.api.report import ExitCode

TRIES: Final = 4
"""In a row that bring nothing new; a download that gets on is never given up."""

_PASSING: Final = frozenset({408, 409, 425, 429})
_SERVER_ERRORS: Final = 500

T = TypeVar("T")
Opener = Callable[[int], AbstractContextManager[Iterator[bytes]]]
"""Opens a file at a byte."""
Namer = Callable[[Exception], BuildError]
"""What an error means to the user."""


def passes(status: int) -> bool:
    """Whether an HTTP answer may be another one the next time."""
    return status >= _SERVER_ERRORS or status in _PASSING


def tried(call: Callable[[], T], faults: tuple[type[Exception], ...], named: Namer, done: Callable[[], int] = int) -> T:
    """Call until it works, after 1, 2, 4 ... seconds: a service that is overrun needs the time.

    Args:
        call: what is tried; it may go on where it stopped.
        faults: errors that `named` can explain; others pass through.
        named: explains an error.
        done: how much there is so far. While it grows, tries don't count.

    Raises:
        BuildError: the fault doesn't pass, or TRIES in a row brought nothing new.
    """
    failures, before = 0, done()
    while True:
        try:
            return call()
        except faults as error:
            fault = named(error)
            if done() > before:
                failures, before = 0, done()
            failures += 1
            if fault.code is not ExitCode.PASSING or failures == TRIES:
                raise fault from error
            progress.say("fetch", f"{fault.message} Trying again.")
            time.sleep(2 ** (failures - 1))


class Download:
    """One file of known size on its way."""

    def __init__(self, target: Path, size: int, count: Callable[[int], None]) -> None:
        self._file = target.open("xb")
        self._size = size
        self._count = count
        self._digest = hashlib.sha256()
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def done(self) -> int:
        """Bytes that arrived."""
        return self._done

    @property
    def sha256(self) -> str:
        """Digest of what arrived."""
        return self._digest.hexdigest()

    def go_on(self, open_at: Opener) -> None:
        """Take what is missing; after an error, call again.

        Raises:
            OSError: the file ended too early, or can't be written.
            BuildError: more bytes came than the source had named: whatever sends them might never stop.
        """
        if self._done < self._size or not self._size:
            with open_at(self._done) as blocks:
                for block in blocks:
                    self._take(block)
        if self._done < self._size:
            missing = f"{progress.size(self._done)} of {progress.size(self._size)} arrived"
            raise ConnectionResetError(errno.ECONNRESET, f"the transfer ended early: {missing}")
        self._file.flush()

    def _take(self, block: bytes) -> None:
        if self._done + len(block) > self._size:
            raise BuildError(
                "DownloadCorrupt",
                f"The source sends more than the {progress.size(self._size)} that it names for a file.",
                "It is tried again; if it persists, check the service or its proxy.",
                ExitCode.PASSING,
            )
        self._file.write(block)
        self._digest.update(block)
        self._done += len(block)
        self._count(len(block))


def skipped(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """The blocks without their first `count` bytes, of a server that starts over whatever it was asked."""
    for block in blocks:
        if count < len(block):
            yield block[count:]
        count = max(0, count - len(block))
