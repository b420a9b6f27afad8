"""The profile Job: the real server as a native sidecar, and Model Analyzer measuring it inside the same pod.

The server runs with the image, resources, environment and flags that serve, but its model control is open, so it
listens on the pod's loopback alone. Its repository is an emptyDir of links to the artifact: nothing is copied, and
nothing that serves is touched.
"""

from dataclasses import dataclass
from typing import Any, Final

from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.measurement import ProfileRequest
from bert_operator.objects import identity, pod, shared_job
from bert_operator.servers.base import ServerContainer
from bert_operator.settings import Settings

START_SECONDS: Final = 900
"""Beyond the budget, before the Job is given up: pulling images, starting the server, loading each variant."""
COMPONENT: Final = "profile"
_ANALYZER_RESOURCES: Final = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"memory": "1Gi"},
}
"""Model Analyzer takes about 200 MiB. No CPU limit: a throttled client would measure itself."""
_COMMAND: Final = ("python", "-m", "bert_build", "profile")
_SERVER: Final = "/opt/tritonserver/bin/tritonserver"
_LOOPBACK: Final = ("--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1")
_REPLACED: Final = ("--model-repository=", "--model-control-mode=", "--strict-readiness=", "--exit-on-error=")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileJob:
    """Everything a profile Job is made from."""

    identity: identity.Identity
    spec: api.BertDeploymentSpec
    request: ProfileRequest
    attempt: int
    container: ServerContainer
    """The serving container, with the resources of the largest variant."""
    image: str
    """The server's."""
    artifact_path: str
    """Folder of the artifact inside the claim."""
    claim_name: str
    store_read_only: bool
    """Nothing can be written through the claim: what the analyzer wrote is not kept."""
    one_node_claims: tuple[str, ...]
    settings: Settings


def name(key: str, attempt: int) -> str:
    """Name of the Job: one per key, whoever asks."""
    return f"bert-profile-{key}-{attempt}"


def manifest(job: ProfileJob) -> dict[str, Any]:
    """Job that measures one artifact in each of a few ways and reports by termination message."""
    labels = shared_job.labels(job.identity, COMPONENT, job.request.key, job.attempt)
    template = shared_job.template_metadata(job.spec.builds.pod_template, labels, job.one_node_claims)
    made, queue = name(job.request.key, job.attempt), job.spec.builds.queue_name
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": shared_job.metadata(job.identity, made, labels, job.request.model, queue),
        "spec": {
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": shared_job.failure_policy(),
            "template": {"metadata": template, "spec": _pod_spec(job)},
        },
    }


def _pod_spec(job: ProfileJob) -> dict[str, Any]:
    profile = job.settings.hardware_profiles[job.spec.hardware.profile]
    return pod.base_spec(_template(job.spec), job.spec.hardware, profile, job.one_node_claims) | {
        # The pod's own deadline starts on its node: waiting for room there is no failure.
        "activeDeadlineSeconds": job.request.budget_seconds + START_SECONDS,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 30,
        "initContainers": [_prepare(job), _server(job)],
        "containers": [_analyzer(job)],
        "volumes": _volumes(job),
    }


def _template(spec: api.BertDeploymentSpec) -> api.PodTemplate:
    """The builds' additions, and the secrets with which the server's image is pulled."""
    secrets = [*spec.builds.pod_template.image_pull_secrets, *spec.server.pod_template.image_pull_secrets]
    unique = {secret.name: secret for secret in secrets}
    return spec.builds.pod_template.model_copy(update={"image_pull_secrets": list(unique.values())})


def _prepare(job: ProfileJob) -> dict[str, Any]:
    """Checks the artifact and lays out the repository."""
    mounts = [_artifact_mount(job), {"name": "profile", "mountPath": names.PROFILE_MOUNT}]
    return _ours(job, "prepare", job.request, mounts) | {"command": [*_COMMAND, "--prepare"]}


def _analyzer(job: ProfileJob) -> dict[str, Any]:
    mounts = [
        _artifact_mount(job),
        {"name": "profile", "mountPath": names.PROFILE_MOUNT, "readOnly": True},
        {"name": "store", "mountPath": names.STORE_MOUNT, **_writable(job)},
        {"name": "work", "mountPath": names.WORK_MOUNT},
        {"name": "client-tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of this pod alone
    ]
    bare = [variant.model_copy(update={"config": ""}) for variant in job.request.variants]
    return _ours(job, "profile", job.request.model_copy(update={"variants": bare}), mounts)


def _ours(job: ProfileJob, name: str, asked: ProfileRequest, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    request = asked.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True)
    return {
        "name": name,
        "image": job.settings.images.analyzer,
        "imagePullPolicy": job.settings.image_pull_policy,
        "command": list(_COMMAND),
        "env": [
            {"name": names.PROFILE_REQUEST_ENV, "value": request},
            {"name": "HOME", "value": names.WORK_MOUNT},
        ],
        "resources": dict(_ANALYZER_RESOURCES),
        "securityContext": dict(pod.CONTAINER_SECURITY),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _server(job: ProfileJob) -> dict[str, Any]:
    """No probes: it answers on loopback alone, and the analyzer waits for it."""
    made = job.container
    kept = [argument for argument in made.args if not argument.startswith(_REPLACED)]
    return {
        "name": "server",
        "image": job.image,
        "imagePullPolicy": job.settings.image_pull_policy,
        "restartPolicy": "Always",
        "command": [_SERVER],
        "args": [f"--model-repository={names.PROFILE_MOUNT}", "--model-control-mode=explicit", *_LOOPBACK, *kept],
        "env": [{"name": name, "value": value} for name, value in made.env.items()],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": made.resources,
        "securityContext": dict(pod.CONTAINER_SECURITY),
        "volumeMounts": [
            _artifact_mount(job),
            {"name": "profile", "mountPath": names.PROFILE_MOUNT, "readOnly": True},
            *({"name": volume.name, "mountPath": volume.mount_path} for volume in made.volumes),
        ],
    }


def _artifact_mount(job: ProfileJob) -> dict[str, Any]:
    return {"name": "store", "mountPath": names.ARTIFACT_MOUNT, "subPath": job.artifact_path, "readOnly": True}


def _writable(job: ProfileJob) -> dict[str, bool]:
    return {"readOnly": True} if job.store_read_only else {}


def _volumes(job: ProfileJob) -> list[dict[str, Any]]:
    return [
        {"name": "store", "persistentVolumeClaim": {"claimName": job.claim_name, **_writable(job)}},
        {"name": "profile", "emptyDir": {"sizeLimit": "16Mi"}},
        {"name": "work", "emptyDir": {}},
        {"name": "client-tmp", "emptyDir": {}},
        *({"name": volume.name, **volume.source} for volume in job.container.volumes),
    ]
