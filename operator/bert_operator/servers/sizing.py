"""What every server's pod needs, whatever runs in it: CPU limit, activations of a batch, the container's resources.

The servers' own sizing modules add what is theirs. What a user writes in `server.resources` always wins.
"""

from decimal import Decimal
from typing import Any, Final

from bert_operator.api import quantities, spec
from bert_operator.api.report import BuildReport
from bert_operator.servers.base import ServedVersion

DEFAULT_CPU_REQUEST: Final = "500m"
DEFAULT_CPU_LIMIT: Final = "2"


def cpu_limit(wish: spec.BertDeploymentSpec) -> Decimal:
    """CPUs that the server container may use."""
    resources = wish.server.resources
    if resources.limits.cpu:
        return quantities.parse(resources.limits.cpu)
    default = quantities.parse(DEFAULT_CPU_LIMIT)
    return max(default, quantities.parse(resources.requests.cpu)) if resources.requests.cpu else default


def resources(wish: spec.BertDeploymentSpec, memory_bytes: int) -> dict[str, Any]:
    """Requests and limits of the container: the spec's; unset ones are derived.

    A limit without a request leaves the request to Kubernetes, which takes the limit.

    Args:
        wish: the user's spec.
        memory_bytes: what the container needs.
    """
    asked, capped = wish.server.resources.requests, wish.server.resources.limits
    memory = max(memory_bytes, int(quantities.parse(asked.memory))) if asked.memory else memory_bytes
    derived = quantities.mebibytes(memory)
    limits = {"cpu": capped.cpu or f"{cpu_limit(wish).normalize():f}", "memory": capped.memory or derived}
    requests = {
        "cpu": asked.cpu or (None if capped.cpu else DEFAULT_CPU_REQUEST),
        "memory": asked.memory or (None if capped.memory else derived),
    }
    return {"requests": {name: value for name, value in requests.items() if value}, "limits": limits}


def activation_bytes(one: ServedVersion) -> int:
    """Peak of one layer at the largest batch: attention scores twice, three buffers of the inner layer (4 x hidden)."""
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
