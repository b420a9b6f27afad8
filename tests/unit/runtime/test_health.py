"""Probes and metrics over real HTTP: alive means the loop turns, ready means the view is fresh."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from bert_operator.health import TICK, Health, Heartbeat, Server
from bert_operator.metrics import Metrics
from bert_operator.watches import Watches
from bert_operator.work_queue import Schedule

CONTROLLER_RUNTIME = {
    "workqueue_depth",
    "workqueue_adds_total",
    "workqueue_retries_total",
    "workqueue_queue_duration_seconds",
    "workqueue_work_duration_seconds",
    "workqueue_longest_running_processor_seconds",
    "workqueue_unfinished_work_seconds",
    "controller_runtime_reconcile_total",
    "controller_runtime_reconcile_errors_total",
    "controller_runtime_reconcile_time_seconds",
    "controller_runtime_active_workers",
    "controller_runtime_max_concurrent_reconciles",
}


class World:
    """What health looks at, to be turned at will."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting = 0.0
        self.running = 0.0
        self.watches = Watches(lambda: self.now)
        self.heartbeat = Heartbeat(lambda: self.now)
        self.metrics = Metrics()
        self.health = Health(
            watches=self.watches,
            kinds=("Pod", "Job"),
            heartbeat=self.heartbeat,
            oldest_waiting=lambda: self.waiting,
            longest_running=lambda: self.running,
        )
        self.port = 0

    async def get(self, path: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as reply:
            text = await reply.text()
            return reply.status, (await reply.json() if reply.content_type == "application/json" else text)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    server = Server(made.health, made.metrics, host="127.0.0.1", port=0)
    made.port = await server.start()
    yield made
    await server.stop()


def listed(world: World) -> None:
    for kind in ("Pod", "Job"):
        world.watches.begin(kind, None).complete()


async def test_not_ready_before_all_kinds_are_listed_and_it_says_which(world: World) -> None:
    world.watches.begin("Pod", None).complete()
    status, body = await world.get("/readyz")
    assert status == 503
    assert body["checks"]["watch/Pod"]["ok"]
    assert "Job was not listed yet: is its CRD installed" in body["checks"]["watch/Job"]["message"]
    world.watches.begin("Job", None).complete()
    assert (await world.get("/readyz"))[0] == 200


async def test_not_ready_while_a_watch_is_silent_and_ready_again_once_it_speaks(world: World) -> None:
    listed(world)
    world.now = 121.0
    status, body = await world.get("/readyz")
    assert status == 503
    assert body["checks"]["watch/Pod"] == {"ok": False, "silentSeconds": 121.0, "limitSeconds": 120.0}
    listed(world)
    assert (await world.get("/readyz"))[0] == 200


@pytest.mark.parametrize(("attribute", "check"), [("waiting", "queue/waiting"), ("running", "queue/running")])
async def test_not_ready_while_work_is_stuck(world: World, attribute: str, check: str) -> None:
    listed(world)
    setattr(world, attribute, 301.0)
    status, body = await world.get("/readyz")
    assert status == 503
    assert not body["checks"][check]["ok"]
    assert (await world.get("/healthz"))[0] == 200, "a restart would not help"


class Standby:
    """A candidate that doesn't lead."""

    def __init__(self) -> None:
        self.silent = self.stuck = 0.0

    @staticmethod
    def leads() -> bool:
        return False

    def silent_seconds(self) -> float:
        return self.silent

    def stuck_seconds(self) -> float:
        return self.stuck


async def test_a_standby_is_ready_while_it_hears_of_the_lease_and_alive_while_its_thread_turns(world: World) -> None:
    standby = Standby()
    world.health.candidate = standby
    listed(world)
    status, body = await world.get("/readyz")
    assert status == 200
    assert body["checks"]["lease"] == {"ok": True, "silentSeconds": 0.0, "limitSeconds": 60.0, "leads": False}
    standby.silent = float("inf")
    assert (await world.get("/readyz"))[0] == 503
    assert (await world.get("/healthz"))[0] == 200, "a restart would not help"
    standby.stuck = 11.0
    assert (await world.get("/healthz"))[0] == 503


async def test_alive_until_the_event_loop_hangs(world: World) -> None:
    assert (await world.get("/healthz"))[0] == 200
    world.now = 20.0
    status, body = await world.get("/healthz")
    assert status == 503
    assert body["checks"]["eventLoop"]["lagSeconds"] >= 10


async def test_the_heartbeat_measures_how_late_the_loop_is() -> None:
    now = 0.0
    heartbeat = Heartbeat(lambda: now)
    now = 4.0
    assert heartbeat.current() == 4.0 - TICK


async def test_metrics_have_controller_runtimes_names_and_obey_the_format(world: World) -> None:
    schedule = Schedule()
    schedule.add(("ns", "a"), 0.0)
    world.now = 2.0
    world.metrics.queue_gauges(schedule, lambda: world.now, 4)
    world.metrics.took(0.02)
    world.metrics.ended("success", 0.3)
    world.metrics.ended("error", 400.0)
    world.metrics.count("rest_client_requests_total", "Requests.", {"code": '2"00\n', "method": "GET"})
    listed(world)
    status, text = await world.get("/metrics")
    assert status == 200
    families = parse(text)
    assert families.keys() >= CONTROLLER_RUNTIME | {"bertops_event_loop_lag_seconds", "bertops_watch_silent_seconds"}
    process = {
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "bertops_asyncio_tasks",
    }
    assert all(families[name][""] > 0 for name in process)
    world.metrics.late(0.07)
    lag = parse((await world.get("/metrics"))[1])["bertops_event_loop_tick_lag_seconds"]
    assert lag['le="0.1"'] - lag['le="0.05"'] == 1
    assert families["workqueue_depth"] == {'name="bertdeployment",controller="bertdeployment"': 1.0}
    assert families["controller_runtime_reconcile_errors_total"] == {'controller="bertdeployment"': 1.0}
    buckets = families["controller_runtime_reconcile_time_seconds"]
    assert buckets['controller="bertdeployment",le="0.5"'] == 1.0
    assert buckets['controller="bertdeployment",le="+Inf"'] == 2.0
    assert families["rest_client_requests_total"] == {r'code="2\"00\n",method="GET"': 1.0}


def parse(text: str) -> dict[str, dict[str, float]]:
    """Read the text format strictly: HELP, TYPE, then samples of that family only, each once."""
    families: dict[str, dict[str, float]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in families
            families[name] = {}
        elif line.startswith("# TYPE "):
            assert line.split(" ")[2] == name
            assert line.split(" ")[3] in ("counter", "gauge", "histogram")
        else:
            match = re.fullmatch(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)', line)
            assert match, line
            assert match[1] in (name, f"{name}_bucket", f"{name}_sum", f"{name}_count")
            if match[1] in (name, f"{name}_bucket"):
                assert match[2] not in families[name]
                families[name][match[2] or ""] = float(match[3])
    assert text.endswith("\n")
    return families


async def test_the_ticker_stops_with_the_server() -> None:
    made = World()
    server = Server(made.health, made.metrics, host="127.0.0.1", port=0)
    await server.start()
    await server.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "heartbeat"]
