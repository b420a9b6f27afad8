from pathlib import Path

import pytest

from localcluster.addons import corefile
from localcluster.config import Addresses, Cluster, Folders, Options
from localcluster.errors import ClusterError
from localcluster.node import check_paths, kubelet_configuration, network_configuration, proxy_configuration


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    folders = Folders(tmp_path, "bert")
    folders.state.mkdir(parents=True)
    return Cluster(Options(nodes=2), Addresses(2), folders)


def test_each_node_has_a_range_of_pods_of_its_own(cluster: Cluster) -> None:
    subnets = [network_configuration(cluster, number)["plugins"][0]["ipam"]["ranges"] for number in (1, 2)]
    assert subnets == [[[{"subnet": "10.202.65.0/24"}]], [[{"subnet": "10.202.66.0/24"}]]]


def test_a_kubelet_trusts_only_the_clusters_authority(cluster: Cluster) -> None:
    configuration = kubelet_configuration(cluster, 2, "/lc_bert/node2")
    assert configuration["authentication"]["anonymous"] == {"enabled": False}
    assert configuration["authentication"]["x509"]["clientCAFile"].endswith("/ca.crt")
    assert configuration["authorization"] == {"mode": "Webhook"}


def test_pods_ask_the_clusters_dns(cluster: Cluster) -> None:
    assert kubelet_configuration(cluster, 1, "/x")["clusterDNS"] == ["10.202.128.10"]
    assert "bind 10.202.0.6" in corefile(cluster)


def test_the_proxy_changes_no_limit_of_the_machine(cluster: Cluster) -> None:
    conntrack = proxy_configuration(cluster, 1)["conntrack"]
    assert set(conntrack.values()) == {0, "0s"}


@pytest.mark.parametrize("hidden", ["/run/x", "/var/lib/x", "/var/log/x"])
def test_a_cache_that_nodes_would_not_see_is_refused(hidden: str) -> None:
    with pytest.raises(ClusterError, match="BERTOPS_CACHE"):
        check_paths(Folders(Path(hidden), "bert"))
