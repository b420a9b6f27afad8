"""Which hosts lead to a cloud's metadata service. tests/build asks the S3 client itself."""

import socket

import pytest

from bert_build import destination


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xA9FEA9FE",
        "0251.0376.0251.0376",
        "fe80::1",
        "::ffff:a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
        "168.63.129.16",
        "100.100.100.200",
    ],
)
def test_an_address_of_a_metadata_service_is_known_in_every_form(host: str) -> None:
    assert destination.metadata_address(host)


@pytest.mark.parametrize("host", ["10.0.0.5", "127.0.0.1", "2001:db8::1", "::1", "fd12:3456::1", "64:ff9b::a00:5"])
def test_a_service_in_the_cluster_is_none(host: str) -> None:
    assert not destination.metadata_address(host)


def test_of_a_name_every_address_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> list[object]:
        found = [(socket.AF_INET, ("10.0.0.5", 0)), (socket.AF_INET6, ("fe80::1%eth0", 0, 0, 2))]
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert destination.metadata_address("minio.storage") == "fe80::1%eth0"


def test_a_name_that_only_a_proxy_knows_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert not destination.metadata_address("minio.example")
