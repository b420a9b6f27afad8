"""The programs that are measured, each a process with a service account of its own: our operator and the bare floor."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from bench.operator_bench.cluster import ControlPlane, cpu_seconds, rss_mb
from bench.operator_bench.figures import metric
from bert_operator.settings import Settings
from support.kube_api import KubeApi
from support.operator_process import RULES, SETTINGS, eventually

ROOT: Final = Path(__file__).parents[3]
HOME: Final = "bench-programs"
OURS: Final = "operator"
FLOOR: Final = "floor"
KOPF: Final = "kopf-alone"
MODULES: Final = {OURS: "bert_operator.handlers", FLOOR: "bench.floor", KOPF: "bench.kopf_alone"}
PORT: Final = 18473
REST: Final = 2.0
"""Seconds without a reconcile that count as rest."""


def settings() -> Settings:
    """The settings that ours runs with."""
    return Settings.model_validate(SETTINGS)


def user(program: str) -> str:
    """How the audit log calls it."""
    return f"system:serviceaccount:{HOME}:{program}"


@dataclass
class Program:
    """One running program."""

    name: str
    process: "subprocess.Popen[bytes]"
    began: float
    log: Path

    def cpu(self) -> float:
        """CPU seconds so far."""
        return cpu_seconds(self.process.pid)

    def rss(self) -> float:
        """Resident memory in MB."""
        return rss_mb(self.process.pid)

    def get(self, path: str) -> tuple[int, str]:
        """Ask its probes' port."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def metric(self, name: str, **labels: str) -> float:
        """One of its metrics."""
        return metric(self.get("/metrics")[1], name, **labels)

    def ready(self) -> bool:
        """Whether it says so."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {self.log.read_text()[-2000:]}")
        return self.get("/readyz")[0] == 200

    def resting(self) -> bool:
        """Whether nothing waits and nothing runs."""
        text = self.get("/metrics")[1]
        return metric(text, "workqueue_depth") == metric(text, "controller_runtime_active_workers") == 0

    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


async def rest(program: Program, seconds: float = 300.0, still: float = REST) -> None:
    """Wait until the operator has had nothing to do for a moment."""
    deadline, reconciles, since = time.monotonic() + seconds, -1.0, time.monotonic()
    while time.monotonic() < deadline:
        now = program.metric("controller_runtime_reconcile_total")
        if now != reconciles or not program.resting():
            reconciles, since = now, time.monotonic()
        elif time.monotonic() - since >= still:
            return
        await asyncio.sleep(0.25)


@contextmanager
def running(plane: ControlPlane, folder: Path, name: str, **environment: str) -> Iterator[Program]:
    """Start a program, wait until it is ready, end it."""
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    log = folder / f"{name}.log"
    extended = {
        **os.environ,
        "KUBECONFIG": str(_kubeconfig(plane, folder, name)),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "operator"), str(ROOT / "tests")]),
        "BERTOPS_SETTINGS": str(folder / "settings.yaml"),
        "BERTOPS_HEALTH_PORT": str(PORT),
        **environment,
    }
    with log.open("wb") as out:
        command = [sys.executable, "-m", "kopf", "run", "-A", "-m", MODULES[name]]
        process = subprocess.Popen(command, env=extended, stdout=out, stderr=out)
        program = Program(name, process, time.monotonic(), log)
        try:
            eventually(f"{name} is ready", program.ready)
            yield program
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _kubeconfig(plane: ControlPlane, folder: Path, name: str) -> Path:
    """A kubeconfig of a service account with the operator's rights and no more."""
    with KubeApi(plane.kubeconfig) as api:
        accounts = f"/api/v1/namespaces/{HOME}/serviceaccounts"
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": HOME}})
        api.request("POST", accounts, {"metadata": {"name": name}})
        rules: list[dict[str, Any]] = [
            {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
            for group, resources, verbs in RULES
        ]
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        role = {"metadata": {"name": "bench"}, "rules": rules}
        if api.request("POST", f"{rbac}/clusterroles", role).code == 409:
            api.request("PUT", f"{rbac}/clusterroles/bench", role)
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "bench"}
        subject = {"kind": "ServiceAccount", "name": name, "namespace": HOME}
        binding = {"metadata": {"name": f"bench-{name}"}, "roleRef": reference, "subjects": [subject]}
        api.request("POST", f"{rbac}/clusterrolebindings", binding)
        lifetime = {"spec": {"expirationSeconds": 6 * 3600}}
        token = api.request("POST", f"{accounts}/{name}/token", lifetime).body["status"]["token"]
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    file = folder / f"{name}.kubeconfig"
    file.write_text(json.dumps(config))
    return file
