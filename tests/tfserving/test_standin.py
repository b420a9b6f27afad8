"""The stand-in, started with the operator's own command line and files."""

import contextlib
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from bert_build.clients import NotYetError, RefusedError, tfserving
from bert_operator.api.report import ServedModel

from .conftest import Running, Scene, save_models, write_scene
from .saved_models import answer, tokens

PREDICT = "/v1/models/sentiment{}:predict"


def served(name: str = "sentiment", version: int = 2) -> ServedModel:
    return ServedModel(name=name, version=version, path="", artifact="", manifest_sha256="", max_batch_size=8)


def columns(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": {name: array.tolist() for name, array in inputs.items()}}


@contextlib.contextmanager
def client(port: int) -> Iterator[tfserving.TfServingClient]:
    """Our client of the server at a port."""
    made = tfserving.connect(f"127.0.0.1:{port}")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("where", "seed"),
    [("", 2), ("/versions/1", 1), ("/versions/2", 2), ("/labels/production", 1), ("/labels/test", 2)],
)
def test_numbers_labels_and_nothing_choose_the_version(server: Running, where: str, seed: int) -> None:
    inputs = tokens(2, 5)

    status, answered = server.post(PREDICT.format(where), columns(inputs))

    assert status == 200
    np.testing.assert_allclose(answered["outputs"], answer(seed, inputs), atol=1e-6)


