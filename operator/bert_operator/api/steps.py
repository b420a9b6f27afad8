"""The containers of build Jobs, in order, and the toolchain that each runs in. Shared by the operator and its Jobs."""

from enum import StrEnum
from typing import Final

from bert_operator.api.spec import Build, Format, Framework

EXPORT_STEPS: Final = ("fetch", "inspect", "answer", "convert", "compare", "publish")
"""Of the Job that turns a source model into an artifact; the last one is the main container and reports."""
COMPILE_STEPS: Final = ("stage", "compile", "answer", "compare", "publish")
"""Of the Job that turns a published ONNX artifact into a TensorRT engine: `compile` and `answer` run on the GPU."""


class Toolchain(StrEnum):
    """What a build container finds installed: one image each, because PyTorch and TensorFlow never meet."""

    PYTORCH = "pytorch"
    TENSORFLOW = "tensorflow"
    TENSORRT = "tensorrt"
    """NVIDIA's image of the server's release: Python and TensorRT, nothing of ours."""


class StoreAccess(StrEnum):
    """What a build container may do with the artifact store."""

    NONE = "none"
    READ = "read"
    WRITE = "write"


def job_steps(build: Build) -> tuple[str, ...]:
    """The containers of the Job that makes such an artifact; its format is never `auto`."""
    return COMPILE_STEPS if build.format is Format.TENSORRT else EXPORT_STEPS


def store_access(step: str, build: Build) -> StoreAccess:
    """What a step needs of the store. Those that run a source have none of it: a TensorFlow source is a program.

    Args:
        step: one of `job_steps(build)`.
        build: what is built; its format is never `auto`.
    """
    # After a compilation `compare` keeps what TensorRT measured beside the artifacts.
    if step == "publish" or (step == "compare" and build.format is Format.TENSORRT):
        return StoreAccess.WRITE
    return StoreAccess.READ if step in ("fetch", "inspect", "stage") else StoreAccess.NONE


def toolchain(step: str, build: Build) -> Toolchain:
    """What a step runs in: `answer` asks the source model, all others handle the artifact.

    Args:
        step: one of `job_steps(build)`.
        build: what is built; its format is never `auto`.
    """
    if build.format is Format.TENSORRT:
        return Toolchain.TENSORRT if step in ("compile", "answer") else Toolchain.PYTORCH
    tensorflow = Framework.TENSORFLOW
    if step == "answer":
        return Toolchain.TENSORFLOW if build.framework is tensorflow else Toolchain.PYTORCH
    made_by_tensorflow = build.format is Format.SAVEDMODEL or build.framework is tensorflow
    return Toolchain.TENSORFLOW if made_by_tensorflow else Toolchain.PYTORCH
