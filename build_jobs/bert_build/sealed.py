"""What the first step found out about the source, where no later step but `publish` can see it, let alone change it.

Every step writes to the scratch folder, and some of them run what users bring: a SavedModel is a program. What decides
under which key an artifact is published must not come from there. The first step, which reads and runs nothing, seals
it in a volume of its own; `publish` has that volume read-only, the steps between don't have it at all.
"""

from pathlib import Path
from typing import Final

import pydantic

from bert_build import formats
from bert_build.failures import REPORT_IT, BuildError
from bert_build.state import State
from bert_operator.api.report import BuildRequest, ExitCode

FILE: Final = "state.json"
_NAMED: Final = ("request_key", "revision", "weights_digest")
"""What every first step finds out."""
_NAMED_SOURCE: Final = ("files", "texts", "artifact_key", "toolchain", "reused")
"""What `fetch` finds out as well. The key of an engine is known once its GPU is: it is taken again."""


def seal(state: State, folder: Path) -> None:
    """Write down what the first step found out."""
    state.save(folder)


def check(found: State, request: BuildRequest, folder: Path) -> None:
    """Hold what the scratch folder says against what was sealed.

    Args:
        found: the state that the steps left.
        request: what the operator asked for; it comes in the environment, which no step can change.
        folder: where the first step sealed what it found out.

    Raises:
        BuildError: nothing was sealed, or something else.
    """
    try:
        known = State.model_validate_json((folder / FILE).read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        message = f"publish can't read what the first step sealed in {folder}: {error}"
        raise BuildError("InternalError", message, REPORT_IT, ExitCode.INTERNAL) from error
    compared = _NAMED if request.onnx else _NAMED + _NAMED_SOURCE
    changed = [name for name in compared if getattr(found, name) != getattr(known, name)]
    if request.onnx and found.artifact_key != _engine_key(found, request):
        changed.append("artifact_key")
    if changed:
        raise BuildError(
            "ScratchTampered",
            f"A step of this build changed what the first one had found out about the source ({', '.join(changed)}): "
            "nothing is published.",
            "The source holds code that does so: take it from somebody you trust.",
        )


def _engine_key(found: State, request: BuildRequest) -> str:
    if request.onnx is None:
        return ""
    from bert_build import engine_plan  # noqa: PLC0415 - with numpy, which publishing needs for nothing else

    toolchain = formats.toolchain(formats.recipe(request.build))
    material = engine_plan.key_material(request.build, request.onnx.artifact_key, toolchain)
    return engine_plan.artifact_key(material, found.compute_capability, found.tensorrt_version)
