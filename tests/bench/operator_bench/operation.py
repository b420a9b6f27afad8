"""What BertDeployments cost that are there: at rest, looked at for nothing, changed, and with pods that stir."""

import asyncio
import time
from typing import Final

from bench.operator_bench import programs
from bench.operator_bench.bursts import LOOKS, Bench
from bench.operator_bench.cluster import MERGE
from bench.operator_bench.figures import counted
from bench.operator_bench.pods import make_ready, news, owner, serving_pods
from bench.operator_bench.programs import OURS, Program, rest
from bench.operator_bench.results import Results, Sizes, say
from bench.operator_bench.world import World

FEW: Final = 5
"""Resources whose pods stir in P9: twenty news a second of each."""
LEAK_LOOKS: Final = 15
"""Looks at memory, tasks and descriptors, two seconds apart: longer than an idle connection is kept."""


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
            await make_ready(world, names)
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
    pods = [pod["metadata"]["name"] for pod in await serving_pods(world) if owner(pod) in few]
    position, before = bench.plane.audit_position(), program.metric(LOOKS)
    began = time.monotonic()
    sent = await news(world, pods, 100, 100 * sizes.storm_seconds)
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


async def soak(bench: Bench, sizes: Sizes, results: Results) -> None:
    """P10: 50,000 events, looked at after each tenth. What grows after the second is a leak."""
    async with bench.world() as world:
        with bench.running(OURS) as program:
            names = await world.create(max(10, sizes.burst // 4))
            await world.until_done(names, 600)
            pods = [pod["metadata"]["name"] for pod in await serving_pods(world)]
            taken = []
            for _ in range(10):
                await news(world, pods, 1000, sizes.soak_events // 10)
                await rest(program)
                taken.append(await _taken(program))
                say(f"{len(taken) * sizes.soak_events // 10} events: {taken[-1]}")
    first, last = taken[1], taken[-1]
    grown = 100 * (last["rss_mb"] / first["rss_mb"] - 1)
    more = {f"{what}_growth": last[what] - first[what] for what in ("tasks", "descriptors")}
    results.figures["P10"] = {"rss_growth_percent": round(grown, 2)} | more
    results.details["P10"] = {"events": sizes.soak_events, "after_each_tenth": taken}


async def _taken(program: Program) -> dict[str, float]:
    """The least of some looks: a watch that is renewed just now has two connections until the idle one is closed."""
    looks = []
    for _ in range(LEAK_LOOKS):
        looks.append((program.rss(), program.metric("bertops_asyncio_tasks"), program.descriptors()))
        await asyncio.sleep(2)
    rss, tasks, descriptors = (min(one) for one in zip(*looks, strict=True))
    return {"rss_mb": round(rss, 2), "tasks": tasks, "descriptors": descriptors}
