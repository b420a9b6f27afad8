"""One connection to the API server: where it is, who we are, how long we wait. `calls` sends everything through it.

Only the client's transport and configuration are imported: its API classes and models are thousands of modules that
raw JSON doesn't need. The client's package loads them lazily, and a test keeps it so.
"""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.request import getproxies

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

import bert_operator
from bert_operator.cluster.errors import ApiError, Cause
from bert_operator.metrics import Metrics

CONNECTIONS: Final = 16
TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=10)
UNAUTHORIZED: Final = 401
ERRORS: Final = 400


class ConfigurationError(Exception):
    """Neither a service account nor a usable kubeconfig was found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Where the API server is and who we are to it."""

    server: str
    ca_path: str | None
    insecure: bool
    token: str | None = field(repr=False)
    certificate_path: str | None
    key_path: str | None


class Connection:
    """Sends requests, as JSON, to one API server."""

    def __init__(self, metrics: Metrics, may_write: Callable[[], bool] | None = None) -> None:
        """Prepare; `open` connects.

        Args:
            metrics: counts the requests.
            may_write: whether we lead, asked before each write; None: nobody else could.
        """
        self._metrics = metrics
        self._may_write = may_write
        self._client: ApiClient | None = None
        self._retired: ApiClient | None = None
        self._reopening = asyncio.Lock()

    async def open(self) -> None:
        """Read the configuration: a pod's service account, else KUBECONFIG, else ~/.kube/config.

        Raises:
            ConfigurationError: there is none, or it can't be used.
        """
        configuration = await _configuration()
        if self._may_write is not None:
            configuration.trace_configs = [_guard(self._may_write)]
        self._client = ApiClient(configuration=configuration)
        self._client.user_agent = f"bert-operator/{bert_operator.__version__}"

    async def access(self) -> Access:
        """What another client needs to reach the same API server, read anew."""
        configuration = await _configuration()
        header = await configuration.get_api_key_with_prefix("BearerToken")
        return Access(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            token=header.split(" ", 1)[-1].strip() if header else None,
            certificate_path=configuration.cert_file,
            key_path=configuration.key_file,
        )

    async def close(self) -> None:
        """Close all sockets."""
        for client in (self._client, self._retired):
            if client is not None:
                await client.close()  # type: ignore[no-untyped-call]  # the client is partly typed
        self._client = self._retired = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        what: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send one request.

        Args:
            method: HTTP method.
            path: path and query.
            what: the request in words, for messages.
            body: JSON to send.
            content_type: how the server is to read the body.

        Returns:
            The answered object.

        Raises:
            ApiError: the server refused, or gave no answer in time.
        """
        client = self._client
        status, headers, payload = await self._send(client, method, path, what, body, content_type)
        if status == UNAUTHORIZED:
            # The token or the certificate was renewed on disk: read it once more.
            await self._reopen(client)
            status, headers, payload = await self._send(self._client, method, path, what, body, content_type)
        if status >= ERRORS:
            raise _error(status, headers, payload, what)
        return payload

    async def _send(
        self,
        client: ApiClient | None,
        method: str,
        path: str,
        what: str,
        body: Mapping[str, Any] | None,
        content_type: str,
    ) -> tuple[int, Mapping[str, str], dict[str, Any]]:
        if client is None:
            raise RuntimeError("the connection is not open")
        self._check(method, what)
        status = 0
        try:
            # The client's own way would copy the body, which is JSON already, item by item.
            configuration = client.configuration
            headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": client.user_agent}
            if token := await configuration.get_api_key_with_prefix("BearerToken"):
                headers["Authorization"] = token
            response = await client.rest_client.request(  # type: ignore[no-untyped-call]  # the client is partly typed
                method, configuration.host + path, headers=headers, body=body, _request_timeout=TIMEOUT
            )
            raw = await response.read()
            status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._check(method, what)
            text = str(error) or type(error).__name__
            raise ApiError(status=0, reason="Unreachable", message=text, what=what) from error
        finally:
            labels = {"code": str(status) if status else "<error>", "method": method}
            self._metrics.count("rest_client_requests_total", "Requests to the API server.", labels)
        return status, response.headers, _json(raw)

    def _check(self, method: str, what: str) -> None:
        if method != "GET" and self._may_write is not None and not self._may_write():
            raise ApiError(status=0, reason="NotLeading", message="another process leads, or will soon", what=what)

    async def _reopen(self, refused: ApiClient | None) -> None:
        async with self._reopening:
            if self._client is not refused:
                return  # somebody who was refused at the same time has done it
            older, self._retired = self._retired, self._client
            await self.open()
            if older is not None:
                # Not the one just retired: others may still wait for its answers.
                await older.close()  # type: ignore[no-untyped-call]


def _guard(may_write: Callable[[], bool]) -> aiohttp.TraceConfig:
    """Stop a write at the last moment: after the wait for a free connection, right before its bytes go out."""

    async def before_bytes(_: object, __: object, sent: aiohttp.TraceRequestChunkSentParams) -> None:
        if sent.method != "GET" and not may_write():
            raise ConnectionAbortedError("this process doesn't lead any more")

    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(before_bytes)
    return trace


async def _configuration() -> Configuration:
    configuration = Configuration()
    configuration.connection_pool_maxsize = CONNECTIONS
    # Without a proxy there is nothing to look up: else each request reads ~/.netrc and the environment in a thread.
    configuration.client_session_kwargs = {"trust_env": bool(getproxies())}
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await load_kube_config(  # type: ignore[no-untyped-call]
                config_file=os.environ.get("KUBECONFIG"), client_configuration=configuration, persist_config=False
            )
    except (ConfigException, OSError) as error:
        raise ConfigurationError(
            f"no way to the API server: {error}; run in a pod with a service account, or set KUBECONFIG"
        ) from error
    return configuration


def _json(raw: bytes) -> dict[str, Any]:
    """What the server said; a proxy in between may have said something that is no object."""
    try:
        payload = json.loads(raw)
    except ValueError:
        payload = None
    return payload if isinstance(payload, dict) else {"message": raw[:200].decode(errors="replace")}


def _error(status: int, headers: Mapping[str, str], payload: Mapping[str, Any], what: str) -> ApiError:
    details = payload.get("details") or {}
    wait = headers.get("Retry-After") or details.get("retryAfterSeconds")
    try:
        retry_after = float(wait) if wait is not None else None
    except ValueError:  # an HTTP date; the queue's own back-off will do
        retry_after = None
    return ApiError(
        status=status,
        reason=payload.get("reason") or f"HTTP {status}",
        message=payload.get("message") or "no explanation",
        what=what,
        retry_after=retry_after,
        causes=frozenset(
            Cause(field=cause.get("field", ""), reason=cause.get("reason", "")) for cause in details.get("causes") or ()
        ),
    )
