"""The control plane under the bench: its processes' CPU, its audit log, and an administrator's connection to it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp
import yaml

from localcluster.config import Folders, cache_folder
from localcluster.processes import recorded
from support import kube_api

NAME: Final = "bench"
TICKS: Final = os.sysconf("SC_CLK_TCK")
BUSY: Final = (429, 500, 503, 504)
TRIES: Final = 5
MERGE: Final = "application/merge-patch+json"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB of 10^6 bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


class ControlPlane:
    """A local control plane of its own, with an audit log."""

    def __init__(self) -> None:
        self.folders = Folders(cache_folder(), NAME)
        self.was_up = self._localcluster("status", check=False).returncode == 0
        self._localcluster("up", "--control-plane-only", "--audit", "--plain-controllers")
        self.pids = {process.name: process.pid for process in recorded(self.folders)}

    def down(self) -> None:
        """Remove it, unless it ran before."""
        if not self.was_up:
            self._localcluster("down")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folders.kubeconfig

    def api_server_cpu(self) -> float:
        """CPU seconds of the API server so far."""
        return cpu_seconds(self.pids["kube-apiserver"])

    def busy_seconds(self) -> float:
        """CPU seconds of everything in the control plane so far."""
        return sum(cpu_seconds(pid) for pid in self.pids.values())

    def audit_position(self) -> dict[int, int]:
        """Where the audit log ends now; inode -> size, because the API server may begin a new file."""
        return {file.stat().st_ino: file.stat().st_size for file in self._audit_files()}

    def audit_since(self, position: Mapping[int, int]) -> Iterator[str]:
        """Lines of the audit log from a position on."""
        for file in self._audit_files():
            with file.open(encoding="utf-8") as log:
                log.seek(position.get(file.stat().st_ino, 0))
                yield from log

    def _audit_files(self) -> list[Path]:
        return sorted(self.folders.logs.glob("audit*.log"), key=lambda file: file.stat().st_mtime)

    @staticmethod
    def _localcluster(command: str, *options: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        run = [sys.executable, "-m", "localcluster", command, "--name", NAME, *options]
        return subprocess.run(run, stdout=subprocess.PIPE, text=True, check=check)


class Api:
    """An administrator's connection."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.url = urlsplit(cluster["server"]).geturl()
        self._tls = kube_api._tls(cluster, user)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=64)
        headers = {"User-Agent": "bench"}
        self._session = aiohttp.ClientSession(self.url, connector=connector, headers=headers, read_bufsize=2**22)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> dict[str, Any]:
        """Send one request, again while the API server has too much to do.

        Raises:
            RuntimeError: it was refused; "not found" is an answer.
        """
        payload = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind}
        for attempt in range(TRIES):
            async with self._session.request(method, path, data=payload, headers=headers) as reply:
                answer = await reply.json()
            if reply.status in BUSY and attempt + 1 < TRIES:
                await asyncio.sleep(0.5 * (attempt + 1))
                continue
            done_before = reply.status == 409 and method == "POST" and attempt > 0
            if reply.status >= 400 and reply.status != 404 and not done_before:
                raise RuntimeError(f"{method} {path}: {reply.status} {answer.get('message')}")
            return answer if isinstance(answer, dict) else {}
        raise AssertionError("the last try returns or raises")

    @asynccontextmanager
    async def watch(self, path: str, version: str) -> AsyncIterator[aiohttp.StreamReader]:
        """Lines of a watch."""
        url, timeout = f"{path}?watch=1&resourceVersion={version}", aiohttp.ClientTimeout(total=None)
        async with self._session.get(url, timeout=timeout) as reply:
            yield reply.content

    async def all(self, calls: list[Any], at_once: int = 16) -> list[Any]:
        """Run coroutines, so many at once."""
        room = asyncio.Semaphore(at_once)

        async def one(call: Any) -> Any:
            async with room:
                return await call

        return await asyncio.gather(*map(one, calls))
