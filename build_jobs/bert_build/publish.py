"""Step `publish`: puts the artifact into the store and reports it to the operator. The last step."""

import os
from pathlib import Path
from typing import Final

from bert_build import formats, keys, progress, report_io
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.state import State
from bert_build.store import Store, plain_files
from bert_operator.api.report import BuildReport, BuildRequest, ExitCode, Manifest, ManifestFile, Provenance

_SOURCES: Final = ("huggingFace", "pvc", "s3", "onnx")
"""Members of a request that say where the model comes from."""


def run(job: Job, state: State) -> State:
    """Publish, or find that it is published, and report."""
    name = formats.recipe(job.request.build).name
    shelf = Store(job.store)
    published = not state.reused and shelf.publish(job.artifact, _manifest(job, state, name), _holder(job))
    manifest = shelf.reuse(name, state.artifact_key)
    if manifest is None:
        raise BuildError(
            "ArtifactVanished",
            f"Artifact {name}-{state.artifact_key} disappeared from the store while this build was using it.",
            "It is built again; check who deletes files from the claim.",
            ExitCode.PASSING,
        )
    report = manifest.report.model_copy(
        update={
            "manifest_sha256": shelf.manifest_sha256(name, state.artifact_key),
            "revision": state.revision,
            "reused": not published,
        }
    )
    report_io.write_report(report)
    progress.say("publish", f"{'published' if published else 'reused'} {name}-{state.artifact_key}")
    return state


def _manifest(job: Job, state: State, name: str) -> Manifest:
    found = listed(job.artifact)
    return Manifest(
        schema_version=1,
        report=_report(job, state, name, found),
        files=found,
        warnings=state.warnings,
        provenance=_provenance(job.request, state, name),
    )


def listed(folder: Path) -> dict[str, ManifestFile]:
    """Size of every file below a folder, by relative path. Its digest is taken when it is copied: it is read once.

    Raises:
        BuildError: it holds anything but plain files and folders.
    """
    return {name: ManifestFile(size=path.stat().st_size, sha256="") for name, path in plain_files(folder).items()}


def _provenance(request: BuildRequest, state: State, name: str) -> Provenance:
    """Where it comes from. Names of Secrets are left out: the claim is read by more people than the namespace."""
    asked = request.model_dump(mode="json", by_alias=True, exclude_none=True)
    sources: dict[str, dict[str, object]] = {kind: asked[kind] for kind in _SOURCES if kind in asked}
    return Provenance(
        source={
            kind: {field: value for field, value in source.items() if not field.endswith("SecretRef")}
            for kind, source in sources.items()
        },
        source_files={name: file.sha256 for name, file in sorted(state.files.items())},
        recipe=keys.recipe(request.build, name, state.texts),
        images=request.images,
    )


def _report(job: Job, state: State, name: str, found: dict[str, ManifestFile]) -> BuildReport:
    if state.fidelity is None:
        raise BuildError(
            "InternalError", "publish found no figures of compare.", "Please report this.", ExitCode.INTERNAL
        )
    build = job.request.build
    return BuildReport(
        format=name,
        artifact_key=state.artifact_key,
        manifest_sha256="",
        weights_digest=state.weights_digest,
        revision=state.revision,
        task=build.task.value,
        precision=state.lowering.achieved if state.lowering else build.precision.value,
        lowering=state.lowering,
        architecture=state.architecture,
        inputs=state.inputs,
        outputs=state.outputs,
        max_sequence_length=build.max_sequence_length,
        size_bytes=sum(file.size for file in found.values()),
        parameters=state.parameters,
        fidelity=state.fidelity,
        toolchain=state.toolchain,
        durations_seconds=state.durations,
        peak_memory_bytes=state.peak_memory_bytes,
        compute_capability=state.compute_capability,
        tensorrt_version=state.tensorrt_version,
        profiles=state.profiles,
    )


def _holder(job: Job) -> str:
    pod = os.environ.get("HOSTNAME", "")
    return f"{job.request.owner or 'a build'} ({pod})" if pod else job.request.owner or "a build"
