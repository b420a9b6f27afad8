"""Cut objects down to what planning reads, so that thousands fit in memory. `observe` calls it for all it keeps.

Never changes the object it is given, and never fails on one of an odd shape.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from bert_operator.api.observed import Manifest

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
POD_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "labels",
    "ownerReferences",
    "deletionTimestamp",
    "creationTimestamp",
    "resourceVersion",
)
POD_STATUS: Final = ("phase", "conditions", "reason", "message")
_STARTUP: Final = ("periodSeconds", "failureThreshold")
WORD: Final = 64
"""Longest text, in characters, that several objects are likely to say: names, UIDs, labels."""
CONTAINER_STATUS: Final = ("name", "image", "ready", "started", "restartCount", "state", "lastState")


def slim(obj: Manifest) -> dict[str, Any]:
    """A copy of the object without what nobody plans with.

    Args:
        obj: the object as the API server gave it, `kind` included.

    Returns:
        A new object; the words in it are kept once, however many objects say them.
    """
    cut: dict[str, Any] = _interned(_CUTS.get(str(obj.get("kind")), _whole)(obj))
    return cut


def _interned(value: Any) -> Any:  # noqa: ANN401 - any part of an object of JSON
    """A copy whose keys and short texts are shared: each reply and event brings all of them anew."""
    if isinstance(value, dict):
        return {sys.intern(key): _interned(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_interned(one) for one in value]
    return sys.intern(value) if isinstance(value, str) and len(value) <= WORD else value


def _whole(obj: Manifest) -> dict[str, Any]:
    return {**obj, "metadata": _metadata(obj)}


def _metadata_only(obj: Manifest) -> dict[str, Any]:
    return {"apiVersion": obj.get("apiVersion"), "kind": obj.get("kind"), "metadata": _metadata(obj)}


def _replica_set(obj: Manifest) -> dict[str, Any]:
    # The pod template is most of a ReplicaSet, and the Deployment has the current one.
    return {
        **_metadata_only(obj),
        "spec": _pick(obj.get("spec"), ("replicas",)),
        "status": _pick(obj.get("status"), ("replicas", "readyReplicas", "availableReplicas", "conditions")),
    }


def _deployment(obj: Manifest) -> dict[str, Any]:
    cut = _whole(obj)
    cut["metadata"]["managedFields"] = [
        _pick(entry, ("manager", "operation", "subresource")) | {"fieldsV1": {"f:spec": {"f:replicas": {}}}}
        for entry in (obj.get("metadata") or {}).get("managedFields") or ()
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    ]
    return cut


def _autoscaler(obj: Manifest) -> dict[str, Any]:
    # Its status tells the measured load anew every 15 s, and a message may name another pod each time.
    conditions = [
        _pick(condition, ("type", "status", "reason", "lastTransitionTime"))
        for condition in (obj.get("status") or {}).get("conditions") or ()
        if condition.get("type") == "ScalingActive"
    ]
    return _whole(obj) | {"status": {"conditions": conditions}}


def _budget(obj: Manifest) -> dict[str, Any]:
    # Its status counts pods anew with each of them that comes or goes.
    return _metadata_only(obj) | {"spec": obj.get("spec") or {}}


def _pod(obj: Manifest) -> dict[str, Any]:
    status = obj.get("status") or {}
    cut = _pick(status, POD_STATUS)
    for key in ("initContainerStatuses", "containerStatuses"):
        if status.get(key):
            cut[key] = [_pick(container, CONTAINER_STATUS) for container in status[key]]
    return {
        "apiVersion": obj.get("apiVersion"),
        "kind": "Pod",
        "metadata": _pick(obj.get("metadata"), POD_METADATA),
        "spec": _pick(obj.get("spec"), ("nodeName",)) | _containers(obj.get("spec") or {}),
        "status": cut,
    }


def _containers(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Containers with nothing but what they were given: memory, and time to start. Whoever has too little is told."""
    return {
        kind: [
            {"name": one.get("name"), "resources": _pick(one.get("resources"), ("limits",))}
            | ({"startupProbe": _pick(one["startupProbe"], _STARTUP)} if one.get("startupProbe") else {})
            for one in spec[kind]
            if (one.get("resources") or {}).get("limits") or one.get("startupProbe")
        ]
        for kind in ("initContainers", "containers")
        if spec.get(kind)
    }


def _metadata(obj: Manifest) -> dict[str, Any]:
    metadata = {key: value for key, value in (obj.get("metadata") or {}).items() if key != "managedFields"}
    annotations = metadata.get("annotations")
    if annotations and LAST_APPLIED in annotations:
        metadata["annotations"] = {key: value for key, value in annotations.items() if key != LAST_APPLIED}
    return metadata


def _pick(value: Mapping[str, Any] | None, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value[key] for key in keys if key in value} if value else {}


_CUTS: Final[Mapping[str, Callable[[Manifest], dict[str, Any]]]] = {
    "Pod": _pod,
    "ReplicaSet": _replica_set,
    "ConfigMap": _metadata_only,
    "Deployment": _deployment,
    "HorizontalPodAutoscaler": _autoscaler,
    "PodDisruptionBudget": _budget,
}
