"""Init container of every serving pod: refuses to start the server on artifacts that are missing or not the built ones.

Started by `python -m bert_build preflight`. The kubelet makes missing subPath folders, so an absent artifact looks
like an empty mount; and what is on a claim may have been changed by others. Reads only; needs neither torch nor numpy.
"""

import time
from pathlib import Path
from typing import Final

import pydantic

from bert_build import files, progress, served, store
from bert_build.failures import BuildError
from bert_operator.api import names
from bert_operator.api.report import BuildReport, Manifest, ManifestFile, ServedModel, ServedModels

_DRIVER: Final = Path("/proc/driver/nvidia/version")
"""Every container of a node with NVIDIA's driver sees it; it doesn't tell the compute capability."""


def main(_arguments: list[str]) -> int:
    """Check every mounted artifact; returns the exit code."""
    return served.guarded(_check_all)


def _check_all() -> None:
    asked = served.read()
    rebuild = served.rebuild_hint(asked.owner)
    for model in asked.models:
        began = time.monotonic()
        size = _check(model, asked, rebuild)
        seconds = time.monotonic() - began
        progress.say("preflight", f"{served.title(model)}: intact, {progress.size(size)} read in {seconds:.1f} s")


def _check(model: ServedModel, asked: ServedModels, rebuild: str) -> int:
    """Check one artifact; returns the bytes read."""
    folder = Path(model.path)
    manifest = _manifest(model, folder / names.MANIFEST_FILE, rebuild)
    _check_engine(model, manifest.report, asked, rebuild)
    for name, expected in sorted(manifest.files.items()):
        _check_file(model, folder / name, expected, rebuild)
    extra = sorted(set(store.others(folder)) - {*manifest.files, names.MANIFEST_FILE})
    if extra:
        # A server may prefer it to what was built: TensorFlow a saved_model.cpb to the saved_model.pb beside it.
        raise _corrupt(model, extra[0], "no such file", "one", rebuild)
    return sum(expected.size for expected in manifest.files.values())


def _manifest(model: ServedModel, path: Path, rebuild: str) -> Manifest:
    if not path.is_file():
        raise _missing(model, path.parent, rebuild)
    found = files.sha256_of(path)
    if found != model.manifest_sha256:
        raise _corrupt(model, names.MANIFEST_FILE, f"sha256 {model.manifest_sha256}", f"sha256 {found}", rebuild)
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise BuildError(
            "ArtifactUnreadable",
            f"{served.title(model)}: {names.MANIFEST_FILE} was written by another release of bert-operator: {problem}",
            f"Build it again with this release: {rebuild}",
        ) from error


def _check_engine(model: ServedModel, report: BuildReport, asked: ServedModels, rebuild: str) -> None:
    """Refuse an engine of another GPU or TensorRT before the server fails on it.

    This container sees neither: what is expected comes from the operator's settings, and is checked if they say it.
    Triton itself refuses the rest when it loads the engine.
    """
    where = {
        "compute capability": (report.compute_capability, asked.compute_capability),
        "TensorRT": (report.tensorrt_version, asked.tensorrt_version),
    }
    for what, (built, wanted) in where.items():
        if built and wanted and built != wanted:
            raise BuildError(
                "EngineForeign",
                f"{served.title(model)} was compiled for {what} {built}, this pod's is {wanted}: it can't be loaded.",
                f"Build it again: {rebuild}; or correct the hardware profile or the release in the operator's chart.",
            )
    if report.compute_capability and not _DRIVER.exists():
        progress.say(
            "preflight", f"{served.title(model)}: no NVIDIA driver can be seen from here, so its GPU is unknown"
        )


def _check_file(model: ServedModel, path: Path, expected: ManifestFile, rebuild: str) -> None:
    name = path.relative_to(model.path).as_posix()
    try:
        if path.is_symlink():
            raise _corrupt(model, name, f"{expected.size} bytes", "a link", rebuild)
        size = path.stat().st_size
        if size != expected.size:
            raise _corrupt(model, name, f"{expected.size} bytes", f"{size} bytes", rebuild)
        found = files.sha256_of(path)
    except OSError as error:
        raise _corrupt(model, name, f"{expected.size} bytes", f"{error.strerror}", rebuild) from error
    if found != expected.sha256:
        raise _corrupt(model, name, f"sha256 {expected.sha256}", f"sha256 {found}", rebuild)


def _missing(model: ServedModel, folder: Path, rebuild: str) -> BuildError:
    names_there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    found = f"there is only {', '.join(names_there[:5])}" if names_there else "the folder is empty"
    return BuildError(
        "ArtifactMissing",
        f"{served.title(model)} is not on the claim: no {names.MANIFEST_FILE} in {_claim_path(model)} (mounted at "
        f"{model.path}), {found}.",
        _next_step(model, rebuild),
    )


def _corrupt(model: ServedModel, name: str, expected: str, found: str, rebuild: str) -> BuildError:
    return BuildError(
        "ArtifactCorrupt",
        f"{served.title(model)} is not what was built: {_claim_path(model)}/{name} was published with {expected}, "
        f"found {found}.",
        _next_step(model, rebuild),
    )


def _next_step(model: ServedModel, rebuild: str) -> str:
    """A build publishes anew over what isn't whole."""
    return f"Build it again: {rebuild} (or delete the BertArtifact {model.artifact})."


def _claim_path(model: ServedModel) -> str:
    """Where the artifact lies on its claim: the BertArtifact's name without the claim's hash."""
    return f"{names.ARTIFACTS_FOLDER}/{model.artifact.rpartition('-')[0] or model.artifact}"
