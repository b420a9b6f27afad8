"""The replica count of a real Deployment passes to an autoscaler and back, on a real API server.

The builds are played (no node runs here), and so is the autoscaler where the test says so: there is no metrics API. The
real HorizontalPodAutoscaler controller runs all the same, and keeps counts within bounds without one.
"""

import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from unittest import mock
from uuid import uuid4

import pytest
import yaml

from bert_operator.api.actions import Hold
from bert_operator.cluster.calls import Cluster
from bert_operator.cluster.connection import Connection
from bert_operator.cluster.errors import ApiError
from bert_operator.metrics import Metrics
from support import builders
from support.kube_api import KubeApi
from support.operator_process import OperatorProcess, eventually, install_crds, operator

pytestmark = pytest.mark.cluster

ROOT: Final = Path(__file__).parents[2]
BERTS: Final = "/apis/bertops.dev/v1alpha1/namespaces"
AUTOSCALER: Final = "kube-controller-manager"
MERGE: Final = "application/merge-patch+json"
BOUNDS: Final = {"minReplicas": 2, "maxReplicas": 9, "metrics": [{"type": "cpu", "averageUtilization": 70}]}
SYNC: Final = 60.0
"""The HorizontalPodAutoscaler controller looks every 15 s."""


class Place:
    """One namespace with one BertDeployment in it."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api, self.namespace, self.name = api, namespace, "minilm"

    def path(self, group: str, plural: str, name: str = "", sub: str = "") -> str:
        root = "/api/v1" if group == "v1" else f"/apis/{group}"
        return "/".join(filter(None, [root, "namespaces", self.namespace, plural, name, sub]))

    def items(self, group: str, plural: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.request("GET", self.path(group, plural)).body["items"]
        return found

    def bert(self) -> dict[str, Any]:
        return self.api.request("GET", self.path("bertops.dev/v1alpha1", "bertdeployments", self.name)).body

    def said(self, kind: str) -> str:
        """Message of a condition; empty before it is there."""
        conditions = self.bert().get("status", {}).get("conditions", ())
        return next((str(each["message"]) for each in conditions if each["type"] == kind), "")

    def create(self, resource: dict[str, Any]) -> None:
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        self.api.request(
            "POST", self.path("v1", "persistentvolumeclaims"), {"metadata": {"name": "models"}, "spec": claim}
        )
        self.name = resource["metadata"]["name"]
        answer = self.api.request("POST", self.path("bertops.dev/v1alpha1", "bertdeployments"), resource)
        assert answer.code == 201, answer.message

    def write(self, **spec: Any) -> None:
        """A user's edit."""
        path = self.path("bertops.dev/v1alpha1", "bertdeployments", self.name)
        answer = self.api.request("PATCH", path, {"spec": spec}, content_type=MERGE)
        assert answer.code == 200, answer.message

    def play_the_build(self) -> None:
        """Let the build's pod end well, as a node would say; the Job's controller does the rest."""
        labelled = "bertops.dev/request"
        (pod,) = eventually(
            "the build's pod", lambda: [p for p in self.items("v1", "pods") if labelled in p["metadata"]["labels"]]
        )
        report = builders.report().model_dump_json(by_alias=True)
        steps = [
            builders.terminated(container["name"])
            | {"image": "x", "imageID": "x", "ready": True, "containerID": "containerd://x"}
            for container in pod["spec"]["initContainers"]
        ]
        main = builders.terminated("publish", message=report) | {"image": "x", "imageID": "x", "ready": False}
        status = {"phase": "Succeeded", "initContainerStatuses": steps, "containerStatuses": [main]}
        path = self.path("v1", "pods", pod["metadata"]["name"], "status")
        answer = self.api.request("PATCH", path, {"status": status}, content_type=MERGE)
        assert answer.code == 200, answer.message
        eventually("the Deployment", lambda: self.items("apps/v1", "deployments"))

    def deployment(self) -> dict[str, Any]:
        (live,) = self.items("apps/v1", "deployments")
        return live

    def count(self) -> int:
        found: int = self.deployment()["spec"]["replicas"]
        return found

    def owners(self) -> set[tuple[str, str]]:
        """(manager, subresource) of whoever owns the count."""
        return {
            (entry["manager"], entry.get("subresource", ""))
            for entry in self.deployment()["metadata"]["managedFields"]
            if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
        }

    def autoscalers(self) -> list[dict[str, Any]]:
        return self.items("autoscaling/v2", "horizontalpodautoscalers")

    def scale(self, count: int, manager: str = AUTOSCALER) -> None:
        """Play an autoscaler, or a person, on the child Deployment."""
        path = self.path("apps/v1", "deployments", self.deployment()["metadata"]["name"], "scale")
        answer = self.api.request(
            "PATCH", path, {"spec": {"replicas": count}}, content_type=MERGE, fieldManager=manager
        )
        assert answer.code == 200, answer.message

    def series(self, since: str) -> list[int]:
        """Every count that was ever stored since a resourceVersion, as a watch replays it, repetitions left out."""
        path = self.path("apps/v1", "deployments")
        raw = self.api.kubectl("get", "--raw", f"{path}?watch=true&resourceVersion={since}&timeoutSeconds=2").stdout
        counts = [json.loads(line)["object"]["spec"]["replicas"] for line in raw.splitlines()]
        return [count for before, count in zip([None, *counts], counts, strict=False) if count != before]


