"""kubectl for what changes things, plain requests for looks: one by kubectl costs a third of a second of a processor.

For the end-to-end tests, which look hundreds of times at a cluster of their own. The demo keeps to kubectl, which reads
every kubeconfig that there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from support.kube import CommandError, Kube
from support.kube_api import KubeApi

_OURS: Final = "apis/bertops.dev/v1alpha1"
_KINDS: Final = {
    "bertdeployment": (_OURS, "bertdeployments"),
    "bertartifact": (_OURS, "bertartifacts"),
    "configmap": ("api/v1", "configmaps"),
    "deployment": ("apis/apps/v1", "deployments"),
    "endpointslice": ("apis/discovery.k8s.io/v1", "endpointslices"),
    "event": ("api/v1", "events"),
    "job": ("apis/batch/v1", "jobs"),
    "pod": ("api/v1", "pods"),
    "pvc": ("api/v1", "persistentvolumeclaims"),
    "service": ("api/v1", "services"),
}
"""Namespaced kind -> where the API server has it."""


@dataclass(frozen=True, kw_only=True)
class DirectKube(Kube):
    """One cluster and one namespace."""

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """One object, or None."""
        return self._ask(kind, f"/{name}")

    def list(self, kind: str, selector: str = "") -> Sequence[dict[str, Any]]:
        """Objects of a kind."""
        if kind.removesuffix("s") not in _KINDS:
            return super().list(kind, selector)
        found = self._ask(kind, "", **({"labelSelector": selector} if selector else {}))
        items: list[dict[str, Any]] = (found or {}).get("items", [])
        return items

    def _ask(self, kind: str, path: str, **query: str) -> dict[str, Any] | None:
        group, plural = _KINDS[kind.removesuffix("s")]
        with KubeApi(self.kubeconfig) as api:
            answer = api.request("GET", f"/{group}/namespaces/{self.namespace}/{plural}{path}", **query)
        if answer.code == 404:
            return None
        if answer.code != 200:
            raise CommandError(f"GET {plural}{path} in {self.namespace}: {answer.code} {answer.message}")
        return answer.body
