"""A stand-in for kubelets: there are no nodes, so it writes into the status of pods what they would."""

import asyncio
import itertools
import time
from collections.abc import Iterable
from typing import Any, Final

from bench.operator_bench.cluster import MERGE
from bench.operator_bench.results import say
from bench.operator_bench.world import World
from bert_operator.api import names

STRATEGIC: Final = "application/strategic-merge-patch+json"


async def serving_pods(world: World) -> list[dict[str, Any]]:
    """The serving pods, once there is one for each BertDeployment."""
    path = f"/api/v1/namespaces/{world.namespace}/pods?labelSelector={names.COMPONENT_LABEL}%3Dserver"
    found: list[dict[str, Any]] = []
    for _ in range(600):
        found = (await world.api.request("GET", path))["items"]
        if len(found) >= len(world.generations):
            return found
        await asyncio.sleep(0.5)
    raise RuntimeError(f"only {len(found)} pods for {len(world.generations)} BertDeployments")


async def make_ready(world: World, names: Iterable[str]) -> None:
    """A stand-in for kubelets: there are no nodes, so it writes into the pods' status that they answer."""
    wanted = set(names)
    condition = [{"type": kind, "status": "True"} for kind in ("Initialized", "ContainersReady", "Ready")]
    status = {"status": {"phase": "Running", "conditions": condition}}
    pods = [pod["metadata"] for pod in await serving_pods(world)]
    paths = [
        f"/api/v1/namespaces/{world.namespace}/pods/{pod['name']}/status"
        for pod in pods
        if pod["labels"]["app.kubernetes.io/instance"] in wanted
    ]
    await world.api.all([world.api.request("PATCH", path, status, MERGE) for path in paths])
    while await _ready(world) < len(wanted):  # noqa: ASYNC110 - another process says so
        await asyncio.sleep(0.5)


async def _ready(world: World) -> int:
    """How many BertDeployments say so."""
    items = (await world.api.request("GET", world.berts))["items"]
    conditions = [(item.get("status") or {}).get("conditions") or () for item in items]
    return sum(any((c["type"], c["status"]) == ("Ready", "True") for c in told) for told in conditions)


def owner(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"]["app.kubernetes.io/instance"])


async def news(world: World, pods: list[str], per_second: float, total: int) -> int:
    """Change the pods' status in turns, at most so often, no pod twice at once.

    Returns:
        How many changes there were.
    """
    began, numbers = time.monotonic(), itertools.count()

    async def of(pod: str) -> int:
        sent = 0
        while (number := next(numbers)) < total:
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            condition = {"type": "Ready", "status": "False", "reason": "Bench", "message": f"news {number}"}
            path = f"/api/v1/namespaces/{world.namespace}/pods/{pod}/status"
            try:
                await world.api.request("PATCH", path, {"status": {"conditions": [condition]}}, STRATEGIC)
            except RuntimeError as error:
                say(str(error))
            else:
                sent += 1
        return sent

    return sum(await asyncio.gather(*map(of, pods[:32])))
