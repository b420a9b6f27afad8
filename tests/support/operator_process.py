"""The operator as a process of its own, with the rights that a user would give it and no more."""

import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from support import ports
from support.forked_operator import ForkedOperator
from support.kube_api import APPLY, KubeApi

ROOT: Final = Path(__file__).parents[2]
DEADLINE: Final = 180.0
QUIET: Final = 0.5
"""Seconds without a reconcile that count as rest."""
RULES: Final = (
    # What `kopf` lists and watches.
    ("bertops.dev", ("bertdeployments",), ("list", "watch")),
    ("", ("pods",), ("list", "watch")),
    ("apps", ("replicasets",), ("list", "watch")),
    # What `cluster` writes; server-side apply needs create and patch.
    ("bertops.dev", ("bertdeployments/status",), ("patch",)),
    ("bertops.dev", ("bertartifacts",), ("list", "watch", "create", "patch", "delete")),
    ("apps", ("deployments",), ("list", "watch", "create", "patch")),
    # `get` because `kubectl autoscale` gives its own the name that ours would have.
    ("autoscaling", ("horizontalpodautoscalers",), ("get", "list", "watch", "create", "patch", "delete")),
    ("policy", ("poddisruptionbudgets",), ("list", "watch", "create", "patch", "delete")),
    ("networking.k8s.io", ("networkpolicies",), ("list", "watch", "create", "patch", "delete")),
    ("batch", ("jobs",), ("list", "watch", "create", "patch", "delete")),
    ("", ("configmaps",), ("list", "watch", "create", "patch", "delete")),
    ("", ("persistentvolumeclaims",), ("list", "watch", "create", "patch")),
    # `get` because its plain name may be somebody else's.
    ("", ("services",), ("get", "list", "watch", "create", "patch")),
    # `list` because only Events say why a Job gets no pod.
    ("events.k8s.io", ("events",), ("create", "list")),
    # Who leads, where the settings ask for an election.
    ("coordination.k8s.io", ("leases",), ("get", "create", "patch")),
)
"""Rights in each namespace served."""
"""Rights of a cluster-wide operator beyond that: it notices its own CRDs being installed later."""
SETTINGS: Final = {
    "images": {"operator": "registry.test/operator:1", "build": "registry.test/build:1"},
    "triton": {"defaultRelease": "24.10", "releases": {"24.10": {"image": "registry.test/triton:1"}}},
    "hardwareProfiles": {"cpu": {}},
    "build": {"resources": {"requests": {"cpu": "100m", "memory": "1Gi"}}},
}


