"""When an answer is too far from its source's, which texts find it out, and in what company they are asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from bert_build import arrangements, config_checks, figures, probes, samples
from bert_build.arrangements import Kind
from bert_build.failures import BuildError
from bert_operator.api.spec import Fidelity, Precision
from unit.bert_build import building

STRICT = figures.Limits(1e-4, 0.99999, 1.0, 1e-4)
LOOSE = figures.Limits(0.25, 0.97, 0.98, 0.01)


def distance(reference: object, answer: object, name: str = "last_hidden_state") -> figures.Distance:
    return figures.distance(name, np.asarray(reference, float), np.asarray(answer, float), LOOSE)


@pytest.mark.parametrize(
    ("reference", "answer", "max_abs", "cosine"),
    [
        ([1, 0], [1, 0], 0, 1),
        ([1, 0], [0, 1], 1, 0),
        ([1, 0], [-1, 0], 2, -1),
        ([0, 0], [0, 0], 0, 1),
        ([0, 0], [1, 0], 1, 0),
        ([[1, 0], [3, 4]], [[1, 0], [4, 3]], 1, 25 / 26),
    ],
)
def test_distance_is_the_largest_difference_and_the_direction_of_the_whole_text(
    reference: object, answer: object, max_abs: float, cosine: float
) -> None:
    found = distance(reference, answer)
    assert (found.max_abs, found.cosine) == (max_abs, pytest.approx(cosine))


def test_logits_near_zero_have_no_direction_but_vectors_do() -> None:
    near, turned = [0.1, -0.1], [-0.1, 0.1]
    assert distance(near, turned, "logits").cosine == 1
    assert distance(near, turned, "sentence_embedding").cosine == pytest.approx(-1)
    assert distance([9.0, -9.0], [-9.0, 9.0], "logits").cosine == pytest.approx(-1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_never_within(bad: float) -> None:
    with np.errstate(invalid="ignore"):
        found = distance([0.1, 0.1], [0.1, bad], "logits")
    assert not found.within(LOOSE, np.array([0.1, 0.1]))


def test_limits_of_the_spec_are_literal_and_defaults_grow_with_the_outputs() -> None:
    wish = Fidelity(max_abs_difference="0.5", min_cosine="0.9", min_agreement="0.7")
    found = figures.limits(wish, Precision.FP32)
    assert (found.max_abs(np.array([100.0])), found.min_cosine, found.min_agreement) == (0.5, 0.9, 0.7)
    default = figures.limits(Fidelity(), Precision.FP32)
    assert default == STRICT
    assert default.max_abs(np.array([0.2])) == 1e-4
    assert default.max_abs(np.array([-20.0, 3.0])) == pytest.approx(2e-3)


def test_decisions_are_labels_tags_and_spans_and_close_ones_are_ties() -> None:
    tags = np.array([[3.0, 1.0, 2.95], [0.0, 5.0, 1.0]])
    assert figures.decisions("logits", tags) is not None
    assert np.array_equal(figures.decisions("logits", tags), [0, 1])  # type: ignore[arg-type]
    assert figures.ties(tags, LOOSE).tolist() == [True, False]
    assert figures.decisions("start_logits", np.array([0.0, 7.0, 1.0])) == [1]
    assert figures.decisions("logits", np.array([2.5])) is None
    assert figures.decisions("last_hidden_state", tags) is None


def supply(**config: int) -> samples.Tokens:
    parsed = config_checks.Config.model_validate({**building.CONFIG, **config})
    return samples.Tokens(parsed, list(range(5, 40)), (1, 2))


def texts(**config: int) -> list[samples.Sample]:
    build = building.build(maxSequenceLength=32, sequenceBuckets=[12, 24])
    return probes.texts(Path(), supply(**config), build)


def test_every_length_is_asked_alone_and_unpadded_with_second_segments() -> None:
    asked = texts()
    assert [one.inputs["input_ids"].shape for one in asked] == [(1, n) for n in (1, 9, 12, 21, 24, 29, 32)]
    assert all(one.real.all() for one in asked)
    assert any((one.inputs["token_type_ids"] == 1).any() for one in asked)
    assert all(values.dtype == np.int64 for one in asked for values in one.inputs.values())
    assert all((one.inputs["input_ids"] >= 0).all() and (one.inputs["input_ids"] < 40).all() for one in asked)


def test_model_that_knows_one_kind_of_segment_is_never_asked_for_another() -> None:
    golden = samples.golden(supply(type_vocab_size=1), building.build())
    assert not any((one.inputs["token_type_ids"] != 0).any() for one in (*texts(type_vocab_size=1), *golden))


def test_texts_of_the_user_take_the_place_of_the_built_in_ones(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"where": 7, "is": 8, "it": 9, "?": 1}, unk_token="?"))  # noqa: S106 - a word
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    wish = {"samples": [{"text": "where is it"}, {"text": "where", "textPair": "it " * 40}]}
    build = building.build(maxSequenceLength=16, fidelity=wish)
    with pytest.raises(BuildError, match="no tokenizer that fits its vocabulary of 40 ids"):
        probes.texts(tmp_path, supply(), build)
    words.save(str(tmp_path / "tokenizer.json"))
    one, pair = probes.texts(tmp_path, supply(), build)
    assert one.inputs["input_ids"].tolist() == [[7, 8, 9]]
    assert pair.inputs["input_ids"].shape == (1, 16)
    assert pair.inputs["token_type_ids"].tolist() == [[0, *[1] * 15]]
    assert len(probes.calibration(tmp_path, supply(), build)) > 10


def test_each_text_is_asked_alone_in_a_batch_and_padded_to_each_bucket() -> None:
    build, asked = building.build(maxSequenceLength=32, sequenceBuckets=[12, 24]), texts()
    found = list(arrangements.arrange(asked, build, pad=3))
    every = set(range(len(asked)))
    assert {one.texts for one in found if one.kind is Kind.ALONE} == {(index,) for index in every}
    assert {index for one in found if one.kind is Kind.MIXED for index in one.texts} == every
    assert {one.sample.real.shape[1] for one in found if one.kind is Kind.PADDED} == {12, 24, 32}
    for one in found:
        for row, index in enumerate(one.texts):
            ids, own = one.sample.inputs["input_ids"][row], asked[index].inputs["input_ids"][0]
            assert ids[: own.size].tolist() == own.tolist()
            assert set(ids[own.size :]) <= {3}
            assert one.sample.real[row].sum() == own.size


@pytest.mark.parametrize("own", [None, [140], [7, 512], [512, 512]])
def test_a_short_text_is_padded_to_every_bucket_alone_or_in_company(own: list[int] | None) -> None:
    """Long requests cost time: what a mixed batch shows isn't asked once more, whatever texts the user gives."""
    build, made = building.build(maxSequenceLength=512), supply(max_position_embeddings=512)
    asked = probes.texts(Path(), made, build) if own is None else [probes._of_length(made, length) for length in own]
    found = list(arrangements.arrange(asked, build, pad=3))
    used = [(int(count), one.real.shape[1]) for one in (one.sample for one in found) for count in one.real.sum(axis=1)]
    shortest = min(text.real.size for text in asked if text.real.size > 1)
    padded = [length for count, length in used if 1 < count < length]
    assert {bucket for bucket in samples.compared(build) if bucket > shortest} <= set(padded)
    assert padded.count(512) <= 1


