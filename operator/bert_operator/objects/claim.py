"""The PersistentVolumeClaim of `storage.size`. It outlives its BertDeployment unless the user says otherwise."""

from typing import Any

from bert_operator.api import spec as api
from bert_operator.objects.identity import Identity


def manifest(identity: Identity, storage: api.Storage) -> dict[str, Any]:
    """Claim `<name>-store`. With retentionPolicy Retain it has no owner, so that artifacts survive a deletion."""
    labels = identity.labels("store")
    metadata: dict[str, Any] = {
        "name": identity.store_claim,
        "namespace": identity.namespace,
        # No owner label: the next BertDeployment of this name takes the claim over.
        "labels": {key: value for key, value in labels.items() if value != identity.suffix},
    }
    if storage.retention_policy is api.RetentionPolicy.DELETE:
        metadata["ownerReferences"] = [identity.owner_reference(controller=True)]
    spec: dict[str, Any] = {
        "accessModes": storage.access_modes or ["ReadWriteOnce"],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
