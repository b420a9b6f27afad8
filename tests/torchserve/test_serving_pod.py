"""The rest of a serving pod around the real TorchServe: its probe, verify, its start and its end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_operator.api.report import BuildFailure
from support import ports, real_torchserve

from .conftest import WHERE, Scene

pytestmark = pytest.mark.e2e


def told(scene: Scene, **folders: Path) -> str:
    """What verify is told; `folders` puts another artifact in the place of a version, e.g. sentiment_1."""
    models = json.loads(scene.told["told"])
    for model in models["models"]:
        key = f"{model['name']}_{model['version']}"
        model["path"] = str(folders.get(key, scene.folders[model["path"]]))
    return json.dumps(models)


@contextmanager
def verify(scene: Scene, log: Path, port: int, **folders: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bert_build", "verify", f"--port={port}"]
    command.append(f"--server=localhost:{scene.server.ports['http']}")
    environment = os.environ | {"BERTOPS_SERVED": told(scene, **folders), "BERTOPS_TERMINATION_LOG": str(log)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_ready(port: int, process: subprocess.Popen[str]) -> dict[str, Any]:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/ready", timeout=5) as reply:
                found: dict[str, Any] = json.loads(reply.read())
                return found
        except OSError:
            time.sleep(0.1)
    raise AssertionError("verify never turned ready")


def changed(folder: Path, where: Path, marker: str) -> Path:
    """An artifact whose recorded answers to some requests are others."""
    shutil.copytree(folder, where)
    with np.load(where / "golden.npz", allow_pickle=False) as golden:
        arrays = {key: golden[key] for key in golden.files}
    numbers = {key.split("/")[0] for key in arrays if key.endswith(marker)}
    assert numbers
    np.savez(
        where / "golden.npz",
        allow_pickle=False,
        **{key: -one if "/out/" in key and key.split("/")[0] in numbers else one for key, one in arrays.items()},
    )
    return where


def test_verify_repeats_tensors_and_texts(scene: Scene, tmp_path: Path) -> None:
    port = ports.free()
    with verify(scene, tmp_path / "log", port) as process:
        body = wait_for_ready(port, process)

    assert [(one["model"], one["version"]) for one in body["matched"]] == [
        ("sentiment", 1),
        ("sentiment", 2),
        ("embedder", 7),
    ]
    assert all(one["requests"] == 6 and one["maxAbsDifference"] < 1e-4 for one in body["matched"])


@pytest.mark.parametrize("marker", ["in/text", "in/text_pair", "in/input_ids"])
def test_an_answer_that_is_not_the_source_models_is_told(scene: Scene, tmp_path: Path, marker: str) -> None:
    other = changed(scene.folders["/models/sentiment/2"], tmp_path / "changed", marker)

    with verify(scene, tmp_path / "log", ports.free(), sentiment_2=other) as process:
        said, _ = process.communicate(timeout=240)

    assert process.returncode == 1, said
    failure = BuildFailure.model_validate_json((tmp_path / "log").read_text())
    assert failure.reason == "VerificationFailed"
    assert "model sentiment version 2" in failure.message


def broken(scene: Scene, where: Path) -> Path:
    """An artifact whose model can't be loaded."""
    with zipfile.ZipFile(scene.folders["/models/sentiment/2"] / "model.mar") as mar:
        parts = {name: mar.read(name) for name in mar.namelist()}
    where.mkdir()
    with zipfile.ZipFile(where / "model.mar", "w") as mar:
        for name, content in parts.items():
            mar.writestr(name, b"no model" if name == "model.pt" else content)
    return where


def test_a_model_that_does_not_load_never_turns_ready_although_ping_says_healthy(scene: Scene, tmp_path: Path) -> None:
    """Why the probe isn't /ping: this is TorchServe's own word on such a server."""
    container = json.loads((WHERE / "classifier.json").read_text())
    folders = scene.folders | {"/models/sentiment/2": broken(scene, tmp_path / "broken")}
    scratch = tmp_path / "server"
    scratch.mkdir()
    with real_torchserve.running(container, folders, scratch) as server:
        deadline = time.monotonic() + 400
        while "Failed to load model sentiment" not in server.log.read_text(errors="replace"):
            if "PytorchStreamReader" in server.log.read_text(errors="replace"):
                break
            assert time.monotonic() < deadline, server.log.read_text()[-3000:]
            time.sleep(0.2)
        assert json.loads(server.ask("/ping")[1])["status"] in ("Healthy", "Partial Healthy")
        assert not server.ready()
        # It is this one that the probe misses, however far the other is.
        assert not replace(server, loaded=["sentiment/2"]).ready()


def test_a_missing_archive_ends_the_container(scene: Scene, tmp_path: Path) -> None:
    scratch = tmp_path / "server"
    scratch.mkdir()
    folders = scene.folders | {"/models/sentiment/2": tmp_path}
    with real_torchserve.running(scene.told, folders, scratch) as server:
        assert server.process.wait(timeout=240) == 1
    assert "TorchServe can't start" in server.log.read_text()


def test_a_start_over_what_was_unpacked_before_unpacks_again(scene: Scene) -> None:
    """It found half of a model there: see conftest.py."""
    assert (scene.server.store / "sentiment-1" / "model.pt").stat().st_size > 1000


def test_sigterm_ends_it_within_the_grace_of_the_pod(scene: Scene) -> None:
    """The last to ask the server."""
    server = real_torchserve.wait_ready(scene.server)
    workers = server.workers()
    server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert server.process.wait(timeout=240) == 143
    seconds = time.monotonic() - began
    print(f"ended after {seconds:.1f} s")
    assert seconds < 12
    # In a pod they would end with process 1.
    deadline = time.monotonic() + 60
    while any(_alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_the_artifacts_stay_as_they_were(scene: Scene) -> None:
    assert sorted(path.name for path in (WHERE / "first/artifact").iterdir()) == [
        "golden.npz",
        "manifest.json",
        "model.mar",
    ]
    assert scene.folders["/models/sentiment/1"] == WHERE / "first/artifact"