@pytest.mark.parametrize(
    ("wish", "longest"),
    [({}, 128), ({"fidelity": {"samples": [{"text": "where"}]}}, 512), ({"format": "tensorrt"}, 512)],
    ids=["built in", "the user's", "an engine"],
)
def test_long_texts_of_ours_are_not_asked_in_batches(wish: dict[str, Any], longest: int) -> None:
    """They cost most of a build's time, and one graph serves every length; every text is asked in some company."""
    build, made = building.build(maxSequenceLength=512, **wish), supply(max_position_embeddings=512)
    asked = probes.texts(Path(), made, building.build(maxSequenceLength=512))
    found = list(arrangements.arrange(asked, build, pad=3))
    mixed = [one for one in found if one.kind is Kind.MIXED]
    assert max(one.sample.real.shape[1] for one in mixed) == longest
    alone = {index for one in found if one.kind is not Kind.MIXED for index in one.texts}
    assert {index for one in mixed for index in one.texts} == {
        index for index in alone if asked[index].real.size <= longest
    }


def test_a_bucket_that_one_token_alone_is_padded_to_gets_a_longer_text_too() -> None:
    build, made = building.build(maxSequenceLength=16, sequenceBuckets=[8]), supply()
    asked = [probes._of_length(made, length) for length in (1, 2, 8)]
    found = list(arrangements.arrange(asked, build, pad=3))
    padded = {(one.texts[0], one.sample.real.shape[1]) for one in found if one.kind is Kind.PADDED}
    assert padded == {(0, 8), (1, 8), (2, 16)}


def test_a_trace_is_asked_at_every_length_that_is_served() -> None:
    build, made = building.build(maxSequenceLength=2048, format="torchscript"), supply(max_position_embeddings=2048)
    asked = list(arrangements.arrange(probes.texts(Path(), made, build), build, pad=3))
    assert set(samples.buckets(build)) <= {one.sample.real.shape[1] for one in asked}


def test_an_engine_is_never_asked_for_a_larger_batch_than_it_takes() -> None:
    build = building.build(maxSequenceLength=32, format="tensorrt", maxBatchSize=1)
    assert {one.sample.real.shape[0] for one in arrangements.arrange(texts(), build, pad=0)} == {1}


def test_golden_requests_are_few_of_batch_size_one_and_within_the_longest_input() -> None:
    asked = list(samples.golden(supply(), building.build(maxSequenceLength=16)))
    assert [one.inputs["input_ids"].shape for one in asked] == [(1, 8), (1, 16)]
    assert not asked[1].real.all()
