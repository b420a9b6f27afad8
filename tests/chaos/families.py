"""The families of plans, by the id that their name begins with."""

from collections.abc import Awaitable, Callable
from typing import Final

from chaos import conventional, crash, crowd, errors, fresh, partition, programs, properties, storm, travel, unseen
from chaos.place import Lab
from chaos.stories import Reference, Result
from chaos.workloads import WORKLOADS, Workload

STORIES: Final = {"R1": crash.run, "R7": errors.run}
"""Held against a run of their own workload."""
_LONG: Final = {
    "R2": (travel.run, travel.end),
    "R3": (unseen.run, unseen.end),
    "R5": (storm.run, storm.end),
    "R8": (partition.run, partition.end),
    "R9": (partition.run, partition.end),
    "R11": (unseen.run, unseen.end),
}
"""Held against their last spec, created afresh."""
_UNCOMPARED: Final = {
    "R4": properties.run,
    "R6": crowd.run,
    "R10": programs.run,
    "R12": programs.run,
    "R13": crowd.run,
    "R14": conventional.run,
}
"""Held against nothing, or against what they make themselves."""
_LONE: Final = frozenset({"R10", "R12", "R13"})
FAMILIES: Final = ("R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R10", "R11", "R12", "R13", "R14")


def workload(plan: str) -> str | None:
    """Name of the workload whose reference a plan is held against; None if it needs none."""
    family, name, *_ = (*plan.split("/"), "")
    if family in STORIES:
        return name
    if family not in _LONG:
        return None
    end = _LONG[family][1](plan)
    return f"fresh-{end}" if fresh.ENDS[end] else "create"  # what `create` comes to is fresh already


def by_name(name: str) -> Workload:
    """A workload, or the fresh creation of an end."""
    return fresh.workload(name.removeprefix("fresh-")) if name.startswith("fresh-") else WORKLOADS[name]


def alone(plan: str) -> bool:
    """Whether it wants the machine for itself."""
    return plan.split("/", maxsplit=1)[0] in _LONE


def stories_of(references: dict[str, Reference]) -> list[str]:
    """Plans that depend on what the workloads do: crash points and errors."""
    crashes = [plan for name, reference in references.items() for plan in crash.plans(WORKLOADS[name], reference)]
    return [*crashes, *errors.plans(references)]


def others() -> list[str]:
    """All other plans. The longest come first: the last ones would run alone."""
    makers = (crowd, partition, properties, travel, unseen, storm, programs, conventional)
    plans = [plan for maker in makers for plan in maker.plans()]
    return sorted(plans, key=lambda plan: not plan.startswith(("R6", "R8", "R9")))


async def run(lab: Lab, plan: str, namespace: str, reference: Reference | None) -> Result:
    """Carry one plan out."""
    family = plan.split("/", maxsplit=1)[0]
    if family in _UNCOMPARED:
        return await _UNCOMPARED[family](lab, plan, namespace)
    runs: dict[str, Callable[..., Awaitable[Result]]] = {**STORIES, **{key: one for key, (one, _) in _LONG.items()}}
    return await runs[family](lab, plan, namespace, reference)
