"""What a TorchServe pod starts and is asked by its probe, and who asks it from outside; no server needed."""

import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_build import clients, formats
from bert_build.clients import NotYetError, RefusedError
from bert_build.handlers import torchserve as handler
from bert_build.handlers.torchserve import launch, ready
from bert_operator.api.report import ServedModel
from bert_operator.api.spec import Format, Framework

HANDLERS = {"5": "d549"}
"""Exporter of the recipe -> first digits of the digest of the handler that it packs."""
MODEL = ServedModel(name="sentiment", version=2, path="/x", artifact="a", manifest_sha256="", max_batch_size=4)


@contextmanager
def answering(replies: Mapping[str, tuple[int, str]]) -> Iterator[tuple[str, list[Any]]]:
    """An HTTP server; its address and what was posted to it."""
    posted: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply()

        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._reply()

        def _reply(self) -> None:
            status, body = replies.get(self.path, (404, "{}"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", posted
        finally:
            server.shutdown()
            thread.join()


def archive(folder: Path) -> Path:
    folder.mkdir(parents=True)
    manifest = {"runtime": "python", "model": {"modelName": "model", "modelVersion": "1", "handler": "h.py"}}
    with zipfile.ZipFile(folder / "model.mar", "w") as mar:
        mar.writestr("model.pt", "weights")
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    return folder / "model.mar"


def test_the_digest_of_the_packed_handler_is_known_to_the_recipe() -> None:
    """Who changes the handler raises `exporter` in formats.py: old archives keep the old one, and serve on."""
    folder = Path(handler.__path__[0])
    packed = ("bert_handler.py", "served_bert.py", "bert_answers.py")
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in packed))
    exporter = formats.RECIPES[Framework.PYTORCH, Format.MAR].exporter
    assert {exporter: digest.hexdigest()[:4]} == HANDLERS, "raise `exporter` and write its new digest here"


def test_one_archive_is_unpacked_under_every_name_and_version_it_is_served_by(tmp_path: Path) -> None:
    mar = archive(tmp_path / "artifact")
    for version in ("1", "7"):
        launch.unpack(mar, tmp_path / f"sentiment-{version}", "sentiment", version)

    manifests = [
        json.loads((tmp_path / f"sentiment-{version}/MAR-INF/MANIFEST.json").read_text()) for version in ("1", "7")
    ]
    assert [found["model"]["modelVersion"] for found in manifests] == ["1", "7"]
    assert manifests[0]["model"] == {"modelName": "sentiment", "modelVersion": "1", "handler": "h.py"}
    assert (tmp_path / "sentiment-7/model.pt").read_text() == "weights"


def test_what_a_dead_container_left_is_unpacked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path / "artifact")
    half = tmp_path / "store" / "sentiment-1"
    half.mkdir(parents=True)
    (half / "model.pt").write_text("wei")
    started: list[list[str]] = []
    monkeypatch.setattr(launch, "java", lambda *_: ["java"])
    monkeypatch.setattr(launch.os, "execvp", lambda _, command: started.append(command))

    launch.main(
        ["--config=c", f"--store={tmp_path / 'store'}", "--model", "sentiment", "1", str(tmp_path / "artifact")]
    )

    assert started == [["java"]]
    assert (half / "model.pt").read_text() == "weights"


def an_encrypted_one(whole: bytes) -> bytes:
    """One bit of a member's flags is flipped, in both places."""
    for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = whole.index(sign) + offset
        whole = whole[:at] + bytes([whole[at] | 1]) + whole[at + 1 :]
    return whole


@pytest.mark.parametrize("damage", [lambda _: b"no zip", lambda _: b"", lambda whole: whole[:200], an_encrypted_one])
def test_a_damaged_archive_ends_the_container_with_one_line(
    tmp_path: Path, damage: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = archive(tmp_path / "whole").read_bytes()
    (tmp_path / "model.mar").write_bytes(damage(whole))

    code = launch.main(["--config=c", f"--store={tmp_path / 'store'}", "--model", "m", "1", str(tmp_path)])

    assert code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"TorchServe can't start: {tmp_path / 'model.mar'} of model m/1 is no whole model archive: ")


