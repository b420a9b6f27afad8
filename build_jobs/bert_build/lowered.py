"""The INT8 ladder: static, else dynamic, else the FP32 artifact; the first that passes. Called by fidelity."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import onnxruntime

from bert_build import int8, progress
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.judge import TooFarError
from bert_build.recorded import Recording
from bert_build.samples import Arrays
from bert_operator.api import names
from bert_operator.api.report import Lowering
from bert_operator.api.spec import OnFailure, Precision

_LONGEST: Final = 128
"""Tokens of the longest text that is timed."""
_TIMED: Final = 6
"""Texts that are timed."""
_PASSES: Final = 4
_WHY: Final = 240
_MOST: Final = 0.95
"""Of FP32's size: an artifact that is hardly smaller was hardly quantised."""

Judged = TypeVar("Judged")


def choose(job: Job, recording: Recording, gate: Callable[[Path, Precision], Judged]) -> tuple[Judged, Lowering]:
    """Leave in the job's artifact folder what answers well enough with the fewest bits.

    Args:
        job: its artifact folder holds the FP32 graph.
        recording: texts to judge by, and others to calibrate with.
        gate: judges the artifact of a folder by the limits of a precision; raises TooFarError.

    Raises:
        BuildError: nothing passes that the spec allows.
    """
    full = _unquantised(job, gate)
    refused: list[str] = []
    for method, make in _ladder(job.artifact / names.ONNX_FILE, recording).items():
        folder = job.work / f"int8-{method}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        progress.say("compare", f"quantising: {method} int8")
        make(folder / names.ONNX_FILE)
        if (ratio := _size(folder) / _size(job.artifact)) > _MOST:
            refused.append(f"{method} int8: {ratio:.0%} of fp32's size, too few of its weights are in plain products")
            progress.say("compare", f"{refused[-1]}: refused")
            shutil.rmtree(folder)
            continue
        try:
            found = gate(folder, Precision.INT8)
        except TooFarError as error:
            progress.say("compare", f"{method} int8 is refused: {error.found}")
            refused.append(f"{method} int8: {error.found}")
            shutil.rmtree(folder)
            continue
        return found, _taken(job, folder, method, recording, "; ".join(refused))
    if job.request.build.fidelity.on_failure is OnFailure.FAIL:
        raise _nothing_passes(refused)
    return full, Lowering(asked=Precision.INT8, achieved=Precision.FP32, why=cut("; ".join(refused)))


def _unquantised(job: Job, gate: Callable[[Path, Precision], Judged]) -> Judged:
    """Wide limits would hide a broken conversion: it is judged by FP32's own before anything is quantised."""
    try:
        return gate(job.artifact, Precision.FP32)
    except TooFarError as error:
        raise BuildError(
            error.reason,
            f"{error.message} That is before anything was quantised, where fp32's own limits hold.",
            "Please report it with the model's name; if such a difference is fine for your use, write "
            "build.precision: fp32, for which build.fidelity's limits hold.",
        ) from error


def _size(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir())


def _ladder(source: Path, recording: Recording) -> dict[str, Callable[[Path], None]]:
    def static(target: Path) -> None:
        int8.static(source, target, int8.ranges(source, [sample.inputs for sample in recording.calibration]))

    return {"static": static, "dynamic": lambda target: int8.dynamic(source, target)}


def _taken(job: Job, folder: Path, method: str, recording: Recording, why: str) -> Lowering:
    """Put the quantised graph in the FP32 one's place, measured against it."""
    texts = [one.sample.inputs for one in recording.texts if one.sample.real.shape[1] <= _LONGEST][-_TIMED:]
    before, after = (_seconds(where / names.ONNX_FILE, texts) for where in (job.artifact, folder))
    ratio = _size(folder) / _size(job.artifact)
    shutil.rmtree(job.artifact)
    folder.rename(job.artifact)
    lowering = Lowering(
        asked=Precision.INT8,
        achieved=Precision.INT8,
        method=method,
        size_ratio=round(ratio, 3),
        speed_ratio=round(before / after, 2),
        why=cut(why),
    )
    progress.say(
        "compare",
        f"{method} int8: {lowering.size_ratio:.0%} of the size, {lowering.speed_ratio} times the speed of fp32 (one "
        f"core, {len(texts)} texts one by one: {after * 1e3:.1f} ms, fp32 {before * 1e3:.1f} ms)",
    )
    return lowering


def _seconds(model: Path, texts: Sequence[Arrays]) -> float:
    """CPU time of one core for all texts, one by one: the best of some passes.

    Other programs on the node take time from the clock, but hardly from this thread's own. One graph at a time is in
    memory.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    wanted = [entry.name for entry in session.get_inputs()]
    passes = []
    for _ in range(_PASSES):
        began = time.thread_time()
        for text in texts:
            session.run(None, {name: text[name] for name in wanted})
        passes.append(time.thread_time() - began)
    return min(passes)


def cut(why: str) -> str:
    """As many words as a report takes."""
    return why if len(why) <= _WHY else f"{why[: _WHY - 1]}…"


def _nothing_passes(refused: list[str]) -> BuildError:
    return BuildError(
        "FidelityExceeded",
        f"The model can't be quantised well enough: {'; '.join(refused)}.",
        "Write build.precision: fp32, or build.fidelity.onFailure: Fallback, which does that by itself; or loosen "
        "build.fidelity.minCosine, maxAbsDifference or minAgreement.",
    )
