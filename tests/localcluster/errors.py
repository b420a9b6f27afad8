"""The one error that a user of the command line sees as plain text, without a traceback."""

from pathlib import Path

_TAIL_LINES = 25


class ClusterError(Exception):
    """Something that the user can act on: the message says what happened and what to do next."""


def tail(log: Path) -> str:
    """The end of a log file, headed by its path, for an error message."""
    if not log.exists():
        return f"{log} was never written"
    lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join([f"the end of {log}:", *(f"  {line}" for line in lines)])
