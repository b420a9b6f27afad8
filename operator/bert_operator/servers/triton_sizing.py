"""How much CPU, memory and time a Triton pod needs, from its spec and artifacts. `triton` and `triton_config` ask.

The factors were measured on a real tritonserver with ONNX Runtime 1.32 on a CPU (tests/triton measures again):
an instance takes 1.5 times the size of its model, plus the activations of its largest batch. What a user writes in
`server.resources` always wins.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from math import ceil
from typing import Any, Final

from bert_operator.api import spec
from bert_operator.api.report import BuildReport, TensorSpec
from bert_operator.servers import quantities
from bert_operator.servers.base import ServedVersion

DEFAULT_CPU_REQUEST: Final = "500m"
DEFAULT_CPU_LIMIT: Final = "2"

_SERVER_BYTES: Final = 160 * quantities.MEBIBYTE
"""tritonserver itself (40 MiB measured) and what its request queues may hold."""
_INSTANCE_BYTES: Final = 96 * quantities.MEBIBYTE
"""Python, numpy and ONNX Runtime of one instance (69 MiB measured)."""
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

_ELEMENT_BYTES: Final = {"INT64": 8, "FP64": 8, "INT32": 4, "FP32": 4, "FP16": 2, "BF16": 2}


def cpu_limit(wish: spec.BertDeploymentSpec) -> Decimal:
    """CPUs that the server container may use."""
    resources = wish.server.resources
    if resources.limits.cpu:
        return quantities.parse(resources.limits.cpu)
    default = quantities.parse(DEFAULT_CPU_LIMIT)
    return max(default, quantities.parse(resources.requests.cpu)) if resources.requests.cpu else default


def threads(wish: spec.BertDeploymentSpec, model: spec.BertModel) -> int:
    """Threads of each instance of a model: together they have as many as the CPU limit allows, at least one each."""
    return max(1, int(cpu_limit(wish) / model.serving.instances))


def warmup_lengths(model: spec.BertModel, report: BuildReport) -> list[int]:
    """Sequence lengths that are run before a model turns ready: the spec's buckets, else the longest of 16, 32, ...

    At most four are derived; the longest length that the artifact takes is always among them.
    """
    longest = report.max_sequence_length
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


def resources(wish: spec.BertDeploymentSpec, served: Sequence[ServedVersion]) -> dict[str, Any]:
    """Requests and limits of the container: the spec's; unset ones are derived.

    A limit without a request leaves the request to Kubernetes, which takes the limit.
    """
    asked, capped = wish.server.resources.requests, wish.server.resources.limits
    derived = memory_bytes(served)
    memory = max(derived, int(quantities.parse(asked.memory))) if asked.memory else derived
    limits = {"cpu": capped.cpu or f"{cpu_limit(wish).normalize():f}", "memory": capped.memory or mib(memory)}
    requests = {
        "cpu": asked.cpu or (None if capped.cpu else DEFAULT_CPU_REQUEST),
        "memory": asked.memory or (None if capped.memory else mib(memory)),
    }
    return {"requests": {name: value for name, value in requests.items() if value}, "limits": limits}


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
    return _INSTANCE_BYTES + ceil(
        _MODEL_FACTOR * one.artifact.report.size_bytes + _ARENA_FACTOR * _activation_bytes(one)
    )


def _activation_bytes(one: ServedVersion) -> int:
    """Peak of one layer: attention scores twice, and three buffers of the wide inner layer (4 x hidden)."""
    report, batch = one.artifact.report, one.model.serving.max_batch_size
    hidden, length = _hidden_size(report), report.max_sequence_length
    heads = max(12, hidden // 64)
    return 4 * batch * length * (12 * hidden + 2 * heads * length)


def _hidden_size(report: BuildReport) -> int:
    """Read from a token output; else what BERT models of that many parameters have."""
    for tensor in report.outputs:
        if len(tensor.dims) > 1 and tensor.dims[-1] > 0:
            return tensor.dims[-1]
    steps = ((40_000_000, 384), (150_000_000, 768))
    return next((hidden for limit, hidden in steps if report.parameters <= limit), 1024)


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
