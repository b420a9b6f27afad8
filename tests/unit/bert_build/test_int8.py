"""The INT8 ladder on a small real graph: what is tried, what is taken, what is said about it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from bert_build import (
    config_checks,
    fidelity,
    formats,
    golden_answers,
    int8,
    job,
    onnx_session,
    probes,
    publish,
    recorded,
    samples,
)
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
        golden = [Recorded(one, ask(one.inputs)) for one in samples.golden(supply, build)]
        entries = [recorded.entry(number, one) for number, one in enumerate(golden)]
        np.savez(made.work / names.GOLDEN_FILE, allow_pickle=False, **{k: v for one in entries for k, v in one.items()})
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


def test_a_graph_that_fails_a_golden_request_isnt_taken(staged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every server must repeat them: a pod with such a graph would never be ready."""
    made = staged()
    asked = golden_answers.read(made.work / names.GOLDEN_FILE)[1].inputs
    assert 0 < asked["attention_mask"].sum() < asked["attention_mask"].size
    opened = onnx_session.open_session

    def spoilt(folder: Path) -> Any:
        session = opened(folder)
        answer = session.answer

        def turned(request: samples.Arrays) -> samples.Arrays:
            sign = -1 if np.array_equal(request["input_ids"], asked["input_ids"]) else 1
            return {name: sign * values for name, values in answer(request).items()}

        return SimpleNamespace(inputs=session.inputs, outputs=session.outputs, answer=turned)

    monkeypatch.setattr(
        onnx_session, "open_session", lambda folder: (spoilt if folder.name == "int8-static" else opened)(folder)
    )
    state = compared(made)
    assert state.lowering is not None
    assert (state.lowering.achieved, state.lowering.method) == ("int8", "dynamic")
    assert "golden request 1" in state.lowering.why


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


def test_limits_meant_for_int8_dont_prove_an_artifact_in_fp32(staged: Any) -> None:
    """What is published where INT8 isn't good enough is like every other FP32 artifact."""
    wide = {"minCosine": "0.1", "maxAbsDifference": "50", "minAgreement": "0"}
    made = staged(fidelity=wide)
    graph = onnx.load(made.artifact / names.ONNX_FILE)
    moved = next(tensor for tensor in graph.graph.initializer if tensor.name == "layer1.wide.weight")
    moved.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(moved) * np.float32(1.05), moved.name))
    onnx.save(graph, made.artifact / names.ONNX_FILE)
    with pytest.raises(BuildError, match=r"limit 0\.99999") as caught:
        compared(made)
    assert "build.precision: fp32" in caught.value.next_step


def test_a_graph_that_is_hardly_smaller_isnt_called_int8(staged: Any) -> None:
    """Weights that aren't plain operands of products stay as they are."""
    made = staged()
    graph = onnx.load(made.artifact / names.ONNX_FILE)
    for node in int8.products(graph.graph)[1:]:
        node.input[1] = turned = f"{node.input[1]}.turned"
        source = turned.removesuffix(".turned")
        place = list(graph.graph.node).index(node)
        graph.graph.node.insert(place, onnx.helper.make_node("Identity", [source], [turned]))
    onnx.save(graph, made.artifact / names.ONNX_FILE)
    state = compared(made)
    assert state.lowering is not None
    assert (state.lowering.achieved, state.lowering.size_ratio) == ("fp32", 1.0)
    assert "of fp32's size" in state.lowering.why


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_layers_may_share_a_weight_and_follow_each_other(tmp_path: Path, method: str) -> None:
    """ALBERT's layers are one; a factorised product is two without anything between."""
    source, target = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    floats, random = onnx.TensorProto.FLOAT, np.random.default_rng(4)
    weight, x = (random.standard_normal((32, 32)).astype(np.float32) / 6 for _ in range(2))
    nodes = [onnx.helper.make_node("MatMul", [one, "w"], [other]) for one, other in (("x", "y"), ("y", "z"))]
    ends = [onnx.helper.make_tensor_value_info(name, floats, ["n", 32]) for name in ("x", "z")]
    graph = onnx.helper.make_graph(nodes, "shared", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, source)
    if method == "static":
        int8.static(source, target, int8.ranges(source, [{"x": x}]))
    else:
        int8.dynamic(source, target)
    onnx.checker.check_model(onnx.load(target), full_check=True)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"x": x})
    wanted = (x @ weight @ weight).ravel()
    assert found.ravel() @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.999


def test_no_sum_of_two_products_leaves_16_bits(staged: Any) -> None:
    """x86 without VNNI adds u8 x s8 pairs in 16 bits that saturate: another node's artifact would be wrong there."""
    made = staged()
    compared(made)
    weights = [numpy_helper.to_array(one) for one in onnx.load(made.artifact / names.ONNX_FILE).graph.initializer]
    levels = [values.astype(int) for values in weights if values.dtype == np.int8 and values.ndim == 2]
    assert levels
    assert all(2 * 255 * np.abs(values).max() <= np.iinfo(np.int16).max for values in levels)


def test_a_quantised_build_is_another_artifact() -> None:
    fp32, lowered = (formats.recipe(building.build(format="onnx", precision=name)) for name in ("fp32", "int8"))
    assert lowered.name == fp32.name == "onnx"
    assert lowered.exporter == f"{fp32.exporter}-{formats.QUANTISER}"
    assert "onnxruntime" in lowered.packages


@pytest.mark.parametrize("values", [np.zeros(100, np.float32), np.linspace(0.5, 2, 100, dtype=np.float32)])
def test_zero_is_always_a_level(values: np.ndarray) -> None:
    """Padding and ReLU-like functions make zeros; a level beside it would shift all of them."""
    found = int8._best_range(*np.histogram(values, bins=64))
    assert 0 <= found.zero <= 255
    assert found.low <= 0 <= found.high


def test_rare_outliers_are_clipped() -> None:
    values = np.random.default_rng(3).normal(size=200_000).astype(np.float32)
    values[0] = 60.0
    assert int8._best_range(*np.histogram(values, bins=4096)).high < 60


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
