"""Writes the one JSON that Kubernetes carries from a pod to the operator. Every step ends here; reads nothing.

Kubernetes cuts termination messages at 4,096 bytes: what is written here always stays below MAX_REPORT_BYTES.
"""

import os
from pathlib import Path
from typing import Final

from bert_build import progress
from bert_operator.api.maintenance import StoreReport
from bert_operator.api.measurement import ProfileReport
from bert_operator.api.report import MAX_REPORT_BYTES, BuildFailure, BuildReport

LOG_ENV: Final = "BERTOPS_TERMINATION_LOG"
DEFAULT_LOG: Final = "/dev/termination-log"


def termination_log() -> Path:
    """Where Kubernetes reads the container's last words."""
    return Path(os.environ.get(LOG_ENV, DEFAULT_LOG))


def write_failure(failure: BuildFailure) -> None:
    """Say why this container stops."""
    _write(_fitting(failure))
    progress.complain(f"{failure.reason}: {failure.message} {failure.next_step}".rstrip())


def make_failure(reason: str, message: str, next_step: str = "") -> BuildFailure:
    """A BuildFailure from texts of any length."""
    return BuildFailure(reason=reason, message=_cut(message, 1500), next_step=_cut(next_step, 800))


def write_report(report: BuildReport) -> None:
    """Say that the artifact is published.

    Raises:
        ValueError: the report is too long to be carried; a defect, as every part of it is bounded.
    """
    _carry(report.model_dump_json(by_alias=True))


def write_profile(report: ProfileReport) -> None:
    """Say what was measured.

    Raises:
        ValueError: the report is too long to be carried; a defect, as every part of it is bounded.
    """
    _carry(report.model_dump_json(by_alias=True, exclude_none=True))


def write_store_report(report: StoreReport) -> None:
    """Say what was collected.

    Raises:
        ValueError: the report is too long to be carried; a defect, as every part of it is bounded.
    """
    _carry(report.model_dump_json(by_alias=True))


def _carry(text: str) -> None:
    if len(text.encode()) > MAX_REPORT_BYTES:
        raise ValueError(f"the report has {len(text.encode())} bytes, at most {MAX_REPORT_BYTES} can be carried")
    _write(text)


def _write(text: str) -> None:
    path = termination_log()
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        # Not fatal: the exit code still says the kind of failure, and the log has the text.
        progress.complain(f"{path} can't be written ({error.strerror}): {text}")


def _fitting(failure: BuildFailure) -> str:
    text = failure.model_dump_json(by_alias=True)
    while len(text.encode()) > MAX_REPORT_BYTES:
        # A letter takes up to six bytes of JSON, so texts within their limits of letters may be too long together.
        longer = "message" if len(failure.message) >= len(failure.next_step) else "next_step"
        value: str = getattr(failure, longer)
        failure = failure.model_copy(update={longer: _cut(value, len(value) * 3 // 4)})
        text = failure.model_dump_json(by_alias=True)
    return text


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(0, limit - 1)] + "…"
