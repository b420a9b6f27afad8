"""The few requests this package itself makes to the API server, as the cluster's administrator."""

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any

from localcluster.certificates import AUTHORITY, certificate_file, key_file
from localcluster.config import API_PORT, Cluster
from localcluster.errors import ClusterError

_MANAGER = "localcluster"
_SECONDS = 5.0


class Api:
    """A client with a connection per request: the server may come and go between two."""

    def __init__(self, cluster: Cluster) -> None:
        folder = cluster.folders.certificates
        self._host = str(cluster.addresses.node(1))
        self._tls = ssl.create_default_context(cafile=str(certificate_file(folder, AUTHORITY)))
        self._tls.load_cert_chain(certificate_file(folder, "admin"), key_file(folder, "admin"))

    def answers_ok(self, path: str) -> bool:
        """Whether the path answers 200; a server that can't be reached does not."""
        try:
            status, _ = self._request("GET", path)
        except (OSError, http.client.HTTPException):
            return False
        return status == http.HTTPStatus.OK

    def get(self, path: str) -> dict[str, Any]:
        """The object or list at `path`."""
        return self._object("GET", path)

    def apply(self, path: str, manifest: Mapping[str, Any]) -> None:
        """Server-side apply."""
        self._object("PATCH", f"{path}?fieldManager={_MANAGER}&force=true", manifest)

    def ready_nodes(self) -> set[str]:
        """The names of the nodes that are Ready."""
        nodes = self.get("/api/v1/nodes")["items"]
        return {node["metadata"]["name"] for node in nodes if _is_ready(node)}

    def _object(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        status, text = self._request(method, path, body)
        if status >= http.HTTPStatus.BAD_REQUEST:
            msg = f"{method} {path} was answered {status}: {text.decode(errors='replace')}"
            raise ClusterError(msg)
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(self._host, API_PORT, timeout=_SECONDS, context=self._tls)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/apply-patch+yaml"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = node["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
