"""What users do while the faults happen: a beginning, a change, and what the world looks like when all is done."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from support import builders
from support.operator_process import SETTINGS as PLAIN

Document = dict[str, Any]
SETTINGS: Final[Document] = {
    **PLAIN,
    "images": {"operator": "registry.test/operator:1", "build": "registry.test/build:1", "tensorflow": "tensorflow:1"},
    "triton": {
        "defaultRelease": "24.10",
        "releases": {"24.10": {"image": "registry.test/triton:1"}, "25.01": {"image": "registry.test/triton:2"}},
    },
    "tfserving": {"defaultRelease": "2.20.0", "releases": {"2.20.0": {"image": "registry.test/tfserving:1"}}},
}
"""Of the operators under test."""
NAME: Final = "minilm"
BOUNDS: Final = {"minReplicas": 2, "maxReplicas": 9, "metrics": [{"type": "cpu", "averageUtilization": 70}]}

GUARDED: Final[Document] = {
    "networkPolicy": {"enabled": True},
    "podDisruptionBudget": {"enabled": True},
    "autoscaling": BOUNDS,
    "rollout": {"revisionHistoryLimit": 1},
}
"""All that can be switched off, and the least of revisions that are kept."""
TIDY: Final[Document] = {"store": {"unusedArtifactsRetention": "10s"}}
"""What nothing uses goes while one can wait for it."""


def spec(*, path: str = "one", count: int = 2, **parts: Any) -> Document:
    """Spec of a BertDeployment with models from one claim."""
    versions = [{"version": 1, "source": {"pvc": {"claimName": "models", "path": path}}}]
    made = [builders.model(f"m{number}", versions=versions) for number in range(1, count + 1)]
    made[-1] = made[-1] | {"build": {"task": "feature-extraction", "maxSequenceLength": 64, "sequenceBuckets": [64]}}
    return {"replicas": 2, "server": {"type": "triton"}, "storage": {"size": "2Gi"}, "models": made} | parts


def bert(name: str = NAME, **parts: Any) -> Document:
    """A BertDeployment to be created."""
    return {
        "apiVersion": "bertops.dev/v1alpha1",
        "kind": "BertDeployment",
        "metadata": {"name": name},
        "spec": spec(**parts),
    }


def serving_as(**parts: Any) -> Document:
    """A change of how models are served: no new artifact."""
    models = [model | {"serving": {"maxBatchSize": 4}} for model in spec()["models"]]
    return {"models": models, "server": {"type": "triton", "release": "25.01"}} | parts


Act = Callable[[Any], Awaitable[None]]
"""What the user does in a `place.Place`."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One story. It begins at rest: with nothing if `before` is empty, else with these served."""

    name: str
    before: tuple[Mapping[str, Any], ...]
    act: Act
    serves: Mapping[str, int]
    """Who is to be Ready in the end -> replicas."""
    builds: bool = True
    """Whether builds end, or go on for ever."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the operator beyond the usual ones."""
    elects: bool = False
    """Whether the operator needs a Lease."""
    crashed: bool = True
    """Whether R1 kills the operator at each of its writes; else it is there for R7, for the requests it takes."""

    def settings(self, namespace: str) -> Document:
        """Of its operator, in a namespace."""
        lease = {"leaderElection": {"namespace": namespace, "name": "bert-operator"}} if self.elects else {}
        return {**SETTINGS, **self.more, **lease}


async def _create(place: Any) -> None:
    await place.create(bert())


async def _config(place: Any) -> None:
    await place.edit(NAME, serving_as())


async def _scale(place: Any) -> None:
    await place.edit(NAME, {"replicas": 4})


async def _autoscale(place: Any) -> None:
    await place.edit(NAME, {"autoscaling": BOUNDS})


async def _rebuild(place: Any) -> None:
    await place.edit(NAME, {"models": spec(path="two")["models"]})


async def _switch(place: Any) -> None:
    await place.edit(NAME, {"server": {"type": "tfserving"}})


async def _delete(place: Any) -> None:
    await place.delete("BertDeployment", NAME)


async def _strip(place: Any) -> None:
    """Take away all that can be switched off, and with the oldest of three revisions its configuration."""
    await place.edit(NAME, {"models": [model | {"serving": {"maxBatchSize": 2}} for model in spec()["models"]]})
    await place.settled({NAME: 2})
    off = {"networkPolicy": None, "podDisruptionBudget": {"enabled": False}, "autoscaling": None}
    await place.edit(NAME, serving_as(replicas=2, **off))


async def _collect(place: Any) -> None:
    """Delete one whose artifact nothing else uses. A single one: of two, one may need another Job after an error."""
    await place.delete("BertDeployment", "other")
    await place.until(lambda: place.saw("delete", "bertartifacts", 1), "its artifact goes")


async def _refused(place: Any) -> None:
    """Nobody may make pods, until the operator has looked why there are none."""
    body = {"metadata": {"name": "none"}, "spec": {"limits": [{"type": "Pod", "max": {"cpu": "1m"}}]}}
    limits = f"/api/v1/namespaces/{place.namespace}/limitranges"
    await place.lab.api.sure("POST", limits, body)
    await place.create(bert())
    asked = "list events"
    await place.until(lambda: any(one.call.kind == asked for one in place.proxy.trace), "it looks why there is no pod")
    await place.lab.api.sure("DELETE", f"{limits}/none")


async def _share(place: Any) -> None:
    """Two ask for the same Jobs on one claim; one of them goes while they run, then the builds end."""
    await place.create(bert("first", storage={"claimName": "models"}))
    await place.until(lambda: place.saw("create", "jobs", 2), "its Jobs")
    await place.create(bert("second", storage={"claimName": "models"}))
    await place.until(lambda: place.saw("patch", "jobs", 2), "a second owner")
    await place.delete("BertDeployment", "first")
    place.habits.builds = True
    place.nudge()


OTHER: Final = bert("other", path="two", count=1, storage={"claimName": "models"})
WORKLOADS: Final = {
    one.name: one
    for one in (
        Workload(name="create", before=(), act=_create, serves={NAME: 2}),
        Workload(name="config", before=(bert(),), act=_config, serves={NAME: 2}),
        Workload(name="scale", before=(bert(),), act=_scale, serves={NAME: 4}),
        Workload(name="autoscale", before=(bert(),), act=_autoscale, serves={NAME: 2}),
        Workload(name="rebuild", before=(bert(),), act=_rebuild, serves={NAME: 2}),
        Workload(name="switch", before=(bert(),), act=_switch, serves={NAME: 2}),
        Workload(name="share", before=(), act=_share, serves={"second": 2}, builds=False),
        Workload(name="delete", before=(), act=_create, serves={}),
        Workload(name="lead", before=(), act=_create, serves={NAME: 2}, elects=True, crashed=False),
        Workload(name="strip", before=(bert(**GUARDED),), act=_strip, serves={NAME: 2}, crashed=False),
        Workload(name="collect", before=(bert(), OTHER), act=_collect, serves={NAME: 2}, more=TIDY, crashed=False),
        Workload(name="refused", before=(), act=_refused, serves={NAME: 2}, crashed=False),
    )
}
