"""Runs the real tritonserver on this machine, exactly as the operator's container would start it.

Needs BERTOPS_TRITON_ROOT: the folder that holds bin/tritonserver and backends/python (in our image /opt/tritonserver).
`python -m support.real_triton FOLDER` makes one from the image's own lock file, unless it is there, and prints it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bert_operator.api import names, spec
from bert_operator.servers import SERVERS
from bert_operator.servers.base import ServedVersion
from bert_operator.servers.triton import mount
from bert_operator.settings import Settings
from support import ports
from support.published import Published

ROOT_ENV: Final = "BERTOPS_TRITON_ROOT"
_IMAGE_ROOT: Final = "/opt/tritonserver"
_BUILD_JOBS: Final = Path(__file__).parents[2] / "build_jobs"
_HANDLER: Final = _BUILD_JOBS / "bert_build/handlers/onnxruntime_python/model.py"
_LOCK: Final = _BUILD_JOBS / "triton-cpu-requirements.txt"
_WHEEL_PYTHON: Final = (3, 11)
"""The Python of the image: the lock and the backend's stub are for it."""
_START_SECONDS: Final = 200


@dataclass(frozen=True, kw_only=True)
class Running:
    """A tritonserver that is ready."""

    process: subprocess.Popen[bytes]
    ports: Mapping[str, int]
    log: Path

    @property
    def grpc(self) -> str:
        return f"localhost:{self.ports['grpc']}"

    @property
    def user(self) -> int:
        """Who it runs as."""
        return Path(f"/proc/{self.process.pid}").stat().st_uid

    def get(self, path: str, port: str = "http") -> str:
        """Body of a GET; an HTTP error raises."""
        with urllib.request.urlopen(f"http://localhost:{self.ports[port]}{path}", timeout=60) as reply:
            body: bytes = reply.read()
        return body.decode()

    def post(self, path: str, body: Any) -> tuple[int, str]:
        """Status and body of a POST."""
        url = f"http://localhost:{self.ports['http']}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - http
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def statistics(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get(f"/v2/models/{model}/stats"))["model_stats"][0]
        return found

    def memory(self) -> int:
        """Anonymous and shared memory of the server and its instances, in bytes: what a memory limit counts."""
        return sum(_memory(pid) for pid in [self.process.pid, *_children(self.process.pid)])


def repository(folder: Path, parts: Sequence[tuple[ServedVersion, Published]], files: Mapping[str, str]) -> Path:
    """The model repository as the pod's volume mounts assemble it, all of it read-only."""
    for one, published in parts:
        target = folder / Path(mount(one).path).relative_to(names.MODELS_MOUNT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(published.folder, target)
    for path, text in files.items():
        (folder / Path(path).relative_to(names.MODELS_MOUNT)).write_text(text, encoding="utf-8")
    for entry in [folder, *folder.rglob("*")]:
        entry.chmod(0o555 if entry.is_dir() else 0o444)
    return folder


@contextmanager
def running(  # noqa: PLR0913, PLR0917 - what a pod gets
    root: Path,
    models: Path,
    served: Sequence[ServedVersion],
    wish: spec.BertDeploymentSpec,
    settings: Settings,
    scratch: Path,
    user: int | None = None,
) -> Iterator[Running]:
    """Start the operator's container command with its folders and ports moved; stop it by SIGTERM.

    As another user if `user` is given and we may become one.
    """
    kind = SERVERS[wish.server.type]
    container = kind.container(served, wish, settings)
    free = {name: ports.free() for name in kind.ports.by_name}
    moved = {str(number): str(free[name]) for name, number in kind.ports.by_name.items()}
    moved |= {names.MODELS_MOUNT: str(models), _IMAGE_ROOT: str(root)}
    pattern = re.compile("|".join(rf"{re.escape(old)}\b" for old in moved))
    command = [pattern.sub(lambda found: moved[found[0]], text) for text in (*container.command, *container.args)]
    command.append(f"--backend-directory={_backends(root, scratch / 'backends')}")
    log = scratch / "triton.log"
    environment = {**container.env, "HOME": str(scratch), "PATH": f"{_python_folder(root)}:/usr/bin:/bin"}
    own: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user and os.getuid() == 0 else {}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd="/", start_new_session=True, **own
        )
    server = Running(process=process, ports=free, log=log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        _stop(process)


def install(folder: Path) -> Path:
    """Make an environment with the server as the image has it; returns its root."""
    if sys.version_info[:2] != _WHEEL_PYTHON:
        raise SystemExit(
            f"run this with Python {_WHEEL_PYTHON[0]}.{_WHEEL_PYTHON[1]}, this is {sys.version.split()[0]}"
        )
    root = folder / "lib/python3.11/site-packages/pytriton/tritonserver"
    stub = root / "backends/python/triton_python_backend_stub"
    if not stub.exists():
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "-r", str(_LOCK)], check=True)
        shutil.copy(root / "python_backend_stubs/3.11" / stub.name, stub)
    return root


def _backends(root: Path, folder: Path) -> Path:
    """The image's backends with ours among them, from this checkout."""
    ours = folder / "onnxruntime_python"
    ours.mkdir(parents=True)
    shutil.copy(_HANDLER, ours)
    (folder / "python").symlink_to(root / "backends/python")
    return folder


def _python_folder(root: Path) -> Path:
    """The Python backend finds its packages through the first python3 in PATH: that of the environment around it."""
    for parent in root.resolve().parents:
        if (parent / "pyvenv.cfg").exists():
            return parent / "bin"
    return root / "bin"


def wait_until_ready(server: Running, seconds: float = _START_SECONDS) -> None:
    """Wait for the probe; the server's log if it doesn't pass."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            server.get("/v2/health/ready")
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"tritonserver is not ready:\n{server.log.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _children(parent: int) -> list[int]:
    found = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
    return [int(pid) for pid in found]


def _memory(pid: int) -> int:
    """RssAnon plus RssShmem; a region shared by two processes is counted twice, which errs on the safe side."""
    wanted = ("RssAnon:", "RssShmem:")
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))


if __name__ == "__main__":
    print(install(Path(sys.argv[1]).absolute()))
