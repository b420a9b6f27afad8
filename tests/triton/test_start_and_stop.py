"""How the real tritonserver starts and ends the way the operator starts it."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert_operator.api import names, spec
from bert_operator.servers import SERVERS
from support import builders, onnx_bert, published, real_triton

pytestmark = pytest.mark.e2e

MIDDLE = onnx_bert.Shape(layers=2, hidden=384, heads=12, vocabulary=8000, longest=128, labels=None)


def wish(**model: object) -> spec.BertDeploymentSpec:
    one = builders.model("m", **model)
    return spec.BertDeploymentSpec.model_validate(
        {"server": {"type": "triton", "triton": {"exitTimeoutSeconds": 5}}, "storage": {"size": "1Gi"}, "models": [one]}
    )


def assemble(
    folder: Path, asked: spec.BertDeploymentSpec, shape: onnx_bert.Shape
) -> tuple[Path, list[real_triton.ServedVersion]]:
    artifact = published.publish(folder / "artifact", shape)
    served = [artifact.served_as(asked.models[0], 1)]
    files = SERVERS[asked.server.type].container(served, asked, builders.settings()).files
    texts = {path: file.text for path, file in files.items()}
    return real_triton.repository(folder / "models", [(served[0], artifact)], texts), served


def test_a_model_of_some_size_stays_within_the_derived_memory_and_time(triton_root: Path, tmp_path: Path) -> None:
    asked = wish(serving={"maxBatchSize": 8, "instances": 2})
    models, served = assemble(tmp_path, asked, MIDDLE)
    container = SERVERS[asked.server.type].container(served, asked, builders.settings())
    began = time.monotonic()

    with real_triton.running(triton_root, models, served, asked, builders.settings(), tmp_path) as server:
        seconds = time.monotonic() - began
        used = server.memory()

    limit = int(container.resources["limits"]["memory"].removesuffix("Mi")) * 2**20
    probe = container.startup_probe
    assert 0.15 * limit < used < 0.9 * limit  # neither too small nor a waste
    assert seconds < probe["periodSeconds"] * probe["failureThreshold"] / 2


def test_sigterm_ends_it_within_the_grace_period_and_each_start_has_a_key_of_its_own(
    triton_root: Path, tmp_path: Path
) -> None:
    asked = wish()
    models, served = assemble(tmp_path, asked, onnx_bert.Shape())
    container = SERVERS[asked.server.type].container(served, asked, builders.settings())
    keys = set()

    for attempt in ("a", "b"):
        scratch = tmp_path / attempt
        scratch.mkdir()
        with real_triton.running(triton_root, models, served, asked, builders.settings(), scratch) as server:
            arguments = Path(f"/proc/{server.process.pid}/cmdline").read_bytes().split(b"\0")
            keys |= {text.partition(b"bertops-key=")[2] for text in arguments if b"bertops-key=" in text}
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=240) == 0
            assert time.monotonic() - began < container.termination_grace_seconds - 8

    # Of the admin APIs.
    assert len(keys) == 2
    assert all(len(key) == 36 for key in keys)


def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_name(triton_root: Path, tmp_path: Path) -> None:
    asked = wish()
    models, served = assemble(tmp_path, asked, onnx_bert.Shape())
    broken = models / "m/1" / names.ONNX_FILE
    broken.parent.chmod(0o755)
    broken.unlink()
    broken.write_bytes(b"no model")

    with (
        pytest.raises(AssertionError, match="failed to load 'm' version 1") as failed,
        real_triton.running(triton_root, models, served, asked, builders.settings(), tmp_path),
    ):
        pass

    assert "model.onnx can't be loaded" in str(failed.value)


def _reachable(root: Path, folder: Path) -> Path:
    """The server's environment where a plain user gets to it: the cache may lie in a closed home folder."""
    environment = next(parent for parent in root.parents if (parent / "pyvenv.cfg").exists())
    shutil.copytree(environment, folder / "server", symlinks=True, copy_function=_link)
    return folder / "server" / root.relative_to(environment)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
    return target


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        for path in Path(folder).rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)


def test_a_plain_user_serves_from_a_read_only_repository(triton_root: Path, open_folder: Path) -> None:
    asked = wish()
    models, served = assemble(open_folder, asked, onnx_bert.Shape())
    before = {path: path.stat().st_mtime_ns for path in models.rglob("*")}
    root = _reachable(triton_root, open_folder)

    with real_triton.running(root, models, served, asked, builders.settings(), open_folder, user=1000) as server:
        ready = server.get("/v2/models/m/ready")
        user = server.user

    assert ready == ""
    assert user == (1000 if os.getuid() == 0 else os.getuid()) != 0
    assert {path: path.stat().st_mtime_ns for path in models.rglob("*")} == before
