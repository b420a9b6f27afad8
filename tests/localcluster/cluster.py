"""The recipe: how a cluster comes up, is looked at, and goes down. `__main__.py` calls this.

`up` leaves a healthy cluster of the same options alone. Anything else under the cluster's name (killed processes, half
a start, a machine that was rebooted) is cleared and started afresh, WITHOUT its data: a test cluster that is rebuilt in
seconds is worth more than one that may have survived.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from localcluster import addons, cgroups, control_plane, images, network, node
from localcluster.api import Api
from localcluster.binaries import built
from localcluster.certificates import create as create_certificates
from localcluster.certificates import write_kubeconfig
from localcluster.config import Cluster, Folders, Options, cluster_from_json, node_name
from localcluster.errors import ClusterError
from localcluster.health import is_healthy
from localcluster.locks import locked
from localcluster.prerequisites import check_run
from localcluster.processes import Process, log_of, recorded, wait_for
from localcluster.progress import step

_NODE_READY_SECONDS = 120
_HEALTHY_SECONDS = 60


@dataclass(frozen=True)
class ComponentStatus:
    """One line of `status`."""

    name: str
    pid: int
    health: str
    log: Path


def up(options: Options, cache: Path) -> Cluster:
    """Bring up the cluster that the options describe, or find that it is up."""
    check_run(with_nodes=not options.control_plane_only)
    folders = Folders(cache, options.name)
    node.check_paths(folders)
    binaries = built(cache)
    with _only_command_for(folders):
        running = _running(folders)
        if running is not None and running.options == options:
            step(f"cluster {options.name} is up already")
            return running
        if running is not None:
            msg = f"cluster {options.name} is up with other options ({running.options}); `down` it first"
            raise ClusterError(msg)
        _clear_remains(folders)
        return _start(options, folders, binaries)


def down(name: str, cache: Path) -> None:
    """Remove everything of a cluster from the machine, whatever state it is in; only its logs stay."""
    check_run(with_nodes=False)
    folders = Folders(cache, name)
    with _only_command_for(folders):
        step(f"clearing cluster {name}")
        _clear(folders)


def names(cache: Path) -> list[str]:
    """The clusters that this cache folder knows, up or not."""
    return sorted(record.parent.parent.name for record in (cache / "clusters").glob("*/state/cluster.json"))


def find(name: str, cache: Path) -> Cluster:
    """The cluster of that name, which `up` must have started."""
    folders = Folders(cache, name)
    if not folders.kubeconfig.exists():
        msg = f"there is no cluster {name}; `up --name {name}` starts it"
        raise ClusterError(msg)
    return cluster_from_json(folders.record.read_text(), folders)


def status(cluster: Cluster) -> list[ComponentStatus]:
    """Every component with its health, asked for now."""
    return [
        ComponentStatus(process.name, process.pid, _word(cluster, process), log_of(cluster.folders, process.name))
        for process in recorded(cluster.folders)
    ]


def _word(cluster: Cluster, process: Process) -> str:
    if not process.is_running:
        return "ended"
    return "healthy" if is_healthy(cluster, process) else "unhealthy"


def _running(folders: Folders) -> Cluster | None:
    """The cluster, if every part of it is healthy."""
    if not folders.kubeconfig.exists():
        return None
    cluster = cluster_from_json(folders.record.read_text(), folders)
    processes = recorded(folders)
    if not processes or not all(process.is_running for process in processes):
        return None
    if not all(is_healthy(cluster, process) for process in processes):
        return None
    expected = {node_name(number) for number in cluster.options.node_numbers}
    return cluster if expected <= Api(cluster).ready_nodes() else None


def _start(options: Options, folders: Folders, binaries: Path) -> Cluster:
    cluster = _claim_addresses(options, folders)
    step(f"starting cluster {options.name}: network, certificates, control plane")
    network.create(cluster)
    create_certificates(cluster)
    cgroups.make(options.name, "components")
    server = control_plane.start_api_server(cluster, binaries)
    for number in options.node_numbers:
        step(f"preparing {node_name(number)}")
        node.start_runtime(cluster, number)
    images.load_pause(cluster)
    step("waiting for the API server")
    control_plane.wait_until_ready(cluster, server)
    control_plane.start_controllers(cluster, binaries)
    _start_nodes(cluster, binaries)
    _wait_until_healthy(cluster)
    write_kubeconfig(cluster, "admin", folders.kubeconfig)
    step(f"cluster {options.name} is up: KUBECONFIG={folders.kubeconfig}")
    return cluster


def _start_nodes(cluster: Cluster, binaries: Path) -> None:
    numbers = cluster.options.node_numbers
    if not numbers:
        return
    kubelets = {number: node.start_kubelet(cluster, number, binaries) for number in numbers}
    addons.apply_manifests(cluster)
    addons.start_servers(cluster, binaries)
    for number, kubelet in kubelets.items():
        step(f"waiting for {node_name(number)}")
        _wait_until_ready(cluster, number, kubelet)


def _wait_until_ready(cluster: Cluster, number: int, kubelet: Process) -> None:
    api, name = Api(cluster), node_name(number)

    def is_ready() -> bool:
        return name in api.ready_nodes()

    wait_for(cluster.folders, kubelet, is_ready, seconds=_NODE_READY_SECONDS, what=f"{name} to be Ready")


def _wait_until_healthy(cluster: Cluster) -> None:
    for process in recorded(cluster.folders):
        is_well = partial(is_healthy, cluster, process)
        wait_for(cluster.folders, process, is_well, seconds=_HEALTHY_SECONDS, what=f"{process.name} to be healthy")


def _claim_addresses(options: Options, folders: Folders) -> Cluster:
    """Choose and record the index under one lock, so that no two clusters can have the same."""
    with locked(folders.cache / "clusters" / "lock", "the choice of addresses"):
        cluster = Cluster(options, network.free_addresses(folders.cache), folders)
        folders.state.mkdir(parents=True)
        folders.record.write_text(cluster.as_json())
    return cluster


def _clear_remains(folders: Folders) -> None:
    """Clear what an earlier start of this cache folder left; another folder's cluster is not ours to end."""
    if folders.state.exists():
        step(f"clearing what is left of cluster {folders.name}")
        _clear(folders)
    elif cgroups.exists(folders.name) or network.existing_namespaces(folders.name):
        msg = (
            f"a cluster {folders.name} that {folders.cache} knows nothing of is on this machine: "
            f"choose another --name, or end it with `down --name {folders.name}`"
        )
        raise ClusterError(msg)
    shutil.rmtree(folders.logs, ignore_errors=True)


def _clear(folders: Folders) -> None:
    """Processes first: the nodes' mounts and everything in their namespaces live exactly as long as these.

    No mount of a node is in this command's mount namespace, so the removal of the files can't follow one elsewhere.
    """
    cgroups.kill_all(folders.name)
    network.remove(folders)
    cgroups.remove(folders.name)
    if folders.state.exists():
        shutil.rmtree(folders.state)


@contextmanager
def _only_command_for(folders: Folders) -> Iterator[None]:
    """One `up` or `down` of a cluster at a time."""
    with locked(folders.cluster / "lock", f"cluster {folders.name}"):
        yield
