"""Entry point of `bertctl` and of `kubectl bert`; also `python -m bert_operator.cli`."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bert_operator.cli.parser import parser
from bert_operator.cli.terminal import Exit, FailureError, note


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        One of `Exit`; 130 after Ctrl-C, as shells have it.
    """
    options = parser(_called()).parse_args(arguments)
    try:
        return int(importlib.import_module(f"bert_operator.cli.{options.module}").run(options))
    except FailureError as error:
        note(f"error: {error}")
        return Exit.FAILED
    except BrokenPipeError:
        # `| head` has seen enough; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        return 130


def _called() -> str:
    """Kubectl runs a plugin by its file name and shows it as a command of its own."""
    return "kubectl bert" if Path(sys.argv[0]).name.startswith("kubectl-bert") else "bertctl"


if __name__ == "__main__":
    sys.exit(main())
