"""The one folder that everything here is kept in: archives, test models, buildah's storage, downloads.

Every module asks it for its folder. Removing the folder loses time, nothing else.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Cache:
    """Paths below the cache folder; a folder is there once it has been asked for."""

    root: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Cache":
        """BERTOPS_CACHE, else bert-operator/ in the user's cache folder."""
        if chosen := environment.get("BERTOPS_CACHE"):
            return cls(Path(chosen).absolute())
        home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home(), ".cache")
        return cls(Path(home, "bert-operator").absolute())

    def folder(self, *parts: str) -> Path:
        """A folder below the root, made where it is missing."""
        path = self.root.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def lock(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Only one process at a time makes the thing called `name`; the others wait and then find it made.

        Those that share it go on side by side; what they keep out is `try_lock`.
        """
        with self._lock_file(name) as file:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield

    @contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        """Whether nobody else holds it, and nobody will while this is held."""
        with self._lock_file(name) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _lock_file(self, name: str) -> IO[str]:
        return Path(self.folder("locks"), f"{name}.lock").open("w")
