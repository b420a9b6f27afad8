"""TF Serving on the real node: the sample, its labels, a second version under load.

The server is the stand-in of tests/support/tfserving_standin unless TFSERVING_IMAGE names the real image; the build,
the SavedModel, the operator and every manifest are the product's.
"""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_operator.api.spec import Task
from e2e import berts
from e2e.load import steady_load
from support import numpy_bert
from support.installation import Images, loader_pod, wait_ready
from support.kube import Kube, wait_for

NAME = "sentiment-tfserving"
"""The sample's, and its file's."""
MAX_DIFFERENCE = 1e-4
FOLDERS = ("sentiment", "sentiment-2")
SHAPE = {"vocab_size": 8000, "max_position_embeddings": 128}
IDS = {
    "input_ids": np.array([[101, 7592, 2088, 102, 0], [101, 2003, 3000, 4000, 102]]),
    "attention_mask": np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]),
    "token_type_ids": np.zeros((2, 5), np.int64),
}
GRPC_CLIENT = """
import json, sys
import grpc, numpy, tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
asked = json.load(sys.stdin)
request = predict_pb2.PredictRequest()
request.model_spec.name, request.model_spec.version_label = "sentiment", asked["label"]
for name, values in asked["inputs"].items():
    request.inputs[name].CopyFrom(tf.make_tensor_proto(numpy.array(values, numpy.int64)))
with grpc.insecure_channel(asked["address"]) as channel:
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
print(json.dumps({n: tf.make_ndarray(t).tolist() for n, t in answer.outputs.items()}))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classifiers with two sets of weights."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(FOLDERS, start=1):
        _classifier(folder / name, seed)
    return folder


@pytest.fixture(scope="module")
def served(kube: Kube) -> dict[str, Any]:
    """The sample, Ready."""
    kube.apply(berts.sample(NAME))
    return wait_ready(kube, NAME, seconds=400)


def _classifier(folder: Path, seed: int) -> None:
    from safetensors.numpy import save_file  # noqa: PLC0415 - not for collection

    task = Task.SEQUENCE_CLASSIFICATION
    numpy_bert.write_config(folder, task, **SHAPE)
    save_file(numpy_bert.random_weights(task, seed, **SHAPE), folder / "model.safetensors")


@pytest.fixture(scope="module")
def truths(models: Path) -> list[Any]:
    """Logits [row, label] of both source models, by the judge that shares no code with what serves them."""
    return [numpy_bert.read(models / folder, Task.SEQUENCE_CLASSIFICATION).answer(IDS)["logits"] for folder in FOLDERS]


def _rest(kube: Kube, which: str) -> Any:
    """Ask over REST from inside the cluster's edge, as curl would; `which` is e.g. /labels/production."""
    with kube.port_forward(f"service/{NAME}", 8501) as address:
        body = json.dumps({"inputs": {name: values.tolist() for name, values in IDS.items()}})
        url = f"http://{address}/v1/models/sentiment{which}:predict"
        done = subprocess.run(["curl", "-sS", "-d", body, url], check=True, capture_output=True, text=True)
    return np.array(json.loads(done.stdout)["outputs"])


def _grpc(kube: Kube, images: Images, label: str) -> Any:
    asked = {"address": f"{NAME}.{kube.namespace}.svc:8500", "label": label}
    inputs = {name: values.tolist() for name, values in IDS.items()}
    with loader_pod(kube, images.tensorflow, "models", "caller") as pod:
        command = ["kubectl", "-n", kube.namespace, "exec", "-i", pod, "--", "python", "-c", GRPC_CLIENT]
        text = kube.run(*command, stdin=json.dumps(asked | {"inputs": inputs}))
    return np.array(json.loads(text)["logits"])


def test_rest_and_grpc_answer_like_the_source_model(
    kube: Kube, served: dict[str, Any], images: Images, truths: list[Any]
) -> None:
    assert served["status"]["summary"]["models"] == "1/1"
    truth = truths[0]

    for which in ("", "/versions/1", "/labels/production"):
        np.testing.assert_allclose(_rest(kube, which), truth, atol=MAX_DIFFERENCE)
    np.testing.assert_allclose(_grpc(kube, images, "production"), truth, atol=MAX_DIFFERENCE)


def test_metrics_are_where_the_status_says(kube: Kube, served: dict[str, Any]) -> None:
    path = served["status"]["endpoint"]["metrics"].partition(":8501")[2]
    with kube.port_forward(f"service/{NAME}", 8501) as address:
        command = ["curl", "-sS", f"http://{address}{path}"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert ':tensorflow:serving:request_count{model_name="sentiment",status="OK"}' in text


def test_a_second_version_and_a_moved_label_fail_no_request(
    kube: Kube, images: Images, served: dict[str, Any], truths: list[Any]
) -> None:
    assert served
    with steady_load(kube, images.operator, NAME, "sentiment/versions/1", server="tfserving") as load:
        kube.apply(_with_second_version())
        live = wait_ready(kube, NAME, seconds=400)
        wait_for("one pod left", lambda: len(berts.serving_pods(kube, NAME)) == 1, seconds=90)
    assert [version["stage"] for version in live["status"]["models"][0]["versions"]] == ["Built", "Built"]
    assert load.sent > 50
    assert load.failed == []
    first, second = truths
    assert np.max(np.abs(first - second)) > 100 * MAX_DIFFERENCE
    for which, truth in (
        ("", second),
        ("/versions/1", first),
        ("/labels/stable", first),
        ("/versions/2", second),
        ("/labels/production", second),
    ):
        np.testing.assert_allclose(_rest(kube, which), truth, atol=MAX_DIFFERENCE, err_msg=which)


def test_a_default_that_is_not_the_highest_is_refused_and_what_serves_goes_on(
    kube: Kube, served: dict[str, Any]
) -> None:
    assert served
    bert = _with_second_version()
    bert["spec"]["models"][0]["defaultVersion"] = 1
    kube.apply(bert)

    refused = berts.verdict(kube, NAME, "Accepted", "False", seconds=30)

    assert "defaultVersion is 1" in refused["message"]
    assert "write 2" in refused["message"]
    assert _rest(kube, "/labels/stable").shape == (2, 3)


def _with_second_version() -> dict[str, Any]:
    bert = berts.sample(NAME)
    model = bert["spec"]["models"][0]
    first = model["versions"][0]
    second = copy.deepcopy(first)
    first["labels"] = ["stable"]
    second["version"], second["source"]["pvc"]["path"] = 2, "sentiment-2"
    model["versions"], model["defaultVersion"] = [first, second], 2
    return bert
