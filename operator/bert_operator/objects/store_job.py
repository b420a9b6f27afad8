"""The Job that looks after the artifacts on one claim, for `bertctl artifacts` or for the operator's `collector`.

Its pod runs in the operator's image under the restricted profile, without a token, and sees the claim alone: read-only
to verify, writable to remove.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.maintenance import StoredArtifact, StoreTask
from bert_operator.objects import identity, pod
from bert_operator.settings import HardwareProfile

MANAGER: Final = "bertctl"
"""Who makes it, unless the operator does: it must not take bertctl's Jobs for its own."""
COMPONENT: Final = "store"
CONTAINER: Final = "store"
DEADLINE_SECONDS: Final = 3600
TTL_SECONDS: Final = 600
"""bertctl removes it when it has read the result; this is for one that was interrupted."""
_RESOURCES: Final = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreJob:
    """Everything a store Job is made from."""

    namespace: str
    name: str
    task: StoreTask
    manager: str = MANAGER
    """Who makes it and looks after it."""
    image: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: Sequence[str] = ()
    tolerations: Sequence[dict[str, Any]] = field(default=())
    """Of the pods that serve from the claim: its volume may be on tainted nodes only."""
    one_node_claim: bool
    """The claim can be mounted on one node only: the pod must meet those that have it mounted."""


def manifest(job: StoreJob) -> dict[str, Any]:
    """Job with one container that ends once the task is done."""
    labels = {
        names.MANAGED_BY: job.manager,
        names.NAME_LABEL: "bert",
        names.COMPONENT_LABEL: COMPONENT,
        **(identity.claim_labels(job.task.claim) if job.one_node_claim else {}),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job.name, "namespace": job.namespace, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "ttlSecondsAfterFinished": TTL_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec(job)},
        },
    }


def stored(record: Mapping[str, Any]) -> StoredArtifact:
    """What a Job is told of a recorded artifact."""
    spec = record["spec"]
    return StoredArtifact(folder=folder(record), manifest_sha256=spec["report"]["manifestSha256"])


def folder(record: Mapping[str, Any]) -> str:
    """Name of a recorded artifact's folder."""
    return str(record["spec"]["path"]).rpartition("/")[2]


def terms(deployments: Sequence[Mapping[str, Any]], claim_name: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Pull secrets and tolerations of a pod that serves from a claim, or of any in the namespace: ours needs the same.

    Args:
        deployments: that serve.
        claim_name: of the claim.
    """
    specs = [live["spec"]["template"]["spec"] for live in deployments]

    def mounts(spec: Mapping[str, Any]) -> bool:
        volumes = spec.get("volumes") or ()
        return any((one.get("persistentVolumeClaim") or {}).get("claimName") == claim_name for one in volumes)

    spec: Mapping[str, Any] = next((one for one in specs if mounts(one)), next(iter(specs), {}))
    secrets = [str(each["name"]) for each in spec.get("imagePullSecrets") or ()]
    return secrets, list(spec.get("tolerations") or ())


def claim(live: Mapping[str, Any]) -> str:
    """The claim that a live store Job looks after; empty if it is none."""
    if (live["metadata"].get("labels") or {}).get(names.COMPONENT_LABEL) != COMPONENT:
        return ""
    volumes = (((live.get("spec") or {}).get("template") or {}).get("spec") or {}).get("volumes") or ()
    return next((str((one.get("persistentVolumeClaim") or {}).get("claimName") or "") for one in volumes), "")


def _pod_spec(job: StoreJob) -> dict[str, Any]:
    claims = [job.task.claim] if job.one_node_claim else []
    secrets = [api.LocalReference(name=name) for name in job.image_pull_secrets]
    template = api.PodTemplate(image_pull_secrets=secrets)
    hardware = api.Hardware(tolerations=[api.Toleration.model_validate(each) for each in job.tolerations])
    read_only = job.task.action == "verify"
    return pod.base_spec(template, hardware, HardwareProfile(), claims) | {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 30,
        "containers": [_container(job, read_only=read_only)],
        "volumes": [
            {"name": "store", "persistentVolumeClaim": {"claimName": job.task.claim, "readOnly": read_only}},
        ],
    }


def _container(job: StoreJob, *, read_only: bool) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": job.image,
        "imagePullPolicy": job.image_pull_policy,
        "command": ["python", "-m", "bert_build", "store"],
        "env": [{"name": names.STORE_TASK_ENV, "value": job.task.model_dump_json(by_alias=True)}],
        "resources": dict(_RESOURCES),
        "securityContext": dict(pod.CONTAINER_SECURITY),
        "terminationMessagePolicy": "File",
        "volumeMounts": [{"name": "store", "mountPath": names.STORE_MOUNT, "readOnly": read_only}],
    }
