"""`tensorflow_model_server` of the stand-in: the same flags, files, ports and order of start as the real one."""

import importlib
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from . import flags
from .errors import Code, ServingError

_FAILED: Final = 255


def main(arguments: Sequence[str]) -> int:
    """Serve until killed; the exit status where it can't."""
    print(
        f"STAND-IN for TF Serving, not the real server: tests only (TensorFlow {version('tensorflow-cpu')})", flush=True
    )
    # As process 1 the real server has no handler for SIGTERM and so never sees it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        chosen = flags.parse(arguments)
    except flags.UsageError as error:
        print(error)
        return _FAILED
    try:
        _check(chosen)
        # Only now: it imports TensorFlow, which takes seconds.
        importlib.import_module(".server", __package__).serve(chosen)
    except ServingError as error:
        print(f"Failed to start server. Error: {error.code.value}: {error}")
        return _FAILED
    return 0


def _check(chosen: flags.Flags) -> None:
    if chosen.texts["batching_parameters_file"] and not chosen.switches["enable_batching"]:
        message = "batching_parameters_file is set without setting enable_batching to true."
        raise ServingError(Code.INVALID_ARGUMENT, message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
