"""A real S3 service for tests: Versity's gateway over a folder (tests/s3server), and a proxy that breaks connections.

`python3 -m support.s3_server` builds the gateway where needed and prints its folder. Objects are put by a few lines of
our own, so that tests don't ask the library that the product uses.
"""

import contextlib
import datetime as dt
import hashlib
import hmac
import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from localcluster.binaries import go_environment
from support import ports

REGION: Final = "eu-test-1"
ACCESS_KEY: Final = "test-access"
SECRET_KEY: Final = "test-secret-key"  # noqa: S105 - of this test's server
PROGRAM: Final = "s3server"
_MODULE: Final = Path(__file__).parents[1] / "s3server"
_START_SECONDS: Final = 100.0
_FLAGS: Final = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false", "-ldflags=-s -w")
"""Those of localcluster: what both use is compiled once."""


def folder(cache: Path) -> Path:
    """Where the gateway lies once it is built; a new one for other sources."""
    inputs = hashlib.sha256()
    for path in sorted([*_MODULE.glob("go.*"), *_MODULE.glob("*.go")]):
        inputs.update(path.name.encode() + b"\0" + path.read_bytes())
    return cache / "tools" / f"s3server-{inputs.hexdigest()[:12]}"


def built(cache: Path) -> Path:
    """The folder with the gateway, built first where needed."""
    place = folder(cache)
    if not (place / PROGRAM).exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".building-", dir=place.parent))
        command = ["go", "build", *_FLAGS, "-o", str(partial / PROGRAM), "."]
        try:
            subprocess.run(command, cwd=_MODULE, env=go_environment(cache), check=True)
            partial.chmod(0o755)
            with contextlib.suppress(OSError):  # somebody else was faster: theirs is as good
                partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return place


@dataclass
class S3Server:
    """A running gateway."""

    address: str
    folder: Path
    """Its buckets: what lies here is served."""

    @property
    def url(self) -> str:
        """What source.s3.endpoint says."""
        return f"http://{self.address}"

    def make_bucket(self, name: str, *, public: bool = False) -> None:
        """A bucket; a public one is read by anybody."""
        self._ask("PUT", f"/{name}", b"", {})
        if public:
            actions = [("s3:GetObject", f"arn:aws:s3:::{name}/*"), ("s3:ListBucket", f"arn:aws:s3:::{name}")]
            allowed = ",".join(
                f'{{"Effect":"Allow","Principal":"*","Action":"{action}","Resource":"{resource}"}}'
                for action, resource in actions
            )
            policy = f'{{"Version":"2012-10-17","Statement":[{allowed}]}}'
            self._ask("PUT", f"/{name}?policy=", policy.encode(), {})

    def put(self, bucket: str, key: str, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Write an object."""
        self._ask("PUT", f"/{bucket}/{key}", content, headers or {})

    def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        with contextlib.closing(http.client.HTTPConnection(self.address, timeout=60)) as connection:
            connection.request(method, path, body, signed(method, self.address, path, body, headers))
            reply = connection.getresponse()
            text = reply.read()
        if reply.status not in (200, 204):
            raise RuntimeError(f"{method} {path}: {reply.status} {text[:500]!r}")


def signed(method: str, host: str, path: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request with AWS's signature, version 4."""
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/{REGION}/s3/aws4_request"
    told = {"host": host, "x-amz-date": now, "x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
    told |= {name.lower(): value for name, value in headers.items()}
    listed = ";".join(sorted(told))
    place, _, query = path.partition("?")
    canonical = [method, place, query, *(f"{name}:{told[name]}" for name in sorted(told)), "", listed]
    request = hashlib.sha256("\n".join([*canonical, told["x-amz-content-sha256"]]).encode()).hexdigest()
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{request}".encode(), "sha256").hexdigest()
    proof = f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope},SignedHeaders={listed},Signature={signature}"
    return {**told, "authorization": proof}


@contextlib.contextmanager
def running(program: Path, root: Path, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """Serve on an address of this machine until the block ends."""
    buckets, attributes = root / "buckets", root / "attributes"
    for place in (buckets, attributes):
        place.mkdir(parents=True)
    address = f"{host}:{ports.free(host)}"
    command = [str(program), "-address", address, "-folder", str(buckets), "-attributes", str(attributes)]
    environment = {**os.environ, "S3_ACCESS_KEY": ACCESS_KEY, "S3_SECRET_KEY": SECRET_KEY}
    process = subprocess.Popen([*command, "-region", REGION], env=environment)
    try:
        _wait(address, process)
        yield S3Server(address, buckets)
    finally:
        process.kill()
        process.wait()


def _wait(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with contextlib.closing(http.client.HTTPConnection(address, timeout=1)) as connection:
                connection.request("GET", "/health")
                connection.getresponse().read()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


@dataclass
class BreakingProxy:
    """Passes bytes on to a service, and breaks connections whose answers grow too long."""

    target: str
    break_after: int
    """Bytes of answers on one connection."""
    breaks: int = 1
    on_break: Callable[[], None] = lambda: None
    requests: list[str] = field(default_factory=list)
    """What was asked, each with its headers."""
    address: str = ""


@contextlib.contextmanager
def breaking(target: str, break_after: int) -> Iterator[BreakingProxy]:
    """A proxy before `target` until the block ends."""
    proxy = BreakingProxy(target, break_after)
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy.address = f"127.0.0.1:{server.getsockname()[1]}"
        threading.Thread(target=_accept, args=(proxy, server), daemon=True).start()
        yield proxy


def _accept(proxy: BreakingProxy, server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client = server.accept()[0]
            host, _, port = proxy.target.partition(":")
            upstream = socket.create_connection((host, int(port)))
            threading.Thread(target=_ask, args=(proxy, client, upstream), daemon=True).start()
            threading.Thread(target=_answer, args=(proxy, upstream, client), daemon=True).start()


def _ask(proxy: BreakingProxy, client: socket.socket, upstream: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := client.recv(1 << 16):
            proxy.requests.append(block.decode("latin-1"))
            upstream.sendall(block)
        upstream.shutdown(socket.SHUT_WR)


def _answer(proxy: BreakingProxy, upstream: socket.socket, client: socket.socket) -> None:
    passed = 0
    with contextlib.suppress(OSError), client, upstream:
        while block := upstream.recv(1 << 16):
            passed += len(block)
            if passed > proxy.break_after and proxy.breaks:
                proxy.breaks -= 1
                proxy.on_break()
                client.shutdown(socket.SHUT_RDWR)
                return
            client.sendall(block)


def main() -> None:
    """Build, and print where."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    print(built(Path(os.environ.get("BERTOPS_CACHE") or home / "bert-operator")))


if __name__ == "__main__":
    main()
