"""`python -m bert_build <step>`: what the containers of build Jobs and serving pods run.

Imports nothing beyond the standard library before it knows the step: preflight and verify run in the small image, and a
step with nothing to do must not pay for what it would have used.
"""

import argparse
import gc
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Final

from bert_build import processors

JOB_STEPS: Final = ("fetch", "inspect", "answer", "convert", "compare", "publish", "stage")
COMMANDS: Final = {
    "preflight": "bert_build.preflight",
    "verify": "bert_build.verify",
    "store": "bert_build.maintain",
    "reference": "bert_build.reference",
    "profile": "bert_build.profile",
}
"""Each holds `main(arguments) -> exit code`."""
_GARBAGE: Final = 100_000
"""New objects after which garbage is looked for."""


def main(arguments: list[str]) -> int:
    """Run one step; returns the exit code."""
    if arguments and arguments[0] in COMMANDS:
        # Loaded by name: preflight and verify belong to another image than PyTorch.
        return int(importlib.import_module(COMMANDS[arguments[0]]).main(arguments[1:]))
    parser = argparse.ArgumentParser("bert_build", description="One step of building or serving a model.")
    parser.add_argument("step", choices=(*JOB_STEPS, *COMMANDS))
    parser.add_argument("--work", type=Path, default=Path("/work"), help="scratch space that the steps share")
    parser.add_argument("--source", type=Path, default=Path("/source"), help="mount of a PVC source")
    parser.add_argument("--store", type=Path, default=Path("/store"), help="mount of the artifact store's claim")
    parser.add_argument("--sealed", type=Path, default=Path("/sealed"), help="only the first and the last step see it")
    options = parser.parse_args(arguments)
    if options.step not in ("fetch", "publish") and _reused(options.work):
        sys.stdout.write(f"[{options.step}] nothing to do: the artifact is in the store already\n")
        return 0
    processors.one_thread_each()
    # What is imported stays, and is looked through again and again otherwise: a tenth of a step's start.
    gc.set_threshold(_GARBAGE)
    job = importlib.import_module("bert_build.job")
    return int(job.run(options.step, options.work, options.source, options.store, options.sealed))


def _reused(work: Path) -> bool:
    """Whether fetch found the artifact published, read without the models: they take longer to import than this."""
    try:
        state = json.loads((work / "state.json").read_bytes())
        request = json.loads(os.environ["BERTOPS_BUILD_REQUEST"])
        return state["reused"] is True and state["requestKey"] == request["requestKey"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
