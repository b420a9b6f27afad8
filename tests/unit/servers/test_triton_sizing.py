from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_operator.api import quantities
from bert_operator.servers import sizing, triton_sizing
from support import builders

from .conftest import Make, make

MIB = 2**20


@pytest.mark.parametrize(
    ("longest", "buckets", "lengths"),
    [
        (128, None, [16, 32, 64, 128]),
        (512, None, [64, 128, 256, 512]),
        (100, None, [16, 32, 64, 100]),
        (16, None, [16]),
        (8, None, [8]),
        (128, [128, 64], [64, 128]),
        (64, [64, 128], [64]),  # the artifact takes no more
    ],
)
def test_lengths_that_are_warmed_up(make: Make, longest: int, buckets: list[int] | None, lengths: list[int]) -> None:
    asked = {"task": "feature-extraction", "maxSequenceLength": 512} | ({"sequenceBuckets": buckets} if buckets else {})
    wish, served = make(builders.model(build=asked), report={"max_sequence_length": longest})

    assert triton_sizing.warmup_lengths(wish.models[0], served[0].artifact.report) == lengths


@pytest.mark.parametrize(
    ("asked", "limits", "requests"),
    [
        ({}, {"cpu": "2", "memory": "M"}, {"cpu": "500m", "memory": "M"}),
        ({"limits": {"cpu": "4", "memory": "8Gi"}}, {"cpu": "4", "memory": "8Gi"}, {}),
        ({"requests": {"cpu": "3"}}, {"cpu": "3", "memory": "M"}, {"cpu": "3", "memory": "M"}),
        ({"requests": {"memory": "9Gi"}}, {"cpu": "2", "memory": "9216Mi"}, {"cpu": "500m", "memory": "9Gi"}),
        ({"requests": {"memory": "1Mi"}}, {"cpu": "2", "memory": "M"}, {"cpu": "500m", "memory": "1Mi"}),
    ],
)
def test_what_a_user_writes_wins_and_the_rest_is_derived(
    make: Make, asked: dict[str, Any], limits: dict[str, str], requests: dict[str, str]
) -> None:
    wish, served = make(server={"resources": asked})
    derived = triton_sizing.mib(triton_sizing.memory_bytes(served))

    made = triton_sizing.resources(wish, served)

    known = {"M": derived}
    assert made["limits"] == {name: known.get(value, value) for name, value in limits.items()}
    assert made["requests"] == {name: known.get(value, value) for name, value in requests.items()}


# Measured on the real tritonserver 24.10 with ONNX Runtime 1.32: anonymous and shared memory after the largest batches.
@pytest.mark.parametrize(
    ("size", "parameters", "outputs", "length", "instances", "measured"),
    [
        (86, 22_560_505, [-1, 384], 128, 1, 182),
        (86, 22_560_505, [-1, 384], 512, 2, 1226),
        (415, 108_874_220, [2], 128, 1, 717),
        (415, 108_872_683, [-1, 768], 512, 1, 1236),
    ],
)
def test_derived_memory_covers_what_was_measured(  # noqa: PLR0913, PLR0917 - a table
    make: Make, size: int, parameters: int, outputs: list[int], length: int, instances: int, measured: int
) -> None:
    report = {"size_bytes": size * MIB, "parameters": parameters, "max_sequence_length": length}
    report |= {"outputs": [builders.TensorSpec(name="y", dtype="FP32", dims=outputs)]}
    _, served = make(builders.model(serving={"maxBatchSize": 8, "instances": instances}), report=report)

    derived = triton_sizing.memory_bytes(served) / MIB

    assert 1.15 * measured < derived < 3 * measured


@given(st.integers(1, 15), st.integers(1, 1023), st.integers(8, 8191), st.integers(10**5, 2 * 10**9))
def test_more_of_anything_never_needs_less(instances: int, batch: int, length: int, size: int) -> None:
    def needed(count: int, largest: int, longest: int, model: int) -> tuple[int, int]:
        serving = {"instances": count, "maxBatchSize": largest}
        report = {"max_sequence_length": longest, "size_bytes": model}
        _, served = make(builders.model(serving=serving), report=report)
        return triton_sizing.memory_bytes(served), triton_sizing.shm_bytes(served)

    less, more = needed(instances, batch, length, size), needed(instances + 1, batch + 1, length + 1, size + 1)

    assert less[0] < more[0]
    assert less[1] <= more[1]
    assert less[1] < less[0]


def test_shared_memory_holds_the_largest_batch_of_every_instance(make: Make) -> None:
    report = {"max_sequence_length": 512, "outputs": [builders.TensorSpec(name="y", dtype="FP32", dims=[-1, 768])]}
    _, served = make(builders.model(serving={"instances": 4, "maxBatchSize": 32}), report=report)

    assert triton_sizing.shm_bytes(served) > 4 * 2 * 32 * 512 * 768 * 4


def test_shared_memory_is_part_of_the_memory_limit(make: Make) -> None:
    def needed(dims: list[int]) -> tuple[int, int]:
        outputs = [builders.TensorSpec(name="y", dtype="FP32", dims=dims)]
        _, served = make(builders.model(serving={"maxBatchSize": 64}), report={"outputs": outputs})
        return triton_sizing.memory_bytes(served), triton_sizing.shm_bytes(served)

    narrow, wide = needed([-1, 768]), needed([-1, 9, 768])

    assert wide[0] - narrow[0] == wide[1] - narrow[1] > 0


def test_a_slow_start_gets_the_time_it_needs(make: Make) -> None:
    big = {"size_bytes": 1_340_000_000, "parameters": 335_000_000, "max_sequence_length": 512}
    wish, small = make()
    _, large = make(report=big)
    _, cold = make(builders.model(serving={"warmup": False}), report=big)

    seconds = [triton_sizing.startup_seconds(wish, served) for served in (small, cold, large)]

    assert 120 <= seconds[0] < seconds[1] < seconds[2] <= 3600


def test_the_cpu_limit_is_the_users_or_never_below_their_request(make: Make) -> None:
    wish, _ = make(server={"resources": {"requests": {"cpu": "6"}}})

    assert sizing.cpu_limit(wish) == quantities.parse("6")
