"""The processes of a serving container as its node sees them: only from there can its first one be killed or frozen.

Containers of the end-to-end cluster run on this machine.
"""

import contextlib
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


def first(pod: dict[str, Any]) -> int:
    """Process number, on this machine, of the first process of a pod's server."""
    return next(number for number in _of(pod) if _inside(number) == 1)


def named(pod: dict[str, Any], word: str) -> list[int]:
    """Process numbers of a pod's server whose command line holds a word."""
    return [number for number in _of(pod) if word.encode() in _read(number, "cmdline")]


def begun(pod: dict[str, Any]) -> bool:
    """Whether a pod's server was started."""
    known = (status for status in pod["status"].get("containerStatuses") or () if status["name"] == "server")
    return any(status.get("containerID") and "running" in status["state"] for status in known)


def root(number: int) -> Path:
    """A process's root folder."""
    return _PROC / str(number) / "root"


def _of(pod: dict[str, Any]) -> list[int]:
    (server,) = (status for status in pod["status"]["containerStatuses"] if status["name"] == "server")
    container = server["containerID"].rpartition("/")[2].encode()
    numbers = (int(folder.name) for folder in _PROC.iterdir() if folder.name.isdigit())
    return [number for number in numbers if container in _read(number, "cgroup")]


def _inside(number: int) -> int:
    """A process's number as it knows it itself."""
    lines = _read(number, "status").decode().splitlines()
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), 0)


def _read(number: int, file: str) -> bytes:
    with contextlib.suppress(OSError):  # it may be gone by now
        return (_PROC / str(number) / file).read_bytes()
    return b""
