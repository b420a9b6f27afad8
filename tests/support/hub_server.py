"""A stand-in for the Hugging Face Hub: the part of its HTTP API that downloads use, served from memory."""

import contextlib
import hashlib
import json
import re
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Its repositories, and how it misbehaves."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.large = {"model.safetensors"}
        self.repo = "team/bert"
        self.gated = False
        self.token: str | None = None
        self.status: int | None = None
        """Answer everything with this."""
        self.break_after: int | None = None
        """Break off downloads of a large file after so many bytes."""
        self.breaks = 1
        """So many of them."""
        self.ignores_ranges = False
        self.surplus = 0
        """Send so many bytes more than a large file has."""
        self.tells_sizes = True
        self.cdn = ""
        """Where large files are sent from: this server under another name, an origin that must get no token."""
        self.published_sha256: str | None = None
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = ""

    def info(self) -> dict[str, Any]:
        siblings = [
            {
                "rfilename": name,
                "size": len(content) if self.tells_sizes else None,
                "blobId": hashlib.sha1(content).hexdigest(),  # noqa: S324 - as git does
            }
            | (
                {"lfs": {"sha256": self.sha256(name), "size": len(content), "pointerSize": 130}}
                if name in self.large
                else {}
            )
            for name, content in self.files.items()
        ]
        return {
            "id": self.repo,
            "modelId": self.repo,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "private": False,
        }

    def sha256(self, name: str) -> str:
        return self.published_sha256 or hashlib.sha256(self.files[name]).hexdigest()

    def downloads(self, name: str) -> list[str | None]:
        """The Range headers of each download of a file."""
        return [span for method, path, span in self.requests if method == "GET" and path.endswith(f"/{name}")]


@contextlib.contextmanager
def running(address: str = "127.0.0.1", port: int = 0) -> Iterator[Hub]:
    """Serve on an address of this machine until the block ends; port 0 is any that is free."""
    hub = Hub()
    server = ThreadingHTTPServer((address, port), _handler(hub))
    hub.url = f"http://{address}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - one small method per kind of answer
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            hub.requests.append((self.command, self.path.partition("?")[0], self.headers.get("Range")))
            if hub.status:
                return self._error(hub.status, "")
            if found := re.fullmatch(r"/cdn/(.+)", self.path):
                return self._error(400, "Token") if self.headers.get("Authorization") else self._file(found[1])
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._error(401, "RepoNotFound")
            if hub.gated:
                return self._error(403, "GatedRepo")
            path = self.path.partition("?")[0]
            if found := re.fullmatch(rf"/api/models/{hub.repo}(?:/revision/([^/]+))?", path):
                return self._info(found[1] or "main")
            if found := re.fullmatch(rf"/{hub.repo}/resolve/([^/]+)/(.+)", path):
                if hub.cdn and found[2] in hub.large:
                    return self._send(302, b"", {"Location": f"{hub.cdn}/cdn/{found[2]}"})
                return self._file(found[2])
            return self._error(404, "RepoNotFound")

        def _info(self, revision: str) -> None:
            if revision not in ("main", COMMIT):
                return self._error(404, "RevisionNotFound")
            return self._send(200, json.dumps(hub.info()).encode(), {"Content-Type": "application/json"})

        def _file(self, name: str) -> None:
            if name not in hub.files:
                return self._error(404, "EntryNotFound")
            content = hub.files[name]
            headers = {
                "X-Repo-Commit": COMMIT,
                "ETag": f'"{hashlib.sha1(content).hexdigest()}"',  # noqa: S324 - any tag will do
                "Accept-Ranges": "bytes",
            }
            if name in hub.large:
                headers |= {"X-Linked-Etag": f'"{hub.sha256(name)}"', "X-Linked-Size": str(len(content))}
            start, status = 0, 200
            if (span := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")) and not hub.ignores_ranges:
                start, status = int(span[1]), 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            body = content[start:] + bytes(hub.surplus if name in hub.large else 0)
            return self._send(status, body, headers, breakable=name in hub.large)

        def _send(self, status: int, body: bytes, headers: dict[str, str], *, breakable: bool = False) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if breakable and hub.break_after is not None and hub.breaks:
                body, hub.breaks = body[: hub.break_after], hub.breaks - 1
                self.close_connection = True
            self.wfile.write(body)

        def _error(self, status: int, code: str) -> None:
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    return Handler


def main(repo: str, folder: str, port: str) -> None:
    """Serve a folder's files as one repository until SIGTERM; runs alone in a pod, with nothing but Python."""
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with running("", int(port)) as hub:
        hub.repo, hub.files = repo, files
        stopped.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
