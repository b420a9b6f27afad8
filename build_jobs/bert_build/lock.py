"""A lock on the claim, for publishers on different nodes. Used by the store only.

The lock is a file that is made exclusively. Its holder touches it every few seconds; untouched for two minutes it is
dead and may be broken. All times are the file server's own (a fresh probe file tells them), so clocks of nodes may
differ. The store stays sound even if two publishers run at once: the lock saves work, the renames keep the promise.
"""

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from bert_build import progress
from bert_build.failures import BuildError
from bert_operator.api.report import ExitCode

STALE_SECONDS: Final = 120.0
_HEARTBEAT_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 600.0


def server_time(folder: Path) -> float:
    """What time it is for the file system that holds `folder`."""
    probe = folder / f".clock-{uuid.uuid4().hex}"
    try:
        with probe.open("xb") as file:
            # Not by its name: somebody may take it for a dead one's if we are slow.
            return os.fstat(file.fileno()).st_mtime
    finally:
        probe.unlink(missing_ok=True)


def touch(path: Path) -> None:
    """Say that something is in use, by the file server's clock: some clients would send it their own.

    Raises:
        OSError: it is gone, or can't be written.
    """
    try:
        now = server_time(path.parent)
    except OSError:  # a full disk has no room for the probe
        os.utime(path, follow_symlinks=False)
    else:
        os.utime(path, (now, now), follow_symlinks=False)


def age(path: Path, now: float) -> float | None:
    """Seconds since something was touched, None if it is gone."""
    try:
        return now - path.lstat().st_mtime
    except FileNotFoundError:
        return None


class Heartbeat:
    """Touches files as long as we live, so that others can tell."""

    def __init__(self, interval: float = _HEARTBEAT_SECONDS) -> None:
        self._interval = interval
        self._paths: list[Path] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def keep(self, path: Path) -> None:
        """Touch this one from now on."""
        self._paths.append(path)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            for path in tuple(self._paths):
                # Gone is fine: renamed because it is finished, or taken from us because we were slow.
                with contextlib.suppress(OSError):
                    touch(path)


@contextlib.contextmanager
def held(path: Path, holder: str, patience: float = _PATIENCE_SECONDS) -> Iterator[Heartbeat]:
    """Hold the lock while the block runs; yields the heartbeat for more paths to keep alive.

    Raises:
        BuildError: somebody else held it all the time.
    """
    token = json.dumps({"holder": holder, "id": uuid.uuid4().hex})
    _acquire(path, token, patience)
    try:
        with Heartbeat() as heartbeat:
            heartbeat.keep(path)
            yield heartbeat
    finally:
        # Not ours any more if we were slow and it was broken.
        if _read(path) == token:
            path.unlink(missing_ok=True)


def _acquire(path: Path, token: str, patience: float) -> None:
    deadline = time.monotonic() + patience
    said = False
    while not _try(path, token):
        found = _read(path)
        if not _break_if_dead(path, found):
            if time.monotonic() > deadline:
                raise BuildError(
                    "StoreBusy",
                    f"{_holder(found)} has been publishing the same artifact for {patience:.0f} s.",
                    "It is tried again.",
                    ExitCode.PASSING,
                )
            if not said:
                progress.say("publish", f"waiting for {_holder(found)}, which is publishing the same artifact")
                said = True
            time.sleep(_POLL_SECONDS)


def _try(path: Path, token: str) -> bool:
    """Make the lock file with its content at once: a half-written one would have no holder to compare."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(token)
        return _link(draft, path, token)
    finally:
        draft.unlink(missing_ok=True)


def _link(draft: Path, path: Path, token: str) -> bool:
    try:
        # Fails if the name is taken, like O_EXCL, but with content; safe on NFS.
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:
        # No hard links here (some FUSE and SMB volumes).
        return _create(path, token)
    return True


def _create(path: Path, token: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o664)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(token)
    return True


def _break_if_dead(path: Path, found: str) -> bool:
    """Put a dead holder's lock aside. True if it is worth trying again at once."""
    idle = age(path, server_time(path.parent))
    if idle is None:
        return True
    if idle < STALE_SECONDS:
        return False
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return True
    if _read(aside) != found:
        # Somebody was faster and this is their new, living lock: give it back.
        with contextlib.suppress(OSError):
            os.link(aside, path)
    else:
        progress.say("publish", f"the lock of {_holder(found)} was untouched for {idle:.0f} s: broken")
    aside.unlink(missing_ok=True)
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _holder(token: str) -> str:
    try:
        return str(json.loads(token)["holder"])
    except (ValueError, LookupError, TypeError):
        return "somebody"
