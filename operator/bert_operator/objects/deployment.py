"""The serving Deployment: preflight, verify and the server, over a model repository assembled by volume mounts.

Nothing is copied: each artifact is a read-only subPath of the claim, each generated file a subPath of an immutable
ConfigMap. Any change is therefore a pod-template change, one atomic rollout, and the old ReplicaSet is the way back.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.digests import digest
from bert_operator.api.observed import Manifest
from bert_operator.api.report import ServedModel, ServedModels
from bert_operator.objects import config_map, identity, pod
from bert_operator.servers.base import ServerContainer
from bert_operator.settings import Settings

VERIFY_PORT: Final = 9090
PROGRESS_DEADLINE_SECONDS: Final = 900
_GUARD_RESOURCES: Final[Mapping[str, Any]] = {
    "requests": {"cpu": "10m", "memory": "64Mi"},
    "limits": {"cpu": "1", "memory": "256Mi"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerDeployment:
    """Everything the Deployment is made from."""

    identity: identity.Identity
    spec: api.BertDeploymentSpec
    settings: Settings
    ports: Mapping[str, int]
    container: ServerContainer
    claim_name: str
    one_node_claims: tuple[str, ...]
    answers: Mapping[str, Mapping[str, str]]
    """Request key -> artifact and revision that answered it."""
    replicas: int | None
    """None: somebody else sets it."""
    autoscaled: bool = False
    """Whether that is our autoscaler."""
    tuning: str = ""
    """JSON of the measured plan that this follows; empty: none."""


def manifest(wish: ServerDeployment) -> dict[str, Any]:
    """Deployment of the serving pods."""
    who = wish.identity
    spec: dict[str, Any] = ({} if wish.replicas is None else {"replicas": wish.replicas}) | {
        "revisionHistoryLimit": wish.spec.rollout.revision_history_limit,
        "progressDeadlineSeconds": PROGRESS_DEADLINE_SECONDS,
        "selector": {"matchLabels": who.selector()},
        "strategy": _strategy(wish.spec.rollout),
        "template": {"metadata": _template_metadata(wish), "spec": _pod_spec(wish)},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": who.child_name,
            "namespace": who.namespace,
            "labels": who.labels("server"),
            "annotations": {
                names.ARTIFACTS_ANNOTATION: json.dumps(wish.answers, sort_keys=True),
                names.IMAGES_ANNOTATION: images_wish(wish.spec),
            }
            | ({names.AUTOSCALED_ANNOTATION: "true"} if wish.autoscaled else {})
            | ({names.TUNING_ANNOTATION: wish.tuning} if wish.tuning else {}),
            "ownerReferences": [who.owner_reference(controller=True)],
        },
        "spec": spec,
    }


def answers(live: Manifest) -> dict[str, dict[str, str]]:
    """Request key -> artifact and revision, of a live Deployment; nothing if somebody has edited its annotation."""
    text = (live["metadata"].get("annotations") or {}).get(names.ARTIFACTS_ANNOTATION, "{}")
    try:
        return {
            str(known): {name: str(answer[name]) for name in ("artifact", "revision")}
            for known, answer in json.loads(text).items()
        }
    except (ValueError, AttributeError, LookupError, TypeError):
        return {}


def images_wish(spec: api.BertDeploymentSpec) -> str:
    """What the user says about images, as a hash: while it stays, new default images restart no pod."""
    return digest([spec.server.image, spec.server.release])[:16]


def keeps_images(live: Manifest, spec: api.BertDeploymentSpec, now: datetime) -> bool:
    """Whether new default images alone leave a live Deployment as it is.

    They do as long as the user says the same of images and its pods answer, come back within a while, or are wished
    away. One that stays down, or never came up, may be mended by them.
    """
    told = (live["metadata"].get("annotations") or {}).get(names.IMAGES_ANNOTATION, "")
    if told != images_wish(spec):
        return False
    status = live.get("status") or {}
    if status.get("availableReplicas") or live["spec"].get("replicas") == 0:
        return True
    lost = next((c for c in status.get("conditions") or () if c["type"] == "Available"), None)
    since = datetime.fromisoformat(lost["lastTransitionTime"]) if lost else None
    return since is not None and (now - since).total_seconds() < PROGRESS_DEADLINE_SECONDS


def with_images_of(want: Manifest, live: Manifest) -> dict[str, Any]:
    """`want` with the images of the live containers: how it would look had no default image changed since."""
    images = {container["name"]: container["image"] for container in _containers(live)}
    template = want["spec"]["template"]
    kept = {
        kind: [{**one, "image": images.get(one["name"], one["image"])} for one in template["spec"][kind]]
        for kind in ("initContainers", "containers")
        if kind in template["spec"]
    }
    return {**want, "spec": {**want["spec"], "template": {**template, "spec": {**template["spec"], **kept}}}}


def _containers(deployment: Manifest) -> list[dict[str, Any]]:
    pod_spec = deployment["spec"]["template"]["spec"]
    return [*pod_spec.get("initContainers", ()), *pod_spec["containers"]]


def _strategy(rollout: api.Rollout) -> dict[str, Any]:
    if rollout.strategy is api.RolloutStrategy.RECREATE:
        return {"type": "Recreate"}
    # A pod that fails verification never replaces one that answers.
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def _template_metadata(wish: ServerDeployment) -> dict[str, Any]:
    template = wish.spec.server.pod_template
    content = config_map.content_hash(wish.container.files)
    labels = wish.identity.labels("server") | {names.CONFIG_LABEL: content}
    metadata: dict[str, Any] = {
        "labels": dict(template.labels) | labels | identity.claim_labels(*wish.one_node_claims),
        "annotations": dict(template.annotations) | {"kubectl.kubernetes.io/default-container": "server"},
    }
    return metadata


def _pod_spec(wish: ServerDeployment) -> dict[str, Any]:
    profile = wish.settings.hardware_profiles[wish.spec.hardware.profile]
    base = pod.base_spec(wish.spec.server.pod_template, wish.spec.hardware, profile, wish.one_node_claims)
    guards = [_preflight(wish)] + ([_verify(wish)] if wish.spec.rollout.verify else [])
    return base | {
        "terminationGracePeriodSeconds": wish.container.termination_grace_seconds,
        "initContainers": guards,
        "containers": [_server(wish)],
        "volumes": _volumes(wish),
    }


def _guard(wish: ServerDeployment, step: str) -> dict[str, Any]:
    return {
        "name": step,
        "image": wish.settings.images.operator,
        "imagePullPolicy": wish.settings.image_pull_policy,
        "command": ["python", "-m", "bert_build", step],
        "env": [
            {
                "name": names.SERVED_ENV,
                "value": _served_models(wish).model_dump_json(by_alias=True, exclude_defaults=True),
            }
        ],
        "resources": dict(_GUARD_RESOURCES),
        "securityContext": dict(pod.CONTAINER_SECURITY),
        "terminationMessagePolicy": "File",
        "volumeMounts": _artifact_mounts(wish),
    }


def _preflight(wish: ServerDeployment) -> dict[str, Any]:
    """Refuses an artifact that isn't the built one before the server sees it."""
    return _guard(wish, "preflight")


