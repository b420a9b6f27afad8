"""The graph of an engine in each precision, proved on this CPU before a GPU is used. Called by stage and engine.

An engine falls back from precision to precision (api.steps.ladder) until one is close enough to the source model.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bert_build import engine_plan, fidelity, figures, half_precision, int8, onnx_session, progress
from bert_build.failures import BuildError
from bert_build.half_precision import BF16, FP16, OutOfRangeError, Wish
from bert_build.job import Job
from bert_build.judge import TooFarError
from bert_build.recorded import Recording
from bert_operator.api import names, steps
from bert_operator.api.spec import Build, Precision

_EMULATED: Final = "emulated"
"""Folder in the work folder: the same graph as a CPU can compute it, rounding included."""
_HALVES: Final = {Precision.FP16.value: FP16, Precision.BF16.value: BF16}


class RefusedError(Exception):
    """A precision that isn't offered to this model: why, in a few words."""


def judged_by(build: Build, rung: str) -> figures.Limits:
    """The limits of a precision: the spec's for the one that it names; nothing finer is judged more loosely."""
    if rung == build.precision.value:
        return figures.limits(build.fidelity, build.precision)
    return figures.narrower(build.fidelity, Precision.FP16 if rung == steps.MIXED else Precision(rung))


def stage(job: Job, onnx: Path, recording: Recording, candidates: Sequence[str]) -> tuple[str, list[str]]:
    """Write the graph of the first precision that this CPU finds close enough.

    Args:
        job: its work folder gets the graph.
        onnx: folder of the FP32 artifact.
        recording: texts to judge by, and others to calibrate with.
        candidates: precisions, the wished one first.

    Returns:
        The precision, and those before it that were refused, each with why.

    Raises:
        BuildError: none is close enough.
    """
    refused: list[str] = []
    for rung in candidates:
        try:
            _write(job, rung, onnx, recording)
        except (RefusedError, TooFarError) as error:
            why = error.found if isinstance(error, TooFarError) else str(error)
            if len(candidates) == 1:
                raise _refusal(rung, error) from error
            refused.append(f"{rung}: {why}")
            progress.say("stage", f"{rung} is refused: {why}")
            continue
        return rung, refused
    raise none_is_close(refused)


def settle(work: Path, **changes: Any) -> None:  # noqa: ANN401 - JSON
    """Change what the script is told."""
    path = work / engine_plan.WISH_FILE
    wish = json.loads(path.read_bytes())
    path.write_text(json.dumps(wish | changes, indent=1), encoding="utf-8")


def none_is_close(refused: Sequence[str]) -> BuildError:
    """What to raise where everything was refused that the spec allows."""
    return BuildError(
        "FidelityExceeded",
        f"No engine is close enough to the source model: {'; '.join(refused)}.",
        "Loosen build.fidelity.minCosine, maxAbsDifference or minAgreement if such a difference is fine for your use; "
        "else write build.format: onnx, and report it with the model's name.",
    )


def _refusal(rung: str, error: RefusedError | TooFarError) -> BuildError:
    """The one precision that the spec allows doesn't do."""
    if isinstance(error, TooFarError):
        return error
    advice = "Write build.precision: fp32, or build.fidelity.onFailure: Fallback, which finds what the model bears."
    return BuildError("PrecisionOverflow", f"The model can't be held in {rung}: {error}.", advice)


def _write(job: Job, rung: str, onnx: Path, recording: Recording) -> None:
    """Write the graph in one precision.

    Raises:
        RefusedError: the model's numbers don't fit.
        TooFarError: its answers are too far from the source model's.
    """
    target = (job.work / engine_plan.GRAPH_FILE).parent
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    if rung == Precision.FP32.value:
        for path in onnx.glob(f"{names.ONNX_FILE}*"):
            shutil.copyfile(path, target / path.name)
        return
    emulated = job.work / _EMULATED
    shutil.rmtree(emulated, ignore_errors=True)
    emulated.mkdir()
    try:
        _cast(rung, onnx / names.ONNX_FILE, target, emulated, recording)
        session = onnx_session.open_session(emulated, literal=True)
        limits = judged_by(job.request.build, rung)
        found = fidelity.compare(job.request.build, recording, session, "stage", limits=limits)
    finally:
        shutil.rmtree(emulated)
    progress.say(
        "stage",
        f"in {rung}, emulated on this CPU: max |Δ| {found.max_abs_difference:.1e}, cosine ≥ {found.min_cosine:.6f}, "
        f"products {half_precision.products(target / names.ONNX_FILE)}",
    )


def _cast(rung: str, source: Path, target: Path, emulated: Path, recording: Recording) -> None:
    """Write the graph for TensorRT and the one for this CPU."""
    wish = Wish(_HALVES.get(rung, FP16))
    if rung == steps.MIXED:
        wish = half_precision.mixed(source, [one.sample.inputs for one in recording.texts])
    if rung == Precision.INT8.value:
        source = _quantised(source, emulated, recording)
    try:
        half_precision.cast(source, emulated / names.ONNX_FILE, wish, emulated=True)
        half_precision.cast(source, target / names.ONNX_FILE, wish)
    except OutOfRangeError as error:
        raise RefusedError(str(error)) from error
    if rung == steps.MIXED and "FP16" not in half_precision.products(target / names.ONNX_FILE):
        raise RefusedError("no matrix product's numbers fit FP16")


def _quantised(source: Path, folder: Path, recording: Recording) -> Path:
    """The graph with Q/DQ nodes around the products that bear eight bits."""
    if not recording.calibration:
        raise BuildError(
            "NothingToCalibrate",
            f"The ONNX artifact holds no {names.TEXTS_FILE}, from which the ranges of INT8 are taken: an earlier "
            "release of bert-operator built it.",
            f"Build it again: set a new value for the annotation {names.REFRESH_ANNOTATION}; if source.artifact names "
            "it, name another ONNX artifact, or where the weights come from.",
        )
    progress.say("stage", f"quantising: ranges from {len(recording.calibration)} texts")
    requests = [sample.inputs for sample in recording.calibration]
    known = int8.ranges(source, requests, int8.TENSORRT)
    if not known:
        raise RefusedError("no matrix product bears eight bits")
    quantised = folder / f"quantised-{names.ONNX_FILE}"
    int8.static(source, quantised, known, int8.TENSORRT)
    return quantised
