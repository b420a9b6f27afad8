"""Many at once: R6, nothing is written where nothing stirs; R13, what is deleted leaves nothing behind."""

import asyncio
import time
from typing import Any, Final

from chaos import crash
from chaos.place import Lab, Place
from chaos.stories import Result, log_problems
from chaos.workloads import bert

CROWD: Final = 200
REST_SECONDS: Final = 300.0
GONE_SECONDS: Final = 60.0
STATES: Final = ("served", "building", "unready", "refused")
_STUCK: Final = {"building": "build", "unready": "server"}
"""State -> whose pods find no node."""
_TOGETHER: Final = 8


def plans() -> list[str]:
    """Both of R6, and ways to delete a crowd."""
    rest = [f"R6/{state}" for state in ("served", "unready")]
    ways = ("mixed/alive", "mixed/dead", "building/alive", "building/dead", "served/alive", "claim-gone/alive")
    gone = [f"R13/{way}" for way in ways]
    return [*rest, *gone]


async def run(lab: Lab, plan: str, namespace: str, _: object = None) -> Result:
    """Carry one plan out."""
    family, states, *how = plan.split("/")
    async with Place(lab=lab, namespace=namespace) as place:
        result = await (_rest(place, plan, states) if family == "R6" else _gone(place, plan, states, how[0]))
        result.problems += log_problems(place)
    return result


async def _rest(place: Place, plan: str, states: str) -> Result:
    await _make(place, states)
    place.proxy.count_anew()
    await asyncio.sleep(REST_SECONDS)
    asked = [one.call for one in place.proxy.trace if not one.call.quiet]
    writes = [call.kind for call in asked if call.writes]
    told = [f"{len(writes)} writes in {REST_SECONDS:.0f} s, the first: {writes[0]}"] if writes else []
    measured = {"resources": CROWD, "seconds": REST_SECONDS, "writes": len(writes), "reads": len(asked) - len(writes)}
    return Result(plan=plan, problems=told, measured=measured)


async def _gone(place: Place, plan: str, states: str, operator: str) -> Result:
    await _make(place, states)
    if states == "claim-gone":
        await place.delete("PersistentVolumeClaim", "models")
    if operator == "dead":
        await place.operator.end()
    began = time.monotonic()
    await place.lab.api.sure("DELETE", place.path("BertDeployment"), {"propagationPolicy": "Background"})
    left = await _leftovers(place, GONE_SECONDS)
    took = time.monotonic() - began
    if operator == "dead":
        # What is gone stays gone when the next one looks.
        await place.start()
        await place.until(lambda: place.proxy.idle_seconds > 2 and bool(place.proxy.trace), "it looks")
        left = left or await crash.leftovers(place)
    return Result(plan=plan, problems=left, measured={"resources": CROWD, "gone_s": round(took, 1)})


async def _leftovers(place: Place, seconds: float) -> list[str]:
    deadline = time.monotonic() + seconds * place.lab.patience
    while True:
        left = await crash.leftovers(place)
        if not left or time.monotonic() > deadline:
            return [f"after {seconds:.0f} s {one}" for one in left]
        await asyncio.sleep(1.0)


async def _make(place: Place, states: str) -> None:
    """Bring up the crowd and wait until it stirs no more."""
    await place.start()
    room = asyncio.Semaphore(_TOGETHER)

    async def make(number: int) -> None:
        async with room:
            state = STATES[number % len(STATES)] if states == "mixed" else states
            made = _one(number, state)
            if state in _STUCK:
                place.habits.left.add((_STUCK[state], made["metadata"]["name"]))
            await place.create(made)

    await asyncio.gather(*(make(number) for number in range(CROWD)))
    await place.until(lambda: _looked_at(place) >= CROWD, "a status of each", 300)
    await place.until(lambda: place.quiet_seconds > 5, "the crowd to settle", 300)


def _looked_at(place: Place) -> int:
    return len({one.name for one in place.done() if one.call.resource == "bertdeployments/status"})


def _one(number: int, state: str) -> dict[str, Any]:
    """One of the crowd; those that are built share one artifact."""
    path = f"own-{number}" if state == "building" else "one"
    parts: dict[str, Any] = {"storage": {"claimName": "models"}, "replicas": 1}
    if state == "refused":
        parts["hardware"] = {"profile": "none-such"}
    return bert(f"b{number:03d}", path=path, count=1, **parts)
