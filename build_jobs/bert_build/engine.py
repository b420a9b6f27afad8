"""The format `tensorrt`: judges what the script in NVIDIA's image left. The steps `compare…` of a compile Job.

Reads what was found and what the engine answered, and believes neither: the key is taken again, types and shapes are
held against what was asked, and the answers go through the same comparison as those of every other format. An engine
that isn't close enough is dropped for the next finer precision, if the spec allows: its graph is staged for the
containers that follow.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from bert_build import engine_plan, fidelity, golden_answers, lowered, progress, recorded, rungs
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.judge import TooFarError
from bert_build.samples import Arrays
from bert_build.state import State
from bert_build.store import Store
from bert_operator.api import names, steps
from bert_operator.api.base import Model
from bert_operator.api.report import EngineProfile, ExitCode, Lowering, TensorSpec
from bert_operator.api.spec import Build, Precision

_TYPES: Final = {"INT64": "<i8", "INT32": "<i4", "FP32": "<f4", "FP16": "<f2"}
_REPORT_IT: Final = "Please report this with the pod's log."
_SMALL: Final = 16 << 20
"""Below so many bytes of weights an engine's size says nothing: kernels take more."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """By what an engine shows that it is in a precision."""

    products: tuple[str, ...]
    """Types that the network's matrix products may have."""
    layers: str
    """Type that some layer of the engine must have."""
    growth: float = float("inf")
    """Where layers tell nothing: how many times as large as its graph an engine may be. Wider weights take more."""


MARKS: Final = {
    "fp32": Mark(("FP32",), "FP32"),
    "fp16": Mark(("FP16",), "FP16", 1.5),
    "bf16": Mark(("BF16",), "BF16", 1.5),
    steps.MIXED: Mark(("FP16", "FP32"), "FP16"),
    # Those between Q/DQ nodes are FP32 by name, and those of attention are FP16.
    "int8": Mark(("FP16", "FP32"), "INT8", 1.15),
}


class Found(Model):
    """compiled.json: what the script found; see its `compile_engine`."""

    artifact_key: str
    compute_capability: str
    tensorrt_version: str
    gpu: str
    reused: bool
    seconds: float = 0.0
    plan_bytes: int = 0
    failed: str = ""
    """What TensorRT said that it can't compile; then the next precision is tried."""
    graph_bytes: int = 0
    quantize_layers: int = 0
    matmul_types: dict[str, int] = Field(default_factory=dict)
    layer_types: dict[str, int] = Field(default_factory=dict)
    gemm_types: dict[str, int] = Field(default_factory=dict)
    inputs: list[TensorSpec] = Field(default_factory=list)
    outputs: list[TensorSpec] = Field(default_factory=list)
    profiles: list[EngineProfile] = Field(default_factory=list)
    timing_cache: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._ -]*\.cache)?$")
    """Name of a file, not a way out of its folder: it is kept on the claim."""


def run(job: Job, state: State) -> State:
    """Hold the engine against what was asked and compare its answers; keep it, or stage the next precision."""
    wish = json.loads((job.work / engine_plan.WISH_FILE).read_bytes())
    if job.rung and (wish["settled"] or wish["precision"] != job.rung):
        return state
    found = Found.model_validate_json((job.work / engine_plan.FOUND_FILE).read_bytes())
    _check_key(wish, found)
    known = {
        "artifact_key": found.artifact_key,
        "reused": found.reused,
        "compute_capability": found.compute_capability,
        "tensorrt_version": found.tensorrt_version,
    }
    if found.reused:
        rungs.settle(job.work, settled=True)
        progress.say("compare", f"tensorrt-{found.artifact_key} is in the store already")
        return state.model_copy(update=known)
    _keep_timing_cache(job, found.timing_cache)
    try:
        judged = _judged(job, wish, found)
    except RefusedError as error:
        return _fall_back(job, state, wish["precision"], error)
    rungs.settle(job.work, settled=True)
    step = f"compile-{job.rung}" if job.rung else "compile"
    known |= judged | {
        "profiles": found.profiles,
        "toolchain": {**state.toolchain, "tensorrt": found.tensorrt_version, "gpu": found.gpu},
        "durations": {**state.durations, step: found.seconds},
        "lowering": _lowering(job.request.build, wish["precision"], state.refused),
    }
    return state.model_copy(update=known)


