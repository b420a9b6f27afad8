"""The REST client that `verify` and `bertctl predict` use; tests/tfserving gives it the stand-in."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from bert_build.clients import NotYetError, RefusedError, connect
from bert_build.clients.tfserving import TfServingClient
from bert_operator.api.report import ServedModel

PATH = "/v1/models/sentiment/versions/3"
INPUTS = {"input_ids": np.array([[2, 7]], np.int64), "attention_mask": np.ones((1, 2), np.int64)}
MODEL = ServedModel(name="sentiment", version=3, path="", artifact="", manifest_sha256="", max_batch_size=8)


class Server:
    """Answers what it is told, path by path, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, Any]] = []

    def signature(self, *outputs: str) -> None:
        signature = {"serving_default": {"outputs": {name: {"dtype": "DT_FLOAT"} for name in outputs}}}
        self.answers[f"{PATH}/metadata"] = 200, {"metadata": {"signature_def": {"signature_def": signature}}}

    def state(self, state: str) -> None:
        self.answers[PATH] = 200, {"model_version_status": [{"version": "3", "state": state}]}


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> Iterator[TfServingClient]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(None)

        def do_POST(self) -> None:
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def answer(self, body: Any) -> None:
            server.asked.append((self.path, body))
            status, answer = server.answers.get(self.path, (404, {"error": f"nothing at {self.path}"}))
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        made = connect("tfserving", f"127.0.0.1:{http.server_address[1]}")
        assert isinstance(made, TfServingClient)
        yield made
        made.close()
        http.shutdown()


@pytest.mark.parametrize("state", ["START", "LOADING", "UNLOADING", "END"])
def test_a_version_is_ready_only_when_it_is_available(server: Server, client: TfServingClient, state: str) -> None:
    assert not client.ready(MODEL)  # the ports are open before the version is known
    server.state(state)
    assert not client.ready(MODEL)
    server.state("AVAILABLE")
    assert client.ready(MODEL)


def test_a_lone_output_gets_its_name_from_the_signature(server: Server, client: TfServingClient) -> None:
    server.signature("logits")
    server.answers[f"{PATH}:predict"] = 200, {"outputs": [[0.25, -1.5]]}

    answered = client.infer(MODEL, INPUTS)

    assert set(answered) == {"logits"}
    assert answered["logits"].dtype == np.float32
    assert answered["logits"].tolist() == [[0.25, -1.5]]
    columns = {"input_ids": [[2, 7]], "attention_mask": [[1, 1]]}
    assert server.asked[-1] == (f"{PATH}:predict", {"signature_name": "serving_default", "inputs": columns})


def test_the_signature_is_read_once(server: Server, client: TfServingClient) -> None:
    server.signature("logits")
    server.answers[f"{PATH}:predict"] = 200, {"outputs": [[0.25]]}

    for _ in range(3):
        client.infer(MODEL, INPUTS)

    assert [path for path, _ in server.asked] == [f"{PATH}/metadata", *[f"{PATH}:predict"] * 3]


def test_several_outputs_keep_their_names(server: Server, client: TfServingClient) -> None:
    server.signature("start", "end")
    server.answers[f"{PATH}:predict"] = 200, {"outputs": {"start": [[1]], "end": [[2]]}}

    answered = client.infer(MODEL, INPUTS)

    assert {name: values.tolist() for name, values in answered.items()} == {"start": [[1.0]], "end": [[2.0]]}


def test_what_is_no_number_is_kept_for_the_judge(server: Server, client: TfServingClient) -> None:
    server.signature("logits")
    server.answers[f"{PATH}:predict"] = 200, b'{"outputs": [[NaN, Infinity]]}'

    assert not np.isfinite(client.infer(MODEL, INPUTS)["logits"]).any()


@pytest.mark.parametrize("status", [429, 503, 504])
def test_a_busy_server_is_asked_again(server: Server, client: TfServingClient, status: int) -> None:
    server.signature("logits")
    server.answers[f"{PATH}:predict"] = status, {"error": "The batch scheduling queue is full"}

    with pytest.raises(NotYetError, match="queue is full"):
        client.infer(MODEL, INPUTS)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((400, {"error": "Missing named input: x"}), "^Missing named input: x$"),
        ((500, b"<html>"), "HTTP 500: <html>"),
        ((200, b"<html>"), "no JSON"),
        ((200, [1]), "no JSON object"),
        ((200, {"predictions": [1]}), "no 'outputs', only predictions"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words(
    server: Server, client: TfServingClient, answer: Any, words: str
) -> None:
    server.signature("logits")
    server.answers[f"{PATH}:predict"] = answer

    with pytest.raises(RefusedError, match=words):
        client.infer(MODEL, INPUTS)


def test_a_saved_model_without_our_signature_is_refused(server: Server, client: TfServingClient) -> None:
    server.answers[f"{PATH}/metadata"] = 200, {"metadata": {"signature_def": {"signature_def": {"other": {}}}}}
    with pytest.raises(RefusedError, match="no signature serving_default"):
        client.infer(MODEL, INPUTS)
    server.signature()
    with pytest.raises(RefusedError, match="has no outputs"):
        client.infer(MODEL, INPUTS)


def test_nobody_there_is_not_yet() -> None:
    nobody = connect("tfserving", "127.0.0.1:1")
    with pytest.raises(NotYetError):
        nobody.ready(MODEL)