def a_bert(**spec: Any) -> dict[str, Any]:
    resource = builders.bert(spec=spec)
    resource["metadata"] = {"name": resource["metadata"]["name"]}
    return resource


@pytest.fixture(scope="module", autouse=True)
def crds(api: KubeApi) -> None:
    install_crds(api)


@pytest.fixture
def place(api: KubeApi) -> Iterator[Place]:
    name = f"scaling-{uuid4().hex[:8]}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield Place(api, name)
    api.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def running(place: Place, tmp_path: Path) -> Iterator[OperatorProcess]:
    with operator(place.api, tmp_path, "-n", place.namespace) as real:
        yield real


def test_there_and_back_no_write_lowers_the_count(place: Place, running: OperatorProcess) -> None:
    place.create(a_bert(replicas=4))
    place.play_the_build()
    eventually("it comes to rest", running.idle)
    assert place.owners() == {("bert-operator", "")}
    start, writes = place.deployment()["metadata"]["resourceVersion"], running.writes()

    place.write(autoscaling=BOUNDS)
    eventually("an autoscaler", place.autoscalers)
    eventually("it comes to rest", running.idle)
    assert place.owners() == {("bertops-replicas", "")}
    assert place.series(start) in ([], [4]), "nobody changed it"
    assert running.writes() - writes <= 3 + 2, "hold, let go, autoscaler, and at most two status writes"
    assert running.reads() <= 1 + 2, "is the Service's name free, and while there is none, the autoscaler's?"

    place.scale(6)
    eventually("the autoscaler owns it alone", lambda: place.owners() == {(AUTOSCALER, "scale")})
    place.write(models=[builders.model(serving={"maxBatchSize": 4})])
    template = place.deployment()["spec"]["template"]
    eventually("a rollout", lambda: place.deployment()["spec"]["template"] != template)
    eventually("it comes to rest", running.idle)
    assert place.count() == 6

    place.write(autoscaling=BOUNDS | {"minReplicas": 7})
    eventually("the real controller raises it", lambda: place.count() == 7, SYNC)
    assert place.owners() == {(AUTOSCALER, "scale")}, "the name that the operator knows it by"
    assert place.series(start) == [4, 6, 7]

    place.write(autoscaling=None)
    eventually("the spec counts again", lambda: place.owners() == {("bert-operator", "")})
    eventually("it comes to rest", running.idle)
    assert place.autoscalers() == []
    assert place.series(start) == [4, 6, 7, 4], "in one write, to what the spec says"


