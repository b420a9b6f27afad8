"""The NetworkPolicy of the serving pods: who may send them requests, and that they send none themselves."""

from collections.abc import Sequence
from typing import Any, Final

from bert_operator.api import spec as api
from bert_operator.objects.identity import Identity

KIND: Final = "NetworkPolicy"
PORTS: Final = ("http", "grpc", "metrics")
"""By name, so that old and new pods of a rollout to another server each answer on their own. A name that a pod doesn't
have opens nothing, and admin ports have none."""


def manifest(identity: Identity, allowed: Sequence[api.Peer]) -> dict[str, Any]:
    """Policy of the serving pods.

    Args:
        identity: who owns it.
        allowed: who may connect; nobody named: all pods of the same namespace.
    """
    peers = [peer.model_dump(mode="json", by_alias=True, exclude_none=True) for peer in allowed]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": KIND,
        "metadata": {
            "name": identity.child_name,
            "namespace": identity.namespace,
            "labels": identity.labels("server"),
            "ownerReferences": [identity.owner_reference(controller=True)],
        },
        "spec": {
            "podSelector": {"matchLabels": identity.selector()},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": peers or [{"podSelector": {}}],
                    "ports": [{"port": name, "protocol": "TCP"} for name in PORTS],
                }
            ],
            # Said, not left out: so a rule that somebody adds is drift.
            "egress": [],
        },
    }
