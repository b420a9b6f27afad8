"""Where one plan happens: a namespace, its operator, the proxy before the API server, and the user's hands."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from chaos import state
from chaos.api import KINDS, MERGE, Api, condition, path
from chaos.kubelet import Habits, Kubelet
from chaos.nursery import Nursery
from chaos.operator import Operator
from chaos.proxy import Exchange, Proxy
from chaos.workloads import SETTINGS

QUIET: Final = 2.0
"""Seconds without a request, other than watches, that count as rest."""
POLL: Final = 0.25
NEWS: Final = 15.0
"""Seconds in which the operator hears of a deletion, on a loaded machine."""


@dataclass(kw_only=True)
class Lab:
    """What all plans share."""

    api: Api
    kubelet: Kubelet
    nursery: Nursery
    folder: Path
    """For settings and logs."""
    token: str
    """The operators' service account's: the rights that the chart gives it, and no more."""
    patience: float = 1.0
    """Every limit is so many times as long: for machines that have other things to do."""
    upstream: aiohttp.ClientSession
    """Connections of the proxies: without the administrator's certificate."""


Check = Callable[[], Awaitable[str]]
"""What is wrong, in words; empty if nothing is."""


class NeverError(Exception):
    """Something that was to happen did not."""


@dataclass(kw_only=True)
class Place:
    """Open it with `async with`."""

    lab: Lab
    namespace: str
    settings: Mapping[str, Any] = field(default_factory=lambda: SETTINGS)
    owners: dict[str, None] = field(default_factory=dict)
    """UIDs of every BertDeployment there ever was."""
    deleted: dict[str, float] = field(default_factory=dict)
    """UID of each object that was deleted by hand here -> when that was asked for."""
    revive: bool = True
    """Whether a killed operator is started anew at once."""
    kills: int = 0
    _revival: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        folder = self.lab.folder / self.namespace
        folder.mkdir(parents=True)
        await self.lab.api.sure("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        self.operator = Operator(
            nursery=self.lab.nursery,
            folder=folder,
            namespace=self.namespace,
            settings=self.settings,
            token=self.lab.token,
        )
        self.proxy = Proxy(target=self.lab.api.url, session=self.lab.upstream, kill=self.kill)
        await self.proxy.start()
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        await self.post("PersistentVolumeClaim", {"metadata": {"name": "models"}, "spec": claim})
        return self

    async def __aexit__(self, *_: object) -> None:
        self.revive = False
        if self._revival is not None:
            await self._revival
        await self.operator.end()
        await self.proxy.stop()
        (self.operator.folder / "trace.txt").write_text(self.proxy.told())
        self.lab.kubelet.forget(self.namespace)

    @property
    def habits(self) -> Habits:
        """What happens to the pods here."""
        return self.lab.kubelet.habits[self.namespace]

    def nudge(self) -> None:
        """Have the pods looked at again: the habits have changed."""
        self.lab.kubelet.nudge(self.namespace)

    async def start(self) -> None:
        """Start the operator, or start it anew."""
        await self.operator.end()
        await self.operator.start(self.proxy.url)

    def kill(self) -> None:
        """Kill the operator, at once."""
        self.kills += 1
        self.operator.kill()
        if self.revive and self._revival is None:
            self._revival = asyncio.ensure_future(self._revived())

    async def _revived(self) -> None:
        """Start it anew, and again if it was killed in that very moment: two parallel writes may each be the last."""
        try:
            kills = None
            while self.revive and kills != self.kills:
                kills = self.kills
                await self.start()
        finally:
            self._revival = None

    def path(self, kind: str, name: str = "", sub: str = "") -> str:
        """Address of an object."""
        return path(*KINDS[kind], self.namespace, name, sub)

    async def post(self, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object."""
        return await self.lab.api.sure("POST", self.path(kind), body)

    async def create(self, bert: Mapping[str, Any]) -> dict[str, Any]:
        """Create a BertDeployment."""
        made = await self.post("BertDeployment", bert)
        self.owners[made["metadata"]["uid"]] = None
        return made

    async def patch(self, kind: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change an object."""
        return await self.lab.api.sure("PATCH", self.path(kind, name), body, content_type=MERGE)

    async def edit(self, name: str, spec: Mapping[str, Any]) -> None:
        """Change a BertDeployment."""
        await self.patch("BertDeployment", name, {"spec": spec})

    async def delete(self, kind: str, name: str) -> None:
        """Delete an object and, in the background, what it owns."""
        asked = time.monotonic()
        answer = await self.lab.api.sure("DELETE", self.path(kind, name), {"propagationPolicy": "Background"})
        self.deleted[answer.get("details", {}).get("uid", "")] = asked

    async def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """One object; None if there is none."""
        code, found = await self.lab.api.send("GET", self.path(kind, name))
        return {"kind": kind, **found} if code == 200 else None

    async def items(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        return await self.lab.api.items(kind, self.namespace)

    async def objects(self, *, everything: bool = False) -> list[dict[str, Any]]:
        """What is here; with `everything`, of every kind that the API server knows."""
        kinds = [*KINDS, *((kind for kind, _, _ in self.lab.api.others) if everything else ())]
        return [obj for kind in kinds for obj in await self.items(kind)]

    async def state(self, *, everything: bool = False) -> state.State:
        """What is here, in a form that can be compared."""
        return state.canonical(await self.objects(everything=everything), self.namespace)

    async def revision(self) -> int:
        """The newest resourceVersion that the API server tells."""
        found = await self.lab.api.sure("GET", self.path("ConfigMap"))
        return int(found["metadata"]["resourceVersion"])

    def saw(self, verb: str, resource: str, times: int) -> bool:
        """Whether the operator has done this so often, with success."""
        return sum(one.call.kind == f"{verb} {resource}" for one in self.done()) >= times

    def done(self) -> Iterable[Exchange]:
        """Writes that succeeded."""
        return (one for one in self.proxy.trace if one.call.writes and 200 <= one.status < 400)

    def counts(self) -> Mapping[str, int]:
        """How often the operator created and deleted each object; Events are told, not kept."""
        return state.counted(
            (verb, one.call.resource, state.replaced(one.name, self.owners))
            for one in self.done()
            if (verb := _verb(one))
            and one.call.resource != "events"
            and not (verb == "CREATE" and orphaned(one, self.deleted))
        )

    async def until(self, check: Callable[[], bool], what: str, seconds: float = 60.0) -> float:
        """Wait for something that can be seen without asking; how long that took."""
        began = time.monotonic()
        while not check():
            if time.monotonic() - began > seconds * self.lab.patience:
                raise NeverError(f"not within {seconds:.0f} s: {what}")
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    @property
    def quiet_seconds(self) -> float:
        """Since when neither the operator nor the kubelet has done anything."""
        return min(self.proxy.idle_seconds, time.monotonic() - self.lab.kubelet.busy_at[self.namespace])

    async def quiet(self, seconds: float = QUIET, limit: float = 60.0) -> None:
        """Wait until it rests."""
        await self.until(lambda: self.quiet_seconds >= seconds, f"{seconds} s of rest", limit)

    async def served(self, serves: Mapping[str, int]) -> str:
        """What is missing until these, and only these, are served as they ask; empty if nothing is."""
        berts = {one["metadata"]["name"]: one for one in await self.items("BertDeployment")}
        if berts.keys() != serves.keys():
            return f"BertDeployments {sorted(berts)}"
        for name, one in berts.items():
            ready = condition(one, "Ready")
            current = ready.get("observedGeneration") == one["metadata"]["generation"]
            if ready.get("status") != "True" or not current:
                return f"{name}: Ready is {ready.get('status')}, {ready.get('reason')}, {ready.get('message')}"
        if jobs := await self.items("Job"):
            return f"{len(jobs)} Jobs are left"
        return await self._orphans({one["metadata"]["uid"] for one in berts.values()}) or await self._pods(serves)

    async def _orphans(self, berts: Collection[str]) -> str:
        """What the garbage collector hasn't come to yet: it needs longer than we to see that an owner has gone."""
        for obj in await self.objects():
            owners = obj["metadata"].get("ownerReferences") or ()
            ours = [one["uid"] for one in owners if one["kind"] == "BertDeployment"]
            if ours and not any(uid in berts for uid in ours):
                return f"{obj.get('kind')} {obj['metadata']['name']} is left of a deleted BertDeployment"
        return ""

    async def _pods(self, serves: Mapping[str, int]) -> str:
        deployments = await self.items("Deployment")
        if len(deployments) != len(serves):
            return f"{len(deployments)} Deployments"
        for live in deployments:
            status, wished = live.get("status") or {}, serves[live["metadata"]["labels"]["app.kubernetes.io/instance"]]
            counts = {status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")}
            if {live["spec"]["replicas"], *counts} != {wished}:
                return f"Deployment {live['metadata']['name']} has {sorted(counts)} pods"
        pods = len(await self.items("Pod"))
        return "" if pods == sum(serves.values()) else f"{pods} pods"

    async def _unready(self) -> str:
        status, body = await self.operator.ready()
        return "" if status == 200 else f"the operator isn't ready: {status} {body}"

    async def settled(self, serves: Mapping[str, int], limit: float = 90.0, more: Check | None = None) -> float:
        """Wait until all is as it should be and rests, with an operator that lives: a killed one is quiet too.

        Args:
            serves: who is to be Ready -> replicas.
            limit: seconds until a rest in which nothing is missing.
            more: what else may be wrong.

        Returns:
            How long that took, without the rest itself.
        """
        began = time.monotonic()
        missing = "rest"
        while time.monotonic() - began < limit * self.lab.patience + QUIET:
            if self.quiet_seconds >= QUIET:
                missing = await self.served(serves) or (await more() if more else "") or await self._unready()
                if not missing:
                    return max(0.0, time.monotonic() - began - self.quiet_seconds)
            await asyncio.sleep(POLL)
        raise NeverError(f"not within {limit:.0f} s: {missing}")


def orphaned(exchange: Exchange, deleted: Mapping[str, float]) -> bool:
    """Whether it is a child of nobody: written when all its owners had just been deleted.

    The garbage collector may take a child before the operator's watch tells it of the owner's end; what it makes in
    that moment is collected, too. What stays is found among the leftovers.
    """
    since = [exchange.at - deleted.get(uid, exchange.at) for uid in exchange.owners]
    return bool(since) and all(0 < seconds < NEWS for seconds in since)


def _verb(exchange: Exchange) -> str:
    if exchange.call.verb == "delete":
        return "DELETE"
    return "CREATE" if exchange.status == 201 else ""
