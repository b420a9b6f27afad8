"""What a serving pod was told about its mounted artifacts. Called by preflight and verify; imports no numpy."""

import traceback
from collections.abc import Callable
from typing import Final

from bert_build import environment, report_io
from bert_build.failures import REPORT_IT, BuildError
from bert_operator.api import names
from bert_operator.api.report import ServedModel, ServedModels

FAILED: Final = 1
"""Exit code of both: the kubelet starts them again, the termination message says why."""


def read() -> ServedModels:
    """What the operator wrote into the container's environment.

    Raises:
        BuildError: it is missing or not one of ours.
    """
    return environment.read(ServedModels, names.SERVED_ENV)


def guarded(action: Callable[[], None]) -> int:
    """Run `action`; whatever goes wrong becomes a termination message and exit code, never a traceback for the user."""
    try:
        action()
    except BuildError as error:
        return _fail(error)
    except Exception as error:  # noqa: BLE001 - the last line of defence: the log has the traceback
        traceback.print_exc()
        return _fail(BuildError("InternalError", f"{type(error).__name__}: {error}", REPORT_IT))
    return 0


def rebuild_hint(owner: str) -> str:
    """The command that builds a BertDeployment's artifacts again."""
    namespace, _, name = owner.rpartition("/")
    where = f" -n {namespace}" if namespace else ""
    return f"kubectl annotate bertd/{name or '<name>'}{where} {names.REFRESH_ANNOTATION}=$(date +%s) --overwrite"


def title(model: ServedModel) -> str:
    """How messages call a mounted artifact."""
    return f"model {model.name} version {model.version} (artifact {model.artifact})"


def _fail(error: BuildError) -> int:
    report_io.write_failure(report_io.make_failure(error.reason, error.message, error.next_step))
    return FAILED
