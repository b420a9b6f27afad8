"""Reads what the operator or bertctl wrote into a container's environment. Every program of ours begins with it."""

import os
from typing import TypeVar

import pydantic

from bert_build.failures import REPORT_IT, BuildError
from bert_operator.api.report import ExitCode

Told = TypeVar("Told", bound=pydantic.BaseModel)


def read(kind: type[Told], variable: str, next_step: str = REPORT_IT) -> Told:
    """The JSON in a variable.

    Args:
        kind: what it must be.
        variable: its name.
        next_step: what helps if it isn't.

    Raises:
        BuildError: it is missing or not one of ours.
    """
    text = os.environ.get(variable)
    if text is None:
        raise BuildError("InternalError", f"{variable} is not set", next_step, ExitCode.INTERNAL)
    try:
        return kind.model_validate_json(text)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        message = f"{variable} is not a {kind.__name__}: {found}"
        raise BuildError("InternalError", message, next_step, ExitCode.INTERNAL) from error
