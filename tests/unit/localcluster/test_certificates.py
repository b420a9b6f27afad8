import base64
import json
import shutil
import ssl
from pathlib import Path

import pytest

from localcluster.certificates import (
    AUTHORITY,
    certificate_file,
    create,
    extensions,
    identities,
    key_file,
    subject,
    write_kubeconfig,
)
from localcluster.config import Addresses, Cluster, Folders, Options


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(Options(nodes=2), Addresses(1), Folders(tmp_path, "bert"))


def test_each_kubelet_is_who_the_node_authorizer_expects(cluster: Cluster) -> None:
    kubelets = [subject(identity) for identity in identities(cluster) if identity.file.startswith("kubelet-")]
    assert kubelets == ["/O=system:nodes/CN=system:node:node1", "/O=system:nodes/CN=system:node:node2"]


def test_the_api_server_serves_under_every_name_it_is_reached_by(cluster: Cluster) -> None:
    server = next(identity for identity in identities(cluster) if identity.file == "kube-apiserver")
    names = extensions(server)[-1]
    for expected in ("DNS:kubernetes.default.svc", "IP:10.201.0.6", "IP:10.201.128.1", "IP:127.0.0.1"):
        assert expected in names


def test_a_client_alone_may_not_serve(cluster: Cluster) -> None:
    admin = next(identity for identity in identities(cluster) if identity.file == "admin")
    assert "extendedKeyUsage=clientAuth" in extensions(admin)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_certificates_form_a_chain_that_tls_accepts(cluster: Cluster) -> None:
    create(cluster)
    folder = cluster.folders.certificates
    context = ssl.create_default_context(cafile=str(certificate_file(folder, AUTHORITY)))
    for identity in identities(cluster):
        context.load_cert_chain(certificate_file(folder, identity.file), key_file(folder, identity.file))
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_kubeconfig_carries_its_certificates_and_is_its_owners_alone(cluster: Cluster) -> None:
    create(cluster)
    path = cluster.folders.kubeconfig
    write_kubeconfig(cluster, "admin", path)
    config = json.loads(path.read_text())
    server, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    assert server["server"] == "https://10.201.0.6:6443"
    assert b"BEGIN CERTIFICATE" in base64.b64decode(server["certificate-authority-data"])
    assert b"PRIVATE KEY" in base64.b64decode(user["client-key-data"])
    assert "insecure-skip-tls-verify" not in server
    assert path.stat().st_mode & 0o077 == 0