def test_it_goes_back_before_the_autoscaler_ever_wrote(place: Place, running: OperatorProcess) -> None:
    place.create(a_bert(replicas=4))
    place.play_the_build()
    eventually("it comes to rest", running.idle)
    start = place.deployment()["metadata"]["resourceVersion"]
    place.write(autoscaling=BOUNDS)
    eventually("the second manager holds it", lambda: place.owners() == {("bertops-replicas", "")})
    place.write(autoscaling=None)
    eventually("we own it alone", lambda: place.owners() == {("bert-operator", "")})
    assert place.series(start) in ([], [4])


def test_the_sample_starts_with_its_start_value_and_a_broken_autoscaler_is_mended(
    place: Place, running: OperatorProcess
) -> None:
    sample = yaml.safe_load((ROOT / "crds/samples/minilm-autoscaled.yaml").read_text())
    sample["spec"]["replicas"] = 3
    place.create(sample)
    place.play_the_build()
    eventually("an autoscaler", place.autoscalers)
    eventually("it comes to rest", running.idle)
    assert place.count() == 3
    (auto,) = place.autoscalers()
    assert auto["metadata"]["name"] == place.deployment()["metadata"]["name"]
    assert auto["metadata"]["ownerReferences"][0]["uid"] == place.bert()["metadata"]["uid"]
    assert auto["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 600
    assert "policies" in auto["spec"]["behavior"]["scaleDown"], "the API server has filled in defaults"
    path = place.path("autoscaling/v2", "horizontalpodautoscalers", auto["metadata"]["name"])

    place.api.request("PATCH", path, {"metadata": {"labels": {"team": "nlp"}}}, content_type=MERGE)
    place.api.request("PATCH", path, {"spec": {"maxReplicas": 50}}, content_type=MERGE)
    eventually("it is mended", lambda: place.autoscalers()[0]["spec"]["maxReplicas"] == 6)
    eventually("it comes to rest", running.idle)
    told = [line["message"] for line in running.lines() if "applied HorizontalPodAutoscaler" in line["message"]]
    assert len(told) == 2, "made, then mended: the defaults are no drift"

    place.api.request("DELETE", path)
    eventually(
        "it comes back", lambda: [a for a in place.autoscalers() if a["metadata"]["uid"] != auto["metadata"]["uid"]]
    )
    assert place.count() == 3
    assert running.forbidden() == 0


def test_a_restart_while_it_is_on_writes_nothing(place: Place, tmp_path: Path) -> None:
    with operator(place.api, tmp_path, "-n", place.namespace) as first:
        place.create(a_bert(replicas=4, autoscaling=BOUNDS))
        place.play_the_build()
        eventually("an autoscaler", place.autoscalers)
        place.scale(6)
        eventually("the autoscaler owns it alone", lambda: place.owners() == {(AUTOSCALER, "scale")})
        said = "6 of 6 pods are new, 0 of these answer, at least 2 are asked for"
        eventually("it says so", lambda: place.said("Ready") == said)
        eventually("it comes to rest", first.idle)
    with operator(place.api, tmp_path, "-n", place.namespace) as second:
        eventually("it was looked at", lambda: second.reconciles() >= 1 and second.idle())
        assert (second.writes(), second.reads()) == (0, 0)
    assert place.count() == 6


def test_somebody_elses_autoscaler_on_the_child_is_not_fought(place: Place, running: OperatorProcess) -> None:
    place.create(a_bert(replicas=2))
    place.play_the_build()
    eventually("it comes to rest", running.idle)
    live = place.deployment()["metadata"]
    spec = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": live["name"]}} | {
        "minReplicas": 5,
        "maxReplicas": 9,
    }
    path = place.path("autoscaling/v2", "horizontalpodautoscalers")
    theirs = place.api.request("POST", path, {"metadata": {"name": "theirs"}, "spec": spec})
    assert theirs.code == 201, theirs.message
    eventually("the real controller raises it", lambda: place.count() == 5, SYNC)
    eventually("it comes to rest", running.idle)
    place.write(models=[builders.model(serving={"maxBatchSize": 4})])
    template = place.deployment()["spec"]["template"]
    eventually("a rollout", lambda: place.deployment()["spec"]["template"] != template)
    eventually("it comes to rest", running.idle)
    assert place.series(live["resourceVersion"])[-1] == 5
    assert place.owners() == {(AUTOSCALER, "scale")}

    place.api.request("DELETE", f"{path}/theirs")
    place.scale(3, manager="kubectl")
    eventually("a person's write gives it back to the spec", lambda: place.count() == 2)


