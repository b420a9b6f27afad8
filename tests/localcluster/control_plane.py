"""etcd, API server, controller manager and scheduler, as processes in node 1's network namespace.

`cluster.py` starts them in two steps, so that the nodes can prepare while the API server comes up.
"""

import json
from pathlib import Path

from localcluster.api import Api
from localcluster.certificates import (
    AUTHORITY,
    FRONT_PROXY_AUTHORITY,
    SERVICE_ACCOUNTS,
    certificate_file,
    key_file,
    public_key_file,
    write_kubeconfig,
)
from localcluster.config import API_PORT, CLUSTER_DOMAIN, Cluster
from localcluster.network import enter
from localcluster.processes import Component, Process, start, wait_for

_READY_SECONDS = 90
# Who did what to which object, never a body: bodies hold secrets. Kubernetes' own accounts do most, and nobody asks
# what; writing it all down costs a burst a tenth of its time.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


def start_api_server(cluster: Cluster, binaries: Path) -> Process:
    """Start etcd and the API server; `wait_until_ready` says when the latter answers."""
    _start(cluster, binaries, "etcd", _etcd_flags(cluster), f"http://{cluster.addresses.node(1)}:2381/health")
    flags = _api_server_flags(cluster)
    if cluster.options.audit:
        flags |= _audit_flags(cluster)
    return _start(cluster, binaries, "kube-apiserver", flags)


def wait_until_ready(cluster: Cluster, server: Process) -> None:
    """Wait for the API server."""
    api = Api(cluster)
    wait_for(
        cluster.folders,
        server,
        lambda: api.answers_ok("/readyz"),
        seconds=_READY_SECONDS,
        what="the API server's /readyz",
    )


def start_controllers(cluster: Cluster, binaries: Path) -> None:
    """Start what acts on the API server's objects."""
    address = cluster.addresses.node(1)
    _start(
        cluster,
        binaries,
        "kube-controller-manager",
        _client_flags(cluster, "kube-controller-manager") | _controller_manager_flags(cluster),
        f"https://{address}:10257/healthz",
    )
    if not cluster.options.control_plane_only:
        flags = _client_flags(cluster, "kube-scheduler")
        _start(cluster, binaries, "kube-scheduler", flags, f"https://{address}:10259/healthz")


def _start(cluster: Cluster, binaries: Path, name: str, flags: dict[str, str], health: str = "") -> Process:
    arguments = [f"--{flag}={value}" for flag, value in flags.items()]
    command = [*enter(cluster.options.name, 1), str(binaries / name), *arguments]
    return start(cluster.folders, Component(name, command, health))


def _etcd_flags(cluster: Cluster) -> dict[str, str]:
    return {
        "data-dir": str(cluster.folders.state / "etcd"),
        "listen-client-urls": "http://127.0.0.1:2379",  # plain: its network namespace has no other user
        "advertise-client-urls": "http://127.0.0.1:2379",
        "listen-peer-urls": "http://127.0.0.1:2380",
        "listen-metrics-urls": f"http://{cluster.addresses.node(1)}:2381",
        "unsafe-no-fsync": "true",  # `up` never starts from old data, so none must survive a power cut
    }


def _api_server_flags(cluster: Cluster) -> dict[str, str]:
    folder, addresses = cluster.folders.certificates, cluster.addresses
    authority = str(certificate_file(folder, AUTHORITY))
    return {
        "etcd-servers": "http://127.0.0.1:2379",
        "secure-port": str(API_PORT),
        "advertise-address": str(addresses.node(1)),
        "service-cluster-ip-range": str(addresses.services),
        "allow-privileged": "true",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "client-ca-file": authority,
        "tls-cert-file": str(certificate_file(folder, "kube-apiserver")),
        "tls-private-key-file": str(key_file(folder, "kube-apiserver")),
        "kubelet-certificate-authority": authority,
        "kubelet-client-certificate": str(certificate_file(folder, "kube-apiserver-kubelet-client")),
        "kubelet-client-key": str(key_file(folder, "kube-apiserver-kubelet-client")),
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        "service-account-key-file": str(public_key_file(folder, SERVICE_ACCOUNTS)),
        "service-account-signing-key-file": str(key_file(folder, SERVICE_ACCOUNTS)),
        "requestheader-client-ca-file": str(certificate_file(folder, FRONT_PROXY_AUTHORITY)),
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": str(certificate_file(folder, "front-proxy-client")),
        "proxy-client-key-file": str(key_file(folder, "front-proxy-client")),
    }


def _audit_flags(cluster: Cluster) -> dict[str, str]:
    policy = cluster.folders.state / "audit-policy.json"
    policy.write_text(json.dumps(_AUDIT_POLICY))
    return {"audit-policy-file": str(policy), "audit-log-path": str(cluster.folders.logs / "audit.log")}


def _client_flags(cluster: Cluster, name: str) -> dict[str, str]:
    """How a controller reaches the API server, and who may ask for its health and metrics."""
    folder, kubeconfig = cluster.folders.certificates, cluster.folders.state / f"{name}.kubeconfig"
    write_kubeconfig(cluster, name, kubeconfig)
    return {
        "kubeconfig": str(kubeconfig),
        "authentication-kubeconfig": str(kubeconfig),
        "authorization-kubeconfig": str(kubeconfig),
        "leader-elect": "false",
        "tls-cert-file": str(certificate_file(folder, name)),
        "tls-private-key-file": str(key_file(folder, name)),
    }


def _controller_manager_flags(cluster: Cluster) -> dict[str, str]:
    folder = cluster.folders.certificates
    # Without nodes it is about API objects alone, thousands of them in benches; 20 requests a second would hold all up.
    hurried = cluster.options.control_plane_only and not cluster.options.plain_controllers
    fast = {"kube-api-qps": "500", "kube-api-burst": "1000"} if hurried else {}
    return fast | {
        "use-service-account-credentials": "true",
        "root-ca-file": str(certificate_file(folder, AUTHORITY)),
        "service-account-private-key-file": str(key_file(folder, SERVICE_ACCOUNTS)),
        "cluster-signing-cert-file": str(certificate_file(folder, AUTHORITY)),
        "cluster-signing-key-file": str(key_file(folder, AUTHORITY)),
        "flex-volume-plugin-dir": str(cluster.folders.state / "volume-plugins"),  # it makes the default one
    }
