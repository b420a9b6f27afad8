"""The PersistentVolumeClaim of `storage.size`. It outlives its BertDeployment unless the user says otherwise."""

from typing import Any

from bert_operator.api import spec as api
from bert_operator.api.observed import Manifest
from bert_operator.objects.identity import Identity


def manifest(identity: Identity, storage: api.Storage, live: Manifest | None = None) -> dict[str, Any]:
    """Claim `<name>-store`. With retentionPolicy Retain it has no owner, so that artifacts survive a deletion.

    Args:
        identity: whose it is.
        storage: what the spec says.
        live: the claim as it stands: not even the order of its access modes can change.
    """
    labels = identity.labels("store")
    metadata: dict[str, Any] = {
        "name": identity.store_claim,
        "namespace": identity.namespace,
        # No owner label: the next BertDeployment of this name takes the claim over.
        "labels": {key: value for key, value in labels.items() if value != identity.suffix},
    }
    if storage.retention_policy is api.RetentionPolicy.DELETE:
        metadata["ownerReferences"] = [identity.owner_reference(controller=True)]
    modes = list(storage.access_modes or ["ReadWriteOnce"])
    kept = ((live or {}).get("spec") or {}).get("accessModes") or ()
    spec: dict[str, Any] = {
        "accessModes": list(kept) if sorted(kept) == sorted(modes) else modes,
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
