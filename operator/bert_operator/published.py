"""A published artifact that a BertDeployment names as its source, held against what the spec asks for. Pure.

`builds` calls it. The artifact was proved against its own source when it was built; it is served as it is, so what it
is must be what the spec says: nothing of the spec could change it.
"""

from typing import Final

from bert_operator.api import spec as api
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.observed import Manifest
from bert_operator.api.report import BuildReport
from bert_operator.case import Case, find
from bert_operator.objects import artifact
from bert_operator.pod_state import Problem

_DEVICES: Final = {"cpu": "CPUs", "cuda": "GPUs"}


def of_source(
    case: Case, source: api.ArtifactSource, build: api.Build, *, batch: int, compiled: bool
) -> BertArtifactSpec | Problem:
    """The record of the named artifact, or why it can't be served or compiled.

    Args:
        case: with the records on the claims that the spec names.
        source: names it.
        build: what the artifact must be; its format is never `auto`.
        batch: the largest batch that is served.
        compiled: whether it isn't served itself, but an engine that is compiled from it.
    """
    live = find(case.observed.artifacts, source.name)
    claim = case.store_claim
    if live is None or claim is None or live["spec"]["claimUid"] != claim["metadata"]["uid"]:
        return _problem(
            "SourceNotFound",
            f"source.artifact names {source.name!r}, and there is no such BertArtifact on the store's claim "
            f"{case.store_claim_name!r} in namespace {case.identity.namespace}",
            f"name one of `kubectl get bertartifacts -n {case.identity.namespace}` with that claim, or write "
            f"storage.claimName: the claim it is on{_known(case, claim)}",
        )
    spec = artifact.read(live)
    if spec is None:
        message = f"BertArtifact {source.name!r} was written by another release and can't be read"
        return _problem("SourceUnreadable", message, "build the model again: name where its weights come from")
    fault = _mismatch(source.name, spec, build, compiled=compiled) or _too_small(source.name, spec, batch)
    return fault or _foreign(case, source.name, spec) or spec


def compiles(case: Case, source: api.ArtifactSource, build: api.Build) -> bool:
    """Whether an engine is asked for and the named artifact is the ONNX model that it is compiled from."""
    live = find(case.observed.artifacts, source.name)
    spec = artifact.read(live) if live else None
    return build.format is api.Format.TENSORRT and spec is not None and spec.report.format == api.Format.ONNX


def _mismatch(name: str, spec: BertArtifactSpec, build: api.Build, *, compiled: bool) -> Problem | None:
    report = spec.report
    if compiled and report.precision != build.precision.value:
        # The spec's own precision is the engine's.
        return _problem(
            "SourceMismatch",
            f"BertArtifact {name!r} has precision {report.precision}, and an engine is compiled from an "
            f"{build.precision.value} ONNX artifact",
            "name another one",
        )
    # One that fell back to another precision is what the wish for the first one makes.
    fell_back = report.lowering is not None and report.lowering.asked == build.precision.value
    wished = {
        "task": (build.task.value, report.task),
        "format": (build.format.value, report.format),
        "precision": (build.precision.value, build.precision.value if fell_back else _writable(report)),
    }
    for field, (asked, found) in wished.items():
        if asked != found:
            return _problem(
                "SourceMismatch",
                f"BertArtifact {name!r} has {field} {found}, but the spec asks for {asked}",
                f"write build.{field}: {found}, or name another artifact",
            )
    if build.max_sequence_length > report.max_sequence_length:
        return _problem(
            "SourceMismatch",
            f"BertArtifact {name!r} takes {report.max_sequence_length} tokens, but build.maxSequenceLength is "
            f"{build.max_sequence_length}",
            f"write build.maxSequenceLength: {report.max_sequence_length} or less, or name another artifact",
        )
    return None


def _writable(report: BuildReport) -> str:
    """The precision as a spec can say it: `mixed` is what engines fall back to, nobody asks for it."""
    known = {one.value for one in api.Precision}
    return report.precision if report.precision in known or not report.lowering else report.lowering.asked


def _too_small(name: str, spec: BertArtifactSpec, batch: int) -> Problem | None:
    """Why an engine can't be served: its profiles end at a batch, whatever build.maxBatchSize says."""
    largest = min((profile.max[0] for profile in spec.report.profiles), default=batch)
    if batch <= largest:
        return None
    return _problem(
        "SourceMismatch",
        f"BertArtifact {name!r} is an engine for batches of up to {largest}, but serving.maxBatchSize is {batch}",
        f"write serving.maxBatchSize: {largest} or less, or name an engine that was built with build.maxBatchSize: "
        f"{batch}, or the ONNX artifact",
    )


def _foreign(case: Case, name: str, spec: BertArtifactSpec) -> Problem | None:
    """Why an engine or a trace can't be loaded here, as far as the installation's settings say what is here."""
    report, hardware = spec.report, case.spec.hardware.profile
    if report.format == api.Format.TORCHSCRIPT:
        found, here = report.toolchain.get("device", "cpu"), "cuda" if case.profile.resource_name else "cpu"
        if found != here:
            return _problem(
                "SourceMismatch",
                f"BertArtifact {name!r} was traced on {_DEVICES[found]}, and runs on no other kind of device, but "
                f"hardware profile {hardware!r} has {_DEVICES[here]}",
                "name a hardware.profile of that kind, or where the weights come from: it is traced again",
            )
    found, here = report.compute_capability, case.profile.compute_capability
    if found and here and found != here:
        return _problem(
            "SourceMismatch",
            f"BertArtifact {name!r} was compiled for GPUs of compute capability {found}, but those of hardware profile "
            f"{hardware!r} have {here}",
            f"name a hardware.profile whose GPUs have {found}, an engine for {here}, or the ONNX artifact",
        )
    release = case.spec.server.release or case.settings.triton.default_release
    known = case.settings.triton.releases.get(release)
    found, here = report.tensorrt_version, known.tensorrt_version if known else ""
    if found and here and found != here:
        return _problem(
            "SourceMismatch",
            f"BertArtifact {name!r} was compiled for TensorRT {found}, but release {release!r} brings {here}",
            f"name a server.release that brings {found}, an engine for {here}, or the ONNX artifact",
        )
    return None


def _known(case: Case, claim: Manifest | None) -> str:
    """Names on the store's claim, for a message."""
    uid = claim["metadata"]["uid"] if claim else ""
    names = sorted(live["metadata"]["name"] for live in case.observed.artifacts if live["spec"]["claimUid"] == uid)
    return f"; on this one: {', '.join(names[:5])}" if names else ""


def _problem(reason: str, message: str, next_step: str) -> Problem:
    return Problem(reason=reason, message=f"{message}; next: {next_step}", container="fetch")
