"""The build Job: fetch, inspect, convert, compare, publish, a container each, so that the pod shows the stage.

The Job that compiles a TensorRT engine looks the same but for its steps, two of which hold a GPU and run in NVIDIA's
image: they get a script, the graph and nothing else of ours, neither the store nor a credential.
"""

from dataclasses import dataclass
from typing import Any, Literal

from bert_operator.api import names, steps
from bert_operator.api import spec as api
from bert_operator.api.report import BuildRequest
from bert_operator.objects import identity, pod, shared_job
from bert_operator.settings import HardwareProfile, Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildJob:
    """Everything a build Job is made from."""

    identity: identity.Identity
    spec: api.BertDeploymentSpec
    hardware: api.Hardware
    """Where it runs: the spec's, or that of the export before a compilation."""
    request: BuildRequest
    attempt: int
    claim_name: str
    one_node_claims: tuple[str, ...]
    settings: Settings


def name(request_key: str, attempt: int) -> str:
    """Name of the Job: one per request, whoever asks."""
    return f"bert-build-{request_key}-{attempt}"


def image(build: api.Build, step: str, spec: api.BertDeploymentSpec, settings: Settings) -> str:
    """Image that a step of such a build runs in; empty if this installation has none."""
    match steps.toolchain(step, build, trace_device(build, spec, settings)):
        case steps.Toolchain.TENSORFLOW:
            return settings.images.tensorflow
        case steps.Toolchain.TENSORRT:
            # Engines fit one TensorRT only: that of the server's release.
            release = settings.triton.releases.get(spec.server.release or settings.triton.default_release)
            return release.tensorrt_image if release else ""
        case steps.Toolchain.PYTORCH_GPU:
            return settings.images.build_gpu
        case steps.Toolchain.PYTORCH:
            return settings.images.build


def trace_device(build: api.Build, spec: api.BertDeploymentSpec, settings: Settings) -> Literal["cuda"] | None:
    """Where TorchScript is traced: on the kind of device that serves it. None is a CPU, and every other format."""
    profile = settings.hardware_profiles.get(spec.hardware.profile)
    traced = build.format is api.Format.TORCHSCRIPT
    return "cuda" if traced and profile is not None and profile.resource_name else None


def manifest(job: BuildJob) -> dict[str, Any]:
    """Job that builds one artifact and reports by termination message."""
    key = job.request.request_key
    labels = shared_job.labels(job.identity, "build", key, job.attempt)
    template = shared_job.template_metadata(job.spec.builds.pod_template, labels, job.one_node_claims)
    queue = job.spec.builds.queue_name
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": shared_job.metadata(job.identity, name(key, job.attempt), labels, job.request.model, queue),
        "spec": {
            # Retries are the operator's: it tells passing faults from mistakes and keeps the evidence.
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": shared_job.failure_policy(),
            "template": {"metadata": template, "spec": _pod_spec(job)},
        },
    }


def _pod_spec(job: BuildJob) -> dict[str, Any]:
    containers = [_container(job, step) for step in steps.job_steps(job.request.build)]
    return pod.base_spec(job.spec.builds.pod_template, job.hardware, _profile(job), job.one_node_claims) | {
        # A pod's own deadline starts on its node: waiting for room or a GPU may take days and is no failure. And such a
        # pod stays to tell why; the Job's deadline would delete it.
        "activeDeadlineSeconds": job.spec.builds.active_deadline_seconds,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 30,
        "initContainers": containers[:-1],
        "containers": containers[-1:],
        "volumes": _volumes(job),
    }


def _profile(job: BuildJob) -> HardwareProfile:
    return job.settings.hardware_profiles[job.hardware.profile]


def _container(job: BuildJob, step: str) -> dict[str, Any]:
    if steps.toolchain(step, job.request.build) is steps.Toolchain.TENSORRT:
        return _gpu_container(job, step)
    return {
        "name": step,
        "image": image(job.request.build, step, job.spec, job.settings),
        "imagePullPolicy": job.settings.image_pull_policy,
        "command": ["python", "-m", "bert_build", step],
        "env": [
            {"name": names.BUILD_REQUEST_ENV, "value": job.request.model_dump_json(by_alias=True, exclude_none=True)},
            {"name": "HOME", "value": names.WORK_MOUNT},
            *(_hub_env(job) if step == "fetch" else ()),
        ],
        "resources": _resources(job, gpu=steps.on_gpu(step, job.request.trace_device)),
        "securityContext": dict(pod.CONTAINER_SECURITY),
        "terminationMessagePolicy": "File",
        "volumeMounts": _mounts(job, step),
    }


