"""Starts TF Serving's stand-in as a fork of a process that has imported TensorFlow: that takes seconds each time.

The fork server of `multiprocessing` imports what is PRELOADED and makes no thread; each stand-in is its own process.
"""

import os
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from support.tfserving_standin import __main__ as standin

PRELOADED: Final = ("support.tfserving_standin.server", __name__)


def start(arguments: Sequence[str], log: Path) -> BaseProcess:
    """Start `tensorflow_model_server <arguments>`; all that it says goes to a file."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=_run, args=(arguments, log))
    process.start()
    return process


def _run(arguments: Sequence[str], log: Path) -> None:
    with log.open("wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.exit(standin.main(arguments))
