"""The INT8 ladder on a small real graph: what is tried, what is taken, what is said about it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bert_build import config_checks, fidelity, formats, int8, job, onnx_session, probes, publish, recorded, samples
from bert_build.failures import BuildError
from bert_build.recorded import Recorded
from bert_build.state import State
from bert_operator.api import names
from bert_operator.api.report import (
    MAX_REPORT_BYTES,
    BatchSensitivity,
    BuildReport,
    EngineProfile,
    Lowering,
    TensorSpec,
)
from support import onnx_bert
from unit.bert_build import building

SHAPE = onnx_bert.Shape(layers=2, hidden=64, vocabulary=200, longest=16, labels=None)


def kinds(graph: Path) -> set[str]:
    return {node.op_type for node in onnx.load(graph).graph.node}


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Job whose FP32 graph is made and whose source has answered; the graph is the source."""
    monkeypatch.setenv("BERTOPS_TERMINATION_LOG", str(tmp_path / "report"))

    def make(**wish: Any) -> job.Job:
        made = building.job(tmp_path, building.request(precision="int8", **wish))
        made.artifact.mkdir()
        onnx_bert.write(made.artifact / names.ONNX_FILE, SHAPE)
        config = config_checks.Config.model_validate(building.CONFIG | {"vocab_size": SHAPE.vocabulary})
        supply = samples.Tokens(config, list(np.random.default_rng(2).integers(5, SHAPE.vocabulary, 600)), None)
        ask = onnx_session.open_session(made.artifact).answer
        build = made.request.build
        texts = [Recorded(one, ask(one.inputs)) for one in probes.texts(made.model, supply, build)]
        recorded.save(made.work / recorded.FILE, texts, 0, probes.calibration(made.model, supply, build))
        np.savez(made.work / names.GOLDEN_FILE, allow_pickle=False, **recorded.entry(0, texts[0]))
        return made

    return make


def compared(made: job.Job) -> State:
    state = State(request_key="k1", artifact_key="ab" * 16, architecture="BertModel")
    return fidelity.run(made, state)


def test_the_static_graph_is_taken_and_no_neighbour_changes_its_answers(staged: Any, tmp_path: Path) -> None:
    made = staged()
    state = compared(made)
    graph = made.artifact / names.ONNX_FILE
    onnx.checker.check_model(onnx.load(graph), full_check=True)
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds(graph)
    assert state.lowering is not None
    assert (state.lowering.achieved, state.lowering.method, state.lowering.why) == ("int8", "static", "")
    assert 0.2 < state.lowering.size_ratio < 0.5
    assert state.lowering.speed_ratio > 0
    assert state.fidelity is not None
    assert state.fidelity.batch_sensitivity is not None
    assert state.fidelity.batch_sensitivity.neighbours > 0.99999
    assert 0.97 < state.fidelity.min_cosine < 0.99999
    publish.run(made, state)
    report = BuildReport.model_validate_json((tmp_path / "report").read_text())
    assert (report.precision, report.lowering) == ("int8", state.lowering)


def test_where_static_ranges_dont_fit_the_dynamic_graph_is_taken(staged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "ranges", lambda source, _: dict.fromkeys(_activations(source), int8.Range(-0.1, 0.1)))
    made = staged()
    state = compared(made)
    assert "MatMulInteger" in kinds(made.artifact / names.ONNX_FILE)
    assert state.lowering is not None
    assert (state.lowering.achieved, state.lowering.method) == ("int8", "dynamic")
    assert state.lowering.why.startswith("static int8: output last_hidden_state of")


def _activations(source: Path) -> list[str]:
    return [node.input[0] for node in int8.products(onnx.load(source).graph)]


def test_what_isnt_close_enough_in_int8_is_published_in_fp32_and_says_why(staged: Any) -> None:
    made = staged(fidelity={"minCosine": "0.99999"})
    state = compared(made)
    assert state.lowering is not None
    assert (state.lowering.asked, state.lowering.achieved, state.lowering.method) == ("int8", "fp32", "")
    assert "static int8: " in state.lowering.why
    assert (state.lowering.size_ratio, state.lowering.speed_ratio) == (1.0, 1.0)
    assert "QuantizeLinear" not in kinds(made.artifact / names.ONNX_FILE)
    assert state.fidelity is not None
    assert state.fidelity.min_cosine > 0.99999


def test_on_failure_fail_stops_and_tells_what_was_found(staged: Any) -> None:
    made = staged(fidelity={"minCosine": "0.99999", "onFailure": "Fail"})
    with pytest.raises(BuildError) as caught:
        compared(made)
    assert caught.value.reason == "FidelityExceeded"
    assert "static int8: " in caught.value.message
    assert "dynamic int8: " in caught.value.message
    assert "onFailure: Fallback" in caught.value.next_step


def test_a_broken_conversion_isnt_hidden_by_wide_limits(staged: Any) -> None:
    made = staged()
    model = onnx.load(made.artifact / names.ONNX_FILE)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "token_type_ids":
                node.input[place] = "attention_mask"
    onnx.save(model, made.artifact / names.ONNX_FILE)
    with pytest.raises(BuildError) as caught:
        compared(made)
    assert "limit 0.99999" in caught.value.message


def test_a_quantised_build_is_another_artifact() -> None:
    fp32, lowered = (formats.recipe(building.build(format="onnx", precision=name)) for name in ("fp32", "int8"))
    assert lowered.name == fp32.name == "onnx"
    assert lowered.exporter == f"{fp32.exporter}-{formats.QUANTISER}"
    assert "onnxruntime" in lowered.packages


@pytest.mark.parametrize("values", [np.zeros(100, np.float32), np.linspace(0.5, 2, 100, dtype=np.float32)])
def test_zero_is_always_a_level(values: np.ndarray) -> None:
    """Padding and ReLU-like functions make zeros; a level beside it would shift all of them."""
    found = int8._best_range(values)
    assert 0 <= found.zero <= 255
    assert found.low <= 0 <= found.high


def test_rare_outliers_are_clipped() -> None:
    values = np.random.default_rng(3).normal(size=200_000).astype(np.float32)
    values[0] = 60.0
    assert int8._best_range(values).high < 60


def test_the_longest_report_is_carried() -> None:
    """Longer than anything a build says: the words are cut before they get here."""
    tensor = TensorSpec(name="x" * 24, dtype="INT64", dims=[-1, 1024])
    company = BatchSensitivity(alone=1 / 3, padded=1 / 3, mixed=1 / 3, neighbours=1 / 3)
    one = building.report()
    figures = one.fidelity.model_copy(
        update={"batch_sensitivity": company, "agreement": 1 / 3, "max_abs_difference": 1 / 3}
    )
    changes = {
        "lowering": Lowering(asked="int8", achieved="fp32", why="ж" * 240),
        "fidelity": figures,
        "inputs": [tensor] * 3,
        "outputs": [tensor] * 2,
        "toolchain": {f"package-{number}": "1.23.456+abcdef" for number in range(8)},
        "durations_seconds": {f"step-{number}": 1234.56 for number in range(6)},
        "profiles": [EngineProfile(min=[1, 1], opt=[16, 1024], max=[1024, 8192])] * 9,
        "revision": f"sha256:{'a' * 64}",
        "manifest_sha256": "b" * 64,
    }
    text = one.model_copy(update=changes).model_dump_json(by_alias=True)
    assert len(text.encode()) <= MAX_REPORT_BYTES
