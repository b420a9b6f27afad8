"""What the operator generates, taken by the real tritonserver and asked by real clients."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from bert_operator.servers import triton_config, triton_sizing
from support import published

from .conftest import SHAPE, TOKENS_SHAPE, Scene

pytestmark = pytest.mark.e2e


def ask(scene: Scene, model: str, inputs: published.Arrays) -> Any:
    tensors = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, list(array.shape), "INT64")
        tensors.append(tensor.set_data_from_numpy(array))
    with triton.InferenceServerClient(scene.server.grpc) as client:
        return client.infer(model, tensors, client_timeout=120)


@pytest.mark.parametrize(
    ("name", "output"), [("sentiment", "logits"), ("sentiment-v2", "logits"), ("embedder", "last_hidden_state")]
)
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 7), (4, 32)])
def test_answers_are_those_of_onnx_runtime(scene: Scene, name: str, output: str, rows: int, length: int) -> None:
    _, artifact = scene.part(name)
    inputs = published.tokens(rows, length, SHAPE, seed=length)

    answered = ask(scene, name, inputs).as_numpy(output)

    expected = artifact.answer(inputs)[output]
    assert expected.size > 0
    assert answered.shape == expected.shape  # numpy 2 in the server's Python makes answers empty
    np.testing.assert_allclose(answered, expected, atol=1e-5)


def test_an_int8_model_is_served_and_answers_alone_as_it_does_in_a_batch(scene: Scene) -> None:
    inputs = published.tokens(4, 16, TOKENS_SHAPE, seed=3)

    answered = ask(scene, "lowered", inputs).as_numpy("last_hidden_state")

    _, quantised = scene.part("lowered")
    _, full = scene.part("embedder")
    np.testing.assert_allclose(answered, quantised.answer(inputs)["last_hidden_state"], atol=1e-5)
    exact = full.answer(inputs)["last_hidden_state"]
    cosine = (answered * exact).sum() / (np.linalg.norm(answered) * np.linalg.norm(exact))
    assert 0.97 < cosine < 0.999999
    alone = ask(scene, "lowered", {name: values[:1] for name, values in inputs.items()}).as_numpy("last_hidden_state")
    np.testing.assert_allclose(alone, answered[:1], atol=1e-5)


def test_versions_answer_differently_and_unversioned_requests_get_the_default_one(scene: Scene) -> None:
    inputs = published.tokens(2, 8, SHAPE)

    first, second = (ask(scene, name, inputs).as_numpy("logits") for name in ("sentiment", "sentiment-v2"))

    assert not np.allclose(first, second)
    _, default = scene.part("sentiment")
    np.testing.assert_allclose(first, default.answer(inputs)["logits"], atol=1e-5)


@pytest.mark.parametrize("name", ["sentiment", "sentiment-v2", "embedder"])
def test_the_server_runs_the_config_that_was_written(scene: Scene, name: str) -> None:
    one, _ = scene.part(name)
    written = triton_config.parse((scene.models / name / "config.pbtxt").read_text())

    live = json.loads(scene.server.get(f"/v2/models/{name}/config"))

    assert live["backend"] == written.backend == "onnxruntime_python"
    assert live["max_batch_size"] == one.model.serving.max_batch_size
    assert [group["count"] for group in live["instance_group"]] == [one.model.serving.instances]
    assert ("dynamic_batching" in live) == one.model.serving.batching.enabled
    assert [tensor["name"] for tensor in live["input"]] == [tensor.name for tensor in one.artifact.report.inputs]


def test_every_shape_is_run_before_the_server_turns_ready(scene: Scene) -> None:
    log = scene.server.log.read_text()  # that says so by the user's --log-info=true, which comes after ours
    one, _ = scene.part("sentiment-v2")
    per_instance = len(triton_sizing.warmup_lengths(one.model, one.artifact.report)) * sum(
        triton_sizing.warmup_batches(one.model)
    )

    warmed = scene.server.statistics("sentiment-v2")["inference_count"]

    assert warmed >= per_instance == 10
    assert log.index("successfully loaded 'sentiment'") < log.index("Started GRPCInferenceService")


def counted(scene: Scene, model: str, wanted: int) -> dict[str, Any]:
    """The statistics once they count so many: Triton answers a request before it counts it."""
    deadline = time.monotonic() + 10
    while (found := scene.server.statistics(model))["inference_count"] < wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_concurrent_requests_are_joined_into_batches(scene: Scene) -> None:
    before = scene.server.statistics("sentiment")
    requests = [published.tokens(1, 8, SHAPE, seed=seed) for seed in range(32)]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda inputs: ask(scene, "sentiment", inputs).as_numpy("logits"), requests))

    after = counted(scene, "sentiment", before["inference_count"] + 32)
    assert after["inference_count"] - before["inference_count"] == 32
    assert after["execution_count"] - before["execution_count"] <= 24
    _, artifact = scene.part("sentiment")
    for inputs, answered in zip(requests, answers, strict=True):
        np.testing.assert_allclose(answered, artifact.answer(inputs)["logits"], atol=1e-5)


def test_a_bad_request_fails_alone_although_it_was_batched_with_good_ones(scene: Scene) -> None:
    requests = [published.tokens(1, 8, SHAPE, seed=seed) for seed in range(16)]
    requests[5]["input_ids"] = requests[5]["input_ids"] + SHAPE.vocabulary

    def outcome(inputs: published.Arrays) -> str:
        try:
            return "answered" if ask(scene, "sentiment", inputs).as_numpy("logits").size else "empty"
        except triton.InferenceServerException as error:
            return str(error.message())

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(outcome, requests))

    bad = outcomes.pop(5)
    assert "out of data bounds" in bad
    assert outcomes == ["answered"] * 15


def test_inputs_of_different_lengths_are_refused_with_the_axis_named(scene: Scene) -> None:
    inputs = published.tokens(1, 8, TOKENS_SHAPE)
    inputs["attention_mask"] = inputs["attention_mask"][:, :5]

    with pytest.raises(triton.InferenceServerException, match=r"axis 'sequence' is 8 in input 'input_ids' but 5"):
        ask(scene, "embedder", inputs)


def test_metrics_are_served(scene: Scene) -> None:
    ask(scene, "embedder", published.tokens(1, 8, TOKENS_SHAPE))

    metrics = scene.server.get("/metrics", "metrics")

    assert 'nv_inference_count{model="embedder",version="7"}' in metrics
    assert 'nv_inference_pending_request_count{model="embedder",version="7"}' in metrics


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        "/v2/repository/models/sentiment/unload",
        "/v2/systemsharedmemory/region/x/register",
        "/v2/trace/setting",
        "/v2/models/sentiment/trace/setting",
        "/v2/logging",
    ],
)
def test_admin_apis_are_closed(scene: Scene, path: str) -> None:
    status, body = scene.server.post(path, {})

    assert status == 403
    assert "restricted" in body


def test_admin_apis_are_closed_over_grpc_too(scene: Scene) -> None:
    with triton.InferenceServerClient(scene.server.grpc) as client:
        for call in (client.get_model_repository_index, client.get_log_settings, client.get_trace_settings):
            with pytest.raises(triton.InferenceServerException, match="restricted"):
                call()


def test_the_memory_limit_that_is_derived_holds(scene: Scene) -> None:
    for seed in range(4):
        for name in ("sentiment", "sentiment-v2", "embedder"):
            ask(scene, name, published.tokens(4, 32, SHAPE, seed=seed))

    used, limit = scene.server.memory(), triton_sizing.memory_bytes([one for one, _ in scene.parts])

    assert 0 < used < limit
