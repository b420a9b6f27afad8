"""What the operator generates, taken by the real TorchServe and asked by real clients."""

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import real_torchserve

from .conftest import Scene

pytestmark = pytest.mark.e2e

SERVED = {"sentiment/1": "first", "sentiment/2": "second", "embedder/7": "tokens"}
CLOSE = 1e-5


def close(found: Any, wanted: Any) -> bool:
    """numpy.testing needs numpy's own tests, which the image left out."""
    return np.shape(found) == np.shape(wanted) and bool(np.abs(np.subtract(found, wanted)).max() < CLOSE)


def tensors(scene: Scene, name: str) -> list[dict[str, Any]]:
    return [one for one in scene.references(name) if "input_ids" in one["request"]]


def texts(scene: Scene, name: str) -> list[dict[str, Any]]:
    return [one for one in scene.references(name) if "text" in one["request"]]


@pytest.mark.parametrize("path", SERVED)
def test_tensors_are_answered_like_the_source_model(scene: Scene, path: str) -> None:
    worst = 0.0
    for one in tensors(scene, SERVED[path]):
        status, answer = scene.server.predict(path, one["request"])
        assert status == 200, answer
        for output, expected in one["answer"].items():
            found = np.array(answer[output])
            assert found.shape == np.array(expected).shape
            worst = max(worst, float(np.abs(found - np.array(expected)).max()))
    print(f"{path}: max |Δ| {worst:.2e}")
    assert worst < CLOSE


@pytest.mark.parametrize("path", ["sentiment/1", "sentiment/2"])
def test_texts_are_answered_with_labels_by_name(scene: Scene, path: str) -> None:
    for one in texts(scene, SERVED[path]):
        status, answer = scene.server.predict(path, one["request"])

        logits = np.array(one["answer"]["logits"][0])
        expected = np.exp(logits) / np.exp(logits).sum()
        assert status == 200
        assert list(answer["scores"]) == ["negative", "neutral", "positive"]
        assert close(list(answer["scores"].values()), expected)
        assert answer["label"] == ["negative", "neutral", "positive"][int(expected.argmax())]
        assert answer["score"] == answer["scores"][answer["label"]]


def test_tokens_of_a_text_have_vectors(scene: Scene) -> None:
    one = texts(scene, "tokens")[0]
    status, answer = scene.server.predict("embedder/7", one["request"] | {"raw": True})
    assert status == 200
    assert close(answer["last_hidden_state"], one["answer"]["last_hidden_state"])


def test_versions_answer_differently_and_unversioned_requests_get_the_default_one(scene: Scene) -> None:
    request = {"text": "The film was good."}
    first, second, default = (
        scene.server.predict(path, request)[1]["scores"] for path in ("sentiment/1", "sentiment/2", "sentiment")
    )
    assert first == default
    assert first != second


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"The film was good.", "text/plain"),
        (b"The film was good.", ""),
        (b'{"text": "The film was good."}', ""),
        (b'"The film was good."', "application/json"),
        (b"data=The%20film%20was%20good.", "application/x-www-form-urlencoded"),
    ],
)
def test_a_text_may_come_as_any_body(scene: Scene, body: bytes, kind: str) -> None:
    _, expected = scene.server.predict("sentiment", {"text": "The film was good."})
    status, answer = scene.server.ask("/predictions/sentiment", body, kind)
    assert (status, json.loads(answer)) == (200, expected)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "neither text nor input_ids but nothing"),
        ({"texts": "x"}, "neither text nor input_ids but texts"),
        ({"text": ["a", "b"]}, "text is a list: write one string, and one request for each text"),
        ({"text": "a", "text_pair": None}, "text_pair is null"),
        ({"text": "\ud800"}, "lone surrogate"),
        ({"text": "a", "rwa": True}, "not 'rwa'"),
        ({"text": "a", "raw": 1}, "raw is a number"),
        ([1], "the body is a list"),
        ({"input_ids": [[3000]]}, "input_ids holds 3000: write whole numbers from 0 to 2999"),
        ({"input_ids": [[1.5]]}, "input_ids holds 1.5"),
        ({"input_ids": [[True]]}, "input_ids holds true"),
        ({"input_ids": [1, 2]}, "write a list of rows"),
        ({"input_ids": [[]]}, "rows of 0 tokens"),
        ({"input_ids": [[1] * 33]}, "rows of 33 tokens are not taken: write 1 to 32"),
        ({"input_ids": [[1]] * 5}, "has 5 rows, at most 4"),
        ({"input_ids": [[1, 2], [3]]}, "have lengths [2, 1]"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "attention_mask has rows of lengths [1]"),
        ({"input_ids": [[1]], "token_type_ids": [[2]]}, "token_type_ids holds 2: write whole numbers from 0 to 1"),
        ({"input_ids": [[1]], "position_ids": [[0]]}, "not 'position_ids'"),
    ],
)
def test_a_wrong_request_is_told_what_to_write(scene: Scene, body: Any, said: str) -> None:
    status, answer = scene.server.predict("sentiment", body)
    assert (status, answer["code"]) == (400, 400)
    assert said in answer["message"]


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b'{"text": ', "application/json", "the body is no JSON"),
        (b'{"input_ids": [[[1]]]}', "application/json", "input_ids holds a list"),
        (b"\xff\xfe", "text/plain", "no UTF-8"),
        (b'{"text": "x"}', "application/x-www-form-urlencoded", "Content-Type: application/json"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_so(scene: Scene, body: bytes, kind: str, said: str) -> None:
    status, answer = scene.server.ask("/predictions/sentiment", body, kind)
    assert status == 400
    assert said in json.loads(answer)["message"]


def test_concurrent_requests_are_joined_and_a_bad_one_costs_the_others_nothing(scene: Scene) -> None:
    good = tensors(scene, "first")[0]
    bodies = [good["request"]] * 15
    bodies.insert(5, {"input_ids": [[999_999]]})
    before = scene.server.log.read_text().count("Backend response time")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: scene.server.predict("sentiment/1", body), bodies))

    batches = scene.server.log.read_text().count("Backend response time") - before
    assert answers.pop(5)[0] == 400
    assert [status for status, _ in answers] == [200] * 15
    for _, answer in answers:
        assert close(answer["logits"], good["answer"]["logits"])
    assert 4 <= batches <= 12