class RefusedError(Exception):
    """An engine that isn't what was asked for, or not close enough; `error` is what to raise where nothing follows."""

    def __init__(self, why: str, error: BuildError) -> None:
        super().__init__(why)
        self.error = error


def _judged(job: Job, wish: dict[str, Any], found: Found) -> dict[str, Any]:
    """What is known of an engine that is as it was asked for and close enough.

    Raises:
        RefusedError: it isn't, which another precision may change.
        BuildError: its shapes or types are wrong, which none would change.
    """
    where = f"({found.gpu}, TensorRT {found.tensorrt_version})"
    if found.failed:
        advice = "See the pod's log; a GPU with more free memory or a smaller build.maxBatchSize may help."
        raise RefusedError(found.failed, BuildError("CompileFailed", f"{found.failed} {where}.", advice))
    if fault := shape_fault(wish, found):
        raise BuildError("EngineNotAsAsked", f"{fault} {where}.", _REPORT_IT)
    if fault := precision_fault(wish["precision"], found):
        raise RefusedError(fault, BuildError("EngineNotAsAsked", f"{fault} {where}.", _REPORT_IT))
    progress.say(
        "compare", f"{found.gpu}: {progress.size(found.plan_bytes)}, layers {found.layer_types or found.matmul_types}"
    )
    build = job.request.build
    recording = recorded.load(job.work / recorded.FILE)
    golden = golden_answers.read(job.work / names.GOLDEN_FILE)
    session = open_session(job.artifact)
    limits = rungs.judged_by(build, wish["precision"])
    try:
        close = fidelity.compare(build, recording, session, golden=golden, limits=limits)
    except TooFarError as error:
        raise RefusedError(error.found, error) from error
    shutil.copyfile(job.work / names.GOLDEN_FILE, job.artifact / names.GOLDEN_FILE)
    return {"fidelity": close, "inputs": session.inputs, "outputs": session.outputs}


def _fall_back(job: Job, state: State, rung: str, refusal: RefusedError) -> State:
    """Stage the next precision that this CPU finds close enough.

    Raises:
        BuildError: there is none, or the spec allows none.
    """
    build, onnx = job.request.build, job.request.onnx
    order = steps.ladder(build)
    following = order[order.index(rung) + 1 :]
    refused = [*state.refused, f"{rung}: {refusal}"]
    progress.say("compare", f"{rung} is refused: {refusal}")
    if not following or onnx is None:
        raise refusal.error if len(refused) == 1 else rungs.none_is_close(refused)
    folder = Store(job.store).path("onnx", onnx.artifact_key)
    chosen, also = rungs.stage(job, folder, recorded.load(job.work / recorded.FILE), following)
    rungs.settle(job.work, **engine_plan.attempt(build, chosen))
    shutil.rmtree(job.artifact, ignore_errors=True)
    job.artifact.mkdir()
    progress.say("compare", f"falls back to {chosen}")
    return state.model_copy(update={"refused": [*refused, *also]})


def _lowering(build: Build, rung: str, refused: list[str]) -> Lowering | None:
    """What the status says where it isn't the precision that was asked for."""
    if rung == build.precision.value:
        return None
    return Lowering(asked=build.precision.value, achieved=rung, why=lowered.cut("; ".join(refused)))


