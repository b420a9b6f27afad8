"""How much CPU, memory and time a Triton pod needs, from its spec and artifacts. `triton` and `triton_config` ask.

The factors were measured on a real tritonserver with ONNX Runtime 1.32 on a CPU (tests/triton measures again):
an instance takes 1.5 times the size of its model, plus the activations of its largest batch. What a user writes in
`server.resources` always wins.
"""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any, Final

from bert_operator.api import quantities, spec
from bert_operator.api.report import BuildReport, TensorSpec
from bert_operator.servers import sizing
from bert_operator.servers.base import ServedVersion

_SERVER_BYTES: Final = 160 * quantities.MEBIBYTE
"""tritonserver itself (40 MiB measured) and what its request queues may hold."""
_INSTANCE_BYTES: Final = 96 * quantities.MEBIBYTE
"""Python, numpy and ONNX Runtime of one instance (69 MiB measured)."""
_TORCH_INSTANCE_BYTES: Final = 224 * quantities.MEBIBYTE
"""The same with PyTorch in place of ONNX Runtime (146 MiB measured; the model once, as it is)."""
_MODEL_FACTOR: Final = 1.6
_ARENA_FACTOR: Final = 1.5
"""The arena of ONNX Runtime grows in steps, so it holds more than what is used."""
_SHM_MINIMUM: Final = 64 * quantities.MEBIBYTE
_SHM_INSTANCE_BYTES: Final = 4 * quantities.MEBIBYTE

_LOAD_BYTES_PER_SECOND: Final = 20_000_000
"""A slow network disk, read cold."""
_FLOPS_PER_THREAD: Final = 4_000_000_000
"""A slow core, half throttled."""
_STARTUP_FLOOR_SECONDS: Final = 120
_STARTUP_CEILING_SECONDS: Final = 3600

PINNED_BYTES: Final = 256 * quantities.MEBIBYTE
"""Triton's own default."""
_CUDA_BYTES: Final = 2560 * quantities.MEBIBYTE
"""Triton, CUDA's context and the libraries of TensorRT and ONNX Runtime on the host. Not measured: no GPU was used."""

_ELEMENT_BYTES: Final = {"INT64": 8, "FP64": 8, "INT32": 4, "FP32": 4, "FP16": 2, "BF16": 2}


def threads(wish: spec.BertDeploymentSpec, model: spec.BertModel) -> int:
    """Threads of each instance of a model: together they have as many as the CPU limit allows, at least one each."""
    return max(1, int(sizing.cpu_limit(wish) / model.serving.instances))


def warmup_lengths(model: spec.BertModel, report: BuildReport) -> list[int]:
    """Sequence lengths that are run before a model turns ready: the spec's buckets, else the longest of 16, 32, ...

    At most four are derived; the longest length that the artifact takes is always among them. An engine has its own:
    the largest of each of its profiles.
    """
    longest = report.max_sequence_length
    if report.profiles:
        return sorted({profile.max[1] for profile in report.profiles})
    if model.build.sequence_buckets:
        return sorted({bucket for bucket in model.build.sequence_buckets if bucket <= longest}) or [longest]
    powers = [length for length in (2**n for n in range(4, 14)) if length < longest]
    return [*powers, longest][-4:]


def warmup_batches(model: spec.BertModel) -> list[int]:
    """Batch sizes that are run before a model turns ready."""
    return sorted({1, model.serving.max_batch_size})


def shm_bytes(served: Sequence[ServedVersion]) -> int:
    """Shared memory: through it the Python backend passes the tensors of each instance's running batch, both ways."""
    needed = 0
    for one in served:
        tensors = [*one.artifact.report.inputs, *one.artifact.report.outputs]
        batch = sum(_batch_bytes(tensor, one) for tensor in tensors)
        needed += one.model.serving.instances * (_SHM_INSTANCE_BYTES + 3 * batch)
    return max(_SHM_MINIMUM, needed)


def memory_bytes(served: Sequence[ServedVersion]) -> int:
    """Memory of the server container, /dev/shm included."""
    instances = sum(one.model.serving.instances * _instance_bytes(one) for one in served)
    return _SERVER_BYTES + instances + shm_bytes(served)


def gpu_memory_bytes(served: Sequence[ServedVersion]) -> int:
    """Memory of the server container on a node with a GPU: the host's part only. Estimated, not measured."""
    return _CUDA_BYTES + PINNED_BYTES + sum(2 * one.artifact.report.size_bytes for one in served) + shm_bytes(served)


def resources(wish: spec.BertDeploymentSpec, served: Sequence[ServedVersion], accelerator: str = "") -> dict[str, Any]:
    """Requests and limits of the container, with one of the profile's accelerators if it has any."""
    if not accelerator:
        return sizing.resources(wish, memory_bytes(served))
    found = sizing.resources(wish, gpu_memory_bytes(served))
    return {**found, "limits": {**found["limits"], accelerator: "1"}}


def startup_seconds(wish: spec.BertDeploymentSpec, served: Sequence[ServedVersion]) -> int:
    """How long loading and warm-up may take before the pod is given up: every port is closed until they are done."""
    estimate = sum(_load_seconds(one) + _warmup_seconds(wish, one) for one in served)
    return min(_STARTUP_CEILING_SECONDS, _STARTUP_FLOOR_SECONDS + ceil(estimate))


def mib(size: int) -> str:
    """A size as Kubernetes writes it."""
    return quantities.mebibytes(size)


def _batch_bytes(tensor: TensorSpec, one: ServedVersion) -> int:
    size = _ELEMENT_BYTES.get(tensor.dtype, 8) * one.model.serving.max_batch_size
    for dim in tensor.dims:
        size *= dim if dim > 0 else one.artifact.report.max_sequence_length
    return size


def _instance_bytes(one: ServedVersion) -> int:
    torch = one.artifact.report.format == spec.Format.TORCHSCRIPT
    return (_TORCH_INSTANCE_BYTES if torch else _INSTANCE_BYTES) + ceil(
        _MODEL_FACTOR * one.artifact.report.size_bytes + _ARENA_FACTOR * sizing.activation_bytes(one)
    )


def _load_seconds(one: ServedVersion) -> float:
    return one.model.serving.instances * (2 + one.artifact.report.size_bytes / _LOAD_BYTES_PER_SECOND)


def _warmup_seconds(wish: spec.BertDeploymentSpec, one: ServedVersion) -> float:
    if not one.model.serving.warmup:
        return 0
    tokens = sum(length * batch for length, batch in _warmup_shapes(one))
    flops = 2 * one.artifact.report.parameters * tokens * one.model.serving.instances
    return flops / (_FLOPS_PER_THREAD * threads(wish, one.model))


def _warmup_shapes(one: ServedVersion) -> Iterator[tuple[int, int]]:
    for length in warmup_lengths(one.model, one.artifact.report):
        for batch in warmup_batches(one.model):
            yield length, batch
