"""preflight and verify, started as their containers are, around the real tritonserver."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_operator.api import names
from bert_operator.api.report import BuildFailure, Manifest, ServedModel, ServedModels
from bert_operator.servers.triton import mount
from support import ports, published

from .conftest import Scene

pytestmark = pytest.mark.e2e

IDLE_LIMIT = 40 * 2**20


def told(scene: Scene, **paths: Path) -> dict[str, str]:
    """Environment of both containers; `paths` puts another artifact in a model's place."""
    models = [
        ServedModel(
            name=(name := mount(one).name),
            version=one.version,
            path=str(paths.get(name.replace("-", "_"), scene.models / name / str(one.version))),
            artifact=artifact.name,
            manifest_sha256=artifact.known.report.manifest_sha256,
            max_batch_size=one.model.serving.max_batch_size,
        )
        for one, artifact in scene.parts
    ]
    text = ServedModels(server="triton", owner="team/minilm", models=models).model_dump_json(by_alias=True)
    return {names.SERVED_ENV: text}


@contextmanager
def started(
    step: str, environment: Mapping[str, str], log: Path, arguments: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bert_build", step, *arguments]
    full = os.environ | {"BERTOPS_TERMINATION_LOG": str(log), "PYTHONPATH": os.pathsep.join(sys.path)} | environment
    process = subprocess.Popen(command, env=full, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def failure(process: subprocess.Popen[str], log: Path) -> BuildFailure:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    return BuildFailure.model_validate_json(log.read_text())


def ready(port: int) -> tuple[int, dict[str, Any]]:
    client = http.client.HTTPConnection("localhost", port, timeout=30)
    client.request("GET", "/ready")
    reply = client.getresponse()
    return reply.status, json.loads(reply.read())


def wait_for(port: int, status: int) -> dict[str, Any]:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            found, body = ready(port)
        except OSError:
            found, body = 0, {}
        if found == status:
            return body
        time.sleep(0.1)
    raise AssertionError(f"/ready never answered {status}")


def rewritten(scene: Scene, folder: Path, change: Any) -> Path:
    """A copy of the classifier's artifact whose golden answers are changed, with a manifest that fits."""
    folder.mkdir()
    source = scene.models / "sentiment/1"
    manifest = Manifest.model_validate_json((source / names.MANIFEST_FILE).read_bytes())
    (folder / names.ONNX_FILE).write_bytes((source / names.ONNX_FILE).read_bytes())
    with np.load(source / names.GOLDEN_FILE, allow_pickle=False) as golden:
        changed = {key: change(array) if "/out/" in key else array for key, array in golden.items()}
    published.finish(folder, changed, manifest.report)
    return folder


def test_preflight_passes_what_was_published(scene: Scene, tmp_path: Path) -> None:
    with started("preflight", told(scene), tmp_path / "log") as process:
        output, _ = process.communicate(timeout=240)

    assert process.returncode == 0, output
    assert output.count(": intact, ") == len(scene.parts)
    assert not (tmp_path / "log").exists()


def test_verify_turns_ready_with_figures_and_stays_small(scene: Scene, tmp_path: Path) -> None:
    port = ports.free()
    arguments = (f"--server={scene.server.grpc}", f"--port={port}")

    with started("verify", told(scene), tmp_path / "log", arguments) as process:
        body = wait_for(port, 200)
        deadline = time.monotonic() + 60
        while _resident(process.pid) > IDLE_LIMIT and time.monotonic() < deadline:
            time.sleep(0.05)
        resident = _resident(process.pid)
        answers = [ready(port)[0] for _ in range(20)]
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        seconds = time.monotonic() - began

    assert body["ready"] is True
    assert [(model["model"], model["version"], model["requests"]) for model in body["matched"]] == [
        ("sentiment", 1, 2),
        ("sentiment-v2", 2, 2),
        ("embedder", 7, 2),
        ("lowered", 1, 2),
    ]
    *exact, lowered = body["matched"]
    assert all(model["maxAbsDifference"] < 1e-4 and model["minCosine"] > 0.999 for model in exact)
    assert 0.97 < lowered["minCosine"] < 0.99999  # in int8, by the limits of its report
    assert resident < IDLE_LIMIT
    assert answers == [200] * 20
    assert (code, seconds < 5) == (0, True)


def test_verify_is_not_ready_while_there_is_no_server(scene: Scene, tmp_path: Path) -> None:
    port = ports.free()
    arguments = (f"--server=localhost:{ports.free()}", f"--port={port}")

    with started("verify", told(scene), tmp_path / "log", arguments) as process:
        body = wait_for(port, 503)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)

    assert body["ready"] is False
    assert "sentiment" in body["waitingFor"] or body["waitingFor"] == "the server"
    assert code == 0


def test_verify_fails_where_answers_differ_from_the_source_model(scene: Scene, tmp_path: Path) -> None:
    wrong = rewritten(scene, tmp_path / "artifact", lambda array: array + 0.5)
    arguments = (f"--server={scene.server.grpc}", f"--port={ports.free()}")

    with started("verify", told(scene, sentiment=wrong), tmp_path / "log", arguments) as process:
        found = failure(process, tmp_path / "log")

    assert found.reason == "VerificationFailed"
    assert "model sentiment version 1" in found.message
    assert "output 'logits'" in found.message
    assert "max abs difference 0.5 (limit 0.001)" in found.message
    assert "kubectl annotate bertd/minilm -n team" in found.next_step


def test_verify_fails_where_a_server_answers_with_other_shapes(scene: Scene, tmp_path: Path) -> None:
    wrong = rewritten(scene, tmp_path / "artifact", lambda array: np.concatenate([array, array], axis=1))
    arguments = (f"--server={scene.server.grpc}", f"--port={ports.free()}")

    with started("verify", told(scene, sentiment=wrong), tmp_path / "log", arguments) as process:
        found = failure(process, tmp_path / "log")

    assert "output 'logits' has shape [2, 2], expected [2, 4]" in found.message


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
