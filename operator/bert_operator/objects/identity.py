"""Who a child belongs to: names, labels and owner references of everything the operator makes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bert_operator.api import names
from bert_operator.api.observed import Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """One BertDeployment as its children know it."""

    name: str
    namespace: str
    uid: str

    @classmethod
    def of(cls, bert: Manifest) -> "Identity":
        """Read the identity from a live BertDeployment."""
        meta = bert["metadata"]
        return cls(name=meta["name"], namespace=meta["namespace"], uid=meta["uid"])

    @property
    def suffix(self) -> str:
        """Six hex digits of the UID: a re-created BertDeployment never meets its predecessor's children."""
        return self.uid.replace("-", "")[:6]

    @property
    def child_name(self) -> str:
        """Name of the children there is one of."""
        return f"{self.name}-{self.suffix}"

    @property
    def store_claim(self) -> str:
        """Name of a claim made from `storage.size`: no suffix, so that a re-created one finds its artifacts."""
        return f"{self.name}-store"

    def config_name(self, content_hash: str) -> str:
        """Name of the immutable ConfigMap with this content."""
        return f"{self.name}-config-{content_hash}-{self.suffix}"

    def labels(self, component: str) -> dict[str, str]:
        """Labels of every child."""
        return {
            names.MANAGED_BY: names.MANAGER,
            names.NAME_LABEL: "bert",
            names.INSTANCE_LABEL: self.name,
            names.COMPONENT_LABEL: component,
            names.OWNER_LABEL: self.suffix,
        }

    def selector(self) -> dict[str, str]:
        """What selects the serving pods, and them alone."""
        return {
            names.INSTANCE_LABEL: self.name,
            names.COMPONENT_LABEL: "server",
            names.OWNER_LABEL: self.suffix,
        }

    def owner_reference(self, *, controller: bool) -> dict[str, Any]:
        """Owner reference of a child. It never blocks the owner's deletion: a dead operator must not either."""
        reference = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": self.name,
            "uid": self.uid,
            "blockOwnerDeletion": False,
        }
        return reference | ({"controller": True} if controller else {})

    def owns(self, live: Manifest) -> bool:
        """Whether a live object carries our owner reference."""
        return any(ref.get("uid") == self.uid for ref in live["metadata"].get("ownerReferences", ()))


def artifact_name(artifact_format: str, artifact_key: str, claim_uid: str) -> str:
    """Name of the BertArtifact that records one artifact on one claim."""
    return f"{artifact_format}-{artifact_key}-{hashlib.sha256(claim_uid.encode()).hexdigest()[:8]}"


def claim_label(claim_name: str) -> str:
    """Label key of pods that mount this claim."""
    return names.CLAIM_LABEL_PREFIX + hashlib.sha256(claim_name.encode()).hexdigest()[:10]


def claim_labels(*claim_names: str) -> dict[str, str]:
    """Labels by which pods of the same claims find each other."""
    return {claim_label(name): "" for name in claim_names}


def is_ours(live: Manifest, name: str) -> bool:
    """Whether an object without an owner (a retained claim) was made for a BertDeployment of this name."""
    meta: Mapping[str, Any] = live["metadata"]
    labels = meta.get("labels") or {}
    return labels.get(names.MANAGED_BY) == names.MANAGER and labels.get(names.INSTANCE_LABEL) == name
