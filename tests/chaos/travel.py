"""R2: time travel. The operator starts on an API server that still shows the predecessor of what is there now.

Nothing it writes may touch the successor. When the API server has caught up, the successor is served as it should be.
"""

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any, Final

from chaos import fresh
from chaos.place import Lab, Place
from chaos.stories import Reference, Result, log_problems
from chaos.workloads import NAME, bert

BEFORE: Final = ("served", "building")
"""What the predecessor was when the past was recorded."""
SHOWN: Final = ("bert", "all")
"""Whether the BertDeployment alone is shown as it was, or everything."""
NOW: Final = ("served", "new")
"""Whether the successor has been served by then, or nobody has looked at it."""
ENDS: Final = ("plain", "tfserving")
STALE_SECONDS: Final = 6.0
"""How long the past is shown: longer than any retry of the first."""
CONVERGE: Final = 60.0
ALL: Final = (
    "bertdeployments",
    "deployments",
    "replicasets",
    "services",
    "configmaps",
    "jobs",
    "pods",
    "persistentvolumeclaims",
    "bertartifacts",
    "horizontalpodautoscalers",
)


def plans() -> list[str]:
    """Every combination."""
    return ["/".join(("R2", *parts)) for parts in itertools.product(BEFORE, SHOWN, NOW, ENDS)]


def end(plan: str) -> str:
    """What its story ends with."""
    return plan.rsplit("/", maxsplit=1)[-1]


async def run(lab: Lab, plan: str, namespace: str, reference: Reference) -> Result:
    """Carry one plan out."""
    _, before, shown, now, last = plan.split("/")
    result = Result(plan=plan)
    async with Place(lab=lab, namespace=namespace) as place:
        past = await _past(place, before, shown)
        await place.delete("BertDeployment", NAME)
        made = await place.create(bert(**fresh.ENDS[last]))
        if now == "served":
            place.habits.builds = True
            await place.start()
            await place.settled(fresh.serves(last))
            await place.operator.end()
        theirs = await _belonging(place, made)
        place.proxy.count_anew()
        place.proxy.turn_back(past)
        await place.start()
        await place.until(lambda: place.proxy.idle_seconds > 1 and bool(place.proxy.trace), "it looks at the past")
        await asyncio.sleep(STALE_SECONDS)
        touched = touching(place, theirs)
        result.measured = {"writes_in_the_past": sum(1 for _ in place.done()), "against_the_new_uid": len(touched)}
        result.problems = [f"written against the new UID: {one}" for one in touched]
        place.habits.builds = True
        place.nudge()
        place.proxy.catch_up()
        await fresh.reached(place, reference, last, CONVERGE)
        result.problems += log_problems(place)
    return result


async def _past(place: Place, before: str, shown: str) -> dict[str, bytes]:
    """Let the predecessor come that far, and keep what an API server shows of it."""
    place.habits.builds = before == "served"
    await place.start()
    await place.create(bert())
    if before == "served":
        await place.settled({NAME: 2})
    else:
        await place.until(lambda: place.saw("create", "jobs", 2), "its Jobs")
        await place.quiet()
    past = await place.proxy.remember(*(ALL if shown == "all" else ALL[:1]))
    await place.operator.end()
    return past


async def _belonging(place: Place, made: dict[str, Any]) -> set[str]:
    """UIDs of the successor and of all that is its own."""
    uids = {made["metadata"]["uid"]}
    for obj in await place.objects():
        if uids & {owner["uid"] for owner in obj["metadata"].get("ownerReferences") or ()}:
            uids.add(obj["metadata"]["uid"])
    return uids


def touching(place: Place, theirs: Iterable[str]) -> list[str]:
    """Writes that succeeded and changed the successor or what is its own."""
    known = set(theirs)
    return [
        f"{one.call.kind} {one.name}"
        for one in place.done()
        if one.call.resource != "events" and (one.uid in known or known & set(one.owners))
    ]
