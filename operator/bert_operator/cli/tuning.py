"""`bertctl tuning report`: gathers what was measured and writes the page that `tuning_report` makes of it."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bert_operator.api import names
from bert_operator.cli import documents, tuning_report
from bert_operator.cli.cluster import Reader
from bert_operator.cli.terminal import Exit, FailureError, note, out

Manifest = Mapping[str, Any]


def run(options: argparse.Namespace) -> Exit:
    """Write the page."""
    bert, records = _from_file(options) if options.artifact else _from_cluster(options)
    tuning = _tuning(bert)
    if not tuning.get("artifact") or not tuning.get("measuredAt"):
        raise FailureError(
            f"nothing was measured for {options.name!r} yet: set spec.tuning.mode to Recommend and wait for the "
            f"profile Job; bertctl status {options.name} shows how far it is"
        )
    try:
        page = tuning_report.render(_measured_one(tuning, records), tuning)
    except ValueError as error:
        raise FailureError(str(error)) from error
    if options.output == "-":
        out(page)
        return Exit.OK
    try:
        Path(options.output).write_text(page, encoding="utf-8")
    except OSError as error:
        raise FailureError(f"-o {options.output}: can't be written: {error.strerror}") from error
    note(f"wrote {options.output}")
    return Exit.OK


def _from_file(options: argparse.Namespace) -> tuple[Manifest, list[Manifest]]:
    berts = documents.one_kind(options.artifact, names.KIND)
    bert = next((each for each in berts if (each.get("metadata") or {}).get("name") == options.name), None)
    if bert is None:
        raise FailureError(f"--artifact {options.artifact}: holds no BertDeployment {options.name!r}")
    return bert, list(documents.one_kind(options.artifact, names.ARTIFACT_KIND))


def _from_cluster(options: argparse.Namespace) -> tuple[Manifest, list[Manifest]]:
    reader = Reader(namespace=options.namespace, context=options.context, kubeconfig=options.kubeconfig)
    bert = reader.bert(options.name)
    name = str(_tuning(bert).get("artifact") or "")
    record = reader.get(names.ARTIFACT_KIND, name) if name else None
    return bert, [record] if record else []


def _tuning(bert: Manifest) -> Manifest:
    return (bert.get("status") or {}).get("tuning") or {}


def _measured_one(tuning: Manifest, records: Iterable[Manifest]) -> Manifest:
    """The record that holds the measured points."""
    for record in records:
        if record["metadata"]["name"] == tuning["artifact"]:
            return record
    raise FailureError(f"BertArtifact {tuning['artifact']!r}, which holds what was measured, isn't there")
