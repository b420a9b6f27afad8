"""The end of a long story, judged by what the last spec comes to when it is created afresh."""

import re
from typing import Any, Final

from chaos import oracles, state
from chaos.place import Place
from chaos.stories import Reference
from chaos.workloads import NAME, Workload, bert, serving_as

_HISTORY: Final = re.compile(
    r"^(ReplicaSet|Pod|BertArtifact|ConfigMap)/"
    r"|\.(generation|observedGeneration|terminatingReplicas|collisionCount)$"
    r"|deployment\.kubernetes\.io/revision$"
    r"|\.metadata\.annotations\.bertops\.dev/(autoscaled|images-wish)$"
    r"|\.conditions\[\w+\]\.(message|reason|lastTransitionTime)$"
)
"""What tells of the way and not of the end: old ReplicaSets, their configuration, counters, words of the last flip."""
ENDS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "config": serving_as(),
    "two": {"path": "two"},
    "tfserving": {"server": {"type": "tfserving"}},
    "three": {"replicas": 3},
}
"""The specs that long stories end with."""


def workload(end: str) -> Workload:
    """An end, created afresh."""

    async def create(place: Any) -> None:
        await place.create(bert(**ENDS[end]))

    return Workload(name=f"fresh-{end}", before=(), act=create, serves=serves(end))


def serves(end: str) -> dict[str, int]:
    """Who is Ready in the end."""
    return {NAME: ENDS[end].get("replicas", 2)}


def spec(end: str) -> dict[str, Any]:
    """A patch of the spec that leads there from any other."""
    whole: dict[str, Any] = bert(**ENDS[end])["spec"]
    server = {"release": None} | whole["server"]
    return whole | {"server": server, "autoscaling": None}


async def reached(place: Place, reference: Reference, end: str, limit: float) -> float:
    """Wait until all is as in a fresh one and rests; how long that took."""

    async def wrong() -> str:
        return "; ".join(await _problems(place, reference))

    return await place.settled(serves(end), limit, wrong)


async def _problems(place: Place, reference: Reference) -> list[str]:
    """What is not as in a fresh one."""
    mask = reference.mask
    found = {path: value for path, value in (await place.state()).items() if not _HISTORY.search(path)}
    want = {path: value for path, value in reference.state.items() if not _HISTORY.search(path)}
    kinds = {path.split("/")[0] for path in want}
    return oracles.told(
        one for one in state.differences(found, want, mask) if one.path.split("/")[0] in kinds | {"Job"}
    )
