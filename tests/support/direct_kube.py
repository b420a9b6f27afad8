"""kubectl for what changes things, plain requests for looks: one by kubectl costs a third of a second of a processor.

For the end-to-end tests, which look hundreds of times at a cluster of their own. The demo keeps to kubectl, which reads
every kubeconfig that there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from bert_operator.cluster import resources
from support.kube import CommandError, Kube
from support.kube_api import KubeApi

_KINDS: Final = {
    "bertdeployment": "BertDeployment",
    "bertartifact": "BertArtifact",
    "configmap": "ConfigMap",
    "deployment": "Deployment",
    "job": "Job",
    "pod": "Pod",
    "pvc": "PersistentVolumeClaim",
    "service": "Service",
}
"""kubectl's word -> kind. What isn't here, kubectl is asked for."""


@dataclass(frozen=True, kw_only=True)
class DirectKube(Kube):
    """One cluster and one namespace."""

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """One object, or None."""
        return self._ask(kind, name) if kind in _KINDS else super().get(kind, name)

    def list(self, kind: str, selector: str = "") -> Sequence[dict[str, Any]]:
        """Objects of a kind."""
        single = kind.removesuffix("s")
        if single not in _KINDS:
            return super().list(kind, selector)
        found = self._ask(single, "", **({"labelSelector": selector} if selector else {}))
        items: list[dict[str, Any]] = (found or {}).get("items", [])
        return items

    def _ask(self, kind: str, name: str, **query: str) -> dict[str, Any] | None:
        path = resources.path(_KINDS[kind], self.namespace, name)
        with KubeApi(self.kubeconfig) as api:
            answer = api.request("GET", path, **query)
        if answer.code == 404:
            return None
        if answer.code != 200:
            raise CommandError(f"GET {path}: {answer.code} {answer.message}")
        return answer.body
