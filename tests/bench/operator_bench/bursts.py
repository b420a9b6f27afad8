"""Bursts: N BertDeployments at once, by our operator or by the floor, each in a namespace and a process of its own."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.operator_bench import programs
from bench.operator_bench.cluster import Api, ControlPlane
from bench.operator_bench.figures import Requests, born, counted, percentile
from bench.operator_bench.programs import Program
from bench.operator_bench.world import CHILDREN, World, spec
from support import builders
from support.fake_cluster import FakeCluster

TAIL: Final = 10.0
"""Seconds after the last resource is done whose CPU still counts: controllers answer each other."""
LOOKS: Final = "controller_runtime_reconcile_total"
QUIET_CPU: Final = 0.15
"""Share of a core that the API server may take when nothing is asked of it."""


@dataclass(frozen=True, kw_only=True)
class Burst:
    """What one burst took."""

    program: str
    count: int
    seconds: float
    """From the first create to the last resource done."""
    times: list[float]
    """Seconds from the first create until each one was done."""
    operator_cpu: float
    api_cpu: float
    rss_before: float
    rss_after: float
    requests: Requests
    looks: float
    """Reconciles; the floor doesn't count its own."""

    def named(self) -> dict[str, Any]:
        """As JSON says it."""
        return {
            "program": self.program,
            "n": self.count,
            "seconds": round(self.seconds, 2),
            "p99_seconds": round(percentile(self.times, 99), 2),
            "operator_cpu_ms_per_resource": round(1000 * self.operator_cpu / self.count, 1),
            "apiserver_cpu_ms_per_resource": round(1000 * self.api_cpu / self.count, 1),
            "looks_per_resource": round(self.looks / self.count, 2),
            "rss_mb": [round(self.rss_before, 1), round(self.rss_after, 1)],
            "requests_per_resource": {key: round(n / self.count, 2) for key, n in self.requests.named().items()},
        }


@dataclass(kw_only=True)
class Bench:
    """What every measure needs."""

    plane: ControlPlane
    api: Api
    folder: Path
    serial: int = 0

    @asynccontextmanager
    async def world(self, *, recorded: bool = True, last: bool = False) -> AsyncIterator[World]:
        """A fresh namespace, gone afterwards; the last one goes with the control plane, if that does."""
        self.serial += 1
        world = World(self.api, f"bench-{int(time.time()) % 100_000}-{self.serial}")
        try:
            await world.prepare(recorded=recorded)
            await self.quiet()
            yield world
        finally:
            if self.plane.was_up or not last:
                await world.remove()

    async def quiet(self, seconds: float = 90.0) -> None:
        """Wait until the API server has little to do, so that no run pays for the one before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            before = self.plane.api_server_cpu()
            await asyncio.sleep(2)
            if (self.plane.api_server_cpu() - before) / 2 < QUIET_CPU:
                return

    def running(self, name: str) -> Any:
        """A program, started with everything it may need."""
        children = self.folder / "children.json"
        children.write_text(json.dumps(templates()))
        return programs.running(self.plane, self.folder, name, BENCH_CHILDREN=str(children))


async def burst(bench: Bench, name: str, count: int, *, seconds: float = 600) -> Burst:
    """Run one burst in a process and a namespace of its own."""
    async with bench.world() as world:
        with bench.running(name) as program:
            await asyncio.sleep(1)
            return await burst_in(bench, world, program, count, seconds=seconds)


async def burst_in(bench: Bench, world: World, program: Program, count: int, *, seconds: float) -> Burst:
    """Run one burst with a program that runs."""
    first = len(world.generations)
    position, cpu, api_cpu = bench.plane.audit_position(), program.cpu(), bench.plane.api_server_cpu()
    looks, rss, began = program.metric(LOOKS), program.rss(), time.monotonic()
    began_at = time.time()
    names = await world.create(count, first)
    await world.until_done(names, seconds)
    await asyncio.sleep(TAIL)
    lines = list(bench.plane.audit_since(position))
    made = born(lines, programs.user(program.name))
    times = [max(world.done_at[one] - began, _complete(one, made) - began_at) for one in names]
    return Burst(
        program=program.name,
        count=count,
        seconds=max(times),
        times=times,
        operator_cpu=program.cpu() - cpu,
        api_cpu=bench.plane.api_server_cpu() - api_cpu,
        looks=program.metric(LOOKS) - looks,
        rss_before=rss,
        rss_after=program.rss(),
        requests=counted(lines, programs.user(program.name)),
    )


def _complete(name: str, made: Mapping[str, Mapping[str, float]]) -> float:
    """When the last of a BertDeployment's children was there, in seconds since the epoch."""
    children = {resource: at for resource, at in made.get(name, {}).items() if resource in CHILDREN}
    if missing := CHILDREN.keys() - children.keys():
        raise RuntimeError(f"{name} says that it is done without its {', '.join(sorted(missing))}")
    return max(children.values())


def templates() -> list[str]:
    """The children as our own code makes them, with places for names and UIDs: what the floor applies."""
    uid, claims = "f100ff10-0000-4000-8000-000000000000", ("store", "models")
    bert = builders.bert("thename", spec=spec(0), namespace="thespace", uid=uid)
    world = FakeCluster(bert, *(builders.claim(claim, uid=claim, ours=False) for claim in claims))
    made: dict[str, dict[str, Any]] = {}
    for plan in world.settle(programs.settings(), "thename"):
        for manifest in plan.apply:
            head = {key: value for key, value in manifest["metadata"].items() if key != "uid"}
            made[manifest["kind"]] = {**manifest, "metadata": head}
    texts = [json.dumps(manifest) for kind, manifest in made.items() if kind in CHILDREN.values()]
    places = {uid: "@UID@", uid[:6]: "@OWNER@", "thename": "@NAME@", "thespace": "@NAMESPACE@"}
    for given, place in places.items():
        texts = [text.replace(given, place) for text in texts]
    return texts
