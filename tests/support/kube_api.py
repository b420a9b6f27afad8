"""A small HTTP client for tests that need the API server's exact answers: status code, message, warnings.

kubectl shows the same words but takes a process per question. The real kubectl is here too, for what only it shows.
"""

import base64
import http.client
import json
import os
import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlencode, urlsplit

import yaml

APPLY: Final = "application/apply-patch+yaml"
"""Content type of a server-side apply."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the API server said."""

    code: int
    body: dict[str, Any]
    warnings: tuple[str, ...]

    @property
    def message(self) -> str:
        """The Status' message: what kubectl prints."""
        return str(self.body.get("message", ""))


class KubeApi:
    """One API server, as the administrator whose kubeconfig this is."""

    def __init__(self, kubeconfig: Path, *, binaries: Path | None = None) -> None:
        self.kubeconfig = kubeconfig
        self._path = os.pathsep.join(filter(None, [str(binaries) if binaries else "", os.environ["PATH"]]))
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._address = urlsplit(cluster["server"])
        self._context = _tls(cluster, user)
        self._headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._connection: http.client.HTTPSConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        **query: str,
    ) -> Answer:
        """Send one request; a connection that the server closed meanwhile is opened anew."""
        target = f"{path}?{urlencode(query)}" if query else path
        headers = {**self._headers, "Content-Type": content_type}
        payload = None if body is None else json.dumps(body)
        try:
            return self._send(method, target, payload, headers)
        except (http.client.RemoteDisconnected, BrokenPipeError):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return self._send(method, target, payload, headers)

    def _send(self, method: str, target: str, payload: str | None, headers: dict[str, str]) -> Answer:
        if self._connection is None:
            host, port = self._address.hostname or "", self._address.port
            self._connection = http.client.HTTPSConnection(host, port, context=self._context, timeout=120)
        self._connection.request(method, target, payload, headers)
        response = self._connection.getresponse()
        body = response.read()
        warnings = tuple(response.headers.get_all("Warning") or ())
        is_json = "json" in response.headers.get("Content-Type", "")
        return Answer(code=response.status, body=json.loads(body) if is_json else {}, warnings=warnings)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run the real kubectl; the caller looks at its returncode and at what it printed."""
        return self._tool("kubectl", *arguments, stdin=stdin)

    def helm(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run the real helm against this API server."""
        return self._tool("helm", *arguments, stdin=stdin)

    def _tool(self, *command: str, stdin: str | None) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PATH": self._path, "KUBECONFIG": str(self.kubeconfig)}
        return subprocess.run(
            command, input=stdin, env=environment, capture_output=True, text=True, check=False, timeout=300
        )


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    if cluster.get("insecure-skip-tls-verify"):
        context = ssl._create_unverified_context()  # noqa: S323 - the kubeconfig asks for it
    else:
        with _file(cluster, "certificate-authority") as authority:
            context = ssl.create_default_context(cafile=authority)
    if "client-certificate" in user or "client-certificate-data" in user:
        with _file(user, "client-certificate") as certificate, _file(user, "client-key") as key:
            context.load_cert_chain(certificate, key)
    return context


class _file:  # noqa: N801 - used like a function
    """A kubeconfig entry as a file: the one it names, or a temporary one with its inline data."""

    def __init__(self, entry: dict[str, Any], name: str) -> None:
        self._entry, self._name = entry, name

    def __enter__(self) -> str:
        if self._name in self._entry:
            return str(self._entry[self._name])
        self._temporary = tempfile.NamedTemporaryFile()
        self._temporary.write(base64.b64decode(self._entry[f"{self._name}-data"]))
        self._temporary.flush()
        return self._temporary.name

    def __exit__(self, *_: object) -> None:
        if self._name not in self._entry:
            self._temporary.close()
