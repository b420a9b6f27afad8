"""What the API server itself refuses and fills in: nothing of the operator runs here."""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bert_operator.api.spec import BertDeploymentSpec
from support import spec_corpus
from support.kube_api import Answer, KubeApi

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
NAMESPACE = "crd-tests"
BERTS = f"/apis/bertops.dev/v1alpha1/namespaces/{NAMESPACE}/bertdeployments"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"
SECONDS_UNTIL_SERVED = 120
SAMPLES = sorted((ROOT / "crds/samples").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def _crds(api: KubeApi) -> Iterator[None]:
    applied = api.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    assert applied.returncode == 0, applied.stderr
    waited = api.kubectl("wait", "--for=condition=Established", "crd", "bertdeployments.bertops.dev", "--timeout=120s")
    assert waited.returncode == 0, waited.stderr
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    # Established comes a moment before the endpoint serves the new schema.
    deadline = time.monotonic() + SECONDS_UNTIL_SERVED
    while _dry_run(api, spec_corpus.good()).code != 201 and time.monotonic() < deadline:
        time.sleep(0.1)
    yield
    api.request("DELETE", BERTS)


def _dry_run(api: KubeApi, resource: dict[str, Any], validation: str = "Strict") -> Answer:
    return api.request("POST", BERTS, resource, dryRun="All", fieldValidation=validation)


def _create(api: KubeApi, resource: dict[str, Any]) -> dict[str, Any]:
    api.request("DELETE", f"{BERTS}/{resource['metadata']['name']}")
    answer = api.request("POST", BERTS, resource, fieldValidation="Strict")
    assert answer.code == 201, answer.message
    return answer.body


@pytest.mark.parametrize("bad", spec_corpus.BAD, ids=lambda bad: bad.id)
def test_refuses_and_says_why(api: KubeApi, bad: spec_corpus.Bad) -> None:
    answer = _dry_run(api, bad.resource())
    assert answer.code in (400, 422), "was accepted"
    assert bad.says in answer.message


@pytest.mark.parametrize("name", spec_corpus.GOOD)
def test_accepts_and_fills_in_what_the_models_fill_in(api: KubeApi, name: str) -> None:
    written = spec_corpus.good_resource(name)
    answer = _dry_run(api, copy.deepcopy(written))
    assert answer.code == 201, answer.message
    assert answer.warnings == ()
    without_nulls = {key: value for key, value in written["spec"].items() if value is not None}
    _assert_same_defaults(without_nulls, answer.body["spec"])


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_accepts_each_sample(api: KubeApi, sample: Path) -> None:
    for resource in yaml.safe_load_all(sample.read_text()):
        answer = _dry_run(api, resource)
        assert answer.code == 201, answer.message
        _assert_same_defaults(resource["spec"], answer.body["spec"])


def _assert_same_defaults(written: dict[str, Any], filled: dict[str, Any]) -> None:
    """Both parse to the same, and every default the models know is written out, but empty lists and maps."""
    wanted = BertDeploymentSpec.model_validate(_without_nulls(written))
    assert BertDeploymentSpec.model_validate(filled) == wanted
    explicit = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert _numbers_as_text(_without_empty(filled)) == _without_empty(explicit)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        cleaned = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in cleaned.items() if item not in ({}, [])}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


def _numbers_as_text(spec: dict[str, Any]) -> dict[str, Any]:
    """`cpu: 1` stays a number in the stored object; the models read it as text."""
    limits = spec["server"].get("resources", {}).values()
    for amounts in limits:
        amounts.update({key: str(value) for key, value in amounts.items()})
    return spec


def test_kubectl_shows_the_message_of_a_rule(api: KubeApi) -> None:
    resource = spec_corpus.good()
    resource["spec"]["storage"] = {}
    refused = api.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=yaml.safe_dump(resource))
    assert refused.returncode == 1
    assert refused.stderr == (
        'The BertDeployment "minilm" is invalid: spec.storage: Invalid value: storage needs exactly one of claimName '
        "(an existing PersistentVolumeClaim) or size (to make one), e.g. `storage: {size: 5Gi}`\n"
    )


