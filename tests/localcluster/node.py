"""A real node: containerd, kubelet and kube-proxy in a network and a mount namespace of their own.

In the mount namespace a node has its own /run, /var/lib and /var/log. So each program uses its default paths, several
nodes never meet, and no mount, socket or folder of theirs is ever on the machine itself: all of it goes with the last
process that holds the namespace. `cluster.py` starts nodes; `images.py` runs ctr inside them.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from localcluster import cgroups, store
from localcluster.certificates import AUTHORITY, certificate_file, key_file, write_kubeconfig
from localcluster.config import CLUSTER_DOMAIN, PAUSE_IMAGE, Cluster, Folders, node_name
from localcluster.containerd import Containerd
from localcluster.errors import ClusterError
from localcluster.network import enter
from localcluster.prerequisites import cni_plugins
from localcluster.processes import Component, Process, program, recorded, run, start, wait_for

# Where a node has folders of its own, and what each is called among the node's files.
_OWN_FOLDERS = {"/run": "run", "/var/lib": "lib", "/var/log": "log"}
_READY_SECONDS = 60
_HOLDER = "namespace"
# Slave, then shared: an unmount on the machine reaches the node (else a removed network namespace would live on in it),
# nothing comes back, and pods may still propagate mounts among themselves.
_HOLD = """
set -eu
mount --make-rshared /
{binds}
touch {marker}
exec sleep infinity
"""


def check_paths(folders: Folders) -> None:
    """Raise where the node's own folders would hide the cluster's files."""
    for hidden in _OWN_FOLDERS:
        if folders.state.resolve().is_relative_to(hidden):
            msg = f"{folders.state} is below {hidden}, which nodes don't see: set BERTOPS_CACHE to another folder"
            raise ClusterError(msg)


def start_runtime(cluster: Cluster, number: int) -> None:
    """Make the node's mount namespace and start containerd in it; the API server need not answer yet."""
    folder = cluster.folders.node(number)
    for own in _OWN_FOLDERS.values():
        (folder / own).mkdir(parents=True)
    store.seed(cluster.folders.cache, _store(folder))
    _write_json(folder / "cni" / "10-pods.conflist", network_configuration(cluster, number))
    (folder / "resolv.conf").write_text("")  # what pods with dnsPolicy Default get: no name server of the machine's
    (folder / "containerd.toml").write_text(_containerd_configuration(folder))
    _hold_namespace(cluster, number)
    runtime = _start(
        cluster, number, "containerd", [program("containerd"), "--config", str(folder / "containerd.toml")]
    )
    wait_for(
        cluster.folders,
        runtime,
        lambda: (folder / "run" / "containerd" / "containerd.sock").exists() and _runtime_answers(cluster, number),
        seconds=_READY_SECONDS,
        what=f"containerd of {node_name(number)}",
    )


def start_kubelet(cluster: Cluster, number: int, binaries: Path) -> Process:
    """Start kubelet and kube-proxy."""
    folder, name = cluster.folders.node(number), node_name(number)
    cgroup = cgroups.make(cluster.options.name, name)
    write_kubeconfig(cluster, f"kubelet-{name}", folder / "kubelet.kubeconfig")
    write_kubeconfig(cluster, "kube-proxy", folder / "kube-proxy.kubeconfig")
    _write_json(folder / "kubelet.json", kubelet_configuration(cluster, number, cgroup))
    _write_json(folder / "kube-proxy.json", proxy_configuration(cluster, number))
    address = cluster.addresses.node(number)
    proxy = [str(binaries / "kube-proxy"), f"--config={folder / 'kube-proxy.json'}"]
    _start(cluster, number, "kube-proxy", proxy, f"http://{address}:10256/healthz")
    kubelet = [
        str(binaries / "kubelet"),
        f"--config={folder / 'kubelet.json'}",
        f"--kubeconfig={folder / 'kubelet.kubeconfig'}",
        f"--hostname-override={name}",
        f"--node-ip={address}",
    ]
    return _start(cluster, number, "kubelet", kubelet, f"http://{address}:10248/healthz")


