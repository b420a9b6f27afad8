"""What all plans stand on: a control plane of their own, the operator's code as it is now, the rights it gets."""

import asyncio
import base64
import compileall
import contextlib
import hashlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import yaml

from chaos.api import Api, RefusedError
from chaos.kubelet import Kubelet
from chaos.nursery import Nursery
from chaos.place import Lab
from localcluster.network import enter
from support.kube_api import APPLY, KubeApi
from support.operator_process import ROOT, RULES, install_crds

CLUSTER: Final = "chaos"
ACCOUNT: Final = "bert-operator-chaos"
_COMPACTION: Final = "http://127.0.0.1:2379/v3/kv/compaction"
_CODE: Final = ("operator/bert_operator", "crds", "tests/chaos", "tests/support")


def localcluster(*arguments: str) -> str:
    """The last line that a command of `python -m localcluster` prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    command = [sys.executable, "-m", "localcluster", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return (done.stdout.splitlines() or [""])[-1]


async def compact(revision: int) -> None:
    """Make etcd forget what was before a revision; it listens in the network namespace of the cluster's first node."""
    ask = "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], sys.argv[2].encode()))"
    body = json.dumps({"revision": str(revision), "physical": True})
    command = [*enter(CLUSTER, 1), sys.executable, "-c", ask, _COMPACTION, body]
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait():
        raise RefusedError("etcd did not compact")


def code_hash() -> str:
    """What decides how a plan ends: the operator's code and the campaign's own."""
    whole = hashlib.sha256()
    for folder in _CODE:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".yaml", ".j2"):
                whole.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()[:12]


@contextlib.contextmanager
def control_plane(name: str = CLUSTER, *more: str) -> Iterator[Path]:
    """The kubeconfig of a cluster that is taken down afterwards, unless it was up before.

    Args:
        name: localcluster's.
        more: options of its `up`; a cluster that BERTOPS_TEST_KUBECONFIG names may lack what they are about.
    """
    if (given := os.environ.get("BERTOPS_TEST_KUBECONFIG")) and not more:
        yield Path(given)
        return
    try:
        localcluster("status", "--name", name)
        was_up = True
    except subprocess.CalledProcessError:
        was_up = False
    kubeconfig = Path(localcluster("up", "--name", name, "--control-plane-only", *more))
    try:
        yield kubeconfig
    finally:
        if not was_up:
            localcluster("down", "--name", name)


@asynccontextmanager
async def open_lab(kubeconfig: Path, patience: float = 1.0) -> AsyncIterator[Lab]:
    """Everything that plans share; all of it goes with the campaign."""
    with KubeApi(kubeconfig) as api:
        install_crds(api)
    with tempfile.TemporaryDirectory(prefix="bert-chaos-") as scratch:
        folder = Path(scratch)
        code = folder / "code"
        shutil.copytree(ROOT / "operator" / "bert_operator", code / "bert_operator")
        compileall.compile_dir(code, quiet=1)
        async with (
            Api(kubeconfig=kubeconfig) as api,
            _upstream(kubeconfig) as upstream,
            Nursery(code=code) as nursery,
        ):
            await api.discover()
            kubelet = Kubelet(api=api)
            playing = asyncio.create_task(kubelet.run())
            try:
                yield Lab(
                    api=api,
                    kubelet=kubelet,
                    nursery=nursery,
                    folder=folder / "plans",
                    token=await _token(api),
                    upstream=upstream,
                    patience=patience,
                )
            finally:
                playing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await playing


@asynccontextmanager
async def _upstream(kubeconfig: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections that trust the API server and say nothing of who we are: the operators' tokens do."""
    cluster = yaml.safe_load(await asyncio.to_thread(kubeconfig.read_text))["clusters"][0]["cluster"]
    inline = cluster.get("certificate-authority-data")
    authority = base64.b64decode(inline).decode() if inline else None
    tls = ssl.create_default_context(cafile=cluster.get("certificate-authority"), cadata=authority)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    connector = aiohttp.TCPConnector(ssl=tls, limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=True) as session:
        yield session


async def _token(api: Api) -> str:
    """A token of a service account with the rights of an operator that serves all namespaces."""
    core = "/api/v1/namespaces/default/serviceaccounts"
    await api.send("POST", core, {"metadata": {"name": ACCOUNT}})
    rules = [
        {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)} for group, resources, verbs in RULES
    ]
    root = "/apis/rbac.authorization.k8s.io/v1"
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ACCOUNT}}
    query = {"fieldManager": "chaos", "force": "true"}
    await api.sure("PATCH", f"{root}/clusterroles/{ACCOUNT}", role | {"rules": rules}, content_type=APPLY, **query)
    binding = {
        "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "default"}],
    }
    await api.send("POST", f"{root}/clusterrolebindings", binding)
    spec = {"expirationSeconds": 86400}
    answer = await api.sure("POST", f"{core}/{ACCOUNT}/token", {"spec": spec})
    token: str = answer["status"]["token"]
    return token
