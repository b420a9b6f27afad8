"""Served versions in a few words."""

from collections.abc import Callable
from typing import Any

import pytest

from bert_operator.api import artifact, spec
from bert_operator.servers.base import ServedVersion
from support import builders

Make = Callable[..., tuple[spec.BertDeploymentSpec, list[ServedVersion]]]


def make(
    *models: dict[str, Any], server: dict[str, Any] | None = None, report: dict[str, Any] | None = None, **more: Any
) -> tuple[spec.BertDeploymentSpec, list[ServedVersion]]:
    plain = {"server": {"type": "triton"} | (server or {}), "storage": {"size": "1Gi"}, "models": list(models)}
    wish = spec.BertDeploymentSpec.model_validate(plain | {"models": list(models) or [builders.model()]} | more)
    known = artifact.BertArtifactSpec(
        claim_name="c", claim_uid="u", path="artifacts/x", request_keys=["ab"], report=builders.report(**(report or {}))
    )
    served = [
        ServedVersion(model=model, version=version.version, artifact_name="onnx-x", artifact=known)
        for model in wish.models
        for version in model.versions
    ]
    return wish, served


@pytest.fixture(name="make")
def _make() -> Make:
    return make
