from pathlib import Path

import pytest

from localcluster.config import (
    MAX_CLUSTERS,
    MAX_NODES,
    Addresses,
    Cluster,
    Folders,
    Options,
    cache_folder,
    cluster_from_json,
    namespace_name,
)
from localcluster.errors import ClusterError

_FOLDERS = Folders(Path("/cache"), "bert")


def test_clusters_never_share_an_address() -> None:
    ranges = [Addresses(index).everything for index in range(MAX_CLUSTERS)]
    assert not any(one.overlaps(other) for one in ranges for other in ranges if one is not other)


@pytest.mark.parametrize("index", [0, 1, MAX_CLUSTERS - 1])
def test_the_parts_of_a_cluster_never_share_an_address(index: int) -> None:
    addresses = Addresses(index)
    numbers = range(1, MAX_NODES + 1)
    single = [ends(number) for ends in (addresses.gateway, addresses.node) for number in numbers]
    assert len(set(single)) == len(single)
    assert not any(address in addresses.pods or address in addresses.services for address in single)
    assert all(address in addresses.everything for address in single)
    assert not addresses.pods.overlaps(addresses.services)
    assert all(addresses.pods_of(number).subnet_of(addresses.pods) for number in numbers)
    assert len({addresses.pods_of(number) for number in numbers}) == MAX_NODES


def test_both_ends_of_a_link_are_in_one_network_of_four() -> None:
    addresses = Addresses(3)
    for number in range(1, MAX_NODES + 1):
        assert int(addresses.gateway(number)) // 4 == int(addresses.node(number)) // 4


def test_interface_names_fit_the_kernel() -> None:
    assert all(len(Addresses(index).host_link) <= 15 for index in range(MAX_CLUSTERS))


@pytest.mark.parametrize("name", ["bert", "a", "lab-2", "a" * 20])
def test_a_name_is_accepted(name: str) -> None:
    assert Options(name).name == name


@pytest.mark.parametrize("name", ["", "Bert", "2nd", "a_b", "a/b", "a-", "a" * 21])
def test_a_name_that_the_kernel_or_kubernetes_would_refuse_is_refused_first(name: str) -> None:
    with pytest.raises(ClusterError, match="--name"):
        Options(name)


@pytest.mark.parametrize("nodes", [0, -1, MAX_NODES + 1])
def test_a_number_of_nodes_out_of_range_is_refused(nodes: int) -> None:
    with pytest.raises(ClusterError, match="--nodes"):
        Options(nodes=nodes)


def test_a_control_plane_alone_has_a_namespace_but_no_node() -> None:
    options = Options(control_plane_only=True)
    assert list(options.node_numbers) == []
    assert list(options.namespace_numbers) == [1]


def test_every_node_has_a_namespace() -> None:
    options = Options(nodes=3)
    assert list(options.node_numbers) == list(options.namespace_numbers) == [1, 2, 3]


def test_no_clusters_namespaces_look_like_another_ones() -> None:
    assert not namespace_name("a-node1", 1).startswith(namespace_name("a", 1))


def test_a_record_reads_back_as_written() -> None:
    cluster = Cluster(Options("bert", 2, audit=True), Addresses(4), _FOLDERS)
    assert cluster_from_json(cluster.as_json(), _FOLDERS) == cluster


def test_the_logs_survive_the_state() -> None:
    assert not _FOLDERS.logs.is_relative_to(_FOLDERS.state)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"BERTOPS_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/bert-operator"),
        ({"XDG_CACHE_HOME": ""}, str(Path.home() / ".cache/bert-operator")),
        ({}, str(Path.home() / ".cache/bert-operator")),
    ],
)
def test_the_cache_folder_follows_the_environment(environment: dict[str, str], expected: str) -> None:
    assert cache_folder(environment) == Path(expected)
