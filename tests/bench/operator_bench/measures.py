"""The measures P1 to P12, each a function of its own; docs/bench-operator.md says what each means."""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from bench.operator_bench import programs
from bench.operator_bench.bursts import LOOKS, Bench, Burst, burst, burst_in
from bench.operator_bench.cluster import MERGE
from bench.operator_bench.figures import counted, exponent, median, metric, percentile
from bench.operator_bench.programs import FLOOR, KOPF, OURS, Program
from bench.operator_bench.world import CHILDREN, World

BURST: Final = 200
FEW: Final = 5
"""Resources whose pods stir in P9: twenty news a second of each."""
REST: Final = 2.0
"""Seconds without a reconcile that count as rest."""


@dataclass(kw_only=True)
class Sizes:
    """How much of everything: the issue's numbers, or smaller ones to try things out."""

    burst: int = BURST
    repeats: int = 5
    large: int = 1000
    growth: tuple[int, ...] = (100, 200, 400, 1000)
    latencies: int = 100
    idle_seconds: int = 60
    memory: tuple[int, ...] = (200, 1000, 5000)
    storm_seconds: int = 60
    soak_events: int = 50_000

    @classmethod
    def of(cls, n: int | None) -> "Sizes":
        """The issue's, or everything in proportion to a burst of n."""
        if n is None:
            return cls()
        return cls(
            burst=n,
            repeats=2,
            large=2 * n,
            growth=(n // 2, n, 2 * n),
            latencies=max(10, n // 4),
            idle_seconds=15,
            memory=(n, 2 * n),
            storm_seconds=10,
            soak_events=40 * n,
        )


@dataclass(kw_only=True)
class Results:
    """Figures by id, and how they came about."""

    figures: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    bursts: list[Burst] = field(default_factory=list)

    def of(self, program: str, count: int) -> list[Burst]:
        """Bursts of one program and size."""
        return [one for one in self.bursts if (one.program, one.count) == (program, count)]


Measure = Callable[[Bench, Sizes, Results], Awaitable[None]]


def say(text: str) -> None:
    """Tell how far the bench is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


async def rest(program: Program, seconds: float = 300.0, still: float = REST) -> None:
    """Wait until the operator has had nothing to do for a moment."""
    deadline, reconciles, since = time.monotonic() + seconds, -1.0, time.monotonic()
    while time.monotonic() < deadline:
        now = program.metric(LOOKS)
        if now != reconciles or not program.resting():
            reconciles, since = now, time.monotonic()
        elif time.monotonic() - since >= still:
            return
        await asyncio.sleep(0.25)


async def bursts(bench: Bench, sizes: Sizes, results: Results) -> None:
    """P1, P3, P4 at creation, P11 and the ratio to the floor: bursts of ours and of the floor in turns."""
    for number in range(sizes.repeats):
        for name in (OURS, FLOOR) if number % 2 == 0 else (FLOOR, OURS):
            one = await burst(bench, name, sizes.burst)
            results.bursts.append(one)
            told = f"{one.requests.writes()} writes, {one.looks:.0f} looks, {one.operator_cpu:.1f} CPU-s"
            say(f"{name}: {one.count} in {one.seconds:.1f} s, {told}")
    ours, floor = results.of(OURS, sizes.burst), results.of(FLOOR, sizes.burst)
    wall = median([one.seconds for one in ours])
    cpu = {
        name: 1000 * median([one.api_cpu for one in runs]) / sizes.burst
        for name, runs in ((OURS, ours), (FLOOR, floor))
    }
    n, children = sizes.burst, len(CHILDREN)
    results.figures |= {
        "P1": {"resources_per_s": round(n / wall, 2), "child_objects_per_s": round(children * n / wall, 1)},
        "P3": {
            "writes_per_resource": round(median([one.requests.writes() / n for one in ours]), 2),
            "children": children,
        },
        "P11": {"apiserver_cpu_ms_per_resource": round(cpu[OURS], 1), "vs_floor": round(cpu[OURS] / cpu[FLOOR], 3)},
        "floor_ratio": round(wall / median([one.seconds for one in floor]), 3),
    }
    reads = median([one.requests.reads() / n for one in ours])
    results.figures["P4"] = results.figures.get("P4", {}) | {"reads_per_creation": round(reads, 3)}
    results.details["P1"] = [one.named() for one in (*ours, *floor)]


async def growth(bench: Bench, sizes: Sizes, results: Results) -> None:
    """P2 and how the cost grows with N."""
    known = {one.count for one in results.bursts if one.program == OURS}
    for count in sizes.growth:
        if count not in known:
            one = await burst(bench, OURS, count)
            results.bursts.append(one)
            say(f"N = {count}: done in {one.seconds:.1f} s")
    ours = [one for one in results.bursts if one.program == OURS]
    by_count = {count: [one for one in ours if one.count == count] for count in sorted({one.count for one in ours})}
    walls = [(count, median([one.seconds for one in runs])) for count, runs in by_count.items()]
    cpus = [(count, median([one.operator_cpu for one in runs])) for count, runs in by_count.items()]
    largest = by_count[max(by_count)][0]
    results.figures["P2"] = {"seconds": round(largest.seconds, 1), "n": largest.count}
    results.figures["exponent"] = round(exponent(walls), 3)
    results.details["P2"] = largest.named() | {"done_after": [round(one, 2) for one in sorted(largest.times)]}
    results.details["growth"] = {
        "wall_seconds": [[count, round(seconds, 2)] for count, seconds in walls],
        "operator_cpu_seconds": [[count, round(seconds, 2)] for count, seconds in cpus],
        "operator_cpu_exponent": round(exponent(cpus), 3),
    }


async def latency(bench: Bench, sizes: Sizes, results: Results) -> None:
    """P5: one BertDeployment at a time on a system at rest."""
    taken = []
    async with bench.world() as world:
        with bench.running(OURS) as program:
            await world.until_done(await world.create(2), 60)  # connections are open, code is warm
            for number in range(2, 2 + sizes.latencies):
                await rest_briefly(bench, program)
                began = time.monotonic()
                names = await world.create(1, number)
                await world.until_done(names, 30)
                taken.append(1000 * (world.done_at[names[0]] - began))
    results.figures["P5"] = {f"p{p}_ms": round(percentile(taken, p), 1) for p in (50, 95, 99)}
    results.details["P5"] = {"samples": len(taken), "milliseconds": [round(one, 1) for one in taken]}


async def rest_briefly(bench: Bench, program: Program) -> None:
    """Wait until neither the operator nor, by its CPU, the API server has anything to do."""
    for _ in range(100):
        before = bench.plane.busy_seconds()
        await asyncio.sleep(0.2)
        if program.resting() and (bench.plane.busy_seconds() - before) / 0.2 < 0.15:
            return


async def steady(bench: Bench, sizes: Sizes, results: Results) -> None:
    """P4 on updates and no-ops, P6 and P9: one operator with a burst's resources, ready and not ready."""
    async with bench.world() as world:
        with bench.running(OURS) as program:
            names = await world.create(sizes.burst)
            await world.until_done(names, 600)
            await rest(program)
            await bench.quiet()
            idle = {"not_ready": await _idle(program, sizes.idle_seconds)}
            await _noops(bench, world, program, results)
            await _update(bench, world, program, results)
            await _make_ready(world, names)
            await rest(program)
            await bench.quiet()
            idle["ready"] = await _idle(program, sizes.idle_seconds)
            results.figures["P6"] = {"idle_core_percent": round(max(idle.values()), 3)}
            results.details["P6"] = {key: round(percent, 3) for key, percent in idle.items()}
            say(f"idle: {results.details['P6']} % of a core")
            await _storm(bench, world, program, sizes, results)


async def _idle(program: Program, seconds: int) -> float:
    """Percent of a core, once nothing has stirred for as long as a store waits to be looked at."""
    await rest(program, still=15.0)
    before = program.cpu()
    await asyncio.sleep(seconds)
    return 100 * (program.cpu() - before) / seconds


async def _noops(bench: Bench, world: World, program: Program, results: Results) -> None:
    """An annotation of a user's makes each one looked at, and there is nothing to do."""
    position, before = bench.plane.audit_position(), program.metric(LOOKS)
    note = {"metadata": {"annotations": {"bench/look": str(time.time())}}}
    paths = [f"{world.berts}/{name}" for name in world.generations]
    await world.api.all([world.api.request("PATCH", path, note, MERGE) for path in paths])
    await rest(program)
    looked = program.metric(LOOKS) - before
    if looked < len(paths):
        raise RuntimeError(f"only {looked:.0f} of {len(paths)} BertDeployments were looked at: that says nothing of P4")
    asked = counted(bench.plane.audit_since(position), programs.user(OURS))
    results.figures["P4"] = results.figures.get("P4", {}) | {"noop_requests": asked.reads() + asked.writes()}
    results.details["P4_noop"] = {"reconciles": looked, "requests": asked.named()}


async def _update(bench: Bench, world: World, program: Program, results: Results) -> None:
    """A field of each that changes one child."""
    position = bench.plane.audit_position()
    edit = {"podDisruptionBudget": {"maxUnavailable": 2}}
    await world.api.all([world.edit(name, edit) for name in world.generations])
    await world.until_done(world.generations, 300)
    await rest(program)
    asked = counted(bench.plane.audit_since(position), programs.user(OURS))
    per = asked.reads() / len(world.generations)
    results.figures["P4"] = results.figures.get("P4", {}) | {"reads_per_update": round(per, 3)}
    results.details["P4_update"] = {
        "writes_per_update": round(asked.writes() / len(world.generations), 2),
        "requests": asked.named(),
    }


async def _pods(world: World) -> list[dict[str, Any]]:
    """The serving pods, once there is one for each BertDeployment."""
    path = f"/api/v1/namespaces/{world.namespace}/pods"
    found: list[dict[str, Any]] = []
    for _ in range(600):
        found = (await world.api.request("GET", path))["items"]
        if len(found) >= len(world.generations):
            return found
        await asyncio.sleep(0.5)
    raise RuntimeError(f"only {len(found)} pods for {len(world.generations)} BertDeployments")


async def _make_ready(world: World, names: Iterable[str]) -> None:
    """A stand-in for kubelets: there are no nodes, so it writes into the pods' status that they answer."""
    wanted = set(names)
    condition = [{"type": kind, "status": "True"} for kind in ("Initialized", "ContainersReady", "Ready")]
    status = {"status": {"phase": "Running", "conditions": condition}}
    pods = [pod["metadata"] for pod in await _pods(world)]
    paths = [
        f"/api/v1/namespaces/{world.namespace}/pods/{pod['name']}/status"
        for pod in pods
        if pod["labels"]["app.kubernetes.io/instance"] in wanted
    ]
    await world.api.all([world.api.request("PATCH", path, status, MERGE) for path in paths])
    while await _ready(world) < len(wanted):  # noqa: ASYNC110 - another process says so
        await asyncio.sleep(0.5)


async def _ready(world: World) -> int:
    """How many BertDeployments say so."""
    items = (await world.api.request("GET", world.berts))["items"]
    conditions = [(item.get("status") or {}).get("conditions") or () for item in items]
    return sum(any((c["type"], c["status"]) == ("Ready", "True") for c in told) for told in conditions)


async def _storm(bench: Bench, world: World, program: Program, sizes: Sizes, results: Results) -> None:
    """P9: every image changes at once; then 100 news of pods a second, for a minute, of five resources."""
    began = time.monotonic()
    await world.api.all(
        [world.edit(name, {"server": {"image": "registry.test/triton:2"}}) for name in world.generations]
    )
    await world.until_done(world.generations, 300)
    seconds = max(world.done_at.values()) - began
    say(f"{len(world.generations)} images changed in {seconds:.1f} s")
    await rest(program)
    await bench.quiet()
    few = sorted(world.generations)[:FEW]
    pods = [pod["metadata"]["name"] for pod in await _pods(world) if _of(pod) in few]
    position, before = bench.plane.audit_position(), program.metric(LOOKS)
    began = time.monotonic()
    sent = await _news(world, pods, 100, 100 * sizes.storm_seconds)
    per_second = sent / (time.monotonic() - began)
    await rest(program)
    looked = program.metric(LOOKS) - before
    asked = counted(bench.plane.audit_since(position), programs.user(OURS))
    results.figures["P9"] = {"seconds": round(seconds, 1), "reconciles_per_event": round(looked / sent, 3)}
    results.details["P9"] = {
        "resources": len(few),
        "events": sent,
        "events_per_second": round(per_second, 1),
        "reconciles": looked,
        "status_writes": asked.by["patch", "bertdeployments/status"],
    }


def _of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"]["app.kubernetes.io/instance"])


async def _news(world: World, pods: list[str], per_second: float, total: int) -> int:
    """Change the pods' status in turns, at most so often, no pod twice at once.

    Returns:
        How many changes there were.
    """
    began, numbers = time.monotonic(), itertools.count()

    async def of(pod: str) -> int:
        sent = 0
        while (number := next(numbers)) < total:
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            condition = {"type": "Ready", "status": "False", "reason": "Bench", "message": f"news {number}"}
            path = f"/api/v1/namespaces/{world.namespace}/pods/{pod}/status"
            try:
                await world.api.request("PATCH", path, {"status": {"conditions": [condition]}}, STRATEGIC)
            except RuntimeError as error:
                say(str(error))
            else:
                sent += 1
        return sent

    return sum(await asyncio.gather(*map(of, pods[:32])))


STRATEGIC: Final = "application/strategic-merge-patch+json"


async def memory(bench: Bench, sizes: Sizes, results: Results) -> None:
    """P7 and P8: memory as the number of BertDeployments grows, restarts among them, and what kopf alone takes."""
    points: list[tuple[int, float]] = []
    async with bench.world(last=True) as world:
        with bench.running(OURS) as program:
            await rest(program)
            base = program.rss()
            for count in sizes.memory:
                names = await world.create(count - len(world.generations), len(world.generations))
                await world.until_done(names, 1800)
                await rest(program)
                points.append((count, program.rss()))
                say(f"{count} resources ({len(names)} new ones): {program.rss():.0f} MB")
        largest = points[-1]
        position = bench.plane.audit_position()
        with bench.running(OURS) as program:
            looked = await _checked(program, len(world.generations))
            await rest(program)
            again = counted(bench.plane.audit_since(position), programs.user(OURS))
            results.details["P8_largest"] = {
                "resources": largest[0],
                "seconds": looked[-1][0],
                "writes": again.writes(),
                "rss_mb": round(program.rss(), 1),
            }
        with bench.running(KOPF) as program:
            await asyncio.sleep(20)
            alone = program.rss()
    per = 1000 * (largest[1] - base) / largest[0]
    results.figures["P7"] = {"base_mb": round(base, 1), "per_resource_kb": round(per, 1)}
    results.details["P7"] = {
        "rss_mb": [[count, round(mb, 1)] for count, mb in points],
        "kopf_alone_mb_with_as_many": round(alone, 1),
    }


async def restart(bench: Bench, sizes: Sizes, results: Results) -> None:
    """P8: a new process finds everything as it should be."""
    async with bench.world() as world:
        with bench.running(OURS) as program:
            await world.until_done(await world.create(sizes.large), 1200)
            await bench.quiet(600)  # what controllers still do is news, and news of a time away would be told after it
            await rest(program)
            say(f"{sizes.large} resources; restarting")
        position = bench.plane.audit_position()
        with bench.running(OURS) as program:
            looked = await _checked(program, sizes.large)
            await rest(program)
        asked = counted(bench.plane.audit_since(position), programs.user(OURS))
    results.figures["P8"] = {"seconds": looked[-1][0], "writes": asked.writes()}
    results.details["P8"] = {"resources": sizes.large, "looked_at": looked, "requests": asked.named()}


async def _checked(program: Program, count: int) -> list[tuple[float, float]]:
    """Seconds from the start of the process, and how many looks there had been, until there was one for each."""
    looked = [(0.0, 0.0)]
    while looked[-1][1] < count:
        await asyncio.sleep(0.05)
        looks = program.metric(LOOKS)
        looked.append((round(time.monotonic() - program.began, 2), looks))
    return looked


async def soak(bench: Bench, sizes: Sizes, results: Results) -> None:
    """P10: 50,000 events, looked at after each tenth. What grows after the second is a leak."""
    async with bench.world() as world:
        with bench.running(OURS) as program:
            names = await world.create(max(10, sizes.burst // 4))
            await world.until_done(names, 600)
            pods = [pod["metadata"]["name"] for pod in await _pods(world)]
            taken = []
            for _ in range(10):
                await _news(world, pods, 1000, sizes.soak_events // 10)
                await rest(program)
                taken.append(_taken(program))
                say(f"{len(taken) * sizes.soak_events // 10} events: {taken[-1]}")
    first, last = taken[1], taken[-1]
    grown = 100 * (last["rss_mb"] / first["rss_mb"] - 1)
    more = {f"{what}_growth": last[what] - first[what] for what in ("tasks", "descriptors")}
    results.figures["P10"] = {"rss_growth_percent": round(grown, 2)} | more
    results.details["P10"] = {"events": sizes.soak_events, "after_each_tenth": taken}


def _taken(program: Program) -> dict[str, float]:
    return {
        "rss_mb": round(program.rss(), 2),
        "tasks": program.metric("bertops_asyncio_tasks"),
        "descriptors": program.descriptors(),
    }


async def cold(bench: Bench, sizes: Sizes, results: Results) -> None:
    """Without records: a build Job for each, completed, like the serving pods, by the stand-in for kubelets."""
    count = sizes.burst
    async with bench.world(recorded=False) as world:
        with bench.running(OURS) as program:
            position, began = bench.plane.audit_position(), time.monotonic()
            names = await world.create(count, distinct=True)
            await world.complete_builds(count)
            await world.until_done(names, 600)
            await _make_ready(world, names)
            seconds = time.monotonic() - began
            await rest(program)
    asked = counted(bench.plane.audit_since(position), programs.user(OURS))
    results.details["cold"] = {
        "n": count,
        "seconds": round(seconds, 1),
        "writes_per_resource": round(asked.writes() / count, 2),
    }


FAMILIES: Final = (
    "workqueue_depth",
    "workqueue_adds_total",
    "workqueue_queue_duration_seconds",
    "workqueue_work_duration_seconds",
    "workqueue_retries_total",
    "workqueue_longest_running_processor_seconds",
    "workqueue_unfinished_work_seconds",
    "controller_runtime_reconcile_total",
    "controller_runtime_reconcile_errors_total",
    "controller_runtime_reconcile_time_seconds",
    "controller_runtime_active_workers",
    "bertops_event_loop_tick_lag_seconds",
)


async def exported(bench: Bench, sizes: Sizes, results: Results) -> None:
    """P12: the metrics are there, and how late the event loop is in a burst."""
    async with bench.world() as world:
        with bench.running(OURS) as program:
            one = await burst_in(bench, world, program, sizes.burst, seconds=600)
            text = program.get("/metrics")[1]
    missing = [name for name in FAMILIES if f"# TYPE {name} " not in text]
    results.figures["P12"] = {
        "families_missing": len(missing),
        "event_loop_lag_p99_at_most_ms": 1000 * quantile(text, "bertops_event_loop_tick_lag_seconds", 0.99),
        "queue_wait_p99_at_most_s": quantile(text, "workqueue_queue_duration_seconds", 0.99),
    }
    lags = buckets(text, "bertops_event_loop_tick_lag_seconds")
    results.details["P12"] = one.named() | {"missing": missing, "event_loop_lag_s": lags}


def buckets(text: str, name: str) -> list[tuple[str, float]]:
    """Bounds of a histogram's buckets, and how many samples each holds with all below it."""
    lines = [line for line in text.splitlines() if line.startswith(f"{name}_bucket")]
    return [(line.split('le="')[1].split('"')[0], float(line.rsplit(" ", 1)[1])) for line in lines]


def quantile(text: str, name: str, share: float) -> float:
    """The smallest bound of a histogram's buckets that holds at least this share of its samples."""
    total = metric(text, f"{name}_count")
    return next((float(bound) for bound, held in buckets(text, name) if held >= share * total), 0.0)


MEASURES: Final[dict[str, tuple[tuple[str, ...], Measure]]] = {
    "latency": (("P5",), latency),
    "bursts": (("P1", "P3", "P11", "floor_ratio"), bursts),
    "growth": (("P2", "exponent"), growth),
    "steady": (("P4", "P6", "P9"), steady),
    "restart": (("P8",), restart),
    "exported": (("P12",), exported),
    "cold": (("cold",), cold),
    "soak": (("P10",), soak),
    "memory": (("P7",), memory),
}
"""What each measure answers, in the order in which they run: quiet things first, the largest last."""


def chosen(only: str) -> list[str]:
    """The measures that answer these ids; all for an empty text.

    Raises:
        ValueError: an id that nothing answers.
    """
    ids = [part.strip() for part in only.split(",") if part.strip()]
    known = {one for answered, _ in MEASURES.values() for one in answered}
    if unknown := set(ids) - known:
        raise ValueError(f"ONLY={only}: nothing measures {', '.join(sorted(unknown))}; write some of {sorted(known)}")
    return [name for name, (answered, _) in MEASURES.items() if not ids or set(ids) & set(answered)]


def dumped(figures: dict[str, Any]) -> str:
    """One line of JSON, in the order of the ids."""
    order = [*(f"P{number}" for number in range(1, 13)), "floor_ratio", "exponent"]
    return json.dumps({key: figures[key] for key in order if key in figures})
