"""What a usable cluster has beside Kubernetes itself: DNS, and a default StorageClass whose claims bind.

Both servers are processes of node 1, not pods: they need no image, and they are up as soon as the API server is.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from localcluster.api import Api
from localcluster.certificates import write_kubeconfig
from localcluster.config import CLUSTER_DOMAIN, Cluster
from localcluster.network import enter
from localcluster.processes import Component, start

STORAGE_CLASS = "local"
_PROVISIONER = "localcluster/folder"  # provisioner.go has the same
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
# No forward: nothing outside the cluster is reachable, and a refusal at once beats a timeout per search domain.
_COREFILE = """.:53 {{
    bind {address}
    errors
    health {address}:8080
    ready {address}:8181
    kubernetes {domain} in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    cache 5
}}
"""

Manifest = tuple[str, Mapping[str, Any]]  # its path in the API, its body


def start_servers(cluster: Cluster, binaries: Path) -> None:
    """Start CoreDNS and the volume provisioner."""
    state, address = cluster.folders.state, cluster.addresses.node(1)
    for name in ("coredns", "provisioner"):
        write_kubeconfig(cluster, name, state / f"{name}.kubeconfig")
    cluster.folders.volumes.mkdir()
    (state / "Corefile").write_text(corefile(cluster))
    provisioner = [f"--kubeconfig={state / 'provisioner.kubeconfig'}", f"--root={cluster.folders.volumes}"]
    commands = {"coredns": ["-conf", str(state / "Corefile")], "provisioner": provisioner}
    health = {"coredns": f"http://{address}:8181/ready"}
    for name, arguments in commands.items():
        command = [*enter(cluster.options.name, 1), str(binaries / name), *arguments]
        start(cluster.folders, Component(name, command, health.get(name, "")))


def apply_manifests(cluster: Cluster) -> None:
    """Give the cluster the objects that make these servers known to it."""
    api = Api(cluster)
    for path, body in (*_dns(cluster), *_storage()):
        api.apply(path, body)


def corefile(cluster: Cluster) -> str:
    """CoreDNS's configuration."""
    kubeconfig = cluster.folders.state / "coredns.kubeconfig"
    return _COREFILE.format(address=cluster.addresses.node(1), domain=CLUSTER_DOMAIN, kubeconfig=kubeconfig)


def _dns(cluster: Cluster) -> Iterator[Manifest]:
    """A Service without a selector and the endpoint behind it: CoreDNS at node 1's own address."""
    ports = [{"name": f"dns-{protocol.lower()}", "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    folder = "/api/v1/namespaces/kube-system/services"
    spec = {"clusterIP": str(cluster.addresses.dns_service), "ports": ports}
    yield f"{folder}/kube-dns", _object("v1", "Service", "kube-dns", spec=spec, labels={"k8s-app": "kube-dns"})
    yield (
        "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns",
        _object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "kube-dns",
            labels={"kubernetes.io/service-name": "kube-dns"},
            addressType="IPv4",
            ports=ports,
            endpoints=[{"addresses": [str(cluster.addresses.node(1))], "conditions": {"ready": True}}],
        ),
    )
    reads = ["list", "watch"]
    yield from _role(
        "system:coredns",
        [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces", "endpoints"], "verbs": reads},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": reads},
        ],
    )


def _storage() -> Iterator[Manifest]:
    """The default class. The volume is made when the first pod is scheduled, on that pod's node, as kind's is."""
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"}
    body = _object(
        "storage.k8s.io/v1",
        "StorageClass",
        STORAGE_CLASS,
        annotations=annotations,
        provisioner=_PROVISIONER,
        reclaimPolicy="Delete",
        volumeBindingMode="WaitForFirstConsumer",
    )
    yield f"/apis/storage.k8s.io/v1/storageclasses/{STORAGE_CLASS}", body
    reads = ["get", "list", "watch"]
    yield from _role(
        "system:provisioner",
        [
            {
                "apiGroups": [""],
                "resources": ["persistentvolumes"],
                "verbs": [*reads, "create", "patch", "update", "delete"],
            },
            {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": [*reads, "update"]},
            {"apiGroups": [""], "resources": ["nodes"], "verbs": reads},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch", "update"]},
            {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": reads},
        ],
    )


def _role(user: str, rules: list[dict[str, list[str]]]) -> Iterator[Manifest]:
    """What a server of this package may do; its certificate names it as this user."""
    api_version = "rbac.authorization.k8s.io/v1"
    group = "rbac.authorization.k8s.io"
    yield f"{_RBAC}/clusterroles/{user}", _object(api_version, "ClusterRole", user, rules=rules)
    reference = {"apiGroup": group, "kind": "ClusterRole", "name": user}
    subjects = [{"apiGroup": group, "kind": "User", "name": user}]
    binding = _object(api_version, "ClusterRoleBinding", user, roleRef=reference, subjects=subjects)
    yield f"{_RBAC}/clusterrolebindings/{user}", binding


def _object(
    api_version: str,
    kind: str,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    **fields: object,
) -> dict[str, Any]:
    metadata = {"name": name, "labels": dict(labels or {}), "annotations": dict(annotations or {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}
