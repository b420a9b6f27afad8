"""Which measured configuration is chosen, and how many pods it takes."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_operator import sizing
from bert_operator.api.measurement import MeasuredPoint, MeasuredVariant

GOAL = sizing.Goal(max_latency_milliseconds=100, percentile=95)


def a_variant(instances: int, batch: int, *points: tuple[int, float, float | None]) -> MeasuredVariant:
    """Points of (concurrency, requests per second, p95 in ms)."""
    return MeasuredVariant(
        instances=instances,
        max_batch_size=batch,
        max_queue_delay_microseconds=1000 if batch > 1 else None,
        points=[MeasuredPoint(concurrency=c, throughput=t, p95=p, p99=p and p * 2) for c, t, p in points],
    )


def choice(*variants: MeasuredVariant, **goal: Any) -> sizing.Choice:
    found = sizing.choose(variants, replace(GOAL, **goal))
    assert isinstance(found, sizing.Choice), found
    return found


def shape(found: sizing.Choice) -> tuple[int, int, int]:
    return found.variant.instances, found.variant.max_batch_size, found.point.concurrency


def test_the_most_throughput_within_the_limit_wins() -> None:
    found = choice(a_variant(1, 1, (1, 50, 20), (4, 80, 60)), a_variant(2, 8, (4, 90, 99.9), (16, 200, 100.1)))
    assert shape(found) == (2, 8, 4)
    assert found.latency == 99.9


def test_a_limit_is_met_by_being_equal_to_it() -> None:
    assert shape(choice(a_variant(1, 1, (1, 50, 20), (4, 80, 100)))) == (1, 1, 4)


def test_the_limit_holds_for_the_percentile_that_was_named() -> None:
    slow = a_variant(1, 1, (1, 50, 20), (4, 80, 60))
    assert shape(choice(slow, percentile=99)) == (1, 1, 1)


def test_without_a_limit_only_throughput_counts() -> None:
    assert shape(choice(a_variant(1, 1, (1, 50, 20), (64, 300, 5000)), max_latency_milliseconds=None)) == (1, 1, 64)


@pytest.mark.parametrize(("throughput", "chosen"), [(97.1, 4), (96.9, 16)])
def test_of_the_same_throughput_but_for_noise_the_lower_latency_wins(throughput: float, chosen: int) -> None:
    assert shape(choice(a_variant(1, 8, (4, throughput, 30), (16, 100, 90))))[2] == chosen


def test_of_the_same_throughput_and_latency_the_fewer_instances_win() -> None:
    assert shape(choice(a_variant(2, 8, (4, 100, 40)), a_variant(1, 8, (4, 100, 40)))) == (1, 8, 4)


def test_nothing_within_the_limit_is_no_recommendation_but_says_the_best_that_was_seen() -> None:
    found = sizing.choose([a_variant(1, 1, (1, 14, 171.2)), a_variant(2, 8, (4, 90, 400))], GOAL)
    assert isinstance(found, sizing.Refusal)
    assert found.reason == "ObjectiveNotMet"
    assert "within 100 ms at p95; the best was 171.2 ms (1 instance, no batching, 14.0 requests/s" in found.message
    assert "next: raise objective.maxLatencyMilliseconds" in found.message


def test_points_without_the_latency_that_is_asked_for_are_no_basis() -> None:
    found = sizing.choose([a_variant(1, 1, (1, 50, None))], GOAL)
    assert isinstance(found, sizing.Refusal)
    assert found.reason == "NothingMeasured"


def test_without_a_target_load_the_plan_says_nothing_about_replicas() -> None:
    assert choice(a_variant(1, 1, (1, 50, 20))).replicas is None


@pytest.mark.parametrize(
    ("target", "headroom", "bounds", "replicas", "says"),
    [
        (100, 0, (1, 10), 2, "take 2 pods"),
        (100, 30, (1, 10), 3, "100 requests/s with 30 % headroom at 50.0 a pod take 3 pods"),
        (101, 0, (1, 10), 3, "take 3 pods"),
        (1000, 0, (1, 10), 10, "take 20 pods, but tuning.maxReplicas allows 10"),
        (10, 0, (3, 10), 3, "take 1 pod, and spec.replicas asks for at least 3"),
    ],
)
def test_replicas_bear_the_target_with_headroom_within_bounds(
    target: int, headroom: int, bounds: tuple[int, int], replicas: int, says: str
) -> None:
    found = choice(
        a_variant(1, 1, (1, 50, 20)),
        target_requests_per_second=target,
        headroom_percent=headroom,
        min_replicas=bounds[0],
        max_replicas=bounds[1],
    )
    assert found.replicas == replicas
    assert says in found.why


_points = st.lists(
    st.tuples(st.integers(1, 256), st.floats(0, 1000, width=16), st.floats(0, 1000, width=16)), max_size=5
)
_measured = st.lists(
    st.builds(lambda i, b, points: a_variant(i, b, *points), st.integers(1, 4), st.integers(1, 16), _points), max_size=4
)


@given(measured=_measured, limit=st.none() | st.integers(1, 1000), target=st.none() | st.integers(1, 10_000))
def test_a_choice_was_measured_meets_the_limit_and_is_near_the_best(
    measured: list[MeasuredVariant], limit: int | None, target: int | None
) -> None:
    goal = replace(GOAL, max_latency_milliseconds=limit, target_requests_per_second=target)
    found = sizing.choose(measured, goal)
    fitting = [
        point.throughput
        for variant in measured
        for point in variant.points
        if point.p95 is not None and point.throughput > 0 and (limit is None or point.p95 <= limit)
    ]
    if isinstance(found, sizing.Refusal):
        assert not fitting
        return
    assert any(found.variant is variant and found.point in variant.points for variant in measured)
    assert limit is None or found.latency <= limit
    assert found.point.throughput >= max(fitting) * (1 - sizing.TIE)
    assert (found.replicas is None) == (target is None)
    assert found.replicas is None or goal.min_replicas <= found.replicas <= goal.max_replicas