def _mounts(job: BuildJob, step: str) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "work", "mountPath": names.WORK_MOUNT},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of this pod alone
    ]
    access = steps.store_access(step, job.request.build)
    if access is not steps.StoreAccess.NONE:
        read_only = {"readOnly": True} if access is steps.StoreAccess.READ else {}
        mounts.insert(0, {"name": "store", "mountPath": names.STORE_MOUNT, **read_only})
    if job.request.pvc:
        mounts.append({"name": "source", "mountPath": names.SOURCE_MOUNT, "readOnly": True})
    if step == "fetch" and _credentials(job):
        mounts.append({"name": "credentials", "mountPath": names.CREDENTIALS_MOUNT, "readOnly": True})
    if step == "fetch":
        folders = {role: f"{names.TEXTS_MOUNT}/{role}" for role in job.request.build.texts}
        mounts += [{"name": role, "mountPath": folder, "readOnly": True} for role, folder in folders.items()]
    first, *_, last = steps.job_steps(job.request.build)
    if step in (first, last):
        # The first names the source; what runs between them can't put another name into the last one's hands.
        read_only = {"readOnly": True} if step == last else {}
        mounts.append({"name": "sealed", "mountPath": names.SEALED_MOUNT, **read_only})
    return mounts


def _gpu_container(job: BuildJob, step: str) -> dict[str, Any]:
    """A step of NVIDIA's image. The pod takes one GPU in all: init containers hand theirs on."""
    return {
        "name": step,
        "image": image(job.request.build, step, job.spec, job.settings),
        "imagePullPolicy": job.settings.image_pull_policy,
        "command": ["python3", f"{names.WORK_MOUNT}/{names.COMPILE_SCRIPT}", step],
        "env": [{"name": "HOME", "value": names.WORK_MOUNT}, {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}],
        "resources": _resources(job, gpu=True),
        "securityContext": dict(pod.CONTAINER_SECURITY),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "work", "mountPath": names.WORK_MOUNT},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of this pod alone
        ],
    }


def _resources(job: BuildJob, *, gpu: bool) -> dict[str, Any]:
    resources = pod.resources(job.spec.builds.resources, job.settings.build.resources)
    if not gpu:
        return resources
    return resources | {"limits": {**resources.get("limits", {}), _profile(job).resource_name: "1"}}


def _hub_env(job: BuildJob) -> list[dict[str, Any]]:
    """Only the fetch container learns the hub's address."""
    if not job.request.hugging_face or not job.settings.build.hub_endpoint:
        return []
    return [{"name": "HF_ENDPOINT", "value": job.settings.build.hub_endpoint}]


def _credentials(job: BuildJob) -> dict[str, Any] | None:
    """The source's Secret as files, which the kubelet reads; None if the source names none.

    Optional: without it the pod would wait and nobody could say for what, so fetch looks and names what is missing.
    """
    hub, s3 = job.request.hugging_face, job.request.s3
    if hub and hub.token_secret_ref:
        secret, files = hub.token_secret_ref.name, {hub.token_secret_ref.key: names.HUB_TOKEN_FILE}
    elif s3 and s3.credentials_secret_ref:
        secret, files = s3.credentials_secret_ref.name, {key: key for key in names.S3_CREDENTIAL_KEYS}
    else:
        return None
    items = [{"key": key, "path": path} for key, path in files.items()]
    return {"secretName": secret, "items": items, "optional": True, "defaultMode": 0o440}


def _volumes(job: BuildJob) -> list[dict[str, Any]]:
    store = {"claimName": job.claim_name} | ({"readOnly": True} if job.request.store_read_only else {})
    volumes: list[dict[str, Any]] = [
        {"name": "store", "persistentVolumeClaim": store},
        {"name": "work", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "sealed", "emptyDir": {"sizeLimit": "16Mi"}},
    ]
    if job.request.pvc:
        claim = {"claimName": job.request.pvc.claim_name, "readOnly": True}
        # The same claim for source and store must be one volume's worth of access: a read-only mount suffices.
        volumes.append({"name": "source", "persistentVolumeClaim": claim})
    if secret := _credentials(job):
        volumes.append({"name": "credentials", "secret": secret})
    if not job.request.onnx:
        volumes += [{"name": role, **_texts(source)} for role, source in job.request.build.texts.items()]
    return volumes


def _texts(source: api.TextsSource) -> dict[str, Any]:
    """Texts of the user's as a volume. A ConfigMap is optional, for the reason that the source's Secret is."""
    if source.claim_name:
        return {"persistentVolumeClaim": {"claimName": source.claim_name, "readOnly": True}}
    items = [{"key": source.file, "path": source.file}]
    return {"configMap": {"name": source.config_map_name, "items": items, "optional": True, "defaultMode": 0o440}}
