"""The cluster's network: a namespace per node and the links between them.

Node 1's link leads to the machine, every other node's to node 1, which routes. The machine gets one interface and one
route, never a firewall rule: kube-proxy's and the pods' rules are inside the namespaces and vanish with them.
"""

import json
from contextlib import AbstractContextManager
from ipaddress import IPv4Network
from pathlib import Path

from localcluster.config import MAX_CLUSTERS, Addresses, Cluster, Folders, namespace_name
from localcluster.errors import ClusterError
from localcluster.locks import locked
from localcluster.processes import program, run

_NAMESPACES = Path("/run/netns")


def free_addresses(cache: Path) -> Addresses:
    """The lowest index that no cluster, interface or route of this machine uses. The caller holds the lock."""
    records = (cache / "clusters").glob("*/state/cluster.json")
    taken = {json.loads(record.read_text())["index"] for record in records}
    interfaces = {link["ifname"] for link in json.loads(run(["ip", "-json", "link", "show"]))}
    routes = routed_networks(run(["ip", "-json", "-4", "route", "show", "table", "all"]))
    chosen = first_free(taken, interfaces, routes)
    if chosen is None:
        msg = f"all {MAX_CLUSTERS} address ranges from 10.200.0.0/16 on are in use; `down` a cluster first"
        raise ClusterError(msg)
    return chosen


def first_free(taken: set[int], interfaces: set[str], routes: list[IPv4Network]) -> Addresses | None:
    """Pure part of `free_addresses`."""
    for index in set(range(MAX_CLUSTERS)) - taken:
        addresses = Addresses(index)
        if addresses.host_link in interfaces:
            continue
        if not any(addresses.everything.overlaps(route) for route in routes):
            return addresses
    return None


def routed_networks(routes: str) -> list[IPv4Network]:
    """The destinations in the output of `ip -json route`, without default routes, which cover everything."""
    found = (route.get("dst", "default") for route in json.loads(routes))
    return [IPv4Network(target, strict=False) for target in found if target not in {"default", "0.0.0.0/0"}]


def create(cluster: Cluster) -> None:
    """Make every node's namespace and links."""
    with _namespaces_locked(cluster.folders.cache):
        for number in cluster.options.namespace_numbers:
            run(["ip", "netns", "add", namespace_name(cluster.options.name, number)])
    for number in cluster.options.namespace_numbers:
        _connect(cluster, number)
    addresses = cluster.addresses
    run(["ip", "route", "add", str(addresses.everything), "via", str(addresses.node(1)), "dev", addresses.host_link])


def _namespaces_locked(cache: Path) -> AbstractContextManager[None]:
    """Between two clusters of this cache folder, the folder of namespaces has one writer at a time."""
    return locked(cache / "clusters" / "namespaces.lock", "its network namespaces")


def _connect(cluster: Cluster, number: int) -> None:
    addresses, namespace = cluster.addresses, namespace_name(cluster.options.name, number)
    run(["ip", "-n", namespace, "link", "set", "lo", "up"])
    outer = ["ip"] if number == 1 else ["ip", "-n", namespace_name(cluster.options.name, 1)]
    link = addresses.host_link if number == 1 else f"to-node{number}"
    run([*outer, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace])
    run([*outer, "address", "add", f"{addresses.gateway(number)}/30", "dev", link])
    run([*outer, "link", "set", link, "up"])
    run(["ip", "-n", namespace, "address", "add", f"{addresses.node(number)}/30", "dev", "eth0"])
    run(["ip", "-n", namespace, "link", "set", "eth0", "up"])
    run(["ip", "-n", namespace, "route", "add", "default", "via", str(addresses.gateway(number))])
    if number > 1:
        run([*outer, "route", "add", str(addresses.pods_of(number)), "via", str(addresses.node(number))])
    run([*enter(cluster.options.name, number), "/bin/sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])


def enter(cluster: str, number: int) -> list[str]:
    """The start of a command line that runs in a node's network namespace.

    Not `ip netns exec`: that mounts a fresh /sys, without the cgroup v1 hierarchies.
    """
    return [program("nsenter"), f"--net={_NAMESPACES / namespace_name(cluster, number)}", "--"]


def _disconnect(namespace: str) -> None:
    """Remove the link to the machine now: the kernel clears a namespace some time after its name is gone."""
    links = json.loads(run(["ip", "-n", namespace, "-json", "link", "show"]))
    if any(link["ifname"] == "eth0" for link in links):
        run(["ip", "-n", namespace, "link", "delete", "eth0"])


def existing_namespaces(cluster: str) -> list[str]:
    """The cluster's namespaces that this machine has, whoever made them."""
    return sorted(path.name for path in _NAMESPACES.glob(namespace_name(cluster, 0)[:-1] + "*"))


def remove(folders: Folders) -> None:
    """Remove the cluster's namespaces; interfaces, routes and rules go with them."""
    with _namespaces_locked(folders.cache):
        for namespace in existing_namespaces(folders.name):
            if namespace == namespace_name(folders.name, 1):
                _disconnect(namespace)
            run(["ip", "netns", "delete", namespace])
        if _NAMESPACES.is_mount() and not any(_NAMESPACES.iterdir()):
            # `ip netns add` mounts this folder onto itself and never takes it back.
            run(["umount", str(_NAMESPACES)])
            _NAMESPACES.rmdir()
