"""Runs the tier tests/torchserve: builds its archives in the build image, then the tests in TorchServe's own image.

`python3 -m support.real_torchserve [pytest arguments]`. Inside the image it starts the real server, exactly as the
operator's container would, with folders and ports moved.
"""

import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support import ports

ROOT: Final = Path(__file__).parents[2]
ARTIFACTS: Final = "/artifacts"
"""Where the tests find the archives."""
HANDLER: Final = ROOT / "build_jobs/bert_build/handlers/torchserve"
_START_SECONDS: Final = 400


@dataclass(frozen=True, kw_only=True)
class Running:
    """A TorchServe that has been started."""

    process: "subprocess.Popen[bytes]"
    ports: Mapping[str, int]
    log: Path
    store: Path
    """Where it unpacks the archives."""
    loaded: Sequence[str]
    """What the probe is told to look for."""

    def ask(self, path: str, body: bytes | None = None, kind: str = "", *, port: str = "http") -> tuple[int, str]:
        """Status and body; of a POST if there is a body."""
        url = f"http://localhost:{self.ports[port]}{path}"
        request = urllib.request.Request(url, body, {"Content-Type": kind} if kind else {})
        if body is not None and not kind:
            request.add_unredirected_header("Content-Type", "application/octet-stream")
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - http
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def predict(self, model: str, body: Any) -> tuple[int, Any]:
        """Status and parsed answer of a JSON request."""
        status, text = self.ask(f"/predictions/{model}", json.dumps(body).encode(), "application/json")
        return status, json.loads(text)

    def ready(self) -> bool:
        """Whether the container's probe would pass."""
        program = f"import sys; from runpy import run_path; sys.argv[1:] = {list(self.loaded)!r}\n"
        program += f"ready = run_path({str(HANDLER / 'ready.py')!r})\n"
        program += f"ready['main'].__globals__['PORT'] = {self.ports['management']}\n"
        program += "sys.exit(ready['main'](sys.argv[1:]))"
        return subprocess.run([sys.executable, "-I", "-S", "-c", program], check=False, timeout=10).returncode == 0

    def said_ready(self) -> bool:
        """What the probe says, without a process for each question: to wait for it."""
        probe = runpy.run_path(str(HANDLER / "ready.py"))["main"]
        probe.__globals__["PORT"] = self.ports["management"]
        with warnings.catch_warnings():
            # Its connection ends with its process.
            warnings.simplefilter("ignore", ResourceWarning)
            return bool(probe(self.loaded) == 0)

    def workers(self) -> list[int]:
        """Process ids of the instances."""
        pid = self.process.pid
        children = {
            child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
        }
        return sorted(int(child) for child in children)

    def memory(self) -> int:
        """Anonymous and shared memory of the server and its instances, in bytes: what a memory limit counts."""
        return sum(_memory(pid) for pid in [self.process.pid, *self.workers()])


@contextmanager
def running(scene: Mapping[str, Any], folders: Mapping[str, Path], scratch: Path) -> Iterator[Running]:
    """Start the operator's container; stop it by SIGTERM.

    Args:
        scene: what support/torchserve_artifacts.py wrote down of the container.
        folders: where its mounts are -> where the artifacts lie.
        scratch: what is /tmp in a pod.
    """
    free = {name: ports.free() for name in ("http", "grpc", "metrics", "management", "grpc-management")}
    numbers = dict(zip(("8080", "7070", "8082", "8081", "7071"), map(str, free.values()), strict=True))
    moved = {path: str(folder) for path, folder in folders.items()}
    moved |= {"/tmp/store": str(scratch / "store"), "/opt/bert-operator": str(HANDLER)}  # noqa: S108
    for path, text in scene["files"].items():
        file = scratch / Path(path).name
        moved[path] = str(file)
        found = re.sub("|".join(rf"\b{number}\b" for number in numbers), lambda match: numbers[match[0]], text)
        # Workers listen on files named by their ports: those of another server beside this one too.
        file.write_text(f"{found}initial_worker_port={ports.free()}\n", encoding="utf-8")
    pattern = re.compile("|".join(rf"{re.escape(old)}(?![\w.])" for old in sorted(moved, key=len, reverse=True)))
    command = [pattern.sub(lambda match: moved[match[0]], text) for text in scene["command"]]
    # A line for each batch that is run.
    command.append("--java=-Dbertops.wlm=info")
    log = scratch / "torchserve.log"
    environment = {**scene["env"], "PATH": os.environ["PATH"]}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=scratch)
    loaded = [part for part in scene["probe"] if re.fullmatch(r"[\w-]+/\d+", part)]
    try:
        yield Running(process=process, ports=free, log=log, store=scratch / "store", loaded=loaded)
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_ready(server: Running) -> Running:
    """Wait for the probe; the server's log if it doesn't pass."""
    deadline = time.monotonic() + _START_SECONDS
    while not server.said_ready():
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"TorchServe is not ready:\n{server.log.read_text()[-8000:]}")
        time.sleep(0.2)
    assert server.ready()
    return server


def main(arguments: Sequence[str]) -> int:
    """Build the archives and run the tier; pytest's exit status."""
    images = [sys.executable, "-m", "images", "run"]
    built = subprocess.run(
        [*images, "pytorch", "--", "python", "-m", "support.torchserve_artifacts"], check=True, stdout=subprocess.PIPE
    ).stdout
    folder = Path(tempfile.mkdtemp(prefix="torchserve-artifacts-"))
    try:
        with tarfile.open(fileobj=io.BytesIO(built)) as tar:
            tar.extractall(folder, filter="data")
        # The image's user reads them.
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        pytest = ["python", "-m", "pytest", "-p", "no:cacheprovider", "-m", "e2e", "tests/torchserve", *arguments]
        command = [*images, "--mount", f"{folder}:{ARTIFACTS}", "torchserve", "--", *pytest]
        return subprocess.run(command, check=False).returncode
    finally:
        shutil.rmtree(folder)


def _memory(pid: int) -> int:
    wanted = ("RssAnon:", "RssShmem:")
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
