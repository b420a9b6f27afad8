"""The tier of TorchServe: the real server in its image, on really built archives (see support/real_torchserve.py)."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import real_torchserve
from support.real_torchserve import Running

WHERE = Path(os.environ.get("BERTOPS_TORCHSERVE_ARTIFACTS", real_torchserve.ARTIFACTS))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A classifier with two versions and a model with token outputs, served."""

    told: dict[str, Any]
    """The operator's container."""
    folders: dict[str, Path]
    """Path of a mount -> artifact."""
    server: Running

    def references(self, name: str) -> list[dict[str, Any]]:
        """Requests and what the source model answers."""
        found: list[dict[str, Any]] = json.loads((WHERE / name / "references.json").read_text())
        return found


@pytest.fixture(scope="session")
def told(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The container; without archives the tier fails a caller who asked for it and skips one who didn't."""
    if not (WHERE / "scene.json").is_file():
        problem = f"no archives in {WHERE}: run `python3 -m support.real_torchserve`"
        if "e2e" in str(request.config.getoption("markexpr")):
            pytest.fail(problem)
        pytest.skip(problem)
    found: dict[str, Any] = json.loads((WHERE / "scene.json").read_text())
    return found


@pytest.fixture(scope="session")
def scene(told: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The server runs once for all tests; none may leave it changed."""
    folders = {path: WHERE / name / "artifact" for path, name in told["folders"].items()}
    scratch = tmp_path_factory.mktemp("scene")
    # The pod's scratch folder outlives its container: one before this died while it unpacked.
    (scratch / "store" / "sentiment-1").mkdir(parents=True)
    (scratch / "store" / "sentiment-1" / "model.pt").write_text("half")
    with real_torchserve.running(told, folders, scratch) as server:
        yield Scene(told=told, folders=folders, server=real_torchserve.wait_ready(server))
