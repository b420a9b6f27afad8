"""The fidelity gate: what is broken on purpose is caught, and what company does to answers is measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_build import answer, config_checks, fidelity, probes, recorded, samples
from bert_build.failures import BuildError
from bert_build.recorded import Recorded, Recording
from bert_build.samples import Arrays
from bert_operator.api.spec import Precision, Task
from support import numpy_bert
from unit.bert_build import building

Ask = Callable[[Arrays], Arrays]
TASKS = {"logits": Task.SEQUENCE_CLASSIFICATION, "last_hidden_state": Task.FEATURE_EXTRACTION}


class Session:
    """An artifact that answers as told."""

    def __init__(self, ask: Ask) -> None:
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.answer = ask


def source(task: Task) -> numpy_bert.Reference:
    config = config_checks.Config.model_validate(numpy_bert.CONFIG)
    return numpy_bert.Reference(config, task, numpy_bert.random_weights(task))


def record(ask: Ask, vocabulary: int = 400) -> Recording:
    config = config_checks.Config.model_validate(numpy_bert.CONFIG | {"vocab_size": vocabulary})
    supply = samples.Tokens(config, list(np.random.default_rng(1).integers(5, vocabulary, 500)), None)
    asked = probes.texts(Path(), supply, building.build(sequenceBuckets=[8, 16]))
    return Recording([Recorded(one, ask(one.inputs)) for one in asked])


def gate(recording: Recording, ask: Ask, **wish: Any) -> Any:
    return fidelity.compare(building.build(sequenceBuckets=[8, 16], **wish), recording, Session(ask))


@pytest.fixture(scope="module", params=TASKS)
def judged(request: pytest.FixtureRequest) -> tuple[Recording, Ask, str]:
    ask = source(TASKS[request.param]).answer
    return record(ask), ask, request.param


Judged = tuple[Recording, Ask, str]


def refused(recording: Recording, ask: Ask, **wish: Any) -> str:
    with pytest.raises(BuildError) as caught:
        gate(recording, ask, **wish)
    assert caught.value.reason == "FidelityExceeded"
    return caught.value.message


def test_what_answers_like_its_source_passes_and_company_changes_nothing(judged: Judged) -> None:
    recording, ask, output = judged
    found = gate(recording, ask)
    assert found.samples == len(recording.texts) > 4
    assert found.agreement == (1.0 if output == "logits" else None)
    company = found.batch_sensitivity
    assert min(company.alone, company.padded, company.mixed, company.neighbours) > 0.999999


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda inputs: {**inputs, "attention_mask": np.ones_like(inputs["input_ids"])}, "(padded)"),
        (lambda inputs: {**inputs, "token_type_ids": np.zeros_like(inputs["input_ids"])}, "(alone)"),
        (lambda inputs: {**inputs, "input_ids": inputs["input_ids"][:, ::-1]}, "(alone)"),
    ],
    ids=["wrong mask", "dropped token_type_ids", "wrong order"],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_a_broken_conversion_is_caught(judged: Judged, spoil: Ask, where: str, precision: str) -> None:
    recording, ask, _ = judged
    extra = {"precision": precision, "format": "tensorrt"} if precision != "fp32" else {}
    assert where in refused(recording, lambda inputs: ask(spoil(inputs)), **extra)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_overflowed_fp16_is_caught() -> None:
    """FP16 arithmetic by numpy: ONNX Runtime computes FP16 graphs in FP32 on CPUs, where nothing overflows."""
    wish = {"precision": "fp16", "format": "tensorrt"}
    for factor in (1, 6e4):
        model, half = (source(Task.FEATURE_EXTRACTION) for _ in range(2))
        # Weights that FP16 holds; what they make of activations is another matter.
        model._weights["encoder.layer.0.intermediate.dense.weight"] *= factor / 2
        half._weights = {name: values.astype(np.float16) for name, values in model._weights.items()}
        assert all(np.isfinite(values).all() for values in half._weights.values())
        recording = record(model.answer)
        if factor == 1:
            assert gate(recording, half.answer, **wish).max_abs_difference > 1e-4
        else:
            assert "NaN" in refused(recording, half.answer, **wish)


def test_only_attended_positions_count(judged: Judged) -> None:
    recording, ask, output = judged

    def noisy(inputs: Arrays) -> Arrays:
        found = ask(inputs)
        if output == "last_hidden_state":
            found[output][inputs["attention_mask"] == 0] = np.nan
        return found

    assert gate(recording, noisy).max_abs_difference < 1e-4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_number_that_is_none_is_enough(judged: Judged, bad: float) -> None:
    recording, ask, output = judged

    def spoilt(inputs: Arrays) -> Arrays:
        found = {output: ask(inputs)[output].copy()}
        found[output].reshape(-1)[0] = bad
        return found

    assert "NaN or infinity" in refused(recording, spoilt)


def test_an_output_that_is_missing_or_of_another_shape_is_named(judged: Judged) -> None:
    recording, ask, output = judged
    assert f"output {output} isn't there" in refused(recording, lambda _: {})
    assert "has shape" in refused(recording, lambda inputs: {output: ask(inputs)[output][..., :1]})


def test_an_artifact_whose_neighbours_change_answers_shows_it() -> None:
    output, ask = "last_hidden_state", source(Task.FEATURE_EXTRACTION).answer
    recording = record(ask)

    def sensitive(inputs: Arrays) -> Arrays:
        found = ask(inputs)[output]
        return {output: found + 0.05 * np.abs(found).max() * (len(found) > 1) * np.sin(np.arange(found.shape[-1]))}

    wish = {"precision": "fp16", "format": "tensorrt", "fidelity": {"maxAbsDifference": "9", "minCosine": "0.9"}}
    company = gate(recording, sensitive, **wish).batch_sensitivity
    assert company.alone > 0.999999
    assert company.padded > 0.999999
    assert company.mixed < 0.9999
    assert company.neighbours < 0.9999


def test_decisions_that_change_are_counted() -> None:
    """Near enough by every figure, and yet another label."""
    recording = record(lambda inputs: {"logits": np.repeat([[10.0, 8.0, -9.0]], len(inputs["input_ids"]), axis=0)})

    def turned(inputs: Arrays) -> Arrays:
        return {"logits": np.repeat([[9.0, 9.5, -9.0]], len(inputs["input_ids"]), axis=0)}

    wish = {"precision": "int8", "format": "onnx"}
    assert "5 of 5 decisions changed" in refused(recording, turned, **wish)
    assert gate(recording, turned, **wish, fidelity={"minAgreement": "0"}).agreement == 0


def test_spans_are_judged_without_padding() -> None:
    def spans(inputs: Arrays, padding: float = 0.0) -> Arrays:
        scores = np.where(inputs["attention_mask"] == 1, inputs["input_ids"] / 40.0, padding)
        return {"start_logits": scores, "end_logits": -scores}

    recording = record(spans)
    assert gate(recording, lambda inputs: spans(inputs, 99.0)).agreement == 1.0
    short = lambda inputs: {name: values[:, :1] for name, values in spans(inputs).items()}  # noqa: E731
    assert "has shape [1, 1], the source model's has [1, 5]" in refused(recording, short)


def test_an_input_to_which_the_source_doesnt_react_is_warned_about() -> None:
    ask = source(Task.FEATURE_EXTRACTION).answer
    recording = record(ask)
    config = config_checks.Config.model_validate(numpy_bert.CONFIG)
    supply = samples.Tokens(config, list(range(5, 300)), None)
    limits = fidelity.figures.limits(building.build().fidelity, Precision.FP32)
    assert answer._blind_spots(ask, recording.texts, limits, supply) == []

    def deaf(inputs: Arrays) -> Arrays:
        return ask({**inputs, "token_type_ids": np.zeros_like(inputs["input_ids"])})

    warnings = answer._blind_spots(deaf, record(deaf).texts, limits, supply)
    assert [one.split(":")[0] for one in warnings] == ["the comparison is blind to token_type_ids"]


def test_what_was_recorded_comes_back(tmp_path: Path) -> None:
    recording = record(lambda inputs: {"logits": inputs["input_ids"][:, :2].astype(np.float32)})
    texts = [one for one in recording.texts if one.sample.real.size > 1]
    recorded.save(tmp_path / "a.npz", texts, 7, [texts[0].sample])
    found = recorded.load(tmp_path / "a.npz")
    assert [one.sample.name for one in found.texts] == [one.sample.name for one in texts]
    assert found.pad == 7
    assert found.calibration[0].inputs["input_ids"].tolist() == texts[0].sample.inputs["input_ids"].tolist()
