"""verify's own decisions; tests/triton runs it against the real server."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_build import ready_server, verify
from bert_build.clients import Arrays, NotYetError, RefusedError
from bert_build.failures import BuildError
from bert_operator.api import names
from bert_operator.api.report import Manifest, ServedModel
from support import builders

EXPECTED = np.array([[0.25, 0.75], [0.5, 0.5], [0.1, 0.9]], np.float32)


class Server:
    """A client of a server that answers what it is told, after some failures."""

    def __init__(self, answer: Any, failures: list[Exception] | None = None) -> None:
        self.answer = answer
        self.failures = failures or []
        self.batches: list[int] = []

    def ready(self, _model: ServedModel) -> bool:
        self.fail()
        return True

    def infer(self, _model: ServedModel, inputs: Arrays) -> dict[str, Any]:
        self.fail()
        rows = len(inputs["input_ids"])
        first = sum(self.batches)
        self.batches.append(rows)
        return {} if self.answer is None else {"logits": self.answer[first : first + rows]}

    def close(self) -> None:
        pass

    def fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServedModel:
    monkeypatch.setattr(verify, "_POLL_SECONDS", 0)
    inputs = {f"0/in/{name}": np.ones((3, 4), np.int64) for name in ("input_ids", "attention_mask")}
    np.savez(tmp_path / names.GOLDEN_FILE, **inputs, **{"0/out/logits": EXPECTED})  # type: ignore[arg-type]
    manifest = Manifest(schema_version=1, report=builders.report(), files={})
    (tmp_path / names.MANIFEST_FILE).write_text(manifest.model_dump_json(by_alias=True))
    return ServedModel(
        name="minilm", version=3, path=str(tmp_path), artifact="onnx-a-b", manifest_sha256="", max_batch_size=2
    )


def ask(server: Server, model: ServedModel) -> dict[str, Any]:
    return verify._verify(server, model, "kubectl annotate x")


def test_matching_answers_are_told_with_figures(model: ServedModel) -> None:
    server = Server(EXPECTED + np.float32(1e-4))

    told = ask(server, model)

    assert server.batches == [2, 1]  # never more than the server takes at once
    assert told["model"] == "minilm"
    assert told["requests"] == 1
    assert told["maxAbsDifference"] == pytest.approx(1e-4, rel=0.01)


def test_a_server_that_comes_and_goes_is_asked_again(model: ServedModel, capsys: pytest.CaptureFixture[str]) -> None:
    trouble: list[Exception] = [NotYetError("no"), NotYetError("busy"), NotYetError("no")]

    assert ask(Server(EXPECTED, trouble), model)["version"] == 3

    assert "waiting for model minilm version 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (EXPECTED + np.float32(0.25), "output 'logits': max abs difference 0.25 (limit 0.001)"),
        (EXPECTED * np.float32(np.nan), "max abs difference nan"),
        (EXPECTED[:, :0], "output 'logits' is empty (shape [2, 0])"),
        (None, "output 'logits' is missing"),
    ],
)
def test_other_answers_fail_with_output_difference_and_limit(model: ServedModel, answer: Any, words: str) -> None:
    with pytest.raises(BuildError) as failed:
        ask(Server(answer), model)

    assert failed.value.reason == "VerificationFailed"
    assert "model minilm version 3 (artifact onnx-a-b)" in failed.value.message
    assert words in failed.value.message
    assert "kubectl annotate x" in failed.value.next_step


def test_a_request_that_the_server_refuses_is_a_mismatch(model: ServedModel) -> None:
    server = Server(EXPECTED)
    server.ready = lambda _model: True  # type: ignore[method-assign]
    server.failures = [RefusedError("bad shape")]

    with pytest.raises(BuildError, match="the server refused a golden request"):
        ask(server, model)


@pytest.fixture
def port() -> int:
    listener = ready_server.listen(0)
    number: int = listener.getsockname()[1]
    answers = iter([(False, '{"ready": false}'), (True, '{"ready": true}')])
    threading.Thread(target=ready_server.serve, args=(listener, lambda: next(answers)), daemon=True).start()
    return number


def talk(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(4096), b""))


def test_the_probe_sees_503_before_and_200_after(port: int) -> None:
    request = b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n"

    before, after = talk(port, request), talk(port, request)

    assert before.startswith(b"HTTP/1.1 503 ")
    assert after.startswith(b"HTTP/1.1 200 ")
    assert after.endswith(b'\r\n\r\n{"ready": true}')


@pytest.mark.parametrize("request_", [b"GET / HTTP/1.1\r\n\r\n", b"POST /ready HTTP/1.1\r\n\r\n", b"\xff\r\n\r\n", b""])
def test_nothing_else_is_served(port: int, request_: bytes) -> None:
    assert talk(port, request_).startswith(b"HTTP/1.1 404 ")


def test_a_silent_client_does_not_block_the_probe(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready_server, "_CLIENT_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        began = time.monotonic()
        answered = talk(port, b"GET /ready HTTP/1.1\r\n\r\n")

    assert answered.startswith(b"HTTP/1.1 503 ")
    assert time.monotonic() - began < 5
