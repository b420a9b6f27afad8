"""Whom `bertctl predict` asks: which server, which model and version under which name, and what is known about it."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from bert_build.clients import CLIENTS
from bert_operator import pod_state
from bert_operator.api import names
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.report import BuildReport, ServedModel, ServedModels
from bert_operator.api.spec import BertDeploymentSpec, BertModel
from bert_operator.cli.cluster import Reader
from bert_operator.cli.forward import forwarded
from bert_operator.cli.terminal import FailureError
from bert_operator.objects.identity import Identity

_UNBOUNDED: Final = 1024
"""Rows asked at once where nobody says how many the server takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One model behind one address."""

    server: str
    """Kind of server."""
    address: str
    """`host:port`."""
    served: ServedModel
    report: BuildReport | None = None
    """What is known about its tensors; None if no cluster was asked."""


@contextmanager
def found(options: argparse.Namespace) -> Iterator[Target]:
    """The target that the command line names, reachable while the block runs.

    Raises:
        FailureError: it isn't there, isn't served, or isn't clear.
    """
    if options.server:
        yield _direct(options)
        return
    reader = Reader(namespace=options.namespace, context=options.context, kubeconfig=options.kubeconfig)
    bert = reader.bert(options.name)
    model = _model(_spec(bert), options.model)
    served, server = _served(reader, bert, model.name, _version(model, options))
    report = _report(reader, served.artifact)
    if options.address:
        yield Target(server=server, address=options.address, served=served, report=report)
        return
    port = int(CLIENTS[server][1].rpartition(":")[2])
    with forwarded(_ready_pod(reader, bert), port, reader.namespace, _access(options)) as address:
        yield Target(server=server, address=address, served=served, report=report)


def _direct(options: argparse.Namespace) -> Target:
    if not options.address:
        raise FailureError("--server says what answers at --address HOST:PORT: give that too, or leave --server out")
    if options.label:
        raise FailureError("--label needs the BertDeployment, which says what it stands for: leave --server out")
    served = ServedModel(
        name=options.model or options.name,
        version=options.version or 1,
        path="",
        artifact="",
        manifest_sha256="",
        max_batch_size=_UNBOUNDED,
    )
    return Target(server=options.server, address=options.address, served=served)


def _spec(bert: Mapping[str, Any]) -> BertDeploymentSpec:
    try:
        return BertDeploymentSpec.model_validate(bert.get("spec") or {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise FailureError(
            f"this bertctl can't read spec.{place}: {first['msg']}; use the operator's version"
        ) from error


def _model(spec: BertDeploymentSpec, name: str | None) -> BertModel:
    known = [model.name for model in spec.models]
    if name is None and len(known) > 1:
        raise FailureError(f"it serves several models: give --model with one of {', '.join(known)}")
    for model in spec.models:
        if model.name == (name or known[0]):
            return model
    raise FailureError(f"it has no model {name!r}: give --model with one of {', '.join(known)}")


def _version(model: BertModel, options: argparse.Namespace) -> int:
    if options.label:
        for version in model.versions:
            if options.label in version.labels:
                return version.version
        known = sorted({label for version in model.versions for label in version.labels})
        words = f"its labels are {', '.join(known)}" if known else "its versions have no labels"
        raise FailureError(f"model {model.name!r} has no label {options.label!r}: {words}")
    wanted = int(options.version or model.default)
    known_versions = [version.version for version in model.versions]
    if wanted not in known_versions:
        words = ", ".join(map(str, known_versions))
        raise FailureError(f"model {model.name!r} has no version {wanted}: give --version with one of {words}")
    return wanted


def _served(reader: Reader, bert: Mapping[str, Any], model: str, version: int) -> tuple[ServedModel, str]:
    """What the live Deployment serves it as: that, not the spec, is what answers. With the kind of server."""
    live = reader.get("Deployment", Identity.of(bert).child_name)
    served = _told(live) if live else None
    for each in served.models if served else ():
        if each.version == version and each.name in {model, f"{model}-v{version}"}:
            return each, served.server if served else ""
    name = bert["metadata"]["name"]
    raise FailureError(
        f"{model}/{version} isn't served yet; see what it waits for: bertctl status {name} -n {reader.namespace}"
    )


def _told(deployment: Mapping[str, Any]) -> ServedModels | None:
    """What its pods were told to serve."""
    for container in deployment["spec"]["template"]["spec"].get("initContainers") or ():
        for entry in container.get("env") or ():
            if entry["name"] == names.SERVED_ENV:
                return ServedModels.model_validate_json(entry["value"])
    return None


def _report(reader: Reader, artifact: str) -> BuildReport | None:
    live = reader.get(names.ARTIFACT_KIND, artifact)
    return BertArtifactSpec.model_validate(live["spec"]).report if live else None


def _ready_pod(reader: Reader, bert: Mapping[str, Any]) -> str:
    """A pod whose answers were verified."""
    selector = ",".join(f"{key}={value}" for key, value in Identity.of(bert).selector().items())
    for pod in reader.list("Pod", selector):
        if pod_state.ready(pod) and not pod["metadata"].get("deletionTimestamp"):
            return str(pod["metadata"]["name"])
    name = bert["metadata"]["name"]
    raise FailureError(f"no pod is ready; see why: bertctl status {name} -n {reader.namespace}")


def _access(options: argparse.Namespace) -> Sequence[str]:
    given = {"--kubeconfig": options.kubeconfig, "--context": options.context}
    return [word for flag, value in given.items() if value for word in (flag, value)]
