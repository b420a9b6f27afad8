"""A workload played once, with or without faults, and what it came to. R1 and R7 hold it against its reference."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos import faults, oracles, state
from chaos.place import POLL, QUIET, Lab, NeverError, Place
from chaos.workloads import Workload

REFERENCE_QUIET: Final = 4.0
LIMIT: Final = 90.0
"""Seconds in which a story has to converge."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a workload comes to without faults."""

    state: state.State
    mask: frozenset[str]
    counts: Mapping[str, int]
    loose: frozenset[str]
    """Counts that differ between two runs without faults."""
    writes: int
    """How many writes it takes from the change to rest."""
    kinds: Mapping[str, str]
    """Kinds of requests -> `start` if they come before the change, else `change`."""


@dataclass(kw_only=True)
class Result:
    """How a plan ended."""

    plan: str
    problems: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    unreached: bool = False
    """The fault never came: the operator made no such request this time."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run without faults."""

    state: state.State
    counts: Mapping[str, int]
    writes: int
    kinds: Mapping[str, str]


async def begin(place: Place, workload: Workload) -> None:
    """Bring a place to where the workload's change happens."""
    place.habits.builds = workload.builds or bool(workload.before)
    await place.start()
    for bert in workload.before:
        await place.create(bert)
    if workload.before:
        await place.settled({bert["metadata"]["name"]: bert["spec"]["replicas"] for bert in workload.before})


async def reference_run(lab: Lab, workload: Workload, namespace: str) -> Run:
    """Play it without faults."""
    async with Place(lab=lab, namespace=namespace, settings=workload.settings(namespace)) as place:
        await begin(place, workload)
        kinds = dict.fromkeys((one.call.kind for one in place.proxy.trace), "start")
        place.proxy.count_anew()
        await workload.act(place)
        await place.settled(workload.serves if workload.name != "delete" else {"minilm": 2})
        await place.quiet(REFERENCE_QUIET)
        if problems := oracles.log_faults(place.operator.log, troubled=False):
            raise NeverError(f"a run without faults: {problems}")
        kinds |= {one.call.kind: "change" for one in place.proxy.trace if one.call.kind not in kinds}
        return Run(
            state=await place.state(everything=True), counts=place.counts(), writes=place.proxy.writes, kinds=kinds
        )


def compared(runs: Sequence[Run]) -> Reference:
    """Two runs and more, as one reference."""
    first, *others = runs
    keys = {key for run in runs for key in run.counts}
    loose = {key for key in keys if any(run.counts.get(key, 0) != first.counts.get(key, 0) for run in others)}
    return Reference(
        state=first.state,
        mask=state.masked(*(run.state for run in runs)),
        counts=first.counts,
        loose=frozenset(loose),
        writes=min(run.writes for run in runs),
        kinds={kind: where for run in runs for kind, where in run.kinds.items()},
    )


async def differences(place: Place, reference: Reference) -> list[str]:
    """What is not as in the reference."""
    return oracles.told(state.differences(await place.state(everything=True), reference.state, reference.mask))


async def converged(place: Place, check: Callable[[], Awaitable[list[str]]], limit: float = LIMIT) -> list[str]:
    """Wait for rest in which nothing is wrong; what is still wrong when time is up."""
    deadline = time.monotonic() + limit * place.lab.patience
    problems = [f"no {QUIET} s of rest within {limit:.0f} s"]
    while time.monotonic() < deadline:
        if place.quiet_seconds >= QUIET:
            problems = await check()
            if not problems:
                return []
            await asyncio.sleep(1.0)
        await asyncio.sleep(POLL)
    return [f"not within {limit:.0f} s: {problem}" for problem in problems]


async def play(
    place: Place, workload: Workload, reference: Reference, rule: faults.OnKind | faults.OnWrite, *, at_start: bool
) -> list[str]:
    """Play a workload with one fault; what is wrong with the end."""
    if at_start:
        place.proxy.rules = [rule]
    await begin(place, workload)
    place.proxy.count_anew()
    place.proxy.rules = [rule]
    await workload.act(place)
    problems = await converged(place, lambda: differences(place, reference))
    problems += oracles.count_faults(place.counts(), reference.counts, reference.loose)
    return problems + log_problems(place)


def log_problems(place: Place) -> list[str]:
    """What is wrong with the operator's log and its lives."""
    problems = oracles.log_faults(place.operator.log, kills=place.kills)
    if ended := place.operator.ended_itself:
        problems.append(f"the operator ended by itself, {ended} times")
    return problems
