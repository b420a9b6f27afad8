"""Liveness, readiness and metrics over HTTP. `handlers` starts it; the kubelet and Prometheus ask.

Alive: the event loop turns. Ready: every kind was listed, every watch spoke lately (the API server sends a bookmark
about every minute, so silence means a dead connection), and no key waits or works for minutes. It changes nothing.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiohttp import web

from bert_operator.metrics import CONTENT_TYPE, Metrics
from bert_operator.watches import Watches

PORT_ENV: Final = "BERTOPS_HEALTH_PORT"
PORT: Final = 8080
LAG_LIMIT: Final = 10.0
WATCH_LIMIT: Final = 120.0
QUEUE_LIMIT: Final = 300.0
LEASE_LIMIT: Final = 60.0
TICK: Final = 0.5


class Heartbeat:
    """Measures how late the event loop is."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, late: Callable[[float], None] | None = None
    ) -> None:
        self._clock = clock
        self._late = late
        self._due = clock() + TICK
        self.lag = 0.0

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            self._due = self._clock() + TICK
            await asyncio.sleep(TICK)
            self.lag = max(0.0, self._clock() - self._due)
            if self._late is not None:
                self._late(self.lag)

    def current(self) -> float:
        """Seconds the loop was late at its last tick, or is late now."""
        return max(self.lag, self._clock() - self._due, 0.0)


class Candidate(Protocol):
    """Who takes part in the election of a leader."""

    def leads(self) -> bool:
        """Whether it leads."""

    def silent_seconds(self) -> float:
        """Since the API server last said anything about the Lease."""

    def stuck_seconds(self) -> float:
        """By how much its thread is behind."""


@dataclass(kw_only=True)
class Health:
    """Judges this process. A standby is ready like the leader: an installation waits for it."""

    watches: Watches
    kinds: Iterable[str]
    heartbeat: Heartbeat
    oldest_waiting: Callable[[], float]
    longest_running: Callable[[], float]
    candidate: Candidate | None = None
    """None: there is no election."""

    def alive(self) -> tuple[bool, dict[str, Any]]:
        """Whether a restart would not help."""
        checks = {"eventLoop": _check(self.heartbeat.current(), LAG_LIMIT, "lagSeconds")}
        if self.candidate is not None:
            checks["election"] = _check(self.candidate.stuck_seconds(), LAG_LIMIT, "stuckSeconds")
        return _all(checks)

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether what it does rests on a fresh view of the cluster."""
        ages = self.watches.ages()
        unlisted = self.watches.unlisted(self.kinds)
        checks = {
            f"watch/{kind}": self._watch(kind, ages.get(kind), listed=kind not in unlisted) for kind in self.kinds
        }
        checks["queue/waiting"] = _check(self.oldest_waiting(), QUEUE_LIMIT, "oldestSeconds")
        checks["queue/running"] = _check(self.longest_running(), QUEUE_LIMIT, "longestSeconds")
        if self.candidate is not None:
            silence = _check(self.candidate.silent_seconds(), LEASE_LIMIT, "silentSeconds")
            checks["lease"] = {**silence, "leads": self.candidate.leads()}
        return _all(checks)

    @staticmethod
    def _watch(kind: str, age: float | None, *, listed: bool) -> dict[str, Any]:
        if age is None or not listed:
            why = f"{kind} was not listed yet: is its CRD installed, and may the operator list and watch it?"
            return {"ok": False, "message": why}
        return _check(age, WATCH_LIMIT, "silentSeconds")


def _check(value: float, limit: float, unit: str) -> dict[str, Any]:
    # JSON knows no infinity.
    return {"ok": value <= limit, unit: round(min(value, 1e9), 3), "limitSeconds": limit}


def _all(checks: dict[str, dict[str, Any]]) -> tuple[bool, dict[str, Any]]:
    good = all(check["ok"] for check in checks.values())
    return good, {"ok": good, "checks": checks}


class Server:
    """Answers /healthz, /readyz and /metrics."""

    def __init__(self, health: Health, metrics: Metrics, *, host: str | None = None, port: int | None = None) -> None:
        self._health = health
        self._metrics = metrics
        self._host = host
        self._port = int(os.environ.get(PORT_ENV, PORT)) if port is None else port
        self._runner: web.AppRunner | None = None
        self._ticker: asyncio.Task[None] | None = None
        metrics.process_gauges()
        metrics.gauge("bertops_asyncio_tasks", "Tasks of the event loop.", _tasks)
        metrics.gauge("bertops_event_loop_lag_seconds", "How late the event loop is.", self._lag)
        metrics.gauge("bertops_watch_silent_seconds", "Seconds since a watch last spoke.", self._silence)

    async def start(self) -> int:
        """Listen.

        Returns:
            The port.
        """
        self._ticker = asyncio.create_task(self._health.heartbeat.run(), name="heartbeat")
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._alive),
                web.get("/readyz", self._ready),
                web.get("/metrics", self._render),
            ]
        )
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        if self._runner is not None:
            await self._runner.cleanup()

    async def _alive(self, _: web.Request) -> web.Response:
        return _answer(*self._health.alive())

    async def _ready(self, _: web.Request) -> web.Response:
        return _answer(*self._health.ready())

    async def _render(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render().encode(), headers={"Content-Type": CONTENT_TYPE})

    def _lag(self) -> dict[tuple[tuple[str, str], ...], float]:
        return {(): self._health.heartbeat.current()}

    def _silence(self) -> dict[tuple[tuple[str, str], ...], float]:
        return {(("kind", kind),): age for kind, age in self._health.watches.ages().items()}


def _tasks() -> dict[tuple[tuple[str, str], ...], float]:
    try:
        return {(): float(len(asyncio.all_tasks()))}
    except RuntimeError:  # nobody's loop runs
        return {}


def _answer(good: bool, body: dict[str, Any]) -> web.Response:  # noqa: FBT001 - the pair a judgement returns
    return web.json_response(body, status=200 if good else 503)
