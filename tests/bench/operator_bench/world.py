"""A namespace with BertDeployments whose artifacts are recorded already, and when each of them is done.

Done: every child exists, and status.observedGeneration is the generation. No node runs here, so no pod does either;
where pods must become ready a stand-in for kubelets says so in their status.
"""

import asyncio
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from bench.operator_bench.cluster import MERGE, Api
from bench.operator_bench.programs import settings
from bert_operator.api import names
from support import builders
from support.fake_cluster import FakeCluster

MODELS: Final = 10
"""Different models, and so recorded artifacts, of a namespace; BertDeployments take turns."""
REMOVAL_SECONDS: Final = 300.0
CHILDREN: Final = {
    "configmaps": "ConfigMap",
    "services": "Service",
    "deployments": "Deployment",
    "horizontalpodautoscalers": "HorizontalPodAutoscaler",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "networkpolicies": "NetworkPolicy",
}
"""The children, as the API server calls them -> as their manifests say it."""


def spec(number: int, **changes: Any) -> dict[str, Any]:
    """What the BertDeployment of this number asks for."""
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    return {
        "autoscaling": {
            "minReplicas": 1,
            "maxReplicas": 4,
            "metrics": [{"type": "cpu", "averageUtilization": 70}],
        },
        "server": {"type": "triton", "resources": resources},
        "storage": {"claimName": "store"},
        "models": [builders.model(f"model-{number % MODELS}")],
        "networkPolicy": {"enabled": True},
    } | changes


