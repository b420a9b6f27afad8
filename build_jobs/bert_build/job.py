"""Runs one step of a build Job: reads the request and the state, turns what goes wrong into one message and exit code.

Called by __main__. Knows the steps by name only.
"""

import dataclasses
import importlib
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pydantic

from bert_build import environment, failures, memory, progress, report_io, sealed, state
from bert_build.failures import REPORT_IT, BuildError, Stopped
from bert_operator.api import names, steps
from bert_operator.api.report import BuildRequest, ExitCode

MODULES: Final = {
    "fetch": "bert_build.fetch",
    "inspect": "bert_build.inspect_model",
    "answer": "bert_build.answer",
    "convert": "bert_build.convert",
    "compare": "bert_build.fidelity",
    "publish": "bert_build.publish",
}
"""Each holds `run(job, state) -> state`. Imported only when it runs: most steps need no PyTorch."""
COMPILE_MODULES: Final = {
    "stage": "bert_build.stage",
    "compare": "bert_build.engine",
    "publish": "bert_build.publish",
}
"""The same for the Job that compiles an engine; its other steps run in NVIDIA's image."""
FIRST_STEPS: Final = ("fetch", "stage")
"""They find no state of an earlier step, and seal what they find out; see sealed.py."""
LAST_STEP: Final = "publish"
"""It believes the seal only."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What every step is told."""

    request: BuildRequest
    work: Path = Path(names.WORK_MOUNT)
    source: Path = Path(names.SOURCE_MOUNT)
    store: Path = Path(names.STORE_MOUNT)
    sealed: Path = Path(names.SEALED_MOUNT)
    credentials: Path = Path(names.CREDENTIALS_MOUNT)
    """Keys of the source's Secret, a file each; only fetch sees them."""
    texts: Path = Path(names.TEXTS_MOUNT)
    """Texts of the user's, a folder for each role; only fetch sees them."""
    rung: str = ""
    """Precision that this container is for, of those that an engine may fall back to; empty for all others."""

    @property
    def model(self) -> Path:
        """Folder of the source model, the same for every kind of source."""
        return self.work / "source"

    @property
    def artifact(self) -> Path:
        """Folder in which the artifact grows before it is published."""
        return self.work / "artifact"


def run(step: str, work: Path, source: Path, store: Path, sealed_by_first: Path) -> int:
    """Run one step; returns the exit code of the container."""
    signal.signal(signal.SIGTERM, stop)
    return guarded(
        step,
        lambda: _run(
            step, Job(environment.read(BuildRequest, names.BUILD_REQUEST_ENV), work, source, store, sealed_by_first)
        ),
    )


def guarded(step: str, action: Callable[[], None]) -> int:
    """Run `action`; whatever goes wrong becomes a BuildFailure and an exit code, never a traceback for the user."""
    try:
        action()
    except BuildError as error:
        return _fail(error)
    except Stopped:
        message = f"The build was stopped (SIGTERM) in step {step}."
        return _fail(BuildError("BuildStopped", message, "It is tried again.", ExitCode.PASSING))
    except MemoryError:
        message = f"Step {step} ran out of memory."
        return _fail(BuildError("OutOfMemory", message, "Raise builds.resources.limits.memory."))
    except OSError as error:
        traceback.print_exc()
        return _fail(failures.from_os_error(error, step))
    except Exception as error:  # noqa: BLE001 - the last line of defence: the user gets one line, the log the traceback
        traceback.print_exc()
        first = str(error).strip().splitlines()[:1]
        message = f"Step {step} failed unexpectedly: {type(error).__name__}: {first[0] if first else 'no message'}"
        return _fail(BuildError("InternalError", message, REPORT_IT, ExitCode.INTERNAL))
    return ExitCode.OK


def _run(step: str, job: Job) -> None:
    first = step in FIRST_STEPS
    before = state.State(request_key=job.request.request_key) if first else _state_before(step, job)
    modules = MODULES if job.request.onnx is None else COMPILE_MODULES
    job = dataclasses.replace(job, rung=step.removeprefix(steps.plain(step)).removeprefix("-"))
    began = time.monotonic()
    after = importlib.import_module(modules[steps.plain(step)]).run(job, before)
    if job.rung and after is before:
        progress.say(step, "nothing to do")
        return
    seconds = round(time.monotonic() - began, 2)
    after = after.model_copy(
        update={
            "durations": {**after.durations, step: seconds},
            "peak_memory_bytes": max(after.peak_memory_bytes, memory.peak()),
        }
    )
    after.save(job.work)
    if first:
        sealed.seal(after, job.sealed)
    progress.say(step, f"done in {seconds:.1f} s, at most {progress.size(memory.peak())} of memory")


def _state_before(step: str, job: Job) -> state.State:
    try:
        before = state.load(job.work)
    except (OSError, pydantic.ValidationError) as error:
        message = f"Step {step} found no state of an earlier step in {job.work}"
        raise BuildError("InternalError", message, REPORT_IT, ExitCode.INTERNAL) from error
    if before.request_key != job.request.request_key:
        message = f"Step {step} found the state of request {before.request_key}, not of {job.request.request_key}"
        raise BuildError("InternalError", message, REPORT_IT, ExitCode.INTERNAL)
    if step == LAST_STEP:
        sealed.check(before, job.request, job.sealed)
    return before


def _fail(error: BuildError) -> int:
    report_io.write_failure(report_io.make_failure(error.reason, error.message, error.next_step))
    return error.code


def stop(_signal: int, _frame: object) -> None:
    """Turn SIGTERM into Stopped, once."""
    # A second SIGTERM would interrupt the clean-up of the first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped
