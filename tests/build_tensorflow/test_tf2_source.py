"""TensorFlow 2 SavedModel -> ONNX: asked by TensorFlow and by ONNX Runtime, and judged by numpy as well."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from bert_build import onnx_file, onnx_session, tensorflow_operations, tensorflow_source, tf2_graph, to_savedmodel
from bert_build.failures import BuildError
from bert_build.samples import Arrays
from bert_operator.api.spec import Task
from support import numpy_bert, tf2_bert
from support.build_bench import Bench

from .conftest import Built, built_once

FORMAT = {"format": "onnx", "framework": "tensorflow"}
TASKS = pytest.mark.parametrize("task", [Task.SEQUENCE_CLASSIFICATION, Task.FEATURE_EXTRACTION])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of one layer, for tests that read or copy it."""
    return tf2_bert.save(tmp_path_factory.mktemp("trained"), Task.SEQUENCE_CLASSIFICATION, num_hidden_layers=1)


@pytest.fixture
def classifier(bench: Bench, trained: Path) -> Bench:
    """A bench with that source."""
    shutil.copytree(trained, bench.source, dirs_exist_ok=True)
    return bench


@pytest.fixture(scope="module")
def of_task(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], Built]:
    return built_once(tmp_path_factory, tf2_bert.save, **FORMAT)


