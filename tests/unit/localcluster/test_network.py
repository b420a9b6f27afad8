import json
from ipaddress import IPv4Network

from localcluster.config import MAX_CLUSTERS, Addresses
from localcluster.network import first_free, routed_networks


def test_the_first_cluster_gets_the_first_range() -> None:
    assert first_free(set(), {"lo", "eth0"}, []) == Addresses(0)


def test_other_clusters_interfaces_and_routes_are_left_alone() -> None:
    assert first_free({0}, {"lc1"}, [IPv4Network("10.202.7.0/24")]) == Addresses(3)


def test_a_route_that_covers_everything_leaves_no_range() -> None:
    assert first_free(set(), set(), [IPv4Network("10.0.0.0/8")]) is None


def test_no_range_is_left_when_all_are_taken() -> None:
    assert first_free(set(range(MAX_CLUSTERS)), set(), []) is None


def test_routes_are_read_from_iproute2() -> None:
    printed = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"},
        {"dst": "10.201.0.0/16", "gateway": "10.201.0.6", "dev": "lc1"},
        {"type": "local", "dst": "192.0.2.2", "dev": "eth0"},
    ]
    assert routed_networks(json.dumps(printed)) == [IPv4Network("10.201.0.0/16"), IPv4Network("192.0.2.2/32")]
