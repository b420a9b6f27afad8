"""How much CPU, memory and time a TorchServe pod needs, from its spec and artifacts. `torchserve` asks.

Measured on the real TorchServe 0.12 with PyTorch 2.6 on a CPU (tests/torchserve measures again). Each instance is a
process with its own copy of the model.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any, Final

from bert_operator.api import quantities, spec
from bert_operator.servers import sizing
from bert_operator.servers.base import ServedVersion

REQUEST_SECONDS: Final = 120
"""A request that takes longer is given up and its worker replaced; `verify` waits as long."""

_JAVA_BYTES: Final = 160 * quantities.MEBIBYTE
"""Java beside its heap: code, threads, buffers (130 MiB measured, with what it used of the heap)."""
_HEAP_BYTES: Final = 128 * quantities.MEBIBYTE
_PASSES: Final = 4
"""How many requests and answers of full size the heap must hold at once, for each instance."""
_INSTANCE_BYTES: Final = 224 * quantities.MEBIBYTE
"""Python, PyTorch and the tokenizer of one instance (150 MiB measured)."""
_MODEL_FACTOR: Final = 1.5
"""Weights (1.05 measured, at the peak of loading too)."""
_ACTIVATION_FACTOR: Final = 1.5
_ANSWER_FACTOR: Final = 3
"""An instance holds its answer as numbers, as text and as bytes."""

_ID_BYTES: Final = 12
"""A number of a request as JSON."""
_VALUE_BYTES: Final = 24
"""A number of an answer as JSON."""
_MINIMUM_BYTES: Final = 1 << 20
_MAXIMUM_BYTES: Final = 64 << 20
"""Larger answers are refused: a heap that holds several of them would cost more than the model."""
_SCRATCH_BYTES: Final = 128 * quantities.MEBIBYTE

_LOAD_BYTES_PER_SECOND: Final = 20_000_000
"""A slow network disk, read cold."""
_FLOPS_PER_THREAD: Final = 4_000_000_000
"""A slow core, half throttled."""
_WORKER_SECONDS: Final = 15
"""Python and PyTorch, imported from a cold disk."""
_STARTUP_FLOOR_SECONDS: Final = 120
_STARTUP_CEILING_SECONDS: Final = 3600


def threads(wish: spec.BertDeploymentSpec, model: spec.BertModel) -> int:
    """Threads of each instance of a model: together they have as many as the CPU limit allows, at least one each."""
    return max(1, int(sizing.cpu_limit(wish) / model.serving.instances))


def request_bytes(served: Sequence[ServedVersion]) -> int:
    """Largest request: every tensor of a full batch, as JSON."""
    rows = max(one.model.serving.max_batch_size * one.artifact.report.max_sequence_length for one in served)
    return _bounded(3 * rows * _ID_BYTES)


def response_bytes(served: Sequence[ServedVersion]) -> int:
    """Largest answer: every output of a full batch, as JSON."""
    return max(_answer_bytes(one) for one in served)


def heap_bytes(served: Sequence[ServedVersion]) -> int:
    """Heap of Java."""
    instances = sum(one.model.serving.instances for one in served)
    return _HEAP_BYTES + _PASSES * instances * (request_bytes(served) + response_bytes(served))


def direct_bytes(served: Sequence[ServedVersion]) -> int:
    """Java's buffers outside the heap: they hold what the heap holds once more."""
    return heap_bytes(served)


def memory_bytes(served: Sequence[ServedVersion]) -> int:
    """Memory of the server container."""
    java = _JAVA_BYTES + heap_bytes(served) + direct_bytes(served)
    return java + sum(one.model.serving.instances * _instance_bytes(one) for one in served)


def disk_bytes(served: Sequence[ServedVersion]) -> int:
    """Room for the unpacked archives."""
    return _SCRATCH_BYTES + ceil(1.1 * sum(one.artifact.report.size_bytes for one in served))


def resources(wish: spec.BertDeploymentSpec, served: Sequence[ServedVersion]) -> dict[str, Any]:
    """Requests and limits of the container."""
    return sizing.resources(wish, memory_bytes(served))


def startup_seconds(wish: spec.BertDeploymentSpec, served: Sequence[ServedVersion]) -> int:
    """How long unpacking, loading and warm-up may take before the pod is given up: all workers start at once."""
    estimate = sum(_load_seconds(one) + _warmup_seconds(wish, one) for one in served)
    return min(_STARTUP_CEILING_SECONDS, _STARTUP_FLOOR_SECONDS + ceil(estimate))


def _bounded(size: int) -> int:
    return min(_MAXIMUM_BYTES, max(_MINIMUM_BYTES, size))


def _answer_bytes(one: ServedVersion) -> int:
    return _bounded(_VALUE_BYTES * _output_values(one))


def _output_values(one: ServedVersion) -> int:
    values = 0
    for tensor in one.artifact.report.outputs:
        size = one.model.serving.max_batch_size
        for dim in tensor.dims:
            size *= dim if dim > 0 else one.artifact.report.max_sequence_length
        values += size
    return values


def _instance_bytes(one: ServedVersion) -> int:
    model = _MODEL_FACTOR * one.artifact.report.size_bytes
    activations = _ACTIVATION_FACTOR * sizing.activation_bytes(one)
    return _INSTANCE_BYTES + ceil(model + activations) + _ANSWER_FACTOR * _answer_bytes(one)


def _load_seconds(one: ServedVersion) -> float:
    unpacked = one.artifact.report.size_bytes / _LOAD_BYTES_PER_SECOND
    return unpacked + one.model.serving.instances * (_WORKER_SECONDS + unpacked)


def _warmup_seconds(wish: spec.BertDeploymentSpec, one: ServedVersion) -> float:
    """As if each length that is run were the longest; there are as many as buckets, else four."""
    if not one.model.serving.warmup:
        return 0
    report = one.artifact.report
    lengths = len(one.model.build.sequence_buckets or ()) or 4
    tokens = lengths * report.max_sequence_length * (one.model.serving.max_batch_size + 1)
    flops = 2 * report.parameters * tokens * one.model.serving.instances
    return flops / (_FLOPS_PER_THREAD * threads(wish, one.model))