@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_kubectl_refuses_an_unknown_field(api: KubeApi, flags: tuple[str, ...]) -> None:
    resource = spec_corpus.good()
    resource["spec"]["replica"] = 2
    refused = api.kubectl("apply", *flags, "-n", NAMESPACE, "-f", "-", stdin=yaml.safe_dump(resource))
    assert refused.returncode == 1
    assert "spec.replica" in refused.stderr


def test_a_client_that_does_not_ask_for_strictness_is_warned(api: KubeApi) -> None:
    resource = spec_corpus.good()
    resource["spec"]["replica"] = 2
    answer = _dry_run(api, resource, validation="Warn")
    assert answer.code == 201
    assert answer.warnings == (r'299 - "unknown field \"spec.replica\""',)
    assert "replica" not in answer.body["spec"]


def test_size_grows_but_does_not_shrink(api: KubeApi) -> None:
    live = _create(api, spec_corpus.good())
    live["spec"]["storage"]["size"] = "6Gi"
    grown = api.request("PUT", f"{BERTS}/minilm", live)
    assert grown.code == 200, grown.message
    grown.body["spec"]["storage"]["size"] = "6000Mi"
    refused = api.request("PUT", f"{BERTS}/minilm", grown.body)
    assert refused.code == 422
    assert "size can't shrink, because a PersistentVolumeClaim can't" in refused.message


@pytest.mark.parametrize(
    ("field", "new"),
    [
        ("storageClassName", "slow"),
        ("storageClassName", None),
        ("accessModes", ["ReadWriteOnce"]),
        ("accessModes", None),
    ],
)
def test_what_a_made_claim_keeps_for_ever_can_not_change(api: KubeApi, field: str, new: object) -> None:
    resource = spec_corpus.good()
    made = {"size": "5Gi", "storageClassName": "fast", "accessModes": ["ReadWriteMany"]}
    resource["spec"]["storage"] = made
    live = _create(api, resource)
    live["spec"]["storage"] = {key: value for key, value in (made | {field: new}).items() if value is not None}
    refused = api.request("PUT", f"{BERTS}/minilm", live)
    assert refused.code == 422
    assert f"spec.storage.{field}" in refused.message
    assert f"{field} can't change, because a PersistentVolumeClaim's can't" in refused.message


def test_a_made_claim_can_be_replaced_by_an_existing_one(api: KubeApi) -> None:
    live = _create(api, spec_corpus.good())
    live["spec"]["storage"] = {"claimName": "models"}
    answer = api.request("PUT", f"{BERTS}/minilm", live)
    assert answer.code == 200, answer.message


def test_kubectl_scale_sets_replicas(api: KubeApi) -> None:
    _create(api, spec_corpus.good())
    scaled = api.kubectl("scale", "-n", NAMESPACE, "bertd/minilm", "--replicas=3")
    assert scaled.returncode == 0, scaled.stderr
    assert api.request("GET", f"{BERTS}/minilm").body["spec"]["replicas"] == 3
    assert api.request("GET", f"{BERTS}/minilm/scale").body["spec"]["replicas"] == 3


def _status() -> dict[str, Any]:
    def condition(kind: str) -> dict[str, Any]:
        return {
            "type": kind,
            "status": "True",
            "reason": "Serving",
            "message": "1 of 1 pods answer like the source model.",
            "lastTransitionTime": "2026-11-22T12:00:00Z",
            "observedGeneration": 1,
        }

    return {
        "observedGeneration": 1,
        "conditions": [condition("Ready")],
        "summary": {"stage": "Serving", "precision": "fp32", "fidelity": "0.999999", "models": "1/1"},
        "endpoint": {"http": "http://minilm.crd-tests:8000", "grpc": "minilm.crd-tests:8001"},
        "replicas": 1,
        "readyReplicas": 1,
        "selector": "bertops.dev/owner=abcdef",
    }


def _write_status(api: KubeApi, status: dict[str, Any]) -> Answer:
    body = {"apiVersion": "bertops.dev/v1alpha1", "kind": "BertDeployment", "metadata": {"name": "minilm"}}
    return api.request(
        "PATCH",
        f"{BERTS}/minilm/status",
        body | {"status": status},
        content_type="application/apply-patch+yaml",
        fieldManager="test",
        force="true",
    )


