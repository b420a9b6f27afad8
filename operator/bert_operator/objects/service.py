"""The Service clients talk to. The only child with the BertDeployment's plain name."""

from collections.abc import Mapping
from typing import Any

from bert_operator.objects.identity import Identity


def manifest(identity: Identity, ports: Mapping[str, int]) -> dict[str, Any]:
    """ClusterIP Service over the ready serving pods.

    Args:
        identity: who owns it.
        ports: name -> number, as the server's container names them; admin ports never are among them.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": identity.name,
            "namespace": identity.namespace,
            "labels": identity.labels("server"),
            "ownerReferences": [identity.owner_reference(controller=True)],
        },
        "spec": {
            "type": "ClusterIP",
            "selector": identity.selector(),
            "ports": [
                {"name": name, "port": number, "targetPort": name, "protocol": "TCP"} for name, number in ports.items()
            ],
        },
    }