def workers(*states: str, wished: int = 1) -> tuple[int, str]:
    return 200, json.dumps([{"minWorkers": wished, "workers": [{"status": state} for state in states]}])


@pytest.mark.parametrize(
    ("reply", "code", "said"),
    [
        (workers("READY"), 0, ""),
        (workers("READY", "READY", wished=2), 0, ""),
        (workers("READY", "UNLOADING", wished=2), 1, "1 of 2 workers"),
        (workers("UNLOADING"), 1, "0 of 1 workers"),
        (workers(wished=0), 1, "0 of 0 workers"),
        ((404, "{}"), 1, "isn't loaded: HTTP 404"),
    ],
)
def test_the_probe_passes_once_every_worker_has_loaded(
    reply: tuple[int, str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with answering({"/models/good/1": workers("READY"), "/models/sentiment/2": reply}) as (address, _):
        monkeypatch.setattr(ready, "PORT", int(address.rpartition(":")[2]))
        assert ready.main(["good/1", "sentiment/2"]) == code
    assert said in capsys.readouterr().out


def test_the_probe_fails_while_there_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering({}) as (address, _):
        monkeypatch.setattr(ready, "PORT", int(address.rpartition(":")[2]))
    assert ready.main(["good/1"]) == 1


def test_a_client_sends_tensors_to_the_version_and_reads_the_answer() -> None:
    reply = (200, json.dumps({"logits": [[0.5, -0.5]]}))
    with answering({"/predictions/sentiment/2": reply, "/ping": (200, "{}")}) as (address, posted):
        client = clients.connect("torchserve", address)
        found = client.infer(MODEL, {"input_ids": np.array([[1, 2]], dtype=np.int64)})
        assert client.ready(MODEL)
    assert posted == [{"input_ids": [[1, 2]]}]
    assert (found["logits"].tolist(), str(found["logits"].dtype)) == ([[0.5, -0.5]], "float32")


def test_a_golden_text_goes_through_the_servers_tokenizer() -> None:
    reply = (200, json.dumps({"logits": [[1.0]]}))
    inputs = {"text": np.array(["one", "two"]), "text_pair": np.array(["a", "b"]), "input_ids": np.ones((2, 3))}
    with answering({"/predictions/sentiment/2": reply}) as (address, posted):
        found = clients.connect("torchserve", address).infer(MODEL, inputs)
    assert posted == [{"text": "one", "text_pair": "a", "raw": True}, {"text": "two", "text_pair": "b", "raw": True}]
    assert found["logits"].shape == (2, 1)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (503, {"code": 503, "message": "Model has no worker to serve inference request"}, NotYetError),
        (500, {"code": 500, "message": "Worker died."}, NotYetError),
        (503, {"code": 503, "message": "Prediction failed"}, RefusedError),
        (500, {"code": 500, "type": "PredictionException", "message": "the model failed"}, RefusedError),
        (404, {"code": 404, "message": "Model not found: sentiment"}, RefusedError),
        (400, {"code": 400, "message": "input_ids holds -1"}, RefusedError),
        (200, [1, 2], RefusedError),
    ],
)
def test_what_passes_is_told_from_what_does_not(status: int, body: Any, kind: type[Exception]) -> None:
    with answering({"/predictions/sentiment/2": (status, json.dumps(body))}) as (address, _), pytest.raises(kind):
        clients.connect("torchserve", address).infer(MODEL, {"input_ids": np.ones((1, 1), dtype=np.int64)})


def test_a_server_that_is_not_there_yet_is_asked_again() -> None:
    with answering({}) as (address, _):
        pass
    with pytest.raises(NotYetError):
        clients.connect("torchserve", address).ready(MODEL)
