"""The tier `e2e` of the server: a real tritonserver, found by BERTOPS_TRITON_ROOT (see support/real_triton.py)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bert_build import int8
from bert_operator.api import names, spec
from bert_operator.servers import SERVERS
from bert_operator.servers.base import ServedVersion
from bert_operator.servers.triton import mount
from support import builders, built_artifacts, onnx_bert, published, real_triton
from support.built_artifacts import Built
from support.published import Published
from support.real_triton import Running

SHAPE = onnx_bert.Shape(longest=32)
SECOND_SHAPE = onnx_bert.Shape(longest=32, seed=1)
TOKENS_SHAPE = onnx_bert.Shape(longest=32, labels=None)
ONNX_MODELS = {"tagger": "onnx/roberta/token-classification", "reader": "onnx/electra/question-answering"}
TORCHSCRIPT_MODELS = {
    "embedder": "torchscript/bert/feature-extraction",
    "reader": "torchscript/roberta/question-answering",
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A served model with two versions and one with token outputs, as a user would write them."""

    wish: spec.BertDeploymentSpec
    parts: list[tuple[ServedVersion, Published]]
    models: Path
    server: Running

    def part(self, server_name: str) -> tuple[ServedVersion, Published]:
        return next(part for part in self.parts if mount(part[0]).name == server_name)


@pytest.fixture(scope="session")
def triton_root(request: pytest.FixtureRequest) -> Path:
    """Where the server is; a missing one fails a caller who asked for this tier and skips one who didn't."""
    value = os.environ.get(real_triton.ROOT_ENV, "")
    if (Path(value) / "bin/tritonserver").is_file():
        return Path(value)
    problem = f"{real_triton.ROOT_ENV} is {value!r}: set it to the folder that holds bin/tritonserver"
    if value or "e2e" in str(request.config.getoption("markexpr")):
        pytest.fail(problem)
    pytest.skip(problem)


@pytest.fixture(scope="session")
def all_built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """What the build made of models of several families, tasks and formats; by FORMAT/FAMILY/TASK."""
    wanted = [*ONNX_MODELS.values(), *TORCHSCRIPT_MODELS.values()]
    return built_artifacts.build(tmp_path_factory.mktemp("built"), *wanted)


@pytest.fixture(scope="session")
def scene(triton_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The server runs once for all tests; none may leave it changed."""
    folder = tmp_path_factory.mktemp("scene")
    wish = _wish()
    classifier, embedder, lowered = wish.models
    parts = [
        _part(classifier, 1, published.publish(folder / "first", SHAPE)),
        _part(classifier, 2, published.publish(folder / "second", SECOND_SHAPE)),
        _part(embedder, 7, published.publish(folder / "tokens", TOKENS_SHAPE)),
        _part(lowered, 1, _quantised(folder / "int8", folder / "tokens" / names.ONNX_FILE)),
    ]
    served = [one for one, _ in parts]
    files = SERVERS[wish.server.type].container(served, wish, builders.settings()).files
    texts = {path: file.text for path, file in files.items()}
    models = real_triton.repository(folder / "models", parts, texts)
    with real_triton.running(triton_root, models, served, wish, builders.settings(), folder) as server:
        yield Scene(wish=wish, parts=parts, models=models, server=server)


def _part(model: spec.BertModel, version: int, artifact: Published) -> tuple[ServedVersion, Published]:
    return artifact.served_as(model, version), artifact


def _quantised(folder: Path, source: Path) -> Published:
    """The same model as the build makes it with `precision: int8`; its golden answers are the FP32 model's."""
    made = published.publish(folder, TOKENS_SHAPE)
    texts = [published.tokens(1, length, TOKENS_SHAPE, seed=length) for length in (8, 16, 32)]
    int8.static(source, folder / names.ONNX_FILE, int8.ranges(source, texts))
    report = made.known.report
    limits = {"limit_max_abs_difference": 1.0, "limit_min_cosine": 0.97}
    changes = {"precision": "int8", "manifest_sha256": "", "fidelity": report.fidelity.model_copy(update=limits)}
    with np.load(folder / names.GOLDEN_FILE) as golden:
        return published.finish(folder, {key: golden[key] for key in golden.files}, report.model_copy(update=changes))


def _wish() -> spec.BertDeploymentSpec:
    source = {"pvc": {"claimName": "models"}}
    build = {"task": "sequence-classification", "maxSequenceLength": 32, "sequenceBuckets": [8, 32]}
    classifier = {
        "name": "sentiment",
        "build": build,
        "serving": {"maxBatchSize": 4, "batching": {"maxQueueDelayMicroseconds": 50_000}},
        "defaultVersion": 1,
        "versions": [{"version": 1, "source": source}, {"version": 2, "source": source}],
    }
    embedder = {
        "name": "embedder",
        "build": build | {"task": "feature-extraction"},
        "serving": {"maxBatchSize": 4, "instances": 2, "batching": {"enabled": False}},
        "versions": [{"version": 7, "source": source}],
    }
    lowered = embedder | {
        "name": "lowered",
        "build": build | {"task": "feature-extraction", "precision": "int8"},
        "versions": [{"version": 1, "source": source}],
    }
    return spec.BertDeploymentSpec.model_validate(
        {
            "server": {"type": "triton", "triton": {"exitTimeoutSeconds": 5}, "extraArgs": ["--log-info=true"]},
            "storage": {"size": "1Gi"},
            "models": [classifier, embedder, lowered],
        }
    )
