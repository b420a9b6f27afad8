"""The PodDisruptionBudget of the serving pods: how many a drained node may take away at once."""

from typing import Any, Final

from bert_operator.objects.identity import Identity

KIND: Final = "PodDisruptionBudget"


def manifest(identity: Identity, max_unavailable: int) -> dict[str, Any]:
    """Budget over the serving pods.

    It counts what may be missing, not what must be there: `minAvailable: 1` of one replica would block every drain. A
    pod that isn't ready may always be evicted: it answers nobody, and might never become ready where it is.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": KIND,
        "metadata": {
            "name": identity.child_name,
            "namespace": identity.namespace,
            "labels": identity.labels("server"),
            "ownerReferences": [identity.owner_reference(controller=True)],
        },
        "spec": {
            "maxUnavailable": max_unavailable,
            "selector": {"matchLabels": identity.selector()},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
