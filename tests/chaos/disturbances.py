"""What happens to a served BertDeployment behind the operator's back: while it is away (R11), or unseen (R3)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from chaos import fresh
from chaos.place import NeverError, Place
from chaos.workloads import NAME, bert

BUILT: Final = "bertops.dev/request"


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """One of them."""

    name: str
    act: Callable[[Place], Awaitable[None]]
    unseen: tuple[str, ...]
    """Resources whose watches are held in R3."""
    end: str = "plain"
    """What it ends with, of `fresh.ENDS`."""
    pods_stay: bool = True
    """Whether no serving pod may be replaced."""
    built: bool = True
    """Whether it begins with a served one; else with a build under way that doesn't end by itself."""


async def only(place: Place, kind: str) -> dict[str, Any]:
    """Ours of a kind there is one of."""
    found = [one for one in await place.items(kind) if one["metadata"]["name"].startswith(NAME)]
    if len(found) != 1:
        raise NeverError(f"{len(found)} {kind}s where one was expected")
    return found[0]


def _deleted(kind: str) -> Callable[[Place], Awaitable[None]]:
    async def act(place: Place) -> None:
        await place.delete(kind, (await only(place, kind))["metadata"]["name"])

    return act


def _there_and_back(kind: str, there: dict[str, Any], back: dict[str, Any]) -> Callable[[Place], Awaitable[None]]:
    async def act(place: Place) -> None:
        name = (await only(place, kind))["metadata"]["name"]
        await place.patch(kind, name, there)
        if back:
            await place.patch(kind, name, back)

    return act


def _edited(*ends: str) -> Callable[[Place], Awaitable[None]]:
    async def act(place: Place) -> None:
        for end in ends:
            await place.edit(NAME, fresh.spec(end))

    return act


async def _recreated(place: Place) -> None:
    await place.delete("BertDeployment", NAME)
    await place.create(bert())


async def _records_deleted(place: Place) -> None:
    for one in await place.items("BertArtifact"):
        await place.delete("BertArtifact", one["metadata"]["name"])


async def _jobs_deleted(place: Place) -> None:
    for one in await place.items("Job"):
        await place.delete("Job", one["metadata"]["name"])
    place.habits.builds = True


async def _jobs_done(place: Place) -> None:
    place.habits.builds = True
    place.nudge()
    for one in await place.items("Job"):
        await _complete(place, one["metadata"]["name"])


async def _jobs_done_and_gone(place: Place) -> None:
    await _jobs_done(place)
    await _jobs_deleted(place)


async def _complete(place: Place, name: str) -> None:
    for _ in range(300):
        live = await place.get("Job", name)
        if live is None or (live.get("status") or {}).get("succeeded"):
            return
        await asyncio.sleep(0.1)
    raise NeverError(f"Job {name} never ended")


async def _status_wiped(place: Place) -> None:
    target = place.path("BertDeployment", NAME, "status")
    kind = "application/merge-patch+json"
    await place.lab.api.sure("PATCH", target, {"status": None}, content_type=kind)


_LABEL: Final = "app.kubernetes.io/name"
ALL: Final = {
    one.name: one
    for one in (
        Disturbance(name="service-deleted", act=_deleted("Service"), unseen=("services",)),
        Disturbance(
            name="service-edited",
            act=_there_and_back("Service", {"metadata": {"labels": {_LABEL: "bent"}}}, {}),
            unseen=("services",),
        ),
        Disturbance(
            name="service-reverted",
            act=_there_and_back(
                "Service", {"metadata": {"labels": {_LABEL: "bent"}}}, {"metadata": {"labels": {_LABEL: "bert"}}}
            ),
            unseen=("services",),
        ),
        Disturbance(name="config-deleted", act=_deleted("ConfigMap"), unseen=("configmaps",)),
        Disturbance(
            name="config-reverted",
            act=_there_and_back(
                "ConfigMap", {"metadata": {"labels": {_LABEL: "bent"}}}, {"metadata": {"labels": {_LABEL: "bert"}}}
            ),
            unseen=("configmaps",),
        ),
        Disturbance(name="deployment-deleted", act=_deleted("Deployment"), unseen=("deployments",), pods_stay=False),
        Disturbance(
            name="deployment-scaled",
            act=_there_and_back("Deployment", {"spec": {"replicas": 1}}, {}),
            unseen=("deployments",),
            pods_stay=False,
        ),
        Disturbance(
            name="deployment-scaled-back",
            act=_there_and_back("Deployment", {"spec": {"replicas": 4}}, {"spec": {"replicas": 2}}),
            unseen=("deployments",),
            pods_stay=False,
        ),
        Disturbance(name="records-deleted", act=_records_deleted, unseen=("bertartifacts",)),
        Disturbance(name="status-wiped", act=_status_wiped, unseen=("bertdeployments",)),
        Disturbance(name="spec-changed", act=_edited("three"), unseen=("bertdeployments",), end="three"),
        Disturbance(name="spec-there-and-back", act=_edited("two", "plain"), unseen=("bertdeployments",)),
        Disturbance(
            name="spec-twice",
            act=_edited("two", "config"),
            unseen=("bertdeployments",),
            end="config",
            pods_stay=False,
        ),
        Disturbance(name="recreated", act=_recreated, unseen=("bertdeployments",), pods_stay=False),
        Disturbance(
            name="all-recreated",
            act=_recreated,
            unseen=("bertdeployments", "deployments", "services", "configmaps", "jobs", "pods", "replicasets"),
            pods_stay=False,
        ),
        Disturbance(name="jobs-deleted", act=_jobs_deleted, unseen=("jobs", "pods"), built=False),
        Disturbance(name="jobs-done", act=_jobs_done, unseen=("jobs", "pods"), built=False),
        Disturbance(name="jobs-done-and-gone", act=_jobs_done_and_gone, unseen=("jobs", "pods"), built=False),
    )
}
