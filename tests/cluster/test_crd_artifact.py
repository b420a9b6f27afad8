"""The API server's part in a BertArtifact: it records files, so what it says about them doesn't change."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.objects import artifact
from support import builders
from support.kube_api import APPLY, Answer, KubeApi

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
NAMESPACE = "artifact-tests"
ARTIFACTS = f"/apis/bertops.dev/v1alpha1/namespaces/{NAMESPACE}/bertartifacts"


@pytest.fixture(scope="module", autouse=True)
def _crds(api: KubeApi) -> Iterator[None]:
    applied = api.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    assert applied.returncode == 0, applied.stderr
    waited = api.kubectl("wait", "--for=condition=Established", "crd", "bertartifacts.bertops.dev", "--timeout=120s")
    assert waited.returncode == 0, waited.stderr
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    yield
    api.request("DELETE", ARTIFACTS)


def _manifest() -> dict[str, Any]:
    """What the operator really writes."""
    claim = {"metadata": {"name": "minilm-store", "uid": builders.CLAIM_UID, "namespace": NAMESPACE}}
    return artifact.manifest(builders.report(), claim, "ab" * 16, None)


def _apply(api: KubeApi, manifest: dict[str, Any]) -> Answer:
    name = manifest["metadata"]["name"]
    return api.request(
        "PATCH",
        f"{ARTIFACTS}/{name}",
        manifest,
        content_type=APPLY,
        fieldManager="bert-operator",
        force="true",
        fieldValidation="Strict",
    )


def test_keeps_a_whole_report(api: KubeApi) -> None:
    manifest = _manifest()
    answer = _apply(api, manifest)
    assert answer.code in (200, 201), answer.message
    read = api.request("GET", f"{ARTIFACTS}/{manifest['metadata']['name']}").body["spec"]
    assert BertArtifactSpec.model_validate(read) == BertArtifactSpec.model_validate(manifest["spec"])


def test_learns_another_request_of_the_same_artifact(api: KubeApi) -> None:
    manifest = _manifest()
    _apply(api, manifest)
    manifest["spec"]["requestKeys"].append("cd" * 16)
    assert _apply(api, manifest).body["spec"]["requestKeys"] == ["ab" * 16, "cd" * 16]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("claimName", "other", "say which artifact this record is about"),
        ("path", "artifacts/other", "say which artifact this record is about"),
        ("path", "../../etc", "spec.path: Invalid value"),
        ("path", "/etc", "spec.path: Invalid value"),
        ("requestKeys", ["ab", "ab"], "requestKeys: duplicate entries"),
        ("requestKeys", ["../x"], "spec.requestKeys[0]: Invalid value"),
    ],
)
def test_refuses_to_become_another_record(api: KubeApi, field: str, value: Any, says: str) -> None:
    manifest = _manifest()
    _apply(api, manifest)
    manifest["spec"][field] = value
    answer = _apply(api, manifest)
    assert answer.code in (422, 500), "was accepted"
    assert says in answer.message


def test_get_shows_what_matters_in_columns(api: KubeApi) -> None:
    _apply(api, _manifest())
    header, row = api.kubectl("get", "-n", NAMESPACE, "berta").stdout.splitlines()
    assert header.split() == ["NAME", "FORMAT", "TASK", "SIZE", "CLAIM", "COSINE", "AGE"]
    assert row.split()[1:6] == ["onnx", "feature-extraction", "90000000", "minilm-store", "0.9999999"]
