"""The Job that looks after the artifacts on one claim for `bertctl artifacts`. The operator never makes one.

Its pod runs in the operator's image under the restricted profile, without a token, and sees the claim alone: read-only
to verify, writable to remove.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.maintenance import StoreTask
from bert_operator.objects import identity, pod
from bert_operator.settings import HardwareProfile

MANAGER: Final = "bertctl"
"""Who makes it: the operator must not take it for one of its own Jobs."""
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
        names.MANAGED_BY: MANAGER,
        names.NAME_LABEL: "bert",
        names.COMPONENT_LABEL: "store",
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
