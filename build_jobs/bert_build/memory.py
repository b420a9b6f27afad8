"""How much memory this container may use, and has used. Called by inspect and at the end of every step."""

import resource
from pathlib import Path
from typing import Final

_UNLIMITED: Final = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2^63."""


def limit(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """The container's memory limit in bytes, None if there is none. Understands cgroup v1 and v2."""
    found = [value for folder in folders(root, membership) if (value := _read(folder)) is not None]
    return min(found, default=None)


def peak() -> int:
    """The most memory this process has held at once, in bytes."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        status = ""
    for line in status.splitlines():
        # Unlike ru_maxrss, VmHWM starts anew at exec: what started us doesn't count.
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def folders(root: Path, membership: Path, controller: str = "memory") -> list[Path]:
    """Our cgroup's folder and those above it: the tightest limit counts."""
    found: list[Path] = []
    for line in lines(membership):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root if not controllers else root / controller
        own = top / path.lstrip("/")
        found += [own, *(parent for parent in own.parents if parent.is_relative_to(top))]
    return found or [root, root / controller]


def _read(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        for line in lines(folder / name):
            if line.isdigit() and int(line) < _UNLIMITED:
                return int(line)
    return None


def lines(path: Path) -> list[str]:
    """Of a small file; none if it can't be read."""
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
