"""kubectl for what users type, plain requests for the rest: a kubectl costs a third of a second of a processor.

For the end-to-end tests, which look hundreds of times at a cluster of their own. The demo keeps to kubectl, which reads
every kubeconfig that there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bert_operator.cluster import resources
from support.kube import CommandError, Kube
from support.kube_api import APPLY, Answer, KubeApi

_KINDS: Final = {
    "bertdeployment": "BertDeployment",
    "bertartifact": "BertArtifact",
    "configmap": "ConfigMap",
    "deployment": "Deployment",
    "job": "Job",
    "pod": "Pod",
    "pv": "PersistentVolume",
    "pvc": "PersistentVolumeClaim",
    "service": "Service",
    "serviceaccount": "ServiceAccount",
}
"""kubectl's word -> kind. What isn't here, kubectl is asked for."""
_NAMESPACED: Final = {"Secret": "secrets", "ServiceAccount": "serviceaccounts"}
_CLUSTER_WIDE: Final = {"Namespace": "namespaces", "PersistentVolume": "persistentvolumes"}
"""kind -> plural, of the core kinds that the operator never touches."""


@dataclass(frozen=True, kw_only=True)
class DirectKube(Kube):
    """One cluster and one namespace."""

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """One object, or None."""
        return self._look(_KINDS[kind], name) if kind in _KINDS else super().get(kind, name)

    def list(self, kind: str, selector: str = "") -> Sequence[dict[str, Any]]:
        """Objects of a kind."""
        single = kind.removesuffix("s")
        if single not in _KINDS:
            return super().list(kind, selector)
        found = self._look(_KINDS[single], "", **({"labelSelector": selector} if selector else {}))
        items: list[dict[str, Any]] = (found or {}).get("items", [])
        return items

    def apply(self, manifest: dict[str, Any] | Path) -> None:
        """Server-side apply of a file or of one object, as kubectl's own field manager."""
        if isinstance(manifest, Path):
            self.kubectl("apply", "--server-side", "-f", str(manifest))
            return
        path = self._path(manifest["kind"], manifest["metadata"]["name"])
        query = {"fieldManager": "kubectl", "force": "true", "fieldValidation": "Strict"}
        answer = self._ask("PATCH", path, manifest, content_type=APPLY, **query)
        if answer.code not in (200, 201):
            raise CommandError(f"apply {path}: {answer.code} {answer.message}")

    def _look(self, kind: str, name: str, **query: str) -> dict[str, Any] | None:
        path = self._path(kind, name)
        answer = self._ask("GET", path, **query)
        if answer.code == 404:
            return None
        if answer.code != 200:
            raise CommandError(f"GET {path}: {answer.code} {answer.message}")
        return answer.body

    def _ask(self, method: str, path: str, body: Any = None, **more: str) -> Answer:
        with KubeApi(self.kubeconfig) as api:
            return api.request(method, path, body, **more)

    def _path(self, kind: str, name: str) -> str:
        if kind in resources.RESOURCES:
            return resources.path(kind, self.namespace, name)
        if kind in _NAMESPACED:
            return f"/api/v1/namespaces/{self.namespace}/{_NAMESPACED[kind]}/{name}"
        return f"/api/v1/{_CLUSTER_WIDE[kind]}/{name}"