def test_row_form_says_the_same(server: Running) -> None:
    inputs = tokens(2, 5)
    rows = [{name: array[row].tolist() for name, array in inputs.items()} for row in range(2)]

    _, answered = server.post(PREDICT.format(""), {"instances": rows})

    np.testing.assert_allclose(answered["predictions"], answer(2, inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("where", "body", "status", "words"),
    [
        ("/labels/nobody", columns(tokens(1, 3)), 400, "Unrecognized servable version label: nobody"),
        ("/versions/9", columns(tokens(1, 3)), 404, "Servable not found for request"),
        ("", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("", {"inputs": {"input_ids": [[1]]}}, 400, "Missing named input: attention_mask"),
        ("", {"instances": [{"input_ids": [1]}]}, 400, "keys must be equal to: attention_mask,input_ids"),
        ("", columns({**tokens(1, 3), "input_ids": np.array([[0.5, 1, 2]])}), 400, "not of expected type"),
        ("", columns(tokens(9, 3)), 400, "larger than maximum input batch size 8"),
    ],
)
def test_mistakes_are_told_as_tf_serving_tells_them(
    server: Running, where: str, body: Any, status: int, words: str
) -> None:
    found, answered = server.post(PREDICT.format(where), body)

    assert found == status
    assert words in answered["error"]


def test_a_request_that_is_no_request_is_refused(server: Running) -> None:
    assert server.get("/v1/nonsense")[0] == 400
    assert server.get("/v1/models/unheard-of")[0] == 404
    assert server.get("/v1/models/sentiment/versions/9/metadata")[0] == 404  # what the probes go by
    assert server.get("/v1/models/sentiment/versions/1/metadata")[0] == 200


def test_grpc_answers_the_same(server: Running) -> None:
    inputs = tokens(3, 6)
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.version_label = "sentiment", "production"
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        answered = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
        asked = get_model_status_pb2.GetModelStatusRequest()
        asked.model_spec.name = "sentiment"
        status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(asked, timeout=60)
        request.model_spec.name = "unheard-of"
        with pytest.raises(grpc.RpcError) as refused:
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)

    np.testing.assert_allclose(tf.make_ndarray(answered.outputs["logits"]), answer(1, inputs), atol=1e-6)
    assert answered.model_spec.version.value == 1
    assert {(one.version, one.state) for one in status.model_version_status} == {(1, 30), (2, 30)}  # AVAILABLE
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # it has no such label


def test_our_client_finds_ready_versions_and_answers(server: Running) -> None:
    inputs = tokens(2, 7)

    with client(server.rest) as asking:
        assert asking.ready(served(version=1))
        assert not asking.ready(served(version=9))
        assert not asking.ready(served(name="unheard-of"))
        answered = asking.infer(served(version=1), inputs)
        with pytest.raises(RefusedError, match="Missing named input"):
            asking.infer(served(), {"input_ids": inputs["input_ids"]})
    assert answered["logits"].dtype == np.float32
    np.testing.assert_allclose(answered["logits"], answer(1, inputs), atol=1e-6)
    with client(1) as nobody, pytest.raises(NotYetError):
        nobody.ready(served())


def test_requests_are_counted_where_the_operator_points_prometheus(server: Running) -> None:
    with client(server.rest) as asking:
        asking.infer(served("toxic", 7), tokens(1, 3))

    text = server.get("/monitoring/prometheus/metrics")[1]

    counted = re.search(
        r'^:tensorflow:serving:request_count\{model_name="toxic",status="OK"\} (\d+)', text, re.MULTILINE
    )
    assert counted
    assert int(counted[1]) >= 1


def together(server: Running, *requests: dict[str, Any]) -> list[Any]:
    """Answers to requests that arrive at once, so that they share a batch."""
    found: list[Any] = [None] * len(requests)
    barrier = threading.Barrier(len(requests))

    def ask(index: int) -> None:
        barrier.wait()
        found[index] = server.post(PREDICT.format(""), columns(requests[index]))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@contextlib.contextmanager
def slow_batches(folder: Path, models: Path, *, pad: bool = True) -> Iterator[Running]:
    """A server that waits a second for a batch to fill."""
    scene = write_scene(folder, models)
    file = folder / "batching.config"
    text = file.read_text().replace("batch_timeout_micros { value: 1000 }", "batch_timeout_micros { value: 1000000 }")
    file.write_text(text if pad else text.replace("pad_variable_length_inputs: true", ""))
    with scene.running() as server:
        yield server


def test_a_long_neighbour_does_not_change_a_short_answer(models: Path, tmp_path: Path) -> None:
    short, long = tokens(1, 4, seed=1), tokens(1, 16, seed=2)
    with slow_batches(tmp_path / "good", models) as server:
        answers = together(server, short, long)

    assert [status for status, _ in answers] == [200, 200]
    for (_, answered), asked in zip(answers, (short, long), strict=True):
        np.testing.assert_allclose(answered["outputs"], answer(2, asked), atol=1e-5)


def test_a_model_that_trusts_the_mask_falls_into_the_padding_trap(tmp_path: Path) -> None:
    """Without this the test above could pass on a stand-in that pads as nobody does."""
    short, long = tokens(1, 4, seed=1), tokens(1, 16, seed=2)
    naive = save_models(tmp_path / "models", repairing=False)
    with slow_batches(tmp_path / "naive", naive) as server:
        (_, answered), _ = together(server, short, long)

    assert np.max(np.abs(np.array(answered["outputs"]) - answer(2, short))) > 0.1


def test_without_padding_neighbours_of_other_lengths_fail_each_other(models: Path, tmp_path: Path) -> None:
    with slow_batches(tmp_path / "unpadded", models, pad=False) as server:
        answers = together(server, tokens(1, 4), tokens(1, 16))

    assert [status for status, _ in answers] == [400, 400]
    assert "padding is turned off" in answers[0][1]["error"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--colour=red", "unknown argument: --colour=red"),
        ("--port=x", "Couldn't interpret value x for flag port"),
        ("--enable_batching=false", "batching_parameters_file is set without setting enable_batching to true"),
        ("--allow_version_labels_for_unavailable_models=false", "which is not currently available for inference"),
        ("--monitoring_config_file=/nowhere", "/nowhere"),
    ],
)
def test_a_wrong_command_line_stops_it_with_the_reason(scene: Scene, tmp_path: Path, more: str, words: str) -> None:
    log = tmp_path / "log"
    with scene.started(1, 2, more, log=log) as process:
        process.join(120)
        assert process.exitcode == 255

    assert words in log.read_text()
    assert "STAND-IN for TF Serving, not the real server" in log.read_text()


def test_a_model_that_cannot_be_loaded_stops_it_with_the_reason(models: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "broken", models)
    shutil.rmtree(tmp_path / "broken/models/toxic/7/variables")
    log = tmp_path / "log"
    with scene.started(1, 2, log=log) as process:
        process.join(120)
        assert process.exitcode == 255

    assert "1 model(s) did not become available: {{name: toxic version: 7}" in log.read_text()


def test_one_broken_version_of_two_opens_the_ports_but_is_not_ready(models: Path, tmp_path: Path) -> None:
    """So the operator's probes and `verify` must ask for each version: the server itself is content with one."""
    scene = write_scene(tmp_path / "half", models)
    shutil.rmtree(tmp_path / "half/models/sentiment/2/variables")
    with scene.running() as server, client(server.rest) as asking:
        assert asking.ready(served(version=1))
        assert not asking.ready(served(version=2))
        assert server.get("/v1/models/sentiment")[0] == 200
        assert server.get("/v1/models/sentiment/versions/2/metadata")[0] == 404