def in_node(cluster: Cluster, number: int, command: Sequence[str]) -> list[str]:
    """A command line that runs in a node's network and mount namespaces."""
    name = _component_name(_HOLDER, number)
    holder = next((process for process in recorded(cluster.folders) if process.name == name), None)
    if holder is None or not holder.is_running:
        msg = f"{node_name(number)} of cluster {cluster.options.name} is not running; `up` starts it"
        raise ClusterError(msg)
    return [program("nsenter"), f"--target={holder.pid}", "--net", "--mount", "--", *command]


def containerd(cluster: Cluster, number: int) -> Containerd:
    """A node's container runtime."""
    return Containerd(in_node(cluster, number, [program("ctr")]), _store(cluster.folders.node(number)))


def network_configuration(cluster: Cluster, number: int) -> dict[str, Any]:
    """The pods' network, for containerd."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": str(cluster.addresses.pods_of(number))}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}


def kubelet_configuration(cluster: Cluster, number: int, cgroup: str) -> dict[str, Any]:
    """The kubelet's configuration file."""
    certificates, name = cluster.folders.certificates, f"kubelet-{node_name(number)}"
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificate_file(certificates, AUTHORITY))},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificate_file(certificates, name)),
        "tlsPrivateKeyFile": str(key_file(certificates, name)),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "healthzBindAddress": str(cluster.addresses.node(number)),
        "clusterDNS": [str(cluster.addresses.dns_service)],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(cluster.folders.node(number) / "resolv.conf"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,  # lowering it needs a capability that containers and small machines lack
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "localStorageCapacityIsolation": is_on_block_device(cluster.folders.state),
        "imageGCHighThresholdPercent": 100,  # images were loaded by hand and can't be pulled again
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }


def is_on_block_device(path: Path) -> bool:
    """Whether the kubelet can account for storage there: an overlay or btrfs has no device number it could look up."""
    return os.major(path.stat().st_dev) != 0


def proxy_configuration(cluster: Cluster, number: int) -> dict[str, Any]:
    """kube-proxy's configuration file."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(cluster.folders.node(number) / "kube-proxy.kubeconfig")},
        "mode": "iptables",
        "clusterCIDR": str(cluster.addresses.pods),
        "hostnameOverride": node_name(number),
        "healthzBindAddress": f"{cluster.addresses.node(number)}:10256",
        "oomScoreAdj": 0,
        # These limits belong to the machine and are read-only in a network namespace.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def _containerd_configuration(folder: Path) -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE no pod starts otherwise.
    # netns_mounts_under_state_dir: the pods' network namespaces stay in the node's /run.
    return f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  sandbox_image = "{PAUSE_IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins()}"
    conf_dir = "{folder / "cni"}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def _store(folder: Path) -> Path:
    """Where containerd keeps images and containers; what a node's programs see as /var/lib/containerd."""
    return folder / "lib" / "containerd"


def _hold_namespace(cluster: Cluster, number: int) -> None:
    """Start a process that does nothing but keep the node's mount namespace."""
    folder = cluster.folders.node(number)
    marker = folder / "namespace-is-ready"
    binds = "\n".join(f"mount --bind '{folder / own}' {target}" for target, own in _OWN_FOLDERS.items())
    unshare = [program("unshare"), "--mount", "--propagation", "slave", "--"]
    script = _HOLD.format(binds=binds, marker=f"'{marker}'")
    command = [*enter(cluster.options.name, number), *unshare, "/bin/sh", "-c", script]
    holder = start(cluster.folders, Component(_component_name(_HOLDER, number), command))
    wait_for(cluster.folders, holder, marker.exists, seconds=_READY_SECONDS, what=f"namespaces of {node_name(number)}")


def _runtime_answers(cluster: Cluster, number: int) -> bool:
    try:
        run(in_node(cluster, number, ["ctr", "version"]))
    except ClusterError:
        return False
    return True


def _start(cluster: Cluster, number: int, name: str, command: Sequence[str], health: str = "") -> Process:
    component = Component(_component_name(name, number), in_node(cluster, number, command), health)
    return start(cluster.folders, component)


def _component_name(name: str, number: int) -> str:
    return f"{name}-{node_name(number)}"


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))