def precision_fault(rung: str, found: Found) -> str:
    """What says that the engine isn't in the precision that was asked for, or nothing.

    A build that quietly falls back to FP32 answers well, so no comparison would notice.
    """
    mark = MARKS[rung]
    others = {name: count for name, count in found.matmul_types.items() if name not in mark.products}
    if others or not found.matmul_types or (rung == steps.MIXED and "FP16" not in found.matmul_types):
        return f"The network's matrix products are {found.matmul_types or 'none'}, {rung} was asked for"
    if rung == Precision.INT8.value and not found.quantize_layers:
        return "The network holds no quantised value, int8 was asked for"
    if rung == Precision.INT8.value and found.gemm_types and "INT8" not in found.gemm_types:
        return f"The engine's matrix products take {found.gemm_types}, int8 was asked for"
    if mark.layers in found.layer_types or found.graph_bytes < _SMALL:
        return ""
    if found.layer_types and rung == steps.MIXED:
        return f"No layer of the engine is FP16 ({found.layer_types}), mixed was asked for"
    if found.plan_bytes > mark.growth * found.graph_bytes:
        size = f"{found.plan_bytes} bytes, its graph {found.graph_bytes}"
        return f"The engine isn't {rung}: no layer of it is {mark.layers} ({found.layer_types}) and it has {size}"
    return ""


def shape_fault(wish: dict[str, Any], found: Found) -> str:
    """What says that the engine doesn't take the shapes that were asked for, or nothing."""
    profiles = [EngineProfile.model_validate(one) for one in wish["profiles"]]
    if found.profiles != profiles:
        return f"The engine's profiles are {found.profiles}, asked for were {profiles}"
    if sorted(tensor.name for tensor in found.inputs) != sorted(wish["inputs"]):
        return f"The engine's inputs are {[tensor.name for tensor in found.inputs]}, the graph's {wish['inputs']}"
    for tensor in (*found.inputs, *found.outputs):
        if tensor.dtype not in _TYPES or tensor.dtype != wish["tensors"].get(tensor.name):
            graph = wish["tensors"].get(tensor.name, "of another name")
            return f"Tensor {tensor.name} of the engine is {tensor.dtype}, the graph's is {graph}"
    return ""


class Session:
    """The engine's answers as they were recorded on the GPU, given in the order in which they were asked."""

    def __init__(self, work: Path) -> None:
        found = Found.model_validate_json((work / engine_plan.FOUND_FILE).read_bytes())
        self.inputs, self.outputs = found.inputs, found.outputs
        self._work = work
        self._answers = iter(json.loads((work / engine_plan.ANSWERS_FILE).read_bytes()))

    def answer(self, request: Arrays) -> Arrays:
        """The recorded answer to the next request."""
        del request
        listed: dict[str, Any] = next(self._answers, {})
        return {
            name: np.frombuffer((self._work / one["file"]).read_bytes(), dtype=_TYPES[one["dtype"]]).reshape(
                one["shape"]
            )
            for name, one in listed.items()
        }


def open_session(folder: Path) -> Session:
    """The answers of the engine in an artifact folder, which lies in the Job's work folder."""
    return Session(folder.parent)


def _check_key(wish: dict[str, Any], found: Found) -> None:
    key = engine_plan.artifact_key(wish["key_material"], found.compute_capability, found.tensorrt_version)
    if key != found.artifact_key:
        message = f"The script names the engine {found.artifact_key}, it is {key}."
        raise BuildError("InternalError", message, _REPORT_IT, ExitCode.INTERNAL)


def _keep_timing_cache(job: Job, name: str) -> None:
    """Beside the artifacts, for the next build on such a GPU. Nobody needs it, so nothing fails without it."""
    source = job.work / engine_plan.CACHES_FOLDER / name
    if not name or source.is_symlink() or not source.is_file():
        return
    folder = job.store / engine_plan.CACHES_FOLDER
    temporary = folder / f".{name}.{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        shutil.copyfile(source, temporary)
        temporary.rename(folder / name)
    except OSError as error:
        progress.complain(f"the timing cache can't be kept: {error}")
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
