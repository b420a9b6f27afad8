"""The real TorchServe on the real node: the sample, texts and tensors, a second version under load."""

import contextlib
import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tokenizers import Tokenizer

from bert_operator.api.spec import Task
from e2e import berts, processes
from e2e.load import steady_load
from support import classifier, numpy_bert
from support.installation import Images, wait_ready
from support.kube import Kube, wait_for

NAME = "sentiment-torchserve"
"""The sample's, and its file's."""
WORKER = "model_service_worker"
"""A word of the command line of a process that runs the model."""
MAX_DIFFERENCE = 1e-4
TEXTS = ("What a good film!", "I can't believe how bad this coffee is.", "Über alle Maßen langweilig")


@pytest.fixture(scope="module")
def models(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classifiers over MiniLM, with its tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("sentiment", 1), ("sentiment-2", 2)):
        classifier.make(model, folder / name, seed=seed)
    return folder


@pytest.fixture(scope="module")
def served(kube: Kube) -> dict[str, Any]:
    """The sample, Ready."""
    kube.apply(berts.sample(NAME))
    return wait_ready(kube, NAME, seconds=400)


def ask(kube: Kube, body: Any, path: str = "/predictions/sentiment") -> tuple[int, Any]:
    """Status and answer of a POST to the Service."""
    with kube.port_forward(f"service/{NAME}", 8080) as address:
        request = urllib.request.Request(
            f"http://{address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - http
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


def tokens(models: Path, text: str) -> dict[str, Any]:
    """What the source's tokenizer makes of a text."""
    tokenizer = Tokenizer.from_file(str(models / "sentiment" / "tokenizer.json"))
    tokenizer.no_padding()
    found = tokenizer.encode(text)
    parts = {"input_ids": found.ids, "attention_mask": found.attention_mask, "token_type_ids": found.type_ids}
    return {name: np.array([values]) for name, values in parts.items()}


@pytest.fixture(scope="module")
def truths(models: Path) -> dict[str, list[Any]]:
    """Logits [1, label] of each source model for each text, by the model's folder.

    The judge shares no code with what serves them.
    """
    asked = [tokens(models, text) for text in TEXTS]
    told = {}
    for folder in ("sentiment", "sentiment-2"):
        judge = numpy_bert.read(models / folder, Task.SEQUENCE_CLASSIFICATION)
        told[folder] = [judge.answer(ids)["logits"] for ids in asked]
    return told


def test_texts_and_tensors_answer_like_the_source_model(
    kube: Kube, served: dict[str, Any], truths: dict[str, list[Any]], models: Path
) -> None:
    assert served["status"]["summary"]["models"] == "1/1"
    for text, truth in zip(TEXTS, truths["sentiment"], strict=True):
        status, worded = ask(kube, {"text": text})
        assert status == 200
        scores = np.exp(truth[0]) / np.exp(truth[0]).sum()
        np.testing.assert_allclose(list(worded["scores"].values()), scores, atol=MAX_DIFFERENCE)
        assert worded["label"] == classifier.LABELS[int(truth[0].argmax())]
        feed = {name: values.tolist() for name, values in tokens(models, text).items()}
        np.testing.assert_allclose(ask(kube, feed)[1]["logits"], truth, atol=MAX_DIFFERENCE)


def test_a_wrong_request_is_told_what_to_write(kube: Kube, served: dict[str, Any]) -> None:
    assert served
    status, answer = ask(kube, {"input_ids": [[999_999]]})
    assert status == 400
    assert "write whole numbers from 0 to 30521" in answer["message"]


def test_only_inference_and_metrics_can_be_reached(kube: Kube, served: dict[str, Any]) -> None:
    service = kube.get("service", NAME)
    assert service
    assert [port["port"] for port in service["spec"]["ports"]] == [8080, 7070, 8082]
    assert ask(kube, {"text": "so that there is a figure"})[0] == 200
    path = served["status"]["endpoint"]["metrics"].partition(":8082")[2]
    with (
        kube.port_forward(f"service/{NAME}", 8082) as address,
        urllib.request.urlopen(f"http://{address}{path}", timeout=60) as reply,
    ):
        assert 'ts_inference_requests_total{model_name="sentiment"' in reply.read().decode()


def test_grpc_answers(kube: Kube, served: dict[str, Any]) -> None:
    """Without TorchServe's protobufs: an empty request, and the word in the answer."""
    assert served
    method = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping"
    with kube.port_forward(f"service/{NAME}", 7070) as address, grpc.insecure_channel(address) as channel:
        answer = channel.unary_unary(method, lambda raw: raw, lambda raw: raw)(b"", timeout=30)
    assert b"Healthy" in answer


def test_a_killed_worker_is_replaced_without_a_restart(kube: Kube, served: dict[str, Any]) -> None:
    """Kubernetes shows nothing of it, and need not (R15)."""
    assert served
    (pod,) = berts.serving_pods(kube, NAME)
    (worker,) = processes.named(pod, WORKER)
    os.kill(worker, signal.SIGKILL)
    wait_for("another worker", lambda: set(processes.named(pod, WORKER)) - {worker}, seconds=10)
    wait_for("an answer", lambda: _answers(kube), seconds=10)
    (now,) = berts.serving_pods(kube, NAME)
    assert [one["restartCount"] for one in now["status"]["containerStatuses"]] == [0]


def _answers(kube: Kube) -> bool:
    with contextlib.suppress(OSError):  # what was asked as the worker died may end without an answer
        return ask(kube, {"text": TEXTS[0]})[0] == 200
    return False


def test_a_second_version_comes_without_a_failed_request(
    kube: Kube, images: Images, served: dict[str, Any], models: Path, truths: dict[str, list[Any]]
) -> None:
    assert served
    with steady_load(kube, images.operator, NAME, "sentiment/1", server="torchserve") as load:
        kube.apply(_with_second_version())
        live = wait_ready(kube, NAME, seconds=400)
        wait_for("one pod left", lambda: len(berts.serving_pods(kube, NAME)) == 1, seconds=90)
    assert [version["stage"] for version in live["status"]["models"][0]["versions"]] == ["Built", "Built"]
    assert load.sent > 50
    assert load.failed == []
    feed = {name: values.tolist() for name, values in tokens(models, TEXTS[0]).items()}
    found = {path: ask(kube, feed, f"/predictions/sentiment{path}")[1]["logits"] for path in ("", "/1", "/2")}
    for path, folder in (("", "sentiment"), ("/1", "sentiment"), ("/2", "sentiment-2")):
        np.testing.assert_allclose(found[path], truths[folder][0], atol=MAX_DIFFERENCE, err_msg=path)


def _with_second_version() -> dict[str, Any]:
    bert = berts.sample(NAME)
    (model,) = bert["spec"]["models"]
    source = {"pvc": {"claimName": "models", "path": "sentiment-2"}}
    model["versions"].append({"version": 2, "source": source})
    return bert
