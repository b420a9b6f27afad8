"""`bertctl` as a user runs it, in this process: what it printed and its exit code."""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from bert_operator.cli.__main__ import main


@dataclass(frozen=True, kw_only=True)
class Ran:
    code: int
    out: str
    err: str


def bertctl(*arguments: str | Path, stdin: str = "") -> Ran:
    """Run one command."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        mock.patch.object(sys, "argv", ["bertctl"]),
    ):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as left:  # argparse's way
            code = int(left.code or 0)
    return Ran(code=code, out=out.getvalue(), err=err.getvalue())
