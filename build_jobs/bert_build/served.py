"""What a serving pod was told about its mounted artifacts. Called by preflight and verify; imports no numpy."""

import os
import traceback
from collections.abc import Callable
from typing import Final

import pydantic

from bert_build import report_io
from bert_build.failures import BuildError
from bert_operator.api import names
from bert_operator.api.report import ServedModel, ServedModels

FAILED: Final = 1
"""Exit code of both: the kubelet starts them again, the termination message says why."""
_REPORT_IT: Final = "This is a defect of bert-operator: please report it with the pod's log."


def read() -> ServedModels:
    """What the operator wrote into the container's environment.

    Raises:
        BuildError: it is missing or not one of ours.
    """
    text = os.environ.get(names.SERVED_ENV)
    if text is None:
        raise BuildError("InternalError", f"{names.SERVED_ENV} is not set", _REPORT_IT)
    try:
        return ServedModels.model_validate_json(text)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        raise BuildError("InternalError", f"{names.SERVED_ENV} is not ours: {found}", _REPORT_IT) from error


def guarded(action: Callable[[], None]) -> int:
    """Run `action`; whatever goes wrong becomes a termination message and exit code, never a traceback for the user."""
    try:
        action()
    except BuildError as error:
        return _fail(error)
    except Exception as error:  # noqa: BLE001 - the last line of defence: the log has the traceback
        traceback.print_exc()
        return _fail(BuildError("InternalError", f"{type(error).__name__}: {error}", _REPORT_IT))
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
