"""Small Kubernetes objects for tests of the runtime: only what tells one from another."""

from typing import Any

from bert_operator.api import names

BERT_UID = "aaaaaaaa-0000-4000-8000-000000000001"
OTHER_UID = "bbbbbbbb-0000-4000-8000-000000000002"


def owner(uid: str = BERT_UID, name: str = "demo", kind: str = names.KIND) -> dict[str, Any]:
    return {"apiVersion": names.API_VERSION, "kind": kind, "name": name, "uid": uid}


def an_object(kind: str, name: str, *, uid: str = "", version: int | str = 1, **metadata: Any) -> dict[str, Any]:
    found = {
        "name": name,
        "namespace": "ns",
        "uid": uid or f"uid-{kind}-{name}",
        "resourceVersion": str(version),
        "managedFields": [{"manager": "noise"}],
    }
    return {"apiVersion": "v1", "kind": kind, "metadata": found | metadata}


def a_bert(name: str = "demo", *, uid: str = BERT_UID, version: int | str = 1, **parts: Any) -> dict[str, Any]:
    return {
        **an_object(names.KIND, name, uid=uid, version=version),
        "apiVersion": names.API_VERSION,
        "spec": {"storage": {"size": "1Gi"}, "models": []},
        **parts,
    }


def with_request(request: str) -> dict[str, Any]:
    return {"status": {"models": [{"name": "m", "versions": [{"version": 1, "requestKey": request}]}]}}


def a_child(kind: str, name: str, *, uid: str = "", version: int | str = 1, **parts: Any) -> dict[str, Any]:
    """Owned by the BertDeployment `demo`."""
    labels = {names.INSTANCE_LABEL: "demo", names.OWNER_LABEL: "aaaaaa"}
    made = an_object(kind, name, uid=uid, version=version, labels=labels, ownerReferences=[owner()])
    return made | parts


def a_job(name: str = "build", *, request: str = "0123", owners: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    labels = {names.REQUEST_LABEL: request, names.INSTANCE_LABEL: "demo"}
    return an_object("Job", name, labels=labels, ownerReferences=list(owners))


def a_job_pod(job: str = "build", *, request: str = "0123") -> dict[str, Any]:
    labels = {names.REQUEST_LABEL: request, names.COMPONENT_LABEL: "build"}
    owners = [owner(f"uid-Job-{job}", job, "Job")]
    return an_object("Pod", f"{job}-pod", labels=labels, ownerReferences=owners) | {"status": {"phase": "Running"}}


def a_server_pod(name: str = "demo-x", *, phase: str = "Running", version: int = 1) -> dict[str, Any]:
    labels = {
        names.INSTANCE_LABEL: "demo",
        names.OWNER_LABEL: "aaaaaa",
        names.COMPONENT_LABEL: "server",
    }
    owners = [owner("uid-ReplicaSet-demo-rs", "demo-rs", "ReplicaSet")]
    made = an_object("Pod", name, version=version, labels=labels, ownerReferences=owners)
    return made | {"spec": {"nodeName": "n", "containers": [{"name": "big"}]}, "status": {"phase": phase}}


def an_artifact(name: str = "onnx-1", *, claim: str = "demo-store", requests: tuple[str, ...] = ()) -> dict[str, Any]:
    spec = {"claimName": claim, "requestKeys": list(requests)}
    return an_object(names.ARTIFACT_KIND, name) | {"apiVersion": names.API_VERSION, "spec": spec}