def requests() -> Arrays:
    """Three rows, padded as clients do."""
    ids = np.array([[2, 50, 60, 3, 0, 0], [2, 70, 80, 90, 99, 3], [2, 11, 3, 0, 0, 0]])
    mask = (ids > 0).astype(np.int64)
    types = np.array([[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@TASKS
def test_the_artifact_answers_like_the_source_and_like_numpy(of_task: Callable[[Task], Built], task: Task) -> None:
    built = of_task(task)
    report = built.report
    assert 0 < report.fidelity.max_abs_difference < 1e-4
    # Requests are int64 whatever the source asks for; a server is told by the artifact.
    assert [(spec.name, spec.dtype, spec.dims) for spec in report.inputs] == [
        ("input_ids", "INT64", [-1]), ("attention_mask", "INT64", [-1]), ("token_type_ids", "INT64", [-1]),
    ]  # fmt: skip
    name, dims = ("logits", [3]) if task is Task.SEQUENCE_CLASSIFICATION else ("last_hidden_state", [-1, 32])
    assert [(spec.name, spec.dtype, spec.dims) for spec in report.outputs] == [(name, "FP32", dims)]
    answer = onnx_session.open_session(built.folder).answer(requests())[name]
    reference = numpy_bert.load(built.bench.source, task)
    truth = reference.answer(requests())[name]
    real = requests()["attention_mask"] == 1 if task is Task.FEATURE_EXTRACTION else slice(None)
    assert np.abs(answer[real] - truth[real]).max() < 1e-4
    assert report.parameters == reference.parameters


def test_weights_are_written_once_and_ready_to_use(of_task: Callable[[Task], Built]) -> None:
    built = of_task(Task.FEATURE_EXTRACTION)
    model = onnx.load(built.folder / "model.onnx")
    assert [value.name for value in model.graph.input] == list(tensorflow_source.INPUTS)
    initializers = {entry.name for entry in model.graph.initializer}
    turned = [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in initializers]
    assert not turned
    assert (built.folder / "model.onnx").stat().st_size < 4 * built.report.parameters * 1.5


@pytest.mark.parametrize(
    ("rename", "dtype"),
    [
        ({"input_ids": "input_word_ids", "attention_mask": "input_mask", "token_type_ids": "input_type_ids"}, tf.int32),
        ({}, tf.int64),
    ],
)
def test_signatures_of_other_exports(bench: Bench, rename: dict[str, str], dtype: Any) -> None:
    tf2_bert.save(bench.source, Task.SEQUENCE_CLASSIFICATION, rename=rename, dtype=dtype, num_hidden_layers=1)
    report, _ = bench.build(**FORMAT)
    assert report.fidelity.max_abs_difference < 1e-4


def test_an_ignored_mask_is_refused(classifier: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    call = tensorflow_source.TensorFlowModel.call

    def deaf(model: tensorflow_source.TensorFlowModel) -> Any:
        def forgetful(**inputs: Any) -> Any:
            return call(model, **{**inputs, "attention_mask": tf.ones_like(inputs["attention_mask"])})

        shapes = {name: tf.TensorSpec([None, None], tf.int64, name) for name in tensorflow_source.INPUTS}
        return tf.function(forgetful, autograph=False).get_concrete_function(**shapes)

    monkeypatch.setattr(tf2_graph, "_traced", deaf)
    with pytest.raises(BuildError) as refused:
        classifier.run(**FORMAT)
    assert refused.value.reason == "FidelityExceeded"


def test_swapped_weights_are_refused(classifier: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    take_out = onnx_file.take_out

    def swapped(model: Any, known: Mapping[str, onnx_file.Weight], inputs: Any) -> list[onnx_file.Weight]:
        # The first two square matrices of one shape: a query and a key.
        first, second = [name for name, weight in known.items() if weight.shape == (32, 32)][:2]
        mixed = {
            first: onnx_file.Weight(first, known[first].shape, known[second].values),
            second: onnx_file.Weight(second, known[second].shape, known[first].values),
        }
        return take_out(model, {**known, **mixed}, inputs)

    monkeypatch.setattr(onnx_file, "take_out", swapped)
    with pytest.raises(BuildError) as refused:
        classifier.run(**FORMAT)
    assert refused.value.reason == "FidelityExceeded"


def save_signature(bench: Bench, function: Any, *specs: tf.TensorSpec) -> None:
    """A source with another signature."""
    numpy_bert.write_config(bench.source, Task.SEQUENCE_CLASSIFICATION)
    module = tf.Module()
    module.table = tf.Variable(tf.ones([400, 3]))
    module.serve = tf.function(lambda *inputs: function(module.table, *inputs), autograph=False)
    concrete = module.serve.get_concrete_function(*specs)
    tf.saved_model.save(module, str(bench.source), signatures={"serving_default": concrete})


def spec(name: str, shape: tuple[int | None, ...] = (None, None), dtype: Any = tf.int64) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name)


def logits(table: Any, ids: Any, *others: Any) -> dict[str, Any]:
    noise = sum(tf.reduce_mean(tf.cast(other, tf.float32)) for other in others)
    return {"logits": tf.reduce_mean(tf.gather(table, ids), axis=1) + noise}


WHOLE = (spec("input_ids"), spec("attention_mask"), spec("token_type_ids"))


@pytest.mark.parametrize(
    ("function", "specs", "task", "says"),
    [
        (logits, WHOLE[:2], "sequence-classification", "no input token_type_ids.*it has attention_mask, input_ids"),
        (logits, (*WHOLE, spec("pixels")), "sequence-classification", "also asks for pixels"),
        (
            logits,
            (spec("input_ids", (None, 128)), *WHOLE[1:]),
            "sequence-classification",
            r"Input input_ids .* has shape \[None, 128\]: batch and length must both be free",
        ),
        (logits, WHOLE, "feature-extraction", "no output last_hidden_state or sequence_output; it has logits"),
    ],
)
def test_a_signature_that_is_no_berts_is_refused_by_inspect(
    bench: Bench, function: Any, specs: tuple[tf.TensorSpec, ...], task: str, says: str
) -> None:
    save_signature(bench, function, *specs)
    with pytest.raises(BuildError, match=says) as refused:
        bench.run(until="inspect", task=task, **FORMAT)
    assert refused.value.next_step


def test_an_operation_without_counterpart_is_named(bench: Bench) -> None:
    def strange(table: Any, ids: Any, *others: Any) -> dict[str, Any]:
        answer = logits(table, ids, *others)["logits"]
        return {"logits": tf.math.bessel_i0(answer)}

    save_signature(bench, strange, *WHOLE)
    with pytest.raises(BuildError, match="no counterpart in ONNX: BesselI0"):
        bench.run(until="convert", **FORMAT)


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index"])
def test_a_damaged_source_is_named(classifier: Bench, file: str) -> None:
    (classifier.source / file).write_bytes((classifier.source / file).read_bytes()[:100])
    with pytest.raises(BuildError, match="TensorFlow can't read the SavedModel") as refused:
        classifier.run(until="inspect", **FORMAT)
    assert refused.value.reason == "SourceCorrupt"


def test_for_tf_serving_it_is_saved_again_with_a_mask_that_padding_does_not_fool(classifier: Bench) -> None:
    report, folder = classifier.build(framework="tensorflow", format="savedmodel")
    assert report.fidelity.max_abs_difference < 1e-5
    assert {spec.dtype for spec in report.inputs} == {"INT64"}
    assert [spec.name for spec in report.outputs] == ["logits"]
    session = to_savedmodel.open_session(folder)
    row = {name: values[:1, :4] for name, values in requests().items()}
    padded = {name: np.concatenate([values, values[:, :1], values[:, :1]], axis=1) for name, values in row.items()}
    difference = np.abs(session.answer(padded)["logits"] - session.answer(row)["logits"]).max()
    source = tensorflow_source.load(classifier.source, Task.SEQUENCE_CLASSIFICATION)
    fooled = np.abs(source.answer(padded)["logits"] - source.answer(row)["logits"]).max()
    assert difference < 1e-5
    assert fooled > 0.01


TAKEN = Path(tempfile.gettempdir(), "bertops-test-taken")


def table(_file: str) -> Any:
    keys, values = tf.constant(["a"]), tf.constant([1], tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0)


@pytest.mark.parametrize(
    ("operation", "trick"),
    [
        ("ReadFile", lambda: tf.strings.length(tf.io.read_file("/etc/passwd"))),
        ("WriteFile", lambda: tf.io.write_file(str(TAKEN), "x")),
        ("MatchingFiles", lambda: tf.size(tf.io.matching_files("/work/*"))),
        ("EagerPyFunc", lambda: tf.py_function(TAKEN.touch, [], [])),
        ("PyFunc", lambda: tf.numpy_function(lambda: np.int64(1), [], tf.int64)),
        ("PrintV2", lambda: tf.print("x", output_stream=f"file://{TAKEN}")),
        ("SaveV2", lambda: tf.raw_ops.SaveV2(
            prefix=str(TAKEN), tensor_names=["x"], shape_and_slices=[""], tensors=[1])),
        ("RestoreV2", lambda: tf.raw_ops.RestoreV2(
            prefix="/source/x", tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.int64])),
        ("DebugIdentityV2", lambda: tf.raw_ops.DebugIdentityV2(input=1, debug_urls=[f"file://{TAKEN}"])),
    ],
)  # fmt: skip
def test_an_operation_that_does_more_than_calculate_is_refused_before_it_is_loaded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, operation: str, trick: Any
) -> None:
    def spying(weights: Any, ids: Any, *others: Any) -> dict[str, Any]:
        def act() -> None:
            trick()

        tf.function(act, autograph=False)()
        return logits(weights, ids, *others)

    save_signature(bench, spying, *WHOLE)
    monkeypatch.setattr(tf.saved_model, "load", lambda *_: pytest.fail("it was loaded"))
    for refusing in (tensorflow_source.check, tensorflow_source.load):
        with pytest.raises(BuildError, match=rf"\b{operation}\b") as refused:
            refusing(bench.source, Task.SEQUENCE_CLASSIFICATION)
        assert refused.value.reason == "UnsafeModel"
        assert "plain encoder" in refused.value.next_step
    assert not TAKEN.exists()


@pytest.fixture(scope="module")
def sound(trained: Path) -> bytes:
    """The saved_model.pb of a BERT."""
    return (trained / "saved_model.pb").read_bytes()


def refusal(model: Any) -> str:
    with pytest.raises(BuildError) as refused:
        tensorflow_operations.check(model)
    return refused.value.message


def test_the_functions_that_save_variables_can_be_called_by_nobody_else(sound: bytes) -> None:
    model = saved_model_pb2.SavedModel.FromString(sound)
    tensorflow_operations.check(model)
    library = model.meta_graphs[0].graph_def.library.function
    saves = next(one for one in library if any(node.op == "SaveV2" for node in one.node_def))
    calls = next(node for one in library if one is not saves for node in one.node_def if node.attr["f"].func.name)
    calls.attr["f"].func.name = saves.signature.name
    assert "SaveV2" in refusal(model)


def test_a_function_that_may_stand_for_another_is_judged_as_that(sound: bytes) -> None:
    model = saved_model_pb2.SavedModel.FromString(sound)
    library = model.meta_graphs[0].graph_def.library.function
    saves = next(one for one in library if any(node.op == "SaveV2" for node in one.node_def))
    saves.attr["api_implements"].s = b"gelu"
    assert "SaveV2" in refusal(model)


@pytest.mark.parametrize("spoil", ["twice", "without objects"])
def test_a_layout_that_is_run_by_loading_it_is_refused(sound: bytes, spoil: str) -> None:
    model = saved_model_pb2.SavedModel.FromString(sound)
    if spoil == "twice":
        model.meta_graphs.append(model.meta_graphs[0])
    else:
        model.meta_graphs[0].ClearField("object_graph_def")
    assert "written by TensorFlow 1" in refusal(model)


def test_what_was_judged_is_what_is_loaded(classifier: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may write to the source's claim between the two; a chunked file beside it would be loaded instead."""
    (classifier.source / "saved_model.cpb").write_bytes(b"another one")
    judge = tensorflow_operations.check

    def slow(model: Any) -> None:
        judge(model)
        (classifier.source / "saved_model.pb").write_bytes(b"changed meanwhile")

    monkeypatch.setattr(tensorflow_operations, "check", slow)
    found = tensorflow_source.load(classifier.source, Task.SEQUENCE_CLASSIFICATION)
    assert found.answer(requests())["logits"].shape == (3, 3)


HARMLESS_TEXTS = {
    *("container", "shared_name", "debug_name", "message", "executor_type", "config", "config_proto", "body_hints"),
    *("equation", "data_format", "padding", "mode", "direction", "reduction", "Tout_shape", "side", "align"),
    *("unit", "bad_indices_policy", "allowed_devices"),
}
"""String attributes of known operations: none names a file, an address or a function of Python."""
STATEFUL = {
    *("Assert", "If", "While", "Case", "StatefulPartitionedCall", "CheckNumerics"),
    *("StatelessRandomGetAlg", "StatelessRandomGetKeyCounter"),
}


def reaching_out(operation: str) -> str:
    """What of an operation's own description by TensorFlow speaks against it; empty if nothing does."""
    found = op_def_registry.get(operation)
    if found is None:
        return "TensorFlow has no such operation"
    tensors = [*found.input_arg, *found.output_arg]
    if any(one.type == tf.string.as_datatype_enum for one in tensors):
        return "it takes or gives texts"
    given = {one.name for one in found.attr if one.type in ("string", "list(string)")}
    if given - HARMLESS_TEXTS:
        return f"it is told {given - HARMLESS_TEXTS}"
    random = any(one.name == "seed2" for one in found.attr)
    variable = any(one.type == tf.resource.as_datatype_enum for one in tensors)
    return "it has side effects" if found.is_stateful and not (random or variable or operation in STATEFUL) else ""


def test_no_known_operation_could_name_a_file_or_reach_out() -> None:
    """A second look at the list, that doesn't go by names."""
    faults = {operation: reaching_out(operation) for operation in sorted(tensorflow_operations.ANSWERING)}
    assert {operation: fault for operation, fault in faults.items() if fault} == {}
    assert all(reaching_out(operation) for operation in ("WriteFile", "ReadFile", "PyFunc", "EagerPyFunc", "PrintV2"))
