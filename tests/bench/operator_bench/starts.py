"""What a start costs with many BertDeployments there, and what memory they take."""

import asyncio
import time

from bench.operator_bench import programs
from bench.operator_bench.bursts import LOOKS, Bench
from bench.operator_bench.figures import counted
from bench.operator_bench.programs import KOPF, OURS, Program, rest
from bench.operator_bench.results import Results, Sizes, say


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
        await bench.quiet(900)
        position = bench.plane.audit_position()
        with bench.running(OURS) as program:
            looked = await _checked(program, len(world.generations))
            await rest(program)
            again = counted(bench.plane.audit_since(position), programs.user(OURS))
            results.details["P8_largest"] = {
                "resources": largest[0],
                "seconds": looked[-1][0],
                "requests": again.named(),
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
