"""How much CPU, memory and time a TF Serving pod needs, from its spec and artifacts. `tfserving` asks.

Measured with TensorFlow 2.20 on a CPU through the stand-in of the tests; the real server, which carries no Python and
could not be measured here, should need less.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any, Final

from bert_operator.api import quantities, spec
from bert_operator.servers import sizing
from bert_operator.servers.base import ServedVersion

_SERVER_BYTES: Final = 640 * quantities.MEBIBYTE
"""TensorFlow itself (515 MiB resident in the stand-in, Python included), and what queues and answers may hold."""
_MODEL_FACTOR: Final = 2.2
"""A model's variables, and the buffers they are restored through."""
_ACTIVATION_FACTOR: Final = 1.5
"""TensorFlow's allocator keeps more than what is used."""
_LOAD_BYTES_PER_SECOND: Final = 20_000_000
"""A slow network disk, read cold."""
_FLOPS_PER_THREAD: Final = 4_000_000_000
"""A slow core, half throttled."""
_STARTUP_FLOOR_SECONDS: Final = 120
_STARTUP_CEILING_SECONDS: Final = 3600


def threads(wish: spec.BertDeploymentSpec) -> int:
    """Threads that run operators and batches: as many as the CPU limit allows, at least one."""
    return max(1, int(sizing.cpu_limit(wish)))


def memory_bytes(wish: spec.BertDeploymentSpec, served: Sequence[ServedVersion]) -> int:
    """Memory of the server container: every version's weights, and one running batch on each thread."""
    weights = sum(_MODEL_FACTOR * one.artifact.report.size_bytes for one in served)
    largest = max(sizing.activation_bytes(one) for one in served)
    return _SERVER_BYTES + ceil(weights + _ACTIVATION_FACTOR * threads(wish) * largest)


def resources(wish: spec.BertDeploymentSpec, served: Sequence[ServedVersion]) -> dict[str, Any]:
    """Requests and limits of the container."""
    return sizing.resources(wish, memory_bytes(wish, served))


def startup_seconds(wish: spec.BertDeploymentSpec, served: Sequence[ServedVersion]) -> int:
    """How long loading and warm-up may take before the pod is given up."""
    estimate = sum(_load_seconds(one) + _warmup_seconds(wish, one) for one in served)
    return min(_STARTUP_CEILING_SECONDS, _STARTUP_FLOOR_SECONDS + ceil(estimate))


def _load_seconds(one: ServedVersion) -> float:
    return 2 + one.artifact.report.size_bytes / _LOAD_BYTES_PER_SECOND


def _warmup_seconds(wish: spec.BertDeploymentSpec, one: ServedVersion) -> float:
    """As if every recorded warm-up request were the largest batch; the artifact holds only a few."""
    if not one.model.serving.warmup:
        return 0
    report = one.artifact.report
    flops = 2 * report.parameters * report.max_sequence_length * one.model.serving.max_batch_size
    return flops / (_FLOPS_PER_THREAD * threads(wish))