def eventually(
    what: str, check: Callable[[], Any], seconds: float = DEADLINE, explain: Callable[[], object] = str
) -> Any:
    """Wait until a check gives something true."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}; last: {found!r} {explain()}"
        time.sleep(0.1)


_installed: Final[dict[str, tuple[str, int]]] = {}
"""Path of each CRD that this process applied -> its uid and its generation then."""


def install_crds(api: KubeApi) -> None:
    """Install our CustomResourceDefinitions and wait until they are served.

    One that is as this process left it is left alone: to take one costs the API server half a second of a processor.
    """
    for path, crd in _crds().items():
        if (path in _installed) and _installed[path] == _version(api.request("GET", path).body):
            continue
        answer = api.request("PATCH", path, crd, content_type=APPLY, fieldManager="tests", force="true")
        assert answer.code in (200, 201), answer.message
        eventually("the CRD is served", partial(_served, api, path))
        _installed[path] = _version(answer.body)


@cache
def _crds() -> Mapping[str, Any]:
    """Path -> manifest."""
    crds = [yaml.load(file.read_text(), yaml.CSafeLoader) for file in sorted((ROOT / "crds").glob("*.yaml"))]
    root = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    return {f"{root}/{crd['metadata']['name']}": crd for crd in crds}


def _version(found: Mapping[str, Any]) -> tuple[str, int]:
    """What changes with each new spec, and with each new object."""
    metadata = found.get("metadata", {})
    return metadata.get("uid", ""), metadata.get("generation", 0)


def _served(api: KubeApi, path: str) -> bool:
    conditions = (api.request("GET", path).body.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


@dataclass
class OperatorProcess:
    """One running operator."""

    process: ForkedOperator
    port: int
    log: Path
    quiet_since: tuple[int, float] = (-1, 0.0)
    """Reconciles so far, and when that was first seen."""

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def requests(self, *methods: str) -> int:
        """How many requests of these methods it has sent."""
        counts = re.findall(
            r'^rest_client_requests_total\{.*method="(\w+)"\} (\d+)', self.get("/metrics")[1], re.MULTILINE
        )
        return sum(int(count) for method, count in counts if method in methods)

    def forbidden(self) -> int:
        """How many of its requests its rights didn't allow."""
        counts = re.findall(r'^rest_client_requests_total\{code="403".*\} (\d+)', self.get("/metrics")[1], re.MULTILINE)
        return sum(map(int, counts))

    def reads(self) -> int:
        """How many objects it has read, beside its one look for our kinds at the start."""
        return self.requests("GET") - 1

    def writes(self) -> int:
        return self.requests("POST", "PATCH", "PUT", "DELETE")

    def reconciles(self) -> int:
        counts = re.findall(r"^controller_runtime_reconcile_total\{.*\} (\d+)", self.get("/metrics")[1], re.MULTILINE)
        return sum(map(int, counts))

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.get("/readyz")[0] == 200

    def state(self) -> str:
        """What it says of itself, for who waited in vain."""
        return f"{self.get('/readyz')} {self.log.read_text()}"

    def idle(self) -> bool:
        """Nothing waits, nothing runs, and nothing began for a moment: controllers answer each other's writes."""
        reconciles = self.reconciles()
        if reconciles != self.quiet_since[0]:
            self.quiet_since = (reconciles, time.monotonic())
        text = self.get("/metrics")[1]
        return time.monotonic() - self.quiet_since[1] >= QUIET and bool(
            re.search(r"^workqueue_depth\{.*\} 0$", text, re.MULTILINE)
            and re.search(r"^controller_runtime_active_workers\{.*\} 0$", text, re.MULTILINE)
        )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def operator(
    api: KubeApi,
    folder: Path,
    *arguments: str,
    module: str = "bert_operator.handlers",
    kill: bool = False,
    server: str = "",
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[OperatorProcess]:
    """Start it, wait until it is ready, end it.

    Args:
        api: where.
        folder: for its files.
        arguments: of `kopf run`.
        module: what kopf runs.
        kill: end it without a word.
        server: another address of the API server: a proxy's.
        settings: more than SETTINGS, or other than them.
    """
    port = ports.free("127.0.0.1")
    (folder / "settings.yaml").write_text(yaml.safe_dump({**SETTINGS, **settings}))
    log = folder / f"operator-{port}.log"
    environment = {
        **os.environ,
        "KUBECONFIG": str(_kubeconfig(api, folder, arguments, server)),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "operator"), str(ROOT / "tests")]),
        "BERTOPS_SETTINGS": str(folder / "settings.yaml"),
        "BERTOPS_HEALTH_PORT": str(port),
    }
    process = ForkedOperator(["run", *arguments, "-m", module], environment, log)
    running = OperatorProcess(process, port, log)
    try:
        eventually("the operator is ready", running.ready, DEADLINE, running.state)
        yield running
    finally:
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        process.wait(20)


def _kubeconfig(api: KubeApi, folder: Path, arguments: tuple[str, ...], server: str) -> Path:
    """A kubeconfig of a service account with the operator's rights."""
    name, namespaces = "bert-operator-test", [arguments[i + 1] for i, word in enumerate(arguments) if word == "-n"]
    home = namespaces[0] if namespaces else "default"
    core = f"/api/v1/namespaces/{home}/serviceaccounts"
    api.request("POST", core, {"metadata": {"name": name}})
    rules = [
        {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)} for group, resources, verbs in RULES
    ]
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": home}]
    scopes = [("Role", f"namespaces/{namespace}/") for namespace in namespaces] or [("ClusterRole", "")]
    for kind, scope in scopes:
        root = f"/apis/rbac.authorization.k8s.io/v1/{scope}"
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules}
        # Applied: a cluster that is up already may hold an older one.
        path = f"{root}{kind.lower()}s/{name}"
        api.request("PATCH", path, role, content_type=APPLY, fieldManager="tests", force="true")
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": subjects}
        api.request("POST", f"{root}{kind.lower()}bindings", binding)
    token = api.request("POST", f"{core}/{name}/token", {"spec": {}}).body["status"]["token"]
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    if server:
        config["clusters"][0]["cluster"] = {"server": server}
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return file
