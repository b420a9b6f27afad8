"""Ports for the servers of tests: still free when a slow server binds at last, whatever ran meanwhile."""

import socket
from pathlib import Path

from support import ports


def test_a_port_is_none_that_the_kernel_gives_to_connections() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())

    assert not [port for port in (ports.free() for _ in range(200)) if first <= port <= last]


def test_no_port_is_given_twice() -> None:
    assert len({ports.free() for _ in range(200)}) == 200


def test_a_port_with_a_listener_is_not_given() -> None:
    port = ports.free()
    ports._drawn.discard(port)
    with socket.create_server(("", port)):
        assert not ports._binds("", port)
    assert ports._binds("", port)
