"""When two answers are too far apart, and which requests find it out."""

import numpy as np
import pytest

from bert_build import config_checks, figures, samples
from bert_operator.api.spec import Fidelity, Precision
from unit.bert_build import building


def distance(reference: object, answer: object) -> figures.Distance:
    found = figures.Distance()
    found.add(np.atleast_2d(np.asarray(reference, float)), np.atleast_2d(np.asarray(answer, float)))
    return found


@pytest.mark.parametrize(
    ("reference", "answer", "max_abs", "cosine"),
    [
        ([1, 0], [1, 0], 0, 1),
        ([1, 0], [0, 1], 1, 0),
        ([1, 0], [-1, 0], 2, -1),
        ([0, 0], [0, 0], 0, 1),
        ([0, 0], [1, 0], 1, 0),
        ([[1, 0], [3, 4]], [[1, 0], [4, 3]], 1, 0.96),
    ],
)
def test_distance_is_the_worst_row(reference: object, answer: object, max_abs: float, cosine: float) -> None:
    found = distance(reference, answer)
    assert (found.max_abs, found.min_cosine) == (max_abs, pytest.approx(cosine))


def test_limits_of_the_spec_are_literal_and_defaults_grow_with_the_outputs() -> None:
    assert figures.limits(Fidelity(max_abs_difference="0.5", min_cosine="0.9"), Precision.FP32, 100) == figures.Limits(
        0.5, 0.9
    )
    assert figures.limits(Fidelity(), Precision.FP32, 0.1) == figures.Limits(1e-3, 0.9999)
    assert figures.limits(Fidelity(), Precision.FP32, 20).max_abs == pytest.approx(0.02)


def test_padding_never_counts_and_logits_always_do() -> None:
    real = np.array([[True, False]])
    hidden = np.array([[[1.0, 2.0], [3.0, 4.0]]])
    assert figures.rows(hidden, real).tolist() == [[1.0, 2.0]]
    assert figures.rows(np.array([[5.0, 6.0]]), real).tolist() == [[5.0, 6.0]]


def supply(**config: int) -> samples.Tokens:
    parsed = config_checks.Config.model_validate({**building.CONFIG, **config})
    return samples.Tokens(parsed, list(range(5, 40)), (1, 2))


def test_every_bucket_is_compared_with_padding_batches_and_second_segments() -> None:
    asked = list(samples.comparison(supply(), building.build(maxSequenceLength=32, sequenceBuckets=[12, 24])))
    lengths = {one.inputs["input_ids"].shape[1] for one in asked}
    assert {1, 12, 24, 32} <= lengths
    assert max(lengths) == 32
    assert any(one.inputs["input_ids"].shape[0] > 1 and not one.real.all() for one in asked)
    assert any((one.inputs["token_type_ids"] == 1).any() for one in asked)
    assert all(values.dtype == np.int64 for one in asked for values in one.inputs.values())
    assert all((one.inputs["input_ids"] >= 0).all() and (one.inputs["input_ids"] < 40).all() for one in asked)


def test_model_that_knows_one_kind_of_segment_is_never_asked_for_another() -> None:
    asked = [
        *samples.comparison(supply(type_vocab_size=1), building.build()),
        *samples.golden(supply(type_vocab_size=1), building.build()),
    ]
    assert not any((one.inputs["token_type_ids"] != 0).any() for one in asked)


def test_golden_requests_are_few_of_batch_size_one_and_within_the_longest_input() -> None:
    asked = list(samples.golden(supply(), building.build(maxSequenceLength=16)))
    assert [one.inputs["input_ids"].shape for one in asked] == [(1, 8), (1, 16)]
    assert not asked[1].real.all()