def test_an_autoscaler_that_kubectl_named_like_the_child_is_not_taken_over(
    place: Place, running: OperatorProcess
) -> None:
    place.create(a_bert(replicas=2))
    place.play_the_build()
    eventually("it comes to rest", running.idle)
    name = place.deployment()["metadata"]["name"]
    place.api.kubectl("autoscale", "deployment", name, "--max=9", "--min=3", "-n", place.namespace)
    (theirs,) = place.autoscalers()
    assert theirs["metadata"]["name"] == name
    place.write(autoscaling=BOUNDS)
    eventually("it says so", lambda: "remove spec.autoscaling or remove that object" in place.said("Accepted"))
    eventually("it comes to rest", running.idle)
    (live,) = place.autoscalers()
    assert (live["metadata"]["uid"], live["spec"]["maxReplicas"]) == (theirs["metadata"]["uid"], 9)
    assert "ownerReferences" not in live["metadata"]
    assert running.forbidden() == 0


@pytest.fixture
async def cluster(api: KubeApi) -> AsyncIterator[Cluster]:
    with mock.patch.dict(os.environ, {"KUBECONFIG": str(api.kubeconfig)}):
        connection = Connection(Metrics())
        await connection.open()
        yield Cluster(connection)
        await connection.close()


def a_deployment(namespace: str, **spec: Any) -> dict[str, Any]:
    labels = {"app": "any"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "registry.test/none:1"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "any", "namespace": namespace},
        "spec": {"selector": {"matchLabels": labels}, "template": pod} | spec,
    }


async def test_a_count_that_its_only_owner_drops_falls_to_one_and_a_held_one_does_not(
    place: Place, cluster: Cluster
) -> None:
    for held, count in ((False, 1), (True, 4)):
        made = await cluster.apply(a_deployment(place.namespace, replicas=4))
        uid = made["metadata"]["uid"]
        if held:
            await cluster.hold(place.namespace, Hold(name="any", uid=uid, count=4))
        dropped = a_deployment(place.namespace)
        dropped["metadata"]["uid"] = uid
        await cluster.apply(dropped)
        assert place.count() == count
        place.api.request("DELETE", place.path("apps/v1", "deployments", "any"))


async def test_a_hold_overwrites_nobody_and_makes_nothing(place: Place, cluster: Cluster) -> None:
    made = await cluster.apply(a_deployment(place.namespace, replicas=4))
    hold = Hold(name="any", uid=made["metadata"]["uid"], count=4)
    place.scale(6)
    for wrong in (hold, replace(hold, uid="00000000-0000-4000-8000-000000000009"), replace(hold, name="none")):
        with pytest.raises(ApiError) as caught:
            await cluster.hold(place.namespace, wrong)
        assert (caught.value.status, caught.value.refused) == (409, False)
    assert (place.count(), place.owners()) == (6, {(AUTOSCALER, "scale")})
    await cluster.hold(place.namespace, replace(hold, count=None))
    assert place.count() == 6, "letting go of what one doesn't hold changes nothing"
