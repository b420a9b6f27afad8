"""Reads from a cluster as kubectl would: the same kubeconfig, the same context, the user's own rights. Never writes.

The only module of this package that imports the Kubernetes client; of it only transport and configuration. `Reader` is
not the operator's own connection, because that one knows no contexts and works in coroutines.
"""

import json
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, list_kube_config_contexts, load_incluster_config, load_kube_config

from bert_operator.api import names
from bert_operator.cli.terminal import FailureError
from bert_operator.cluster.resources import path

_POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TIMEOUT: Final = (5, 30)
"""Seconds to connect, and to wait for an answer."""
_OK: Final = 200
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404


class Reader:
    """One cluster and the namespace to look in."""

    def __init__(self, *, namespace: str = "", context: str | None = None, kubeconfig: str | None = None) -> None:
        """Read the configuration.

        Args:
            namespace: where to look; empty is the context's namespace.
            context: of the kubeconfig; None is the current one.
            kubeconfig: a file; None is KUBECONFIG, then ~/.kube/config, then a pod's service account.

        Raises:
            FailureError: there is none, or it can't be used.
        """
        configuration = Configuration()
        configuration.retries = False
        try:
            if _in_cluster(kubeconfig, context):
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
                own = _POD_NAMESPACE.read_text(encoding="utf-8")
            else:
                load_kube_config(kubeconfig, context, configuration, persist_config=False)  # type: ignore[no-untyped-call]
                own = _namespace(kubeconfig, context)
        except (ConfigException, OSError) as error:
            raise FailureError(
                f"no way to a cluster: {error}; set KUBECONFIG, or give --kubeconfig or --context"
            ) from error
        self.namespace = namespace or own or "default"
        self._client = ApiClient(configuration)

    def bert(self, name: str) -> dict[str, Any]:
        """A BertDeployment.

        Raises:
            FailureError: it isn't there, or can't be read.
        """
        found = self.get(names.KIND, name)
        if found is None:
            raise FailureError(
                f"there is no BertDeployment {name!r} in namespace {self.namespace}: "
                "`kubectl get bertd -A` lists all; -n names the namespace"
            )
        return found

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """One object, or None if it isn't there."""
        status, body = self._ask(path(kind, self.namespace, name))
        if status == _NOT_FOUND:
            return None
        found: dict[str, Any] = self._json(status, body, f"read {kind} {name}")
        return found

    def list(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """Objects of a kind, by name."""
        query = f"?{urlencode({'labelSelector': selector})}" if selector else ""
        status, body = self._ask(path(kind, self.namespace) + query)
        items: list[dict[str, Any]] = self._json(status, body, f"list {kind}s").get("items") or []
        return sorted(items, key=lambda item: str(item["metadata"]["name"]))

    def last_line(self, pod: str, container: str) -> str:
        """The last line that a container wrote; in brackets why there is none."""
        query = urlencode({"container": container, "tailLines": 1})
        status, body = self._ask(f"{path('Pod', self.namespace, pod, 'log')}?{query}")
        if status == _FORBIDDEN:
            return "(you may not read logs here)"
        return body.strip() if status == _OK else ""

    def _ask(self, target: str) -> tuple[int, str]:
        client = self._client
        method, url, headers, _, _ = client.param_serialize(
            "GET", target, header_params={"Accept": "application/json"}, auth_settings=["BearerToken"]
        )
        try:
            response = client.call_api(method, url, headers, _request_timeout=_TIMEOUT)
            raw: bytes = response.read() or b""  # type: ignore[no-untyped-call]  # the client is partly typed
            status = int(response.status)
        except ApiException as error:
            status, raw = int(error.status or 0), str(error.body or error.reason or "").encode()
        except urllib3.exceptions.HTTPError as error:
            raise FailureError(f"the API server can't be reached: {error}; does `kubectl version` work?") from error
        return status, raw.decode(errors="replace")

    def _json(self, status: int, body: str, what: str) -> Any:  # noqa: ANN401 - JSON
        try:
            answer = json.loads(body)
        except ValueError:
            answer = {}
        if status == _OK:
            return answer
        message = answer.get("message") if isinstance(answer, dict) else ""
        raise FailureError(f"can't {what} in namespace {self.namespace}: {message or f'HTTP {status}'}")


def _in_cluster(kubeconfig: str | None, context: str | None) -> bool:
    if kubeconfig or context or os.environ.get("KUBECONFIG") or not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return False
    return not Path("~/.kube/config").expanduser().exists()


def _namespace(kubeconfig: str | None, context: str | None) -> str:
    """The namespace that the context names, or nothing."""
    contexts, active = list_kube_config_contexts(kubeconfig)  # type: ignore[no-untyped-call]
    chosen = next((each for each in contexts if each["name"] == context), active)
    return str((chosen.get("context") or {}).get("namespace") or "")
