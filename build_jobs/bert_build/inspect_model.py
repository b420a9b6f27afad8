"""Step `inspect`: refuses what can't be built before anything expensive happens. Reads headers, runs no model."""

from pathlib import Path
from typing import Final

from bert_build import (
    bert_layout,
    config_checks,
    files,
    formats,
    memory,
    progress,
    safetensors_header,
    samples,
    selection,
    sentence,
    tasks,
)
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.state import State
from bert_build.store import read_only_store
from bert_operator.api.spec import Framework, Task

BYTES_PER_PARAMETER: Final = 4
"""fp32."""
_BASE_MEMORY: Final = 450 << 20
"""What PyTorch, transformers and ONNX Runtime take before any weight is loaded, or TensorFlow; measured."""


def run(job: Job, state: State) -> State:
    """Check configuration, weights, memory and space."""
    if job.request.store_read_only:
        # Fetch has not found it there.
        raise read_only_store()
    build = job.request.build
    config = config_checks.read(job.model, build)
    progress.say("inspect", f"{config.architecture}: {config.num_hidden_layers} layers, {config.hidden_size} wide")
    parameters = _parameters(job, state, config)
    _check_pooling(job)
    _check_mask(job, config)
    progress.say("inspect", f"{parameters / 1e6:.1f} million parameters for {build.task}")
    size = parameters * BYTES_PER_PARAMETER
    _check_memory(estimated_memory(size, formats.recipe(build)), size, memory.limit())
    files.require_space(job.work, size, "The artifact", store=False)
    files.require_space(job.store, size, "The artifact", store=True)
    return state.model_copy(update={"architecture": config.architecture, "parameters": parameters})


def estimated_memory(weights_bytes: int, recipe: formats.Recipe) -> int:
    """The least memory with which a build of this size gets through."""
    return int(_BASE_MEMORY + recipe.copies * weights_bytes)


def _check_pooling(job: Job) -> None:
    """Say what a feature extractor's sentences become.

    Raises:
        BuildError: a file that tells is damaged.
    """
    if job.request.build.task is not Task.FEATURE_EXTRACTION or job.request.build.framework is not Framework.PYTORCH:
        return
    found, why = sentence.pooling(job.model)
    if found is not None:
        told = f"{' and '.join(found.modes)}{', normalized' if found.normalize else ''}"
        progress.say("inspect", f"{tasks.EMBEDDING}: {told}, as {sentence.MODULES} says")
    elif why:
        progress.say("inspect", f"warning: no {tasks.EMBEDDING} is built: {why}")


def _check_mask(job: Job, config: config_checks.Config) -> None:
    """Refuse a task fill-mask whose mask token nobody knows.

    Raises:
        BuildError: the source has no tokenizer that names it.
    """
    if config.task is Task.FILL_MASK:
        samples.mask_token(job.model, config)


def _parameters(job: Job, state: State, config: config_checks.Config) -> int:
    """How many the source has, once it is known that it holds what the task needs."""
    build = job.request.build
    if build.framework is Framework.TENSORFLOW:
        from bert_build import tensorflow_source  # noqa: PLC0415 - needs TensorFlow, which checkpoints don't

        return tensorflow_source.check(job.model, build.task)
    return bert_layout.check(_tensors(job, state), config, build.task)


def _tensors(job: Job, state: State) -> dict[str, safetensors_header.Tensor]:
    found: dict[str, safetensors_header.Tensor] = {}
    for name, file in state.files.items():
        if file.kind == "weights" and not name.endswith(selection.INDEX):
            found |= _read(job.model / name, name)
    return found


def _read(path: Path, name: str) -> dict[str, safetensors_header.Tensor]:
    if name.endswith(".safetensors"):
        return safetensors_header.read(path, name)
    from bert_build import pickled  # noqa: PLC0415 - needs PyTorch, which safetensors files don't

    return pickled.read(path, name)


def _check_memory(needed: int, weights_bytes: int, limit: int | None) -> None:
    if limit is not None and limit < needed:
        raise BuildError(
            "MemoryTooSmall",
            f"The build container may use {progress.size(limit)}; a model with {progress.size(weights_bytes)} of fp32 "
            f"weights needs about {progress.size(needed)}.",
            f"Set builds.resources.limits.memory to at least {-(-needed // (256 << 20)) * 256}Mi.",
        )
