"""What new BertDeployments cost: alone, many at once, ever more, and with a build each."""

import asyncio
import time
from typing import Final

from bench.operator_bench import programs
from bench.operator_bench.bursts import Bench, burst, burst_in
from bench.operator_bench.figures import buckets, counted, exponent, median, percentile, quantile
from bench.operator_bench.pods import make_ready
from bench.operator_bench.programs import FLOOR, OURS, Program, rest
from bench.operator_bench.results import Results, Sizes, say
from bench.operator_bench.world import CHILDREN

TURNS: Final = 3
"""Bursts of each size, at least, for the growth with N."""


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
    """P2 and how the cost grows with N: medians, of runs in turns, so that the machine's pace is in each size alike."""
    for turn in range(TURNS):
        for count in sizes.growth:
            if len(results.of(OURS, count)) <= turn:
                one = await burst(bench, OURS, count)
                results.bursts.append(one)
                say(f"N = {count}: done in {one.seconds:.1f} s")
    ours = [one for one in results.bursts if one.program == OURS]
    by_count = {count: [one for one in ours if one.count == count] for count in sorted({one.count for one in ours})}
    walls = [(count, median([one.seconds for one in runs])) for count, runs in by_count.items()]
    cpus = [(count, median([one.operator_cpu for one in runs])) for count, runs in by_count.items()]
    of_largest = sorted(by_count[max(by_count)], key=lambda one: one.seconds)
    largest = of_largest[len(of_largest) // 2]
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


async def cold(bench: Bench, sizes: Sizes, results: Results) -> None:
    """Without records: a build Job for each, completed, like the serving pods, by the stand-in for kubelets."""
    count = sizes.burst
    async with bench.world(recorded=False) as world:
        with bench.running(OURS) as program:
            position, began = bench.plane.audit_position(), time.monotonic()
            names = await world.create(count, distinct=True)
            await world.complete_builds(count)
            await world.until_done(names, 600)
            await make_ready(world, names)
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