class World:
    """One namespace."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.current: dict[str, int] = {}
        """Name -> the generation that its status has observed."""
        self.generations: dict[str, int] = {}
        self.done_at: dict[str, float] = {}
        """When the status had observed the generation; the audit log says when the children were there."""
        self.stirred = asyncio.Event()
        self._watching: asyncio.Task[None]

    @property
    def berts(self) -> str:
        """Path of the BertDeployments."""
        return f"/apis/{names.API_VERSION}/namespaces/{self.namespace}/{names.PLURAL}"

    async def prepare(self, *, recorded: bool = True) -> None:
        """Make the namespace, its claims and the records of its artifacts, and begin to watch."""
        await self.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        claims = f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims"
        wish = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        live = {
            name: await self.api.request("POST", claims, {"metadata": {"name": name}, "spec": wish})
            for name in ("store", "models")
        }
        artifacts = self.berts.removesuffix(names.PLURAL) + names.ARTIFACT_PLURAL
        for number in range(MODELS if recorded else 0):
            await self.api.request("POST", artifacts, self._record(number, live))
        self._watching = asyncio.create_task(self._watch())

    def _record(self, number: int, claims: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The record that the operator itself would make of a finished build."""
        bert = builders.bert(spec=spec(number), namespace=self.namespace)
        world = FakeCluster(bert, *({"kind": "PersistentVolumeClaim", **claim} for claim in claims.values()))
        list(world.settle(settings()))
        (record,) = world.all(names.ARTIFACT_KIND)
        key = f"{number:032x}"
        body: dict[str, Any] = json.loads(json.dumps(record["spec"]).replace("5" * 32, key))
        metadata = {"name": record["metadata"]["name"].replace("5" * 32, key), "labels": record["metadata"]["labels"]}
        return {"apiVersion": names.API_VERSION, "kind": names.ARTIFACT_KIND, "metadata": metadata, "spec": body}

    async def create(self, count: int, first: int = 0, *, distinct: bool = False) -> list[str]:
        """Create so many BertDeployments as fast as can be; `distinct`: each with a model of its own."""
        made = [f"bert-{number:05d}" for number in range(first, first + count)]
        self.generations |= dict.fromkeys(made, 1)
        head = {"apiVersion": names.API_VERSION, "kind": names.KIND}
        bodies = [
            head | {"metadata": {"name": name}, "spec": spec(number, **_own_model(number) if distinct else {})}
            for number, name in enumerate(made, first)
        ]
        await self.api.all([self.api.request("POST", self.berts, body) for body in bodies])
        return made

    async def complete_builds(self, count: int) -> None:
        """A stand-in for kubelets: says of each build pod, as soon as there is one, that it ended well."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        finished: set[str] = set()
        while len(finished) < count:
            items = (await self.api.request("GET", f"{path}?labelSelector={names.REQUEST_LABEL}"))["items"]
            new = [pod for pod in items if pod["metadata"]["name"] not in finished]
            statuses = [f"{path}/{pod['metadata']['name']}/status" for pod in new]
            calls = [
                self.api.request("PATCH", at, _built(pod, len(finished) + number), MERGE)
                for number, (at, pod) in enumerate(zip(statuses, new, strict=True))
            ]
            await self.api.all(calls)
            finished |= {pod["metadata"]["name"] for pod in new}
            await asyncio.sleep(0.2)

    async def until_done(self, wanted: Iterable[str], seconds: float) -> None:
        """Wait until these are done.

        Raises:
            RuntimeError: some aren't in time: a figure of the others would flatter; or they can't be watched.
        """
        waiting = set(wanted)
        total, deadline = len(waiting), time.monotonic() + seconds
        while waiting and time.monotonic() < deadline:
            self.stirred.clear()
            waiting -= self.done_at.keys()
            if self._watching.done():
                self._watching.result()
            if waiting:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stirred.wait(), 1.0)
        if waiting:
            raise RuntimeError(f"{len(waiting)} of {total} BertDeployments weren't done within {seconds:.0f} s")

    async def edit(self, name: str, change: dict[str, Any]) -> None:
        """A user's edit of the spec; the BertDeployment is done again once that is observed."""
        self.done_at.pop(name, None)
        self.generations[name] += 1
        await self.api.request("PATCH", f"{self.berts}/{name}", {"spec": change}, MERGE)

    async def remove(self) -> None:
        """End the watches, delete the namespace, and wait until nothing of it is left, though not for ever."""
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        path = f"/api/v1/namespaces/{self.namespace}"
        with suppress(RuntimeError):  # thousands take longer than a request may; the namespace's end takes the rest
            await self.api.request("DELETE", self.berts)
        await self.api.request("DELETE", path)
        deadline = time.monotonic() + REMOVAL_SECONDS
        while time.monotonic() < deadline and await self._exists(path):  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(0.5)

    async def _exists(self, namespace: str) -> bool:
        return bool((await self.api.request("GET", namespace)).get("kind") == "Namespace")

    async def _watch(self) -> None:
        """List and watch, and again whenever a watch ends: the API server drops readers that fall behind."""
        while True:
            listed = await self.api.request("GET", self.berts)
            for bert in listed["items"]:
                self._saw(bert)
            async with self.api.watch(self.berts, listed["metadata"]["resourceVersion"]) as lines:
                async for line in lines:
                    event = json.loads(line)
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._saw(event["object"])

    def _saw(self, bert: dict[str, Any]) -> None:
        name = bert["metadata"]["name"]
        self.current[name] = (bert.get("status") or {}).get("observedGeneration", 0)
        if self.current[name] >= self.generations.get(name, 1) and name not in self.done_at:
            self.done_at[name] = time.monotonic()
            self.stirred.set()


def _own_model(number: int) -> dict[str, Any]:
    return {"models": [builders.model(f"own-{number}")]}


def _built(pod: dict[str, Any], number: int) -> dict[str, Any]:
    """Status of a build's pod that published an artifact of its own."""
    report = builders.report(artifact_key=f"{number + MODELS:032x}").model_dump_json(by_alias=True)
    ended = {"image": "x", "imageID": "x", "ready": False}
    steps = [builders.terminated(one["name"]) | ended for one in pod["spec"]["initContainers"]]
    main = builders.terminated(pod["spec"]["containers"][0]["name"], message=report) | ended
    return {"status": {"phase": "Succeeded", "initContainerStatuses": steps, "containerStatuses": [main]}}
