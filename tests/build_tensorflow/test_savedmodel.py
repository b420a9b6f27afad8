"""PyTorch checkpoint -> SavedModel, without PyTorch; its answers are judged by BERT in numpy and float64."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from bert_build import checkpoint, config_checks, preflight, tensorflow_bert, to_savedmodel
from bert_build.failures import BuildError
from bert_build.families import Family
from bert_build.samples import Arrays
from bert_operator.api import names
from bert_operator.api.report import Manifest, ServedModels
from bert_operator.api.spec import Task
from support import numpy_bert
from support.build_bench import LENGTH, Bench

from .conftest import Built, built_once

FORMAT = {"format": "savedmodel"}
CLASSIFIER = Task.SEQUENCE_CLASSIFICATION
OUTPUTS = pytest.mark.parametrize(
    ("task", "outputs"),
    [
        (Task.SEQUENCE_CLASSIFICATION, {"logits": [3]}),
        (Task.FEATURE_EXTRACTION, {"last_hidden_state": [-1, 32]}),
        (Task.QUESTION_ANSWERING, {"end_logits": [-1], "start_logits": [-1]}),
    ],
)


@pytest.fixture(scope="module")
def of_task(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], Built]:
    return built_once(tmp_path_factory, functools.partial(numpy_bert.save_checkpoint, prefix="bert."), **FORMAT)


@pytest.fixture(scope="module")
def classifier(of_task: Callable[[Task], Built]) -> to_savedmodel.Session:
    """The classifier's artifact, loaded."""
    return to_savedmodel.open_session(of_task(CLASSIFIER).folder)


