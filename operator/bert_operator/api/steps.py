"""The containers of build Jobs, in order, and the toolchain that each runs in. Shared by the operator and its Jobs."""

from enum import StrEnum
from typing import Final

from bert_operator.api.spec import Build, Format, Framework, OnFailure, Precision

EXPORT_STEPS: Final = ("fetch", "inspect", "answer", "convert", "compare", "publish")
"""Of the Job that turns a source model into an artifact; the last one is the main container and reports."""
COMPILE_STEPS: Final = ("stage", "compile", "answer", "compare", "publish")
"""Of the Job that turns a published ONNX artifact into a TensorRT engine: `compile` and `answer` run on the GPU."""
MIXED: Final = "mixed"
"""A precision that engines fall back to: matrix products in FP16 where their numbers fit, everything else in FP32."""
BF16_FROM: Final = 8.0
"""Compute capability of the first GPUs that compute in BF16."""
_FINER: Final = {
    Precision.INT8: (Precision.FP16.value, MIXED, Precision.FP32.value),
    Precision.BF16: (Precision.FP16.value, MIXED, Precision.FP32.value),
    Precision.FP16: (MIXED, Precision.FP32.value),
    Precision.FP32: (),
}
"""What an engine falls back to, the next first. FP16 is finer than BF16, though it ends sooner."""


class Toolchain(StrEnum):
    """What a build container finds installed: one image each, because PyTorch and TensorFlow never meet."""

    PYTORCH = "pytorch"
    TENSORFLOW = "tensorflow"
    PYTORCH_GPU = "pytorch-gpu"
    """PyTorch for GPUs, and all that is ours: a trace of TorchScript runs only on the kind of device it was made on."""
    TENSORRT = "tensorrt"
    """NVIDIA's image of the server's release: Python and TensorRT, nothing of ours."""


class StoreAccess(StrEnum):
    """What a build container may do with the artifact store."""

    NONE = "none"
    READ = "read"
    WRITE = "write"


def ladder(build: Build) -> tuple[str, ...]:
    """Precisions that an engine may get, the wished one first: whichever is close enough first is published."""
    finer = _FINER[build.precision] if build.fidelity.on_failure is OnFailure.FALLBACK else ()
    return (build.precision.value, *finer)


def job_steps(build: Build) -> tuple[str, ...]:
    """The containers of the Job that makes such an artifact; its format is never `auto`.

    A Job that compiles has two more for each precision that it may fall back to: `compile-fp16`, which asks the engine
    as well, and `compare-fp16`. They do nothing unless it comes to that.
    """
    if build.format is not Format.TENSORRT:
        return EXPORT_STEPS
    further = (f"{step}-{rung}" for rung in ladder(build)[1:] for step in ("compile", "compare"))
    return (*COMPILE_STEPS[:-1], *further, COMPILE_STEPS[-1])


def plain(step: str) -> str:
    """What a container does, whichever precision it is for: `compile` of `compile-fp16`."""
    return step.partition("-")[0]


def store_access(step: str, build: Build) -> StoreAccess:
    """What a step needs of the store. Those that run a source have none of it: a TensorFlow source is a program.

    Args:
        step: one of `job_steps(build)`.
        build: what is built; its format is never `auto`.
    """
    # After a compilation `compare` keeps what TensorRT measured beside the artifacts.
    if step == "publish" or (plain(step) == "compare" and build.format is Format.TENSORRT):
        return StoreAccess.WRITE
    return StoreAccess.READ if step in ("fetch", "inspect", "stage") else StoreAccess.NONE


def on_gpu(step: str, trace_device: str | None) -> bool:
    """Whether a step of a Job that isn't TensorRT's holds a GPU.

    Args:
        step: one of `EXPORT_STEPS`.
        trace_device: of the Job's BuildRequest.
    """
    return trace_device is not None and step in ("convert", "compare")


def toolchain(step: str, build: Build, trace_device: str | None = None) -> Toolchain:
    """What a step runs in: `answer` asks the source model, all others handle the artifact.

    Args:
        step: one of `job_steps(build)`.
        build: what is built; its format is never `auto`.
        trace_device: of the Job's BuildRequest.
    """
    if trace_device is not None and step != "answer":
        return Toolchain.PYTORCH_GPU
    if build.format is Format.TENSORRT:
        return Toolchain.TENSORRT if plain(step) in ("compile", "answer") else Toolchain.PYTORCH
    tensorflow = Framework.TENSORFLOW
    if step == "answer":
        return Toolchain.TENSORFLOW if build.framework is tensorflow else Toolchain.PYTORCH
    made_by_tensorflow = build.format is Format.SAVEDMODEL or build.framework is tensorflow
    return Toolchain.TENSORFLOW if made_by_tensorflow else Toolchain.PYTORCH