def test_get_shows_what_matters_in_columns(api: KubeApi) -> None:
    _create(api, spec_corpus.good())
    assert _write_status(api, _status()).code == 200
    short = api.kubectl("get", "-n", NAMESPACE, "bertd", "minilm").stdout.splitlines()
    assert short[0].split() == [
        "NAME",
        "READY",
        "STAGE",
        "SERVER",
        "PRECISION",
        "FIDELITY",
        "MODELS",
        "REPLICAS",
        "AGE",
    ]
    assert short[1].split()[:8] == ["minilm", "True", "Serving", "triton", "fp32", "0.999999", "1/1", "1"]
    wide = api.kubectl("get", "-n", NAMESPACE, "bertd", "minilm", "-o", "wide").stdout
    assert "http://minilm.crd-tests:8000   Serving   1 of 1 pods answer like the source model." in wide


def test_autoscalers_find_the_selector(api: KubeApi) -> None:
    _create(api, spec_corpus.good())
    _write_status(api, _status())
    scale = api.request("GET", f"{BERTS}/minilm/scale").body["status"]
    assert scale == {"replicas": 1, "selector": "bertops.dev/owner=abcdef"}


def test_kubectl_wait_works(api: KubeApi) -> None:
    _create(api, spec_corpus.good())
    _write_status(api, _status())
    waited = api.kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "bertd/minilm", "--timeout=60s")
    assert waited.returncode == 0, waited.stderr


def test_status_holds_only_what_was_written(api: KubeApi) -> None:
    _create(api, spec_corpus.good())
    written = _write_status(api, {"replicas": 0}).body["status"]
    assert written == {"replicas": 0}, "a default in a status reports what nobody saw"


def test_two_managers_own_conditions_of_different_types(api: KubeApi) -> None:
    """Conditions are a map list: another controller's condition survives ours."""
    _create(api, spec_corpus.good())
    foreign = {**_status()["conditions"][0], "type": "example.com/Approved"}
    _write_status(api, {"conditions": [foreign]})
    body = {"apiVersion": "bertops.dev/v1alpha1", "kind": "BertDeployment", "metadata": {"name": "minilm"}}
    answer = api.request(
        "PATCH",
        f"{BERTS}/minilm/status",
        body | {"status": _status()},
        content_type="application/apply-patch+yaml",
        fieldManager="other",
    )
    assert {entry["type"] for entry in answer.body["status"]["conditions"]} == {"Ready", "example.com/Approved"}


def test_explain_describes_each_field(api: KubeApi) -> None:
    explained = api.kubectl("explain", "bertdeployments.spec.models.build.maxSequenceLength").stdout
    assert "Longest input in tokens." in explained


def _twice(node: Any) -> None:
    """Let each CEL rule run twice."""
    if isinstance(node, dict):
        for rule in node.get("x-kubernetes-validations", []):
            rule["rule"] = f"({rule['rule']}) && ({rule['rule']})"
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _twice(child)


@pytest.mark.parametrize("file", ["bertdeployments.yaml", "bertartifacts.yaml"])
def test_rules_cost_less_than_half_of_the_limit(api: KubeApi, file: str) -> None:
    """The API server only says when a rule, or all together, cost more than it allows: so ask with twice the cost."""
    crd = yaml.safe_load((ROOT / "crds" / file).read_text())
    name = crd["metadata"]["name"]
    crd["metadata"]["resourceVersion"] = api.request("GET", CRD_PATH + name).body["metadata"]["resourceVersion"]
    _twice(crd["spec"]["versions"][0]["schema"])
    answer = api.request("PUT", CRD_PATH + name, crd, dryRun="All")
    assert answer.code == 200, answer.message


def test_the_cost_check_can_fail(api: KubeApi) -> None:
    """Repeated often enough, the rules exceed the limit: the API server does estimate them."""
    crd = yaml.safe_load((ROOT / "crds/bertdeployments.yaml").read_text())
    name = crd["metadata"]["name"]
    crd["metadata"]["resourceVersion"] = api.request("GET", CRD_PATH + name).body["metadata"]["resourceVersion"]
    for _ in range(5):
        _twice(crd["spec"]["versions"][0]["schema"])
    answer = api.request("PUT", CRD_PATH + name, crd, dryRun="All")
    assert answer.code == 422
    assert "estimated rule cost exceeds budget" in answer.message
