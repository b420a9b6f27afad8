"""Answers the readiness probe of the verify sidecar: GET /ready, nothing else.

verify serves it from a thread while it works, then replaces itself by this file alone (`python -I -S ready_server.py
<listening descriptor> <body>`), which holds 10 MB. So it imports only the lightest parts of the standard library, and
nothing of ours.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable

Answer = Callable[[], tuple[bool, str]]
"""Ready or not, and the JSON that says why."""

_CLIENT_SECONDS = 2.0
"""A client that says nothing for so long is sent away: one thread serves them all."""
_LONGEST_REQUEST = 8192


def listen(port: int) -> socket.socket:
    """A socket on all addresses, IPv6 and IPv4 where the machine has both."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def serve(listener: socket.socket, answer: Answer) -> None:
    """Answer for ever."""
    while True:
        client, _ = listener.accept()
        with client:
            try:
                client.settimeout(_CLIENT_SECONDS)
                client.sendall(_reply(_read(client), answer))
            except OSError:
                continue  # The client went away or said nothing: nobody to tell.


def stop_at_sigterm() -> None:
    """Exit at once: as PID 1 a process without a handler would ignore SIGTERM and hold up the pod's end."""
    signal.signal(signal.SIGTERM, lambda _signal, _frame: os._exit(0))


def _read(client: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request and len(request) < _LONGEST_REQUEST:
        block = client.recv(4096)
        if not block:
            break
        request += block
    return request


def _reply(request: bytes, answer: Answer) -> bytes:
    if not request.startswith((b"GET /ready ", b"GET /ready?")):
        status, body = "404 Not Found", '{"error":"only GET /ready is served here"}'
    else:
        ready, body = answer()
        status = "200 OK" if ready else "503 Service Unavailable"
    content = body.encode()
    headers = ("Content-Type: application/json", f"Content-Length: {len(content)}", "Connection: close")
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode() + content


def _main(descriptor: int, body: str) -> None:
    stop_at_sigterm()
    with socket.socket(fileno=descriptor) as listener:
        serve(listener, lambda: (True, body))


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2])
