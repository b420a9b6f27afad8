"""The local cluster itself: two nodes and a drain, everything killed without warning, and nothing left behind."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import localcluster
from support.installation import Images, built_images
from support.kube import Kube, wait_for

NAME = "two"
PEER = "from urllib.request import urlopen; print(urlopen('http://web:8000/', timeout=5).status)"


@dataclass(frozen=True)
class Traces:
    """What a cluster could leave on the machine."""

    processes: frozenset[str]
    mounts: frozenset[str]
    interfaces: frozenset[str]
    namespaces: frozenset[str]
    cgroups: frozenset[str]
    rules: str


def traces() -> Traces:
    """Of the cluster NAME, now; interfaces (but other clusters' links) and firewall rules are the whole machine's."""
    mark = f"clusters/{NAME}/"
    commands = (_command_line(pid) for pid in Path("/proc").iterdir() if pid.name.isdecimal())
    return Traces(
        processes=frozenset(command for command in commands if mark in command),
        mounts=frozenset(line for line in Path("/proc/mounts").read_text().splitlines() if mark in line),
        interfaces=frozenset(name for name in _links() if not name.startswith("lc")),
        namespaces=frozenset(name for name in _output("ip", "netns").split() if name.startswith(f"lc_{NAME}_")),
        cgroups=frozenset(str(path) for path in Path("/sys/fs/cgroup").glob(f"**/lc_{NAME}")),
        rules=_output("iptables-save", "-t", "filter").partition("COMMIT")[0].partition("*filter")[2],
    )


def _links() -> set[str]:
    return {link["ifname"] for link in json.loads(_output("ip", "-j", "link"))}


def _own_link() -> str:
    record = _cache() / "clusters" / NAME / "state" / "cluster.json"
    return f"lc{json.loads(record.read_text())['index']}"


def _cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("BERTOPS_CACHE") or home / "bert-operator")


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(scope="module")
def before() -> Traces:
    localcluster("down", "--name", NAME)
    return traces()


@pytest.fixture(scope="module")
def pair(before: Traces) -> Iterator[tuple[Kube, Images]]:
    """Two nodes with the small image on them."""
    assert before.processes == frozenset()
    images, archives = built_images()
    kube = _up(next(path for path in archives if path.name.startswith("operator-")))
    yield kube, images
    localcluster("down", "--name", NAME)


def _up(archive: Path) -> Kube:
    kubeconfig = Path(localcluster("up", "--name", NAME, "--nodes", "2").splitlines()[-1])
    localcluster("load-image", str(archive), "--name", NAME)
    return Kube(kubeconfig=kubeconfig, tools=Path(localcluster("build-binaries").splitlines()[-1]))


def _web(image: str) -> list[dict[str, Any]]:
    labels = {"app": "web"}
    container = {"name": "web", "image": image, "command": ["python", "-m", "http.server"], "workingDir": "/tmp"}  # noqa: S108
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    pod = {"containers": [container], "topologySpreadConstraints": [spread], "terminationGracePeriodSeconds": 1}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    ports = [{"port": 8000}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": labels}}
    service["spec"] |= {"ports": ports}  # type: ignore[operator]
    return [deployment, service]


def _nodes_of_pods(kube: Kube) -> list[str]:
    pods = [pod for pod in kube.list("pods", "app=web") if "deletionTimestamp" not in pod["metadata"]]
    ready = [p for p in pods if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"]["conditions"])]
    return sorted(pod["spec"]["nodeName"] for pod in ready)


def test_pods_on_two_nodes_reach_each_other_by_name_and_move_on_a_drain(pair: tuple[Kube, Images]) -> None:
    kube, images = pair
    for manifest in _web(images.operator):
        kube.apply(manifest)
    spread = wait_for("a pod on each node", lambda: len(set(_nodes_of_pods(kube))) == 2, seconds=60)
    assert spread
    for pod in kube.list("pods", "app=web"):
        asked = wait_for(
            "an answer by name",
            lambda name=pod["metadata"]["name"]: kube.kubectl("exec", name, "--", "python", "-c", PEER, check=False),
            seconds=30,
        )
        assert asked.strip() == "200"
    first, second = (node["metadata"]["name"] for node in kube.list("nodes"))
    kube.kubectl("drain", first, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=180s")
    wait_for("both pods on the other node", lambda: _nodes_of_pods(kube) == [second, second], seconds=60)


def test_up_finds_a_healthy_cluster_and_leaves_it_alone(pair: tuple[Kube, Images]) -> None:
    kube, _ = pair
    uids = [node["metadata"]["uid"] for node in kube.list("nodes")]
    localcluster("up", "--name", NAME, "--nodes", "2")
    assert [node["metadata"]["uid"] for node in kube.list("nodes")] == uids


def test_everything_killed_comes_up_again(pair: tuple[Kube, Images]) -> None:
    _, images = pair
    processes = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and _is_ours(path)]
    assert len(processes) > 8
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    kube = _up(next(path for path in built_images()[1] if path.name.startswith("operator-")))
    for manifest in _web(images.operator):
        kube.apply(manifest)
    wait_for("pods on both nodes", lambda: len(set(_nodes_of_pods(kube))) == 2, seconds=60)


def _is_ours(process: Path) -> bool:
    return f"clusters/{NAME}/" in _command_line(process)


def test_down_leaves_nothing(pair: tuple[Kube, Images], before: Traces) -> None:
    assert pair
    up, link = traces(), _own_link()
    assert len(up.namespaces) == 2
    assert up.processes
    assert link in _links()
    localcluster("down", "--name", NAME)
    assert link not in _links()
    assert traces() == before
