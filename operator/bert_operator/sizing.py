"""Measured points and an objective -> how to serve. Pure; `tuning` calls it.

It only picks among what was measured: throughput is never extrapolated over instances or batch sizes, because a second
instance on the same cores seldom doubles anything. Replicas are pods on cores of their own, so those do add up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from bert_operator.api.measurement import MeasuredPoint, MeasuredVariant

TIE: Final = 0.03
"""Throughputs this close, relative to the best, are the same: two runs of one configuration differ by more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What the plan must reach."""

    max_latency_milliseconds: int | None
    percentile: int
    target_requests_per_second: int | None = None
    headroom_percent: int = 30
    min_replicas: int = 1
    max_replicas: int = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How to serve, and what one pod then does."""

    variant: MeasuredVariant
    point: MeasuredPoint
    latency: float
    """Milliseconds, at the goal's percentile."""
    replicas: int | None
    """Pods for the target load; None if the goal names none."""
    why: str
    """In words: what was chosen, among how many, and how the replicas come about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why nothing can be recommended: the best that was seen, and what to change."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    variant: MeasuredVariant
    point: MeasuredPoint
    latency: float


def choose(measured: Sequence[MeasuredVariant], goal: Goal) -> Choice | Refusal:
    """The most throughput within the latency limit; ties by lower latency, then by fewer instances."""
    seen = list(_seen(measured, goal.percentile))
    if not seen:
        message = (
            f"no measured point has a throughput and a p{goal.percentile} latency; "
            "next: see the profile Job's files under tuning/ on the store's claim"
        )
        return Refusal(reason="NothingMeasured", message=message)
    limit = goal.max_latency_milliseconds
    fitting = [one for one in seen if limit is None or one.latency <= limit]
    if not fitting:
        return _refusal(seen, goal)
    best = max(one.point.throughput for one in fitting)
    tied = [one for one in fitting if one.point.throughput >= best * (1 - TIE)]
    chosen = min(tied, key=lambda one: (one.latency, one.variant.instances, one.variant.max_batch_size))
    replicas, reckoning = _replicas(chosen.point.throughput, goal)
    within = f" within {limit} ms" if limit is not None else ""
    points = f"{len(seen)} measured points ({len(fitting)} fit)"
    why = f"most throughput{within} at p{goal.percentile} of {points}; {reckoning}"
    return Choice(
        variant=chosen.variant, point=chosen.point, latency=chosen.latency, replicas=replicas, why=why.rstrip("; ")
    )


def words(variant: MeasuredVariant) -> str:
    """How messages call one way of serving."""
    copies = f"{variant.instances} instance{'s' if variant.instances > 1 else ''}"
    if variant.max_queue_delay_microseconds is None:
        return f"{copies}, no batching"
    return f"{copies}, batches up to {variant.max_batch_size}, {variant.max_queue_delay_microseconds} µs to fill one"


def _seen(measured: Sequence[MeasuredVariant], percentile: int) -> Iterator[_Seen]:
    for variant in measured:
        for point in variant.points:
            latency = point.latency(percentile)
            if latency is not None and point.throughput > 0:
                yield _Seen(variant=variant, point=point, latency=latency)


def _refusal(seen: Sequence[_Seen], goal: Goal) -> Refusal:
    best = min(seen, key=lambda one: (one.latency, -one.point.throughput))
    message = (
        f"none of {len(seen)} measured points answers within {goal.max_latency_milliseconds} ms at "
        f"p{goal.percentile}; the best was {best.latency:.1f} ms ({words(best.variant)}, "
        f"{best.point.throughput:.1f} requests/s with {best.point.concurrency} at once); next: raise "
        "objective.maxLatencyMilliseconds, give server.resources more CPU, or shorten the sequences"
    )
    return Refusal(reason="ObjectiveNotMet", message=message)


def _replicas(throughput: float, goal: Goal) -> tuple[int | None, str]:
    """Pods for the target load, within bounds, and how that comes about."""
    target = goal.target_requests_per_second
    if target is None:
        return None, ""
    needed = ceil(target * (100 + goal.headroom_percent) / 100 / throughput)
    bounded = max(goal.min_replicas, min(needed, goal.max_replicas))
    text = (
        f"{target} requests/s with {goal.headroom_percent} % headroom at {throughput:.1f} a pod take "
        f"{needed} pod{'s' if needed != 1 else ''}"
    )
    if bounded < needed:
        text += f", but tuning.maxReplicas allows {bounded}"
    elif bounded > needed:
        text += f", and spec.replicas asks for at least {bounded}"
    return bounded, text
