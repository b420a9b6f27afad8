"""What all our pods share: the "restricted" security context, the user's additions, RWO co-location."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bert_operator.api import spec as api
from bert_operator.objects import identity
from bert_operator.settings import HardwareProfile

USER: Final = 1000

POD_SECURITY: Final[Mapping[str, Any]] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def base_spec(
    template: api.PodTemplate, hardware: api.Hardware, profile: HardwareProfile, claims: Iterable[str]
) -> dict[str, Any]:
    """Pod spec without containers and volumes.

    Args:
        template: the user's additions.
        hardware: the user's placement.
        profile: the placement that the profile named by `hardware` asks for.
        claims: names of mounted claims that only one node can mount at a time.
    """
    tolerations = [t.model_dump(mode="json", by_alias=True, exclude_none=True) for t in _tolerations(hardware, profile)]
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "runtimeClassName": profile.runtime_class_name or None,
        "enableServiceLinks": False,
        "securityContext": dict(POD_SECURITY),
        "priorityClassName": template.priority_class_name,
        "imagePullSecrets": [{"name": secret.name} for secret in template.image_pull_secrets],
        "nodeSelector": {**profile.node_selector, **hardware.node_selector},
        "tolerations": tolerations,
        "affinity": _same_node(claims),
    }
    return {key: value for key, value in spec.items() if value not in (None, {}, [])}


def _tolerations(hardware: api.Hardware, profile: HardwareProfile) -> list[api.Toleration]:
    return [*profile.tolerations, *hardware.tolerations]


def _same_node(claims: Iterable[str]) -> dict[str, Any]:
    """A ReadWriteOnce claim mounts on one node only: its pods must meet there instead of hanging in Multi-Attach."""
    terms = [
        {
            "labelSelector": {"matchExpressions": [{"key": identity.claim_label(claim), "operator": "Exists"}]},
            "topologyKey": "kubernetes.io/hostname",
        }
        for claim in claims
    ]
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}} if terms else {}


def resources(wished: api.Resources, default: api.Resources) -> dict[str, Any]:
    """Merge the user's resources over the defaults, value by value; a lone user limit also caps the default request."""
    requests = {**_amounts(default.requests), **_amounts(wished.limits), **_amounts(wished.requests)}
    limits = {**_amounts(default.limits), **_amounts(wished.limits)}
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}


def _amounts(amounts: api.ResourceList) -> dict[str, str]:
    return amounts.model_dump(mode="json", exclude_none=True)


def read_only(claim: Mapping[str, Any] | None) -> bool:
    """Whether nothing can be written through a live claim."""
    return bool((claim or {}).get("spec", {}).get("accessModes") == ["ReadOnlyMany"])


def one_node_only(claim: Mapping[str, Any] | None) -> bool:
    """Whether a live claim can be mounted by the pods of one node only."""
    modes = (claim or {}).get("spec", {}).get("accessModes") or []
    return bool(modes) and not {"ReadWriteMany", "ReadOnlyMany"} & set(modes)
