"""What makes a build a new build, and what doesn't."""

from typing import Any

import pytest

from bert_operator.api import spec as api
from bert_operator.request_key import request_key, same_wish
from support import builders


def key(*, model: dict[str, Any] | None = None, image: str = "build:1", **changes: Any) -> str:
    arguments = {"claim_uid": "c", "refresh": "", "image": image}
    spec_changes = {name: changes.pop(name) for name in list(changes) if name not in arguments}
    plain = builders.bert(spec={"models": [builders.model(**(model or {}))]} | spec_changes)["spec"]
    spec = api.BertDeploymentSpec.model_validate(plain)
    (one,) = spec.models
    return request_key(spec, one.build, one.versions[0], **(arguments | changes))


SOURCE = {"pvc": {"claimName": "models", "path": "other"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"claim_uid": "d"},
        {"refresh": "2"},
        {"model": {"build": {"task": "feature-extraction", "maxSequenceLength": 64}}},
        {"model": {"versions": [{"version": 1, "source": SOURCE}]}},
        {"builds": {"resources": {"limits": {"memory": "8Gi"}}}},
        {"hardware": {"nodeSelector": {"disk": "fast"}}},
    ],
)
def test_a_new_wish_is_a_new_build(changes: dict[str, Any]) -> None:
    assert not same_wish(key(), key(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": 3},
        {"model": {"serving": {"maxBatchSize": 2}}},
        {"model": {"build": {"task": "feature-extraction", "precision": "fp32", "fidelity": {}}}},
        {"server": {"type": "triton", "env": [{"name": "A", "value": "1"}]}},
        {"builds": {"queueName": "nightly"}},
    ],
    ids=["replicas", "serving", "a default written out", "server", "queue"],
)
def test_serving_changes_and_written_out_defaults_are_no_new_build(changes: dict[str, Any]) -> None:
    assert key() == key(**changes)


def test_a_newer_toolchain_is_another_request_for_the_same_wish() -> None:
    assert key() != key(image="build:2")
    assert same_wish(key(), key(image="build:2"))