def test_texts_of_many_lengths_in_one_batch_answer_as_alone(scene: Scene) -> None:
    bodies = [one["request"] for one in texts(scene, "first")]
    alone = [scene.server.predict("sentiment/1", body)[1]["scores"] for body in bodies]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda body: scene.server.predict("sentiment/1", body)[1]["scores"], bodies))

    for one, other in zip(alone, together, strict=True):
        assert close(list(one.values()), list(other.values()))


def test_metrics_are_served(scene: Scene) -> None:
    scene.server.predict("embedder", {"input_ids": [[1, 2]]})
    status, metrics = scene.server.ask("/metrics", port="metrics")
    assert status == 200
    assert 'ts_inference_requests_total{model_name="embedder",model_version="default"' in metrics
    assert "QueueTime{" in metrics


def test_management_answers_inside_only_and_registers_nothing(scene: Scene) -> None:
    path = "/models?url=https://example.com/x.mar"
    status, answer = scene.server.ask(path, b"", port="management")
    assert status in (403, 404, 405), answer
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks for our own address on the way
        address = probe.getsockname()[0]
    socket.create_connection((address, scene.server.ports["http"]), timeout=5).close()
    for port in ("management", "grpc-management"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, scene.server.ports[port]), timeout=5)
    # On the port that clients reach there is no management at all.
    assert scene.server.ask("/models")[0] == 404


def test_grpc_is_served(scene: Scene) -> None:
    with socket.create_connection(("localhost", scene.server.ports["grpc"]), timeout=5) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        answer = connection.recv(64)
    assert answer[3] == 4  # an HTTP/2 SETTINGS frame


def test_nothing_is_looked_up_or_installed(scene: Scene) -> None:
    log = scene.server.log.read_text()
    assert "pip" not in log.lower().replace("pipeline", "")
    assert "huggingface" not in log.lower()


def test_every_length_is_run_before_the_first_request(scene: Scene) -> None:
    """A first request at a warm length is no slower than the next ones, by far."""
    body = {"input_ids": [[1] * 32]}
    seconds = []
    for _ in range(6):
        began = time.monotonic()
        assert scene.server.predict("embedder/7", body)[0] == 200
        seconds.append(time.monotonic() - began)
    assert seconds[0] < 20 * sorted(seconds)[2] + 0.2


def test_the_memory_limit_that_is_derived_holds(scene: Scene) -> None:
    for _ in range(4):
        for path, name in SERVED.items():
            for one in tensors(scene, name):
                scene.server.predict(path, one["request"])
    used, limit = scene.server.memory(), int(scene.told["memory"])
    print(f"memory: {used >> 20} MiB used, {limit >> 20} MiB derived")
    assert limit * 0.3 < used < 0.9 * limit


def test_a_lost_worker_comes_back_and_the_probe_tells_the_truth(scene: Scene) -> None:
    """Last of this file: it disturbs the server for a moment."""
    workers = scene.server.workers()
    assert len(workers) == 4
    os.kill(workers[0], signal.SIGKILL)
    deadline = time.monotonic() + 120
    while scene.server.said_ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    real_torchserve.wait_ready(scene.server)
    for path in SERVED:
        assert scene.server.predict(path, {"input_ids": [[1, 2, 3]]})[0] == 200
    assert Path(f"/proc/{scene.server.process.pid}").exists()
