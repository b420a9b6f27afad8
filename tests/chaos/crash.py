"""R1: the operator is killed at every write of every workload; another one takes over and comes to the same end."""

import asyncio
from typing import Final

from bert_operator.api import names
from chaos import oracles, state
from chaos.faults import Fault, OnWrite
from chaos.place import Lab, Place
from chaos.stories import Reference, Result, begin, converged, log_problems, play
from chaos.workloads import NAME, WORKLOADS, Workload

MOMENTS: Final = ("before", "after")
"""Before its reply is delivered; after, as soon as it is acted upon."""
KEPT: Final = frozenset({"PersistentVolumeClaim", names.ARTIFACT_KIND})
"""What outlives a BertDeployment on purpose."""


def plans(workload: Workload, reference: Reference) -> list[str]:
    """Every crash point."""
    numbers = range(1, reference.writes + 1 if workload.crashed else 1)
    return [f"R1/{workload.name}/{number}/{moment}" for number in numbers for moment in MOMENTS]


async def run(lab: Lab, plan: str, namespace: str, reference: Reference) -> Result:
    """Carry one plan out."""
    _, name, number, moment = plan.split("/")
    rule, workload = OnWrite(number=int(number), fault=Fault(what=f"kill {moment}")), WORKLOADS[name]
    result = Result(plan=plan)
    async with Place(lab=lab, namespace=namespace) as place:
        if name == "delete":
            result.problems = await _deleted(place, workload, rule)
        else:
            result.problems = await play(place, workload, reference, rule, at_start=False)
        result.unreached = not rule.met
        result.measured = {"writes": place.proxy.writes, "lives": place.operator.lives}
    return result


async def _deleted(place: Place, workload: Workload, rule: OnWrite) -> list[str]:
    """Kill it while it builds up, delete what it works for while it is dead, and let the next one look."""
    place.revive = False
    await begin(place, workload)
    place.proxy.count_anew()
    place.proxy.rules = [rule]
    await workload.act(place)
    await place.until(lambda: place.kills > 0 or place.quiet_seconds > 10, "the crash")
    await place.delete("BertDeployment", NAME)
    await asyncio.sleep(0.2)
    await place.start()
    problems = await converged(place, lambda: leftovers(place))
    return problems + log_problems(place)


async def leftovers(place: Place) -> list[str]:
    """What nobody wants any more."""
    found = [obj for obj in await place.objects(everything=True) if obj["kind"] not in KEPT]
    paths = state.canonical(found, place.namespace)
    there = [path for path, value in paths.items() if value == "is there"]
    return [f"left over: {path}" for path in there[: oracles.MOST]]
