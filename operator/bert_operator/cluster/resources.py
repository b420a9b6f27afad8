"""Where each kind lives in the API. `calls` builds its addresses here."""

from typing import Final
from urllib.parse import quote

from bert_operator.api import names

RESOURCES: Final = {
    "Service": ("v1", "services"),
    "ConfigMap": ("v1", "configmaps"),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims"),
    "Pod": ("v1", "pods"),
    "Deployment": ("apps/v1", "deployments"),
    "ReplicaSet": ("apps/v1", "replicasets"),
    "HorizontalPodAutoscaler": ("autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "Job": ("batch/v1", "jobs"),
    "Event": ("events.k8s.io/v1", "events"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    names.KIND: (names.API_VERSION, names.PLURAL),
    names.ARTIFACT_KIND: (names.API_VERSION, names.ARTIFACT_PLURAL),
}
"""kind -> (apiVersion, plural)."""


def path(kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
    """Address of an object, of its subresource, or of a namespace's collection.

    Raises:
        KeyError: nobody taught us this kind.
    """
    api_version, plural = RESOURCES[kind]
    root = "/api" if "/" not in api_version else "/apis"
    parts = (root[1:], *api_version.split("/"), "namespaces", namespace, plural, name, subresource)
    return "/" + "/".join(quote(part, safe="") for part in parts if part)
