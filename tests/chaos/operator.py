"""One real operator process, `kopf run`, as a kubelet would keep it: started anew when it ends by itself."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from chaos.nursery import MODULE, Child, Nursery
from support import ports

RESTART_SECONDS: Final = 1.0


@dataclass(kw_only=True)
class Operator:
    """The operator of one plan, over all its lives."""

    nursery: Nursery
    folder: Path
    namespace: str
    settings: Mapping[str, Any]
    token: str
    lives: int = 0
    ended_itself: int = 0
    """How often it ended though nobody killed it."""
    port: int = 0
    _wanted: bool = False
    _child: Child | None = None
    _keeper: asyncio.Task[None] | None = None

    async def start(self, server: str) -> None:
        """Start it; returns once the process exists."""
        (self.folder / "settings.yaml").write_text(yaml.safe_dump(dict(self.settings)))
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(_kubeconfig(server, self.token)))
        self._wanted = True
        child = await self._begin()
        self._keeper = asyncio.create_task(self._keep(child))

    def kill(self) -> None:
        """SIGKILL, now, and for good until `start`."""
        self._wanted = False
        if self._child is not None:
            self._child.kill()

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        self.kill()
        if self._keeper is not None:
            await self._keeper

    @property
    def log(self) -> str:
        """Everything all its lives have said."""
        files = sorted(self.folder.glob("operator-*.log"))
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)

    async def ready(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /readyz; 0 if nobody answers."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(3)) as session,
                session.get(f"http://127.0.0.1:{self.port}/readyz") as reply,
            ):
                return reply.status, json.loads(await reply.read())
        except (aiohttp.ClientError, TimeoutError):
            return 0, {}

    async def _keep(self, child: Child) -> None:
        while True:
            await child.ended.wait()
            if not self._wanted:
                return
            self.ended_itself += 1
            await asyncio.sleep(RESTART_SECONDS)
            if not self._wanted:
                return
            child = await self._begin()

    async def _begin(self) -> Child:
        self.port = ports.free("127.0.0.1")
        self.lives += 1
        environment = {
            "KUBECONFIG": str(self.folder / "kubeconfig"),
            "BERTOPS_SETTINGS": str(self.folder / "settings.yaml"),
            "BERTOPS_HEALTH_PORT": str(self.port),
        }
        arguments = ("run", "-n", self.namespace, "-m", MODULE)
        log = self.folder / f"operator-{self.lives:03d}.log"
        self._child = child = await self.nursery.start(arguments, environment, log)
        if not self._wanted:
            child.kill()
        return child


def _kubeconfig(server: str, token: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": server}}],
        "users": [{"name": "operator", "user": {"token": token}}],
        "contexts": [{"name": "campaign", "context": {"cluster": "proxy", "user": "operator"}}],
        "current-context": "campaign",
    }
