"""The format `tensorrt`: judges what the script in NVIDIA's image left. The step `compare` of a compile Job.

Reads what was found and what the engine answered, and believes neither: the key is taken again, types and shapes are
held against what was asked, and the answers go through the same comparison as those of every other format.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from bert_build import engine_plan, fidelity, progress
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.samples import Arrays
from bert_build.state import State
from bert_operator.api.base import Model
from bert_operator.api.report import EngineProfile, ExitCode, TensorSpec
from bert_operator.api.spec import Precision

_TYPES: Final = {"INT64": "<i8", "INT32": "<i4", "FP32": "<f4", "FP16": "<f2"}
_REPORT_IT: Final = "Please report this with the pod's log."
_LIKE_FP32: Final = 0.75
"""An engine whose size is at least this share of its FP32 weights holds FP32 weights."""
_SMALL: Final = 16 << 20
"""Below so many bytes of weights an engine's size says nothing: kernels take more."""


class Found(Model):
    """compiled.json: what the script found; see its `compile_engine`."""

    artifact_key: str
    compute_capability: str
    tensorrt_version: str
    gpu: str
    reused: bool
    seconds: float = 0.0
    plan_bytes: int = 0
    matmul_types: dict[str, int] = Field(default_factory=dict)
    layer_types: dict[str, int] = Field(default_factory=dict)
    inputs: list[TensorSpec] = Field(default_factory=list)
    outputs: list[TensorSpec] = Field(default_factory=list)
    profiles: list[EngineProfile] = Field(default_factory=list)
    timing_cache: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9._ -]*\.cache)?$")
    """Name of a file, not a way out of its folder: it is kept on the claim."""


def run(job: Job, state: State) -> State:
    """Hold the engine against what was asked, compare its answers, keep what was measured."""
    wish = json.loads((job.work / engine_plan.WISH_FILE).read_bytes())
    found = Found.model_validate_json((job.work / engine_plan.FOUND_FILE).read_bytes())
    _check_key(wish, found)
    known = {
        "artifact_key": found.artifact_key,
        "reused": found.reused,
        "compute_capability": found.compute_capability,
        "tensorrt_version": found.tensorrt_version,
    }
    if found.reused:
        progress.say("compare", f"tensorrt-{found.artifact_key} is in the store already")
        return state.model_copy(update=known)
    fault = precision_fault(job.request.build.precision, found, 4 * state.parameters) or shape_fault(wish, found)
    if fault:
        raise BuildError("EngineNotAsAsked", f"{fault} ({found.gpu}, TensorRT {found.tensorrt_version}).", _REPORT_IT)
    progress.say(
        "compare", f"{found.gpu}: {progress.size(found.plan_bytes)}, layers {found.layer_types or found.matmul_types}"
    )
    _keep_timing_cache(job, found.timing_cache)
    known |= {
        "profiles": found.profiles,
        "toolchain": {**state.toolchain, "tensorrt": found.tensorrt_version, "gpu": found.gpu},
        "durations": {**state.durations, "compile": found.seconds},
    }
    return fidelity.run(job, state.model_copy(update=known))


def precision_fault(precision: Precision, found: Found, fp32_bytes: int) -> str:
    """What says that the engine isn't in the precision that was asked for, or nothing.

    A build that quietly falls back to FP32 answers well, so no comparison would notice.
    """
    wanted = {Precision.FP32: "FP32", Precision.FP16: "FP16"}[precision]
    others = {name: count for name, count in found.matmul_types.items() if name != wanted}
    if others or not found.matmul_types:
        return f"The network's matrix products are {found.matmul_types or 'none'}, {precision.value} was asked for"
    if precision is Precision.FP16 and "FP16" not in found.layer_types:
        size = f"{found.plan_bytes} bytes, the model's fp32 weights {fp32_bytes}"
        if fp32_bytes >= _SMALL and found.plan_bytes >= _LIKE_FP32 * fp32_bytes:
            return f"The engine holds fp32: no layer of it is FP16 ({found.layer_types}) and it has {size}"
    return ""


def shape_fault(wish: dict[str, Any], found: Found) -> str:
    """What says that the engine doesn't take the shapes that were asked for, or nothing."""
    profiles = [EngineProfile.model_validate(one) for one in wish["profiles"]]
    if found.profiles != profiles:
        return f"The engine's profiles are {found.profiles}, asked for were {profiles}"
    if sorted(tensor.name for tensor in found.inputs) != sorted(wish["inputs"]):
        return f"The engine's inputs are {[tensor.name for tensor in found.inputs]}, the graph's {wish['inputs']}"
    unknown = [tensor for tensor in (*found.inputs, *found.outputs) if tensor.dtype not in _TYPES]
    return f"Tensor {unknown[0].name} of the engine is {unknown[0].dtype}" if unknown else ""


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
