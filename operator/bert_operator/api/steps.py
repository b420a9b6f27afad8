"""The containers of build Jobs, in order, and the toolchain that each runs in. Shared by the operator and its Jobs."""

from enum import StrEnum
from typing import Final

from bert_operator.api.spec import Build, Format, Framework

EXPORT_STEPS: Final = ("fetch", "inspect", "answer", "convert", "compare", "publish")
"""Of the Job that turns a source model into an artifact; the last one is the main container and reports."""


class Toolchain(StrEnum):
    """What a build container finds installed: one image each, because PyTorch and TensorFlow never meet."""

    PYTORCH = "pytorch"
    TENSORFLOW = "tensorflow"


def toolchain(step: str, build: Build) -> Toolchain:
    """What a step runs in: `answer` asks the source model, all others handle the artifact.

    Args:
        step: one of EXPORT_STEPS.
        build: what is built; its format is never `auto`.
    """
    tensorflow = Framework.TENSORFLOW
    if step == "answer":
        return Toolchain.TENSORFLOW if build.framework is tensorflow else Toolchain.PYTORCH
    made_by_tensorflow = build.format is Format.SAVEDMODEL or build.framework is tensorflow
    return Toolchain.TENSORFLOW if made_by_tensorflow else Toolchain.PYTORCH
