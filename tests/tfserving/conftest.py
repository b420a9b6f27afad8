"""The tier of TF Serving: its stand-in on this machine, over SavedModels made here. Runs inside the stand-in's image.

`python -m images run tfserving-standin -- python -m pytest tests/tfserving`; elsewhere it is skipped for want of
TensorFlow.
"""

import importlib.util
import json
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from support import forked_standin, ports

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/tfserving"
_START_SECONDS = 300
collect_ignore_glob = [] if importlib.util.find_spec("tensorflow") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs TensorFlow."""
    for item in items:
        item.add_marker(pytest.mark.build)
        item.add_marker(pytest.mark.filterwarnings("ignore"))  # of TensorFlow and what it needs


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that has opened its ports."""

    rest: int
    grpc: int
    log: Path

    def get(self, path: str) -> tuple[int, str]:
        return self._ask(path, None)

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        status, text = self._ask(path, json.dumps(body).encode())
        return status, json.loads(text)

    def _ask(self, path: str, body: bytes | None) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.rest}{path}", body, timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Configuration files and models as the operator mounts them, below a folder."""

    folder: Path

    def arguments(self, rest: int, grpc: int, *more: str) -> list[str]:
        """The operator's own command line, its paths and ports changed to this machine's."""
        changed = {"--port": str(grpc), "--rest_api_port": str(rest)}
        lines = [line.partition("=") for line in json.loads((GOLDEN / "arguments.json").read_text())[1:]]
        return [
            f"{name}={changed.get(name, value.replace('/etc/tfserving', str(self.folder)))}" for name, _, value in lines
        ] + list(more)

    @contextmanager
    def running(self, *more: str) -> Iterator[Running]:
        """Start the stand-in and wait until it answers."""
        rest, grpc = ports.free(), ports.free()
        log = self.folder / f"{rest}.log"
        with self.started(rest, grpc, *more, log=log) as process:
            server = Running(rest=rest, grpc=grpc, log=log)
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(rest):
                assert process.is_alive(), log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield server

    @contextmanager
    def started(self, rest: int, grpc: int, *more: str, log: Path) -> Iterator[BaseProcess]:
        """The process, which may end by itself."""
        process = forked_standin.start(self.arguments(rest, grpc, *more), log)
        try:
            yield process
        finally:
            process.kill()
            process.join()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def save_models(folder: Path, *, repairing: bool) -> Path:
    """Models for the golden configuration: sentiment 1 and 2, toxic 7."""
    from .saved_models import save  # noqa: PLC0415 - imports TensorFlow

    for path, seed in (("sentiment/1", 1), ("sentiment/2", 2), ("toxic/7", 7)):
        save(folder / path, seed=seed, repairing=repairing)
    return folder


def write_scene(folder: Path, models: Path) -> Scene:
    """The golden configuration over a copy of the models."""
    shutil.copytree(models, folder / "models")
    for file in GOLDEN.glob("*.config"):
        text = file.read_text(encoding="utf-8").replace("/models/", f"{folder}/models/")
        (folder / file.name).write_text(text, encoding="utf-8")
    return Scene(folder=folder)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that see through TF Serving's padding."""
    return save_models(tmp_path_factory.mktemp("models"), repairing=True)


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Scene:
    """Those models, for tests that only read them."""
    return write_scene(tmp_path_factory.mktemp("scene") / "good", models)


@pytest.fixture(scope="session")
def server(scene: Scene) -> Iterator[Running]:
    """The stand-in with the operator's configuration, once for all tests."""
    with scene.running() as running:
        yield running
