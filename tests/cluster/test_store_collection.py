"""The collection of a store against a real API server: what is marked, what is withdrawn, what the Job is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bert_operator.api import names
from bert_operator.api.maintenance import StoreTask
from bert_operator.objects import artifact
from support import builders
from support.kube_api import KubeApi
from support.operator_process import eventually, install_crds, operator

pytestmark = pytest.mark.cluster

LIVE, UNUSED, YOUNG = "1" * 32, "2" * 32, "3" * 32


class Place:
    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self.records = f"/apis/bertops.dev/v1alpha1/namespaces/{namespace}/bertartifacts"
        self.claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
        self.jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        self.claim = self.post(self.claims, {"metadata": {"name": "store"}, "spec": spec})

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.api.request("POST", path, body)
        assert answer.code == 201, answer.message
        return answer.body

    def record(self, key: str, **annotations: str) -> None:
        made = artifact.manifest(builders.report(artifact_key=key), self.claim, key, None)
        made["metadata"] |= {"annotations": annotations}
        self.post(self.records, made)

    def mount(self, key: str) -> None:
        """Somebody may serve it: a Deployment of ours without a pod."""
        labels = {names.MANAGED_BY: names.MANAGER, "app": "x"}
        mounts = [{"name": "s", "mountPath": "/m", "subPath": f"artifacts/onnx-{key}", "readOnly": True}]
        pod = {
            "containers": [{"name": "server", "image": "x", "volumeMounts": mounts}],
            "volumes": [{"name": "s", "persistentVolumeClaim": {"claimName": "store"}}],
        }
        template = {"metadata": {"labels": labels}, "spec": pod}
        spec = {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "template": template}
        body = {"metadata": {"name": "server", "labels": labels}, "spec": spec}
        self.post(f"/apis/apps/v1/namespaces/{self.namespace}/deployments", body)

    def recorded(self) -> dict[str, bool]:
        """Artifact key -> whether its record says that it is unused."""
        found = self.api.request("GET", self.records).body["items"]
        return {
            one["spec"]["report"]["artifactKey"]: names.UNUSED_SINCE_ANNOTATION
            in (one["metadata"].get("annotations") or {})
            for one in found
        }


@pytest.fixture
def place(api: KubeApi) -> Iterator[Place]:
    install_crds(api)
    name = f"collection-{uuid4().hex[:8]}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield Place(api, name)
    api.request("DELETE", f"/api/v1/namespaces/{name}")


def test_a_job_is_made_with_the_right_list_after_the_record_is_gone(place: Place, tmp_path: Path) -> None:
    place.record(LIVE)
    place.record(UNUSED, **{names.UNUSED_SINCE_ANNOTATION: "2026-01-01T00:00:00Z"})
    place.record(YOUNG)
    place.mount(LIVE)
    retention = {"store": {"unusedArtifactsRetention": "10s"}}
    with operator(place.api, tmp_path, "-n", place.namespace, settings=retention) as running:

        def made() -> list[dict[str, Any]]:
            return list(place.api.request("GET", place.jobs).body["items"])

        (job,) = eventually("a store Job", made)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        task = StoreTask.model_validate_json(container["env"][0]["value"])
        assert [one.folder for one in task.artifacts] == [f"onnx-{UNUSED}"]
        assert task.recorded == [f"onnx-{LIVE}", f"onnx-{YOUNG}"]
        assert task.claim == "store"
        # What is live isn't even marked; what was not known to be unused only begins its time.
        assert place.recorded() == {LIVE: False, YOUNG: True}
        assert running.forbidden() == 0
