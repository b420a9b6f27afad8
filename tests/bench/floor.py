"""The floor of `make bench-operator`: a bare kopf operator that server-side-applies the same children, and no more.

It has no plan, no drift, no queue, no child watches, no probes of names: whatever an operator adds to that costs time
above this one. The children's manifests come from a file (BENCH_CHILDREN), made by the real operator's own code; only
names and UIDs are put in. Run as `kopf run -m bench.floor`.
"""

import asyncio
import json
import os
import ssl
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import aiohttp
import kopf
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import load_kube_config

from bench.health import ready

GROUP = "bertops.dev"
APPLY = "application/apply-patch+yaml"
TEMPLATES: list[str] = []
PLURALS = {
    "ConfigMap": "configmaps",
    "Service": "services",
    "Deployment": "deployments",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "NetworkPolicy": "networkpolicies",
}


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Connect, read the manifests, say that it is there."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    TEMPLATES[:] = json.loads(Path(os.environ["BENCH_CHILDREN"]).read_text())  # noqa: ASYNC240 - before there is work
    memo.configuration = Configuration()
    kubeconfig = os.environ["KUBECONFIG"]
    # The client is partly typed.
    await load_kube_config(config_file=kubeconfig, client_configuration=memo.configuration)  # type: ignore[no-untyped-call]
    header = await memo.configuration.get_api_key_with_prefix("BearerToken")

    tls = ssl.create_default_context(cafile=memo.configuration.ssl_ca_cert)
    memo.session = aiohttp.ClientSession(
        memo.configuration.host,
        connector=aiohttp.TCPConnector(ssl=tls, limit=16),
        headers={"Authorization": header, "User-Agent": "floor"},
    )
    memo.token = header.split(" ", 1)[1]
    memo.runner = await ready()


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Close all sockets."""
    await memo.session.close()
    await memo.runner.cleanup()


@kopf.on.login()
async def login(memo: kopf.Memo, **_: Any) -> kopf.ConnectionInfo:
    """The same credentials for kopf's watches."""
    configuration = memo.configuration
    return kopf.ConnectionInfo(
        server=configuration.host, ca_path=configuration.ssl_ca_cert, scheme="Bearer", token=memo.token
    )


@kopf.on.event(GROUP, "v1alpha1", "bertdeployments")
async def event(event: kopf.RawEvent, memo: kopf.Memo, **_: Any) -> None:
    """Apply all children at once, then the status."""
    bert = event["object"]
    metadata = cast("dict[str, Any]", bert["metadata"])  # kopf's type of it lacks the generation
    if event["type"] == "DELETED" or (bert.get("status") or {}).get("observedGeneration") == metadata["generation"]:
        return
    suffix = metadata["uid"].replace("-", "")[:6]
    namespace, name = metadata["namespace"], metadata["name"]
    children = [
        text.replace("@NAME@", name)
        .replace("@NAMESPACE@", namespace)
        .replace("@UID@", metadata["uid"])
        .replace("@OWNER@", suffix)
        for text in TEMPLATES
    ]
    await asyncio.gather(*(_apply(memo.session, json.loads(text), text) for text in children))
    status = {
        "apiVersion": bert["apiVersion"],
        "kind": bert["kind"],
        "metadata": {"name": name, "namespace": namespace},
        "status": {"observedGeneration": metadata["generation"]},
    }
    path = f"/apis/{GROUP}/v1alpha1/namespaces/{namespace}/bertdeployments/{name}/status"
    await _patch(memo.session, path, json.dumps(status))


async def _apply(session: aiohttp.ClientSession, child: dict[str, Any], text: str) -> None:
    group, metadata = child["apiVersion"], child["metadata"]
    root = f"/apis/{group}" if "/" in group else f"/api/{group}"
    path = f"{root}/namespaces/{metadata['namespace']}/{PLURALS[child['kind']]}/{quote(metadata['name'])}"
    await _patch(session, path, text)


async def _patch(session: aiohttp.ClientSession, path: str, text: str) -> None:
    query = "?fieldManager=floor&force=true"
    async with session.patch(path + query, data=text, headers={"Content-Type": APPLY}) as reply:
        body = await reply.read()
        if reply.status >= 400:
            raise kopf.TemporaryError(body.decode()[:500])
