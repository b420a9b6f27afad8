"""File locks, so that two commands at the same time wait for each other instead of tearing each other's work down.

The kernel drops a lock with the process that holds it: a killed command leaves none behind.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcluster.progress import step


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file at `path`; say so when another command holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            step(f"waiting for another command: {what}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