def _verify(wish: ServerDeployment) -> dict[str, Any]:
    """Native sidecar: the pod isn't ready until the server answers like the source model.

    A readiness probe only: a startup probe would hold the server back.
    """
    probe = {"httpGet": {"path": "/ready", "port": VERIFY_PORT}, "periodSeconds": 1, "failureThreshold": 1}
    return _guard(wish, "verify") | {"restartPolicy": "Always", "readinessProbe": probe}


def _server(wish: ServerDeployment) -> dict[str, Any]:
    made = wish.container
    return {
        "name": "server",
        "image": made.image,
        "imagePullPolicy": wish.settings.image_pull_policy,
        "command": list(made.command),
        "args": list(made.args),
        "env": [{"name": name, "value": value} for name, value in made.env.items()],
        "ports": [{"name": name, "containerPort": number} for name, number in wish.ports.items()],
        "startupProbe": made.startup_probe,
        "readinessProbe": made.readiness_probe,
        "livenessProbe": made.liveness_probe,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": made.lifecycle,
        "resources": made.resources,
        "securityContext": dict(pod.CONTAINER_SECURITY),
        "volumeMounts": [*_artifact_mounts(wish), *_config_mounts(wish), *_own_mounts(wish)],
    }


def _artifact_mounts(wish: ServerDeployment) -> list[dict[str, Any]]:
    return [
        {"name": "store", "mountPath": mount.path, "subPath": mount.served.artifact.path, "readOnly": True}
        for mount in wish.container.mounts
    ]


def _config_mounts(wish: ServerDeployment) -> list[dict[str, Any]]:
    return [
        {"name": "config", "mountPath": path, "subPath": file.key, "readOnly": True}
        for path, file in sorted(wish.container.files.items())
    ]


def _own_mounts(wish: ServerDeployment) -> list[dict[str, Any]]:
    return [{"name": volume.name, "mountPath": volume.mount_path} for volume in wish.container.volumes]


def _volumes(wish: ServerDeployment) -> list[dict[str, Any]]:
    config_name = wish.identity.config_name(config_map.content_hash(wish.container.files))
    return [
        {"name": "store", "persistentVolumeClaim": {"claimName": wish.claim_name, "readOnly": True}},
        {"name": "config", "configMap": {"name": config_name}},
        *({"name": volume.name, **volume.source} for volume in wish.container.volumes),
    ]


def _served_models(wish: ServerDeployment) -> ServedModels:
    profile = wish.settings.hardware_profiles[wish.spec.hardware.profile]
    engines = any(mount.served.artifact.report.compute_capability for mount in wish.container.mounts)
    return ServedModels(
        server=wish.spec.server.type.value,
        owner=f"{wish.identity.namespace}/{wish.identity.name}",
        compute_capability=profile.compute_capability if engines else "",
        tensorrt_version=wish.container.tensorrt_version if engines else "",
        models=[
            ServedModel(
                name=mount.name,
                version=mount.served.version,
                path=mount.path,
                artifact=mount.served.artifact_name,
                manifest_sha256=mount.served.artifact.report.manifest_sha256,
                max_batch_size=mount.served.model.serving.max_batch_size,
            )
            for mount in wish.container.mounts
        ],
    )
