"""R8: connections that die without a word; R9: a partition during which etcd forgets what the operator last saw."""

import asyncio
import time
from typing import Final

from chaos import fresh
from chaos.lab import compact
from chaos.place import Lab, NeverError, Place
from chaos.stories import Reference, Result, log_problems
from chaos.workloads import NAME, bert

CONVERGE: Final = 150.0
"""Until all is right and the operator says that it is ready: for that it waits for the next bookmark of each kind, of
which the API server sends one a minute."""
HEAL_SECONDS: Final = 70.0
UNREADY_SECONDS: Final = 120.0
PARTITION_SECONDS: Final = 80.0
"""Longer than the API server's own memory of events (75 s)."""
FORGOTTEN: Final = 600
"""Changes that push what came before out of that memory."""


def plans() -> list[str]:
    """All of both."""
    return ["R8/bertdeployments", "R8/all-watches", "R8/everything", "R9/compaction"]


def end(_: str) -> str:
    """What their stories end with."""
    return "three"


async def run(lab: Lab, plan: str, namespace: str, reference: Reference) -> Result:
    """Carry one plan out."""
    family, name = plan.split("/")
    result = Result(plan=plan)
    async with Place(lab=lab, namespace=namespace) as place:
        await place.start()
        await place.create(bert())
        await place.settled({NAME: 2})
        if family == "R9":
            result.measured = await _compacted(place)
        elif name == "everything":
            result.measured = await _black_hole(place)
        else:
            result.measured = await _silent(place, () if name == "all-watches" else (name,))
        await fresh.reached(place, reference, "three", CONVERGE)
        result.problems = log_problems(place)
    return result


async def _silent(place: Place, resources: tuple[str, ...]) -> dict[str, float]:
    """Watches that are open show nothing more; new ones work. The next change of a user's is noticed all the same."""
    gates = place.proxy.gates if not resources else {name: place.proxy.gate(name) for name in resources}
    for gate in gates.values():
        gate.mute()
    await asyncio.sleep(1)
    await place.edit(NAME, fresh.spec("three"))
    writes = place.proxy.writes
    took = await place.until(lambda: place.proxy.writes > writes, "it hears of the change", HEAL_SECONDS)
    return {"healed_s": round(took, 1)}


async def _black_hole(place: Place) -> dict[str, float]:
    """Nothing gets through in either direction: readiness has to say so."""
    place.proxy.vanish()
    began = time.monotonic()
    while (await place.operator.ready())[0] == 200:
        if time.monotonic() - began > UNREADY_SECONDS:
            raise NeverError(f"/readyz still says 200 after {UNREADY_SECONDS:.0f} s of silence")
        await asyncio.sleep(1)
    unready = time.monotonic() - began
    await place.edit(NAME, fresh.spec("three"))
    place.proxy.appear()
    began, writes = time.monotonic(), place.proxy.writes
    await place.until(lambda: place.proxy.writes > writes, "it hears of the change", HEAL_SECONDS)
    return {"unready_s": round(unready, 1), "healed_s": round(time.monotonic() - began, 1)}


async def _compacted(place: Place) -> dict[str, float]:
    """Cut off, change the world, make everybody forget; then let it come back."""
    place.proxy.down = True
    place.proxy.end_watches()
    await asyncio.sleep(PARTITION_SECONDS)
    service = await place.get("Service", NAME)
    if service is None:
        raise NeverError("no Service")
    await place.delete("Service", NAME)
    for number in range(FORGOTTEN):
        await place.patch("BertDeployment", NAME, {"metadata": {"annotations": {"number": str(number)}}})
    await place.edit(NAME, fresh.spec("three") | {"replicas": 3})
    await compact(await place.revision())
    place.proxy.count_anew()
    place.proxy.down = False
    began = time.monotonic()
    await place.until(lambda: any(one.call.kind == "list bertdeployments" for one in place.proxy.trace), "a listing")
    if not place.proxy.gone:
        raise NeverError("no watch was told 410 Gone: the API server remembered everything")
    await place.patch("BertDeployment", NAME, {"metadata": {"annotations": {"number": None}}})
    took = round(time.monotonic() - began, 1)
    return {"partition_s": PARTITION_SECONDS, "gone": place.proxy.gone, "relisted_s": took}