def requests(seed: int = 3) -> Arrays:
    """Four rows of different length, framed and padded as clients do."""
    generator = np.random.default_rng(seed)
    lengths = (3, 17, 9, 12)
    ids, mask, types = (np.zeros((4, max(lengths)), dtype=np.int64) for _ in range(3))
    for row, length in enumerate(lengths):
        ids[row, :length] = [2, *generator.integers(10, 400, size=length - 2), 3]
        mask[row, :length] = 1
        types[row, length // 2 : length] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def padded_by_the_server(rows: Arrays) -> Arrays:
    """As TF Serving's pad_variable_length_inputs: each tensor with the row's own first element."""
    real = rows["attention_mask"] == 1
    return {name: np.where(real, values, values[:, :1]) for name, values in rows.items()}


def alone(answer: Callable[[Arrays], Arrays], rows: Arrays) -> list[Arrays]:
    """Each row asked by itself, without any padding."""
    return [
        answer({name: values[row : row + 1, :length] for name, values in rows.items()})
        for row, length in enumerate(rows["attention_mask"].sum(axis=1))
    ]


@OUTPUTS
def test_it_answers_like_the_source_model(
    of_task: Callable[[Task], Built], task: Task, outputs: dict[str, list[int]]
) -> None:
    built = of_task(task)
    report = built.report
    assert 0 < report.fidelity.max_abs_difference < 1e-4
    assert [(spec.name, spec.dtype, spec.dims) for spec in report.inputs] == [
        ("input_ids", "INT64", [-1]), ("attention_mask", "INT64", [-1]), ("token_type_ids", "INT64", [-1]),
    ]  # fmt: skip
    assert {spec.name: spec.dims for spec in report.outputs} == outputs
    assert {spec.dtype for spec in report.outputs} == {"FP32"}
    rows = requests()
    answer = to_savedmodel.open_session(built.folder).answer(rows)
    truth = numpy_bert.load(built.bench.source, task).answer(rows)
    for name, dims in outputs.items():
        real = rows["attention_mask"] == 1 if dims[0] == -1 else slice(None)
        assert np.abs(answer[name][real] - truth[name][real]).max() < 1e-4


def test_a_sentence_becomes_the_vector_that_its_files_say(bench: Bench) -> None:
    numpy_bert.save_checkpoint(bench.source, Task.FEATURE_EXTRACTION, num_hidden_layers=1)
    modules = [{"type": f"x.{kind}", "path": f"1_{kind}"} for kind in ("Transformer", "Pooling", "Normalize")]
    (bench.source / "modules.json").write_text(json.dumps(modules))
    (bench.source / "1_Pooling").mkdir()
    (bench.source / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    _, folder = bench.build(task="feature-extraction", **FORMAT)
    rows = requests()
    session = to_savedmodel.open_session(folder)
    found = session.answer(rows)
    for row, shown in enumerate(rows["attention_mask"] == 1):
        mean = found["last_hidden_state"][row][shown].mean(axis=0)
        assert np.abs(found["sentence_embedding"][row] - mean / np.linalg.norm(mean)).max() < 1e-5
    # What the server pads a row with is no part of its sentence.
    fooled = session.answer(padded_by_the_server(rows))["sentence_embedding"]
    assert np.abs(fooled - found["sentence_embedding"]).max() < 1e-5


@pytest.mark.parametrize(
    "written",
    [
        {"old_names": True, "prefix": "bert."},
        {"old_names": False, "prefix": ""},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "relu"},
        {"num_attention_heads": 2, "type_vocab_size": 1},
    ],
    ids=str,
)
def test_every_way_a_checkpoint_is_written(bench: Bench, written: dict[str, Any]) -> None:
    numpy_bert.save_checkpoint(bench.source, CLASSIFIER, num_hidden_layers=1, **written)
    report, _ = bench.build(**FORMAT)
    assert report.fidelity.max_abs_difference < 1e-4


def test_rows_padded_by_tf_serving_are_answered_as_if_alone(classifier: to_savedmodel.Session) -> None:
    rows = requests()
    truth = np.concatenate([answer["logits"] for answer in alone(classifier.answer, rows)])
    trap = padded_by_the_server(rows)
    assert not np.array_equal(trap["input_ids"], rows["input_ids"])
    difference = np.abs(classifier.answer(trap)["logits"] - truth).max()
    print(f"padding trap: max |Δ| {difference:.1e}")
    assert difference < 1e-5


def test_without_the_repair_the_trap_changes_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would notice."""
    monkeypatch.setattr(tensorflow_bert, "without_server_padding", lambda _ids, mask, _types: mask)
    config = config_checks.Config.model_validate(numpy_bert.CONFIG)
    model = tensorflow_bert.Bert(config, CLASSIFIER, numpy_bert.random_weights(CLASSIFIER).items())
    truth = np.concatenate([answer["logits"] for answer in alone(lambda rows: model.serve(**rows), requests())])
    difference = np.abs(model.serve(**padded_by_the_server(requests()))["logits"] - truth).max()
    print(f"padding trap without repair: max |Δ| {difference:.1e}")
    assert difference > 0.01


@pytest.mark.parametrize(
    ("ids", "mask", "types", "kept"),
    [
        ([2, 5, 3], [1, 1, 1], [0, 0, 0], [1, 1, 1]),
        ([2, 5, 3, 2, 2], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]),
        # The client's own padding before the server's.
        ([2, 5, 3, 0, 2], [1, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]),
        # The first id in the middle is text.
        ([2, 5, 2, 3], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]),
        # At the end, but of the second segment: no server pads so.
        ([7, 5, 6, 7], [1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]),
        # Indistinguishable from padding; a row that [CLS] opens never ends so.
        ([7, 5, 6, 7], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]),
        ([7], [1], [0], [1]),
        ([7, 7, 7], [1, 1, 1], [0, 0, 0], [1, 0, 0]),
        ([0, 0, 2, 3], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1]),
    ],
)
def test_what_counts_as_the_servers_padding(ids: list[int], mask: list[int], types: list[int], kept: list[int]) -> None:
    row = (tf.constant([values], tf.int64) for values in (ids, mask, types))
    assert tensorflow_bert.without_server_padding(*row).numpy().tolist() == [kept]


def test_swapped_layers_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    read = checkpoint.weights
    swap = {"encoder.layer.0.": "encoder.layer.1.", "encoder.layer.1.": "encoder.layer.0."}

    def swapped(folder: Path, wanted: list[str], family: Family) -> Any:
        for name, values in read(folder, wanted, family):
            start = next((start for start in swap if name.startswith(start)), "")
            yield (swap[start] + name.removeprefix(start) if start else name), values

    monkeypatch.setattr(checkpoint, "weights", swapped)
    numpy_bert.save_checkpoint(bench.source, CLASSIFIER)
    with pytest.raises(BuildError, match="doesn't answer like its source") as refused:
        bench.run(**FORMAT)
    assert refused.value.reason == "FidelityExceeded"


def test_an_ignored_mask_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_bert, "without_server_padding", lambda _ids, mask, _types: tf.ones_like(mask))
    numpy_bert.save_checkpoint(bench.source, CLASSIFIER, num_hidden_layers=1)
    with pytest.raises(BuildError, match="doesn't answer like its source"):
        bench.run(**FORMAT)


def test_the_artifact_is_whole_with_its_folders(
    of_task: Callable[[Task], Built], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = of_task(CLASSIFIER)
    folder = shutil.copytree(built.folder, bench.root / built.folder.name)
    manifest = Manifest.model_validate_json((folder / names.MANIFEST_FILE).read_bytes())
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {*manifest.files, names.MANIFEST_FILE}
    assert {"saved_model.pb", "variables/variables.index", to_savedmodel.WARMUP_FILE, "golden.npz"} <= files
    served = {
        "server": "tfserving",
        "models": [
            {
                "name": "m", "version": 1, "path": str(folder), "artifact": f"{folder.name}-0",
                "manifestSha256": built.report.manifest_sha256, "maxBatchSize": 8,
            }
        ],
    }  # fmt: skip
    monkeypatch.setenv(names.SERVED_ENV, ServedModels.model_validate(served).model_dump_json(by_alias=True))
    assert preflight.main([]) == 0
    index = folder / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:-1] + b"!")
    assert preflight.main([]) == 1
    assert "variables/variables.index" in bench.termination.read_text()


def test_warmup_requests_are_what_tf_serving_replays(
    of_task: Callable[[Task], Built], classifier: to_savedmodel.Session
) -> None:
    file = of_task(CLASSIFIER).folder / to_savedmodel.WARMUP_FILE
    records = list(tf.data.TFRecordDataset([str(file)]).as_numpy_iterator())
    asked = [prediction_log_pb2.PredictionLog.FromString(text).predict_log.request for text in records]
    assert {request.model_spec.signature_name for request in asked} == {"serving_default"}
    feeds = [{name: tf.make_ndarray(value) for name, value in request.inputs.items()} for request in asked]
    assert {LENGTH, 8, 16} <= {feed["input_ids"].shape[1] for feed in feeds}
    for feed in feeds:
        assert np.isfinite(classifier.answer(feed)["logits"]).all()


def test_an_equal_build_finds_the_artifact(of_task: Callable[[Task], Built]) -> None:
    assert of_task(CLASSIFIER).bench.run(until="fetch", **FORMAT).reused


def test_a_longer_text_than_the_model_knows_is_an_error(classifier: to_savedmodel.Session) -> None:
    long = {name: np.ones((1, 65), dtype=np.int64) for name in tensorflow_bert.INPUTS}
    with pytest.raises(tf.errors.InvalidArgumentError):
        classifier.answer(long)


def test_an_unknown_activation_is_refused_before_anything_is_read(bench: Bench) -> None:
    numpy_bert.save_checkpoint(bench.source, CLASSIFIER, hidden_act="silu")
    with pytest.raises(BuildError, match=r"hidden_act 'silu'.*gelu, gelu_new, relu"):
        bench.run(until="inspect", **FORMAT)
