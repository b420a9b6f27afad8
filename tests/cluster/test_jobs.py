"""What the real Job controller and the real admission of a namespace make of our Jobs. No node runs here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from support import builders
from support.kube_api import KubeApi
from support.operator_process import OperatorProcess, eventually, install_crds, operator

pytestmark = pytest.mark.cluster

MERGE = "application/merge-patch+json"
QUOTA = {"hard": {"requests.memory": "512Mi"}}
LIMITS = {"limits": [{"type": "Container", "max": {"memory": "512Mi"}}]}


class Place:
    """One namespace with one BertDeployment in it."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    def path(self, group: str, plural: str, name: str = "") -> str:
        root = "/api/v1" if group == "v1" else f"/apis/{group}"
        return "/".join(filter(None, [root, "namespaces", self.namespace, plural, name]))

    def post(self, group: str, plural: str, name: str, spec: dict[str, Any], kind: str | None = None) -> None:
        named = {"apiVersion": group, "kind": kind} if kind else {}
        body = named | {"metadata": {"name": name}, "spec": spec}
        answer = self.api.request("POST", self.path(group, plural), body)
        assert answer.code == 201, answer.message

    def create(self, **spec: Any) -> None:
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        self.post("v1", "persistentvolumeclaims", "models", claim)
        wished = builders.bert(spec=spec)["spec"]
        self.post("bertops.dev/v1alpha1", "bertdeployments", "minilm", wished, "BertDeployment")

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.request("GET", self.path("batch/v1", "jobs")).body["items"]
        return found

    def built(self) -> dict[str, Any]:
        live = self.api.request("GET", self.path("bertops.dev/v1alpha1", "bertdeployments", "minilm")).body
        return next((c for c in live.get("status", {}).get("conditions", ()) if c["type"] == "Built"), {})

    def says(self, reason: str) -> dict[str, Any]:
        return self.built() if self.built().get("reason") == reason else {}


@pytest.fixture(scope="module", autouse=True)
def crds(api: KubeApi) -> None:
    install_crds(api)


@pytest.fixture
def place(api: KubeApi) -> Iterator[Place]:
    name = f"jobs-{uuid4().hex[:8]}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield Place(api, name)
    api.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def running(place: Place, tmp_path: Path) -> Iterator[OperatorProcess]:
    with operator(place.api, tmp_path, "-n", place.namespace) as real:
        yield real


@pytest.mark.parametrize(
    ("plural", "spec", "reason", "says"),
    [
        ("resourcequotas", QUOTA, "QuotaExceeded", "exceeded quota: tight, requested: requests.memory=1Gi"),
        ("limitranges", LIMITS, "LimitRangeExceeded", "maximum memory usage per Container is 512Mi, but "),
    ],
)
def test_what_refuses_the_builds_pod_is_named_within_seconds_and_what_lets_it_pass_is_noticed(
    place: Place, running: OperatorProcess, plural: str, spec: dict[str, Any], reason: str, says: str
) -> None:
    place.post("v1", plural, "tight", spec)
    if plural == "resourcequotas":
        path = place.path("v1", plural, "tight")
        eventually("the quota counts", lambda: place.api.request("GET", path).body.get("status", {}).get("used"))
    place.create(builds={"resources": {"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}})
    built = eventually("it says why", lambda: place.says(reason), 20)
    assert built["status"] == "False"
    assert says in built["message"]
    assert "next: " in built["message"]
    assert running.forbidden() == 0

    patch = {"spec": {"builds": {"resources": {"limits": {"memory": "256Mi"}, "requests": {"memory": "256Mi"}}}}}
    path = place.path("bertops.dev/v1alpha1", "bertdeployments", "minilm")
    place.api.request("PATCH", path, patch, content_type=MERGE)
    eventually("its pod waits for a node", lambda: place.says("Building") or place.says("Unschedulable"))


def test_a_job_that_a_queue_holds_back_is_queued(place: Place, running: OperatorProcess) -> None:
    """Kueue itself isn't here: the test does what its webhook and its controller do to a Job."""
    place.create(builds={"queueName": "nightly"})
    (job,) = eventually("a Job", place.jobs)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "nightly"
    path = place.path("batch/v1", "jobs", job["metadata"]["name"])
    place.api.request("PATCH", path, {"spec": {"suspend": True}}, content_type=MERGE)
    built = eventually("it says so", lambda: place.says("Queued"))
    assert built["status"] == "Unknown"
    assert "waits in queue 'nightly'" in built["message"]
    place.api.request("PATCH", path, {"spec": {"suspend": False}}, content_type=MERGE)
    eventually("let go, it builds", lambda: place.says("Building") or place.says("Unschedulable"))
    assert running.process.poll() is None
