"""What every command says, and how: text to standard output, notes and errors to standard error."""

import json
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit codes of `bertctl`, the same for all commands."""

    OK = 0
    FAILED = 1
    """Something was refused, is not there, or could not be done; standard error says what and what to do."""
    USAGE = 2
    """The command line was wrong."""


class FailureError(Exception):
    """A command can't do what was asked; the text says why and what to do instead."""


def out(text: str) -> None:
    """The result, for a person or for a pipe."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def out_json(value: Any) -> None:  # noqa: ANN401 - any JSON
    """The result, for a machine: one JSON value."""
    out(json.dumps(value, indent=2, ensure_ascii=False))


def note(text: str) -> None:
    """Something to know that isn't the result."""
    sys.stderr.write(text.rstrip("\n") + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Columns as wide as their content, as kubectl prints them; the last one is as long as it likes."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head) - 1)]
    return "\n".join(
        indent
        + "   ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )
