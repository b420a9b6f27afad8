"""R3: watch events are held while the world changes, and maybe changes back; R11: the operator is away meanwhile."""

from typing import Final

from chaos import disturbances, fresh
from chaos.disturbances import Disturbance
from chaos.place import Lab, Place
from chaos.stories import Reference, Result, log_problems
from chaos.workloads import NAME, bert

WAYS: Final = ("late", "latest", "gone")
"""How what was held is shown: all of it, only the last of each object, or not at all ("410 Gone")."""
CONVERGE: Final = 30.0


def plans() -> list[str]:
    """Each disturbance, in each way."""
    unseen = [f"R3/{name}/{way}" for name in disturbances.ALL for way in WAYS]
    return [*unseen, *(f"R11/{name}" for name in disturbances.ALL)]


def end(plan: str) -> str:
    """What its story ends with."""
    return disturbances.ALL[plan.split("/")[1]].end


async def run(lab: Lab, plan: str, namespace: str, reference: Reference) -> Result:
    """Carry one plan out."""
    family, name, *way = plan.split("/")
    story, result = disturbances.ALL[name], Result(plan=plan)
    async with Place(lab=lab, namespace=namespace) as place:
        await _begin(place, story)
        before = _serving(place)
        if family == "R3":
            await _unseen(place, story, way[0])
        else:
            await _away(place, story)
        took = await fresh.reached(place, reference, story.end, CONVERGE)
        if story.pods_stay and not before <= _serving(place):
            result.problems.append("serving pods were replaced")
        result.problems += log_problems(place)
        result.measured = {"converged_s": round(took, 1)}
    return result


async def _begin(place: Place, story: Disturbance) -> None:
    place.habits.builds = story.built
    await place.start()
    await place.create(bert())
    if story.built:
        await place.settled({NAME: 2})
    else:
        await place.until(lambda: place.saw("create", "jobs", 2), "its Jobs")
        await place.quiet()


async def _unseen(place: Place, story: Disturbance, way: str) -> None:
    for resource in story.unseen:
        place.proxy.gate(resource).hold()
    await story.act(place)
    gates = [place.proxy.gate(resource) for resource in story.unseen]
    await place.until(lambda: any(gate.kept for gate in gates), "something unseen")
    for gate in gates:
        await gate.release(way)


async def _away(place: Place, story: Disturbance) -> None:
    await place.operator.end()
    await story.act(place)
    await place.start()


def _serving(place: Place) -> set[str]:
    return {
        uid
        for which, uid in place.lab.kubelet.made[place.namespace]
        if which == "server" and uid in place.lab.kubelet.pods[place.namespace]
    }
