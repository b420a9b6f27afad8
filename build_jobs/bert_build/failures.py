"""How a step says why it stopped: raised anywhere in bert_build, written as BuildFailure by report_io."""

import errno
from typing import Final

from bert_operator.api.report import ExitCode

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""A write failed because nothing more fits, or nothing may be written at all."""
REPORT_IT: Final = "This is a defect of bert-operator: please report it with the pod's log."
"""What to do about what only a defect of ours explains."""


class BuildError(Exception):
    """A step can't go on, and knows why."""

    def __init__(self, reason: str, message: str, next_step: str = "", code: ExitCode = ExitCode.USER_ERROR) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.next_step = next_step
        self.code = code


class Stopped(BaseException):
    """SIGTERM arrived. No Exception: `except Exception` must not swallow it, `finally` must run."""


def from_os_error(error: OSError, step: str) -> BuildError:
    """Name an OSError that no step expected."""
    found = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
    if error.errno in FULL:
        return BuildError(
            "NoSpace",
            f"{step}: {found}",
            "Free space or enlarge the volume, then set a new value for the annotation bertops.dev/refresh.",
            ExitCode.NO_SPACE,
        )
    if error.errno in {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EAGAIN}:
        return BuildError("StorageFault", f"{step}: {found}", "It is tried again.", ExitCode.PASSING)
    return BuildError(
        "InternalError",
        f"{step}: {type(error).__name__}: {found}",
        "Please report this with the pod's log.",
        ExitCode.INTERNAL,
    )


def line(error: Exception) -> str:
    """The first line of what an error says, for a message."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]


def listing(names: list[str], limit: int = 12) -> str:
    """A short list for a message: names the first few, says how many more there are."""
    shown = ", ".join(sorted(names)[:limit]) or "nothing"
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
