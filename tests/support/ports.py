"""Ports for servers that tests start: none that the kernel hands to a connection of another process meanwhile."""

import random
import socket

# Below what Linux gives to outgoing connections (32768 and up): between our probe and the server's own bind
# lie seconds (a JVM's start), in which such a port is taken by whatever test runs beside this one.
_PORTS = range(12_000, 29_000)
_drawn: set[int] = set()
_random = random.SystemRandom()


def free(host: str = "") -> int:
    """A port of this machine on which nothing listens; never the same one twice in a process."""
    while True:
        port = _random.choice(_PORTS)
        if port not in _drawn and _binds(host, port):
            _drawn.add(port)
            return port


def _binds(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
