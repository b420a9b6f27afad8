"""Talks to a cluster as kubectl would: the same kubeconfig, the same context, the user's own rights.

`Reader` never writes; `Editor` does, for the few commands that change something.

The only module of this package that imports the Kubernetes client; of it only transport and configuration. `Reader` is
not the operator's own connection, because that one knows no contexts and works in coroutines.
"""

import json
import os
from collections.abc import Iterator, Mapping
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
_CREATED: Final = 201
_ACCEPTED: Final = 202
_CONFLICT: Final = 409
_FOLLOW_SECONDS: Final = 3600
"""How long a log may be silent while it is followed."""
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

    def _ask(self, target: str, method: str = "GET", body: Mapping[str, Any] | None = None) -> tuple[int, str]:
        try:
            response = self._call(target, method, body, _TIMEOUT)
            raw: bytes = response.read() or b""
            status = int(response.status)
        except ApiException as error:
            status, raw = int(error.status or 0), str(error.body or error.reason or "").encode()
        except urllib3.exceptions.HTTPError as error:
            raise FailureError(f"the API server can't be reached: {error}; does `kubectl version` work?") from error
        return status, raw.decode(errors="replace")

    def _call(self, target: str, method: str, body: Mapping[str, Any] | None, timeout: tuple[int, int]) -> Any:  # noqa: ANN401 - the client is partly typed
        client, headers = self._client, {"Accept": "application/json", "Content-Type": "application/json"}
        method, url, headers, sent, _ = client.param_serialize(
            method, target, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        return client.call_api(method, url, headers, sent, _request_timeout=timeout)

    def _json(self, status: int, body: str, what: str) -> Any:  # noqa: ANN401 - JSON
        try:
            answer = json.loads(body)
        except ValueError:
            answer = {}
        if status == _OK:
            return answer
        message = answer.get("message") if isinstance(answer, dict) else ""
        raise FailureError(f"can't {what} in namespace {self.namespace}: {message or f'HTTP {status}'}")


class Editor(Reader):
    """Changes a cluster, with the user's own rights."""

    def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object; returns it as the API server has it.

        Raises:
            FailureError: it may not be made.
        """
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        status, body = self._ask(path(kind, self.namespace), "POST", manifest)
        made: dict[str, Any] = self._json(_OK if status == _CREATED else status, body, f"create {kind} {name}")
        return made

    def delete(self, live: Mapping[str, Any], kind: str, *, unchanged: bool = False) -> bool:
        """Delete this very object, with what it owns; False if it is another one by now, or gone.

        Args:
            live: the object as it was read.
            kind: of the object.
            unchanged: only if nobody has changed it since.

        Raises:
            FailureError: it may not be deleted.
        """
        meta = live["metadata"]
        seen = {key: meta[key] for key in ("uid", *(["resourceVersion"] if unchanged else []))}
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": seen,
        }
        status, body = self._ask(path(kind, self.namespace, meta["name"]), "DELETE", options)
        if status in (_NOT_FOUND, _CONFLICT):
            return False
        self._json(_OK if status == _ACCEPTED else status, body, f"delete {kind} {meta['name']}")
        return True

    def follow(self, pod: str, container: str) -> Iterator[str]:
        """The lines of a container's log as they come, until it ends or the connection does."""
        query = urlencode({"container": container, "follow": "true"})
        target = f"{path('Pod', self.namespace, pod, 'log')}?{query}"
        try:
            answer = self._call(target, "GET", None, (_TIMEOUT[0], _FOLLOW_SECONDS))
            if answer.status == _OK:
                rest = b""
                for part in answer.response.stream(decode_content=True):
                    *lines, rest = (rest + part).split(b"\n")
                    yield from (line.decode(errors="replace") for line in lines)
                if rest:
                    yield rest.decode(errors="replace")
        except (ApiException, urllib3.exceptions.HTTPError):
            # What counts is how the container ended, which the pod tells.
            return

    def whole_log(self, pod: str, container: str) -> list[str] | None:
        """The whole log of a container, by lines; None if it can't be had."""
        status, body = self._ask(f"{path('Pod', self.namespace, pod, 'log')}?{urlencode({'container': container})}")
        return body.splitlines() if status == _OK else None


def _in_cluster(kubeconfig: str | None, context: str | None) -> bool:
    if kubeconfig or context or os.environ.get("KUBECONFIG") or not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return False
    return not Path("~/.kube/config").expanduser().exists()


def _namespace(kubeconfig: str | None, context: str | None) -> str:
    """The namespace that the context names, or nothing."""
    contexts, active = list_kube_config_contexts(kubeconfig)  # type: ignore[no-untyped-call]
    chosen = next((each for each in contexts if each["name"] == context), active)
    return str((chosen.get("context") or {}).get("namespace") or "")
