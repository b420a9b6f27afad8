"""An upgrade of the operator over BertDeployments that serve already, on a real API server (R12).

The first build is played, since no node runs here; all others find its artifact recorded. The operator then ends and
comes back with what a newer chart brings: new default images.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from support import builders
from support.kube_api import KubeApi
from support.operator_process import SETTINGS, OperatorProcess, eventually, operator

MERGE: Final = "application/merge-patch+json"
GROUP: Final = "bertops.dev/v1alpha1"
NEWER: Final[dict[str, Any]] = {
    "images": {"operator": "registry.test/operator:2", "build": "registry.test/build:2"},
    "triton": {"defaultRelease": "24.10", "releases": {"24.10": {"image": "registry.test/triton:2"}}},
}
"""Every image that serving pods and build Jobs get by default."""
PATIENCE: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything of a namespace that an upgrade could disturb, by name."""

    berts: dict[str, dict[str, Any]]
    artifacts: dict[str, dict[str, Any]]
    deployments: dict[str, dict[str, Any]]
    pods: dict[str, str]
    """Name of each pod -> its UID."""
    jobs: dict[str, str]


@dataclass(kw_only=True)
class Upgrade:
    """What was there before, and after, and what the newer operator wrote."""

    before: Snapshot
    after: Snapshot
    writes: int
    forbidden: int

    def disturbed(self) -> list[str]:
        """What the upgrade changed though nobody asked for it; empty if all is well."""
        wrong = []
        for name, old in self.before.deployments.items():
            new = self.after.deployments.get(name)
            if new is None or new["metadata"]["uid"] != old["metadata"]["uid"]:
                wrong.append(f"Deployment {name} is another one")
            elif new["metadata"]["generation"] != old["metadata"]["generation"]:
                wrong.append(f"Deployment {name} has generation {new['metadata']['generation']}")
            elif new["spec"]["template"] != old["spec"]["template"]:
                wrong.append(f"Deployment {name} has another pod template")
        if self.before.pods != self.after.pods:
            wrong.append(f"pods: {sorted({*self.before.pods.items()} ^ {*self.after.pods.items()})}")
        if self.before.jobs != self.after.jobs:
            wrong.append(f"Jobs: {sorted({*self.before.jobs} ^ {*self.after.jobs})}")
        return wrong


@dataclass(kw_only=True)
class Place:
    """One namespace."""

    api: KubeApi
    namespace: str
    claim: str = "models"
    names: list[str] = field(default_factory=list)

    def path(self, group: str, plural: str, name: str = "", sub: str = "") -> str:
        root = "/api/v1" if group == "v1" else f"/apis/{group}"
        return "/".join(filter(None, [root, "namespaces", self.namespace, plural, name, sub]))

    def items(self, group: str, plural: str) -> dict[str, dict[str, Any]]:
        """All of a kind, by name."""
        found = self.api.request("GET", self.path(group, plural)).body["items"]
        return {obj["metadata"]["name"]: obj for obj in found}

    def make_claim(self) -> None:
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        self._post("v1", "persistentvolumeclaims", {"metadata": {"name": self.claim}, "spec": spec})

    def create(self, name: str) -> None:
        """One more BertDeployment with the same model."""
        body = builders.bert(name, spec={"storage": {"claimName": self.claim}})
        self._post(GROUP, "bertdeployments", body | {"metadata": {"name": name}})
        self.names.append(name)

    def _post(self, group: str, plural: str, body: dict[str, Any]) -> None:
        answer = self.api.request("POST", self.path(group, plural), body)
        assert answer.code == 201, answer.message

    def play_the_build(self) -> None:
        """Let the build's pod end well, as a node would say; the Job's controller does the rest."""
        pod = eventually("the build's pod", partial(self._build_pod))
        report = builders.report().model_dump_json(by_alias=True)
        ended = {"image": "x", "imageID": "x"}
        steps = [builders.terminated(one["name"]) | ended for one in pod["spec"]["initContainers"]]
        main = builders.terminated("publish", message=report) | ended
        status = {"phase": "Succeeded", "initContainerStatuses": steps, "containerStatuses": [main]}
        path = self.path("v1", "pods", pod["metadata"]["name"], "status")
        answer = self.api.request("PATCH", path, {"status": status}, content_type=MERGE)
        assert answer.code == 200, answer.message

    def _build_pod(self) -> dict[str, Any] | None:
        pods = self.items("v1", "pods").values()
        return next((pod for pod in pods if "bertops.dev/request" in pod["metadata"]["labels"]), None)

    def served(self) -> bool:
        """Whether each has a Deployment with its pod, and says what it has seen."""
        snapshot = self.snapshot()
        told = [obj.get("status", {}).get("observedGeneration") for obj in snapshot.berts.values()]
        return len(snapshot.deployments) == len(snapshot.pods) == len(self.names) and all(told) and not snapshot.jobs

    def snapshot(self) -> Snapshot:
        return Snapshot(
            berts=self.items(GROUP, "bertdeployments"),
            artifacts=self.items(GROUP, "bertartifacts"),
            deployments=self.items("apps/v1", "deployments"),
            pods={name: pod["metadata"]["uid"] for name, pod in self.items("v1", "pods").items()},
            jobs={name: job["metadata"]["uid"] for name, job in self.items("batch/v1", "jobs").items()},
        )


def upgrade(api: KubeApi, namespace: str, folder: Path, *, resources: int) -> Upgrade:
    """Serve some BertDeployments, end the operator, and start it anew as a newer chart does.

    Args:
        api: where.
        namespace: an empty one.
        folder: for the operators' files.
        resources: how many BertDeployments.
    """
    place = Place(api=api, namespace=namespace)
    place.make_claim()
    with operator(api, folder, "-n", namespace) as older:
        place.create("bert-0")
        place.play_the_build()
        eventually("its artifact is recorded", lambda: place.items(GROUP, "bertartifacts"))
        for index in range(1, resources):
            place.create(f"bert-{index}")
        eventually("all are served", place.served, PATIENCE)
        before = _at_rest(older, place)
    assert set(NEWER) <= set(SETTINGS)
    with operator(api, folder, "-n", namespace, settings=NEWER) as newer:
        eventually("all were looked at", lambda: newer.reconciles() >= resources, PATIENCE)
        after = _at_rest(newer, place)
        return Upgrade(before=before, after=after, writes=newer.writes(), forbidden=newer.forbidden())


def _at_rest(running: OperatorProcess, place: Place) -> Snapshot:
    """The world once nobody changes it any more: other controllers answer our writes."""
    last: list[Snapshot] = []

    def still() -> bool:
        last[:] = [*last[-1:], place.snapshot()]
        return running.idle() and len(last) > 1 and last[0] == last[1]

    eventually("it comes to rest", still, PATIENCE)
    return last[-1]
