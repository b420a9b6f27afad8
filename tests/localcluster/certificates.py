"""The cluster's certificate authority, every component's key pair, and kubeconfigs that hold them.

Made afresh by each `up` with the openssl command. One key pair per component, for both ends of TLS where it serves.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localcluster.config import CLUSTER_DOMAIN, Cluster, node_name
from localcluster.processes import run

_DAYS = "3650"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
# The distribution's own openssl.cnf would add extensions of its choosing.
_CONFIG = "[req]\ndistinguished_name = name\nprompt = no\n[name]\n"

AUTHORITY = "ca"
FRONT_PROXY_AUTHORITY = "front-proxy-ca"
SERVICE_ACCOUNTS = "service-accounts"


@dataclass(frozen=True)
class Identity:
    """Who a certificate is for; `hosts` are the names and addresses it may serve under."""

    file: str
    user: str
    groups: Sequence[str] = ()
    hosts: Sequence[str] = ()
    authority: str = AUTHORITY


def identities(cluster: Cluster) -> list[Identity]:
    """Every key pair of a cluster but the authorities' own."""
    first = str(cluster.addresses.node(1))
    kubernetes = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    names = (*kubernetes, f"kubernetes.default.svc.{CLUSTER_DOMAIN}", "localhost")
    return [
        Identity(
            "kube-apiserver", "kube-apiserver", (), (*names, "127.0.0.1", first, str(cluster.addresses.api_service))
        ),
        Identity("kube-apiserver-kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",)),
        Identity("front-proxy-client", "front-proxy-client", authority=FRONT_PROXY_AUTHORITY),
        Identity("admin", "kubernetes-admin", ("system:masters",)),
        Identity("kube-controller-manager", "system:kube-controller-manager", (), (first,)),
        Identity("kube-scheduler", "system:kube-scheduler", (), (first,)),
        Identity("kube-proxy", "system:kube-proxy"),
        Identity("coredns", "system:coredns"),
        Identity("provisioner", "system:provisioner"),
        *(_kubelet(cluster, number) for number in cluster.options.node_numbers),
    ]


def _kubelet(cluster: Cluster, number: int) -> Identity:
    """The user and group that the Node authorizer and the NodeRestriction admission plugin go by."""
    name = node_name(number)
    return Identity(
        f"kubelet-{name}", f"system:node:{name}", ("system:nodes",), (name, str(cluster.addresses.node(number)))
    )


def create(cluster: Cluster) -> None:
    """Make all of them."""
    folder = cluster.folders.certificates
    folder.mkdir(mode=0o700, parents=True)
    (folder / "openssl.cnf").write_text(_CONFIG)
    for authority in (AUTHORITY, FRONT_PROXY_AUTHORITY):
        _self_sign(folder, authority)
    _make_service_account_keys(folder)
    for identity in identities(cluster):
        _sign(folder, identity)


def certificate_file(folder: Path, name: str) -> Path:
    """Where a certificate is."""
    return folder / f"{name}.crt"


def key_file(folder: Path, name: str) -> Path:
    """Where a private key is."""
    return folder / f"{name}.key"


def public_key_file(folder: Path, name: str) -> Path:
    """Where a bare public key is."""
    return folder / f"{name}.pub"


def subject(identity: Identity) -> str:
    """The certificate's subject: Kubernetes reads groups from O and the user from CN."""
    return "".join([*(f"/O={group}" for group in identity.groups), f"/CN={identity.user}"])


def extensions(identity: Identity) -> list[str]:
    """What the certificate may be used for."""
    usages = ["clientAuth", *(["serverAuth"] if identity.hosts else [])]
    found = [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        f"extendedKeyUsage={','.join(usages)}",
    ]
    if identity.hosts:
        found.append(f"subjectAltName={','.join(map(_alternative_name, identity.hosts))}")
    return found


def _alternative_name(host: str) -> str:
    return f"IP:{host}" if host.replace(".", "").isdigit() else f"DNS:{host}"


def _self_sign(folder: Path, name: str) -> None:
    uses = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"]
    uses.append("subjectKeyIdentifier=hash")
    run([*_request(folder, name, f"/CN=localcluster-{name}"), *_additions(uses)])


def _sign(folder: Path, identity: Identity) -> None:
    signer = [
        "-CA",
        str(certificate_file(folder, identity.authority)),
        "-CAkey",
        str(key_file(folder, identity.authority)),
    ]
    run([*_request(folder, identity.file, subject(identity)), *signer, *_additions(extensions(identity))])


def _make_service_account_keys(folder: Path) -> None:
    """The pair that service account tokens are signed and checked with: bare keys, no certificate."""
    private, public = key_file(folder, SERVICE_ACCOUNTS), public_key_file(folder, SERVICE_ACCOUNTS)
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(private)])
    run(["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)])


def _request(folder: Path, name: str, who: str) -> list[str]:
    return [
        "openssl", "req", "-x509", *_NEW_KEY, "-config", str(folder / "openssl.cnf"), "-days", _DAYS, "-subj", who,
        "-out", str(certificate_file(folder, name)), "-keyout", str(key_file(folder, name)),
    ]  # fmt: skip


def _additions(found: list[str]) -> list[str]:
    return [argument for extension in found for argument in ("-addext", extension)]


def write_kubeconfig(cluster: Cluster, identity: str, path: Path) -> None:
    """Write a kubeconfig that carries its certificates. JSON is YAML, and needs no library."""
    folder, name = cluster.folders.certificates, cluster.options.name
    user = {
        "client-certificate-data": _base64(certificate_file(folder, identity)),
        "client-key-data": _base64(key_file(folder, identity)),
    }
    server = {
        "server": cluster.api_url,
        "certificate-authority-data": _base64(certificate_file(folder, AUTHORITY)),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": server}],
        "users": [{"name": identity, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": identity}}],
        "current-context": name,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2))


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
