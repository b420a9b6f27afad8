"""The campaign's own way to the API server, as its administrator, past every proxy."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from bert_operator.cluster.resources import RESOURCES
from support.kube_api import KubeApi

MERGE: Final = "application/merge-patch+json"
KINDS: Final = {
    kind: RESOURCES[kind]
    for kind in (
        "BertDeployment",
        "BertArtifact",
        "Deployment",
        "ReplicaSet",
        "HorizontalPodAutoscaler",
        "Job",
        "Service",
        "ConfigMap",
        "PersistentVolumeClaim",
        "Pod",
        "PodDisruptionBudget",
        "NetworkPolicy",
    )
}
"""What a plan looks at all the time: kind -> (apiVersion, plural)."""
PASSING: Final = frozenset({"events", "endpoints", "endpointslices", "leases", "bindings", "serviceaccounts"})
"""What comes and goes in any namespace without being anybody's leftover."""
OBJECT_LIMIT: Final = 2**26


class RefusedError(Exception):
    """The API server refused the campaign itself."""


@dataclass(kw_only=True)
class Api:
    """One API server; open it with `async with`."""

    kubeconfig: Path
    others: list[tuple[str, str, str]] = field(default_factory=list)
    """(kind, apiVersion, plural) of everything else that lives in namespaces."""

    async def __aenter__(self) -> Self:
        plain = KubeApi(self.kubeconfig)
        self.url, self.tls, self.headers = plain._address.geturl(), plain._context, plain._headers
        connector = aiohttp.TCPConnector(ssl=self.tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self.session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self.headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()
        await asyncio.sleep(0.25)  # TLS connections close in the background; aiohttp has nothing to wait for

    async def send(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and body of one request."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        async with self.session.request(
            method, self.url + path, data=data, headers=headers, params=query, timeout=aiohttp.ClientTimeout(60)
        ) as reply:
            return reply.status, json.loads(await reply.read())

    async def sure(self, method: str, path: str, body: Any = None, **rest: str) -> dict[str, Any]:
        """Body of a request that has to succeed."""
        code, answer = await self.send(method, path, body, **rest)
        if code >= 400:
            raise RefusedError(f"{method} {path}: {code} {answer.get('message')}")
        return answer

    async def items(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        """Every object of a kind, each saying what it is."""
        version, plural = next(((v, p) for k, v, p in self.others if k == kind), None) or KINDS[kind]
        found = (await self.sure("GET", path(version, plural, namespace)))["items"]
        return [{"apiVersion": version, "kind": kind, **item} for item in found]

    async def discover(self) -> None:
        """Learn what else a namespace may hold."""
        groups = (await self.sure("GET", "/apis"))["groups"]
        roots = {"v1": "/api/v1"} | {
            group["preferredVersion"]["groupVersion"]: f"/apis/{group['preferredVersion']['groupVersion']}"
            for group in groups
        }
        for version, root in roots.items():
            for one in (await self.sure("GET", root))["resources"]:
                own = one["namespaced"] and "list" in one["verbs"] and one["name"] not in PASSING
                if own and one["kind"] not in KINDS:
                    self.others.append((one["kind"], version, one["name"]))

    async def watch(self, target: str) -> AsyncIterator[dict[str, Any]]:
        """Events since now, and before them all that there is; ends when the server ends it."""
        query = {"watch": "true", "allowWatchBookmarks": "false", "sendInitialEvents": "true"}
        query |= {"resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
        async with self.session.get(self.url + target, params=query, read_bufsize=OBJECT_LIMIT) as reply:
            async for line in reply.content:
                yield json.loads(line)


def path(version: str, plural: str, namespace: str, name: str = "", sub: str = "") -> str:
    """Address of a collection, an object or a subresource."""
    root = "/api" if "/" not in version else "/apis"
    return "/".join(part for part in (root, version, "namespaces", namespace, plural, name, sub) if part)


def condition(obj: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """One condition of an object; empty if it has none of this type."""
    found = (obj.get("status") or {}).get("conditions") or ()
    return next((each for each in found if each["type"] == kind), {})
