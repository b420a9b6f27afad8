"""R5: users change their minds while requests fail, come late, get lost and operators die, all by chance; then calm.

Within 60 s of the calm everything is as the last spec says, and then nothing is asked or written for 20 s.
"""

import asyncio
import random
import time
from typing import Final

from chaos import fresh
from chaos.faults import Weather
from chaos.place import Lab, NeverError, Place
from chaos.stories import Reference, Result, log_problems
from chaos.workloads import NAME, bert

SEEDS: Final = 200
CONVERGE: Final = 60.0
SILENT: Final = 20.0
RESTS: Final = 2.0


def plans() -> list[str]:
    """One for each seed."""
    return [f"R5/{seed}" for seed in range(1, SEEDS + 1)]


def end(plan: str) -> str:
    """What its story ends with."""
    ends = sorted(fresh.ENDS)
    return ends[int(plan.split("/")[1]) % len(ends)]


async def run(lab: Lab, plan: str, namespace: str, reference: Reference) -> Result:
    """Carry one plan out."""
    result, dice = Result(plan=plan), random.Random(plan)  # noqa: S311 - dice, not secrets
    async with Place(lab=lab, namespace=namespace) as place:
        weather = Weather(seed=int(plan.split("/")[1]))
        place.proxy.rules = [weather]
        await place.start()
        await place.create(bert())
        for _ in range(dice.randint(2, 4)):
            await _asks(place, dice.randint(15, 40))
            await _change(place, dice)
        await place.edit(NAME, fresh.spec(end(plan)))
        await _asks(place, dice.randint(1, 20))
        place.proxy.rules = []
        took = await fresh.reached(place, reference, end(plan), CONVERGE)
        result.problems = await silence(place, SILENT)
        result.problems += log_problems(place)
        result.unreached = not weather.met
        result.measured = {"converged_s": round(took, 1), "faults": weather.met, "lives": place.operator.lives}
    return result


async def _asks(place: Place, requests: int) -> None:
    """Let the operator go on for so many requests, or until it rests. Not for a time: machines differ."""
    before = place.proxy.asked

    def enough() -> bool:
        asked = place.proxy.asked - before
        return asked >= requests or (place.proxy.writes > 0 and place.proxy.idle_seconds > RESTS)

    await place.until(enough, "requests of the operator's", 120)


async def silence(place: Place, seconds: float) -> list[str]:
    """What an operator at rest still asked for."""
    began = time.monotonic()
    await asyncio.sleep(seconds)
    since = [one.call.kind for one in place.proxy.trace if one.at > began and not one.call.quiet]
    return [f"not silent: {len(since)} requests in {seconds:.0f} s, the first: {since[0]}"] if since else []


async def _change(place: Place, dice: random.Random) -> None:
    what = dice.choice(["edit", "edit", "edit", "outage", "recreate", "hand"])
    if what == "edit":
        await place.edit(NAME, fresh.spec(dice.choice(sorted(fresh.ENDS))))
    elif what == "outage":
        # What an operator sees of an API server that is started anew.
        place.proxy.down = True
        place.proxy.end_watches()
        await asyncio.sleep(dice.uniform(0.5, 2))
        place.proxy.down = False
    elif what == "recreate":
        await place.delete("BertDeployment", NAME)
        await place.create(bert(**fresh.ENDS[dice.choice(sorted(fresh.ENDS))]))
    else:
        await _meddle(place, dice)


async def _meddle(place: Place, dice: random.Random) -> None:
    """Somebody deletes a child."""
    kind = dice.choice(["Service", "Deployment", "ConfigMap", "Job"])
    ours = [
        one["metadata"]["name"] for one in await place.items(kind) if NAME in one["metadata"]["name"] or kind == "Job"
    ]
    if ours:
        code, _ = await place.lab.api.send(
            "DELETE", place.path(kind, dice.choice(sorted(ours))), {"propagationPolicy": "Background"}
        )
        if code not in (200, 202, 404):
            raise NeverError(f"deleting a {kind}: {code}")
