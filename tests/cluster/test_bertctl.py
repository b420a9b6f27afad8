"""`bertctl` reads a real API server as kubectl would: with a kubeconfig, its contexts and the user's rights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bert_operator.api import names
from bert_operator.cli.cluster import Editor
from bert_operator.objects import artifact
from support import builders
from support.command_line import bertctl
from support.fake_cluster import FakeCluster
from support.kube_api import KubeApi
from support.operator_process import install_crds

pytestmark = pytest.mark.cluster

NAMESPACE = "bertctl-tests"
ROOT = f"/apis/bertops.dev/v1alpha1/namespaces/{NAMESPACE}"
BERTS = f"{ROOT}/bertdeployments"
MERGE = "application/merge-patch+json"


@pytest.fixture(scope="module", autouse=True)
def _namespace(api: KubeApi) -> Iterator[None]:
    install_crds(api)
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    yield
    for kind in (BERTS, f"{ROOT}/bertartifacts", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"):
        api.request("DELETE", kind, propagationPolicy="Background")


@pytest.fixture
def bert(api: KubeApi) -> Iterator[dict[str, Any]]:
    """A live BertDeployment that no operator has seen."""
    wish = builders.bert("seen")
    made = api.request("POST", BERTS, {**wish, "metadata": {"name": "seen"}})
    assert made.code == 201, made.message
    yield made.body
    api.request("DELETE", f"{BERTS}/seen")


def say(api: KubeApi, status: dict[str, Any]) -> None:
    """Write the status, as the operator does."""
    answer = api.request("PATCH", f"{BERTS}/seen/status", {"status": status}, content_type=MERGE)
    assert answer.code == 200, answer.message


def imagined(live: dict[str, Any]) -> FakeCluster:
    """A world around the live object in which builds and pods do well."""
    store = builders.claim("seen-store")
    store["metadata"]["namespace"] = NAMESPACE
    return FakeCluster(live, store, builders.claim("models", uid="m"))


def kubeconfig_of(api: KubeApi, file: Path, name: str, **context: str) -> Path:
    """A kubeconfig of a service account that was given no rights."""
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    api.request("POST", accounts, {"metadata": {"name": name}})
    token = api.request("POST", f"{accounts}/{name}/token", {"spec": {}}).body["status"]["token"]
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["users"].append({"name": name, "user": {"token": token}})
    cluster = config["clusters"][0]["name"]
    config["contexts"].append({"name": name, "context": {"cluster": cluster, "user": name, **context}})
    file.write_text(yaml.safe_dump(config))
    return file


def test_a_served_one_is_shown_with_what_was_built(api: KubeApi, bert: dict[str, Any]) -> None:
    world = imagined(bert)
    for _ in world.settle(builders.settings(), "seen"):
        pass
    say(api, world.bert("seen")["status"])
    ran = bertctl("status", "seen", "-n", NAMESPACE, "--kubeconfig", api.kubeconfig)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[:2] == [
        f"{NAMESPACE}/seen: Ready, triton, 1/1 pods ready",
        f"http:    http://seen.{NAMESPACE}.svc:8000",
    ]
    row = next(line for line in lines if line.startswith("minilm/1 "))
    assert row.split()[1:4] == ["Built", "fp32", "0.9999999"]


def test_a_running_build_is_found_by_its_request(api: KubeApi, bert: dict[str, Any]) -> None:
    world = imagined(bert)
    plan = world.plan(builders.settings(), "seen")
    (job,) = plan.create
    world.carry_out(plan, "seen")
    say(api, world.plan(builders.settings(), "seen").status or world.bert("seen")["status"])
    made = api.request("POST", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", job)
    assert made.code == 201, made.message
    ran = bertctl("status", "seen", "-n", NAMESPACE, "--kubeconfig", api.kubeconfig)
    assert f"Job {job['metadata']['name']} (model minilm, attempt 1): " in ran.out


def test_the_namespace_is_that_of_the_context_and_rights_are_the_users(
    api: KubeApi, bert: dict[str, Any], tmp_path: Path
) -> None:
    assert bert["metadata"]["name"] == "seen"
    file = kubeconfig_of(api, tmp_path / "kubeconfig", "visitor", namespace=NAMESPACE)
    ran = bertctl("status", "seen", "--kubeconfig", file, "--context", "visitor")
    assert (ran.code, ran.out) == (1, "")
    assert f"error: can't read BertDeployment seen in namespace {NAMESPACE}: " in ran.err
    assert "is forbidden" in ran.err
    assert "visitor" in ran.err


def test_what_is_not_there_is_said_with_the_way_to_find_it(api: KubeApi, tmp_path: Path) -> None:
    ran = bertctl("status", "nobody", "-n", NAMESPACE, "--kubeconfig", api.kubeconfig)
    assert ran.code == 1
    assert f"there is no BertDeployment 'nobody' in namespace {NAMESPACE}" in ran.err
    assert "no way to a cluster" in bertctl("status", "x", "--kubeconfig", tmp_path / "none").err
    config = yaml.safe_load(api.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "dead").write_text(yaml.safe_dump(config))
    gone = bertctl("status", "x", "--kubeconfig", tmp_path / "dead")
    assert gone.code == 1
    assert "the API server can't be reached" in gone.err


def test_predict_says_what_it_waits_for(api: KubeApi, bert: dict[str, Any]) -> None:
    assert bert["metadata"]["name"] == "seen"
    ran = bertctl("predict", "seen", "-n", NAMESPACE, "--kubeconfig", api.kubeconfig, "--text", "a")
    assert ran.code == 1
    assert f"minilm/1 isn't served yet; see what it waits for: bertctl status seen -n {NAMESPACE}" in ran.err


def test_a_record_as_kubectl_prints_it_is_taken_by_render(api: KubeApi, bert: dict[str, Any], tmp_path: Path) -> None:
    claim = {"metadata": {"name": "seen-store", "uid": builders.CLAIM_UID, "namespace": NAMESPACE}}
    record = artifact.manifest(builders.report(), claim, "ab" * 16, None)
    made = api.request("POST", f"{ROOT}/bertartifacts", record)
    assert made.code == 201, made.message
    for kind, file in (("bertartifact", "known.yaml"), ("bertd", "bert.yaml")):
        printed = api.kubectl("get", kind, "-n", NAMESPACE, "-o", "yaml")
        (tmp_path / file).write_text(printed.stdout)
    ran = bertctl("render", tmp_path / "bert.yaml", "--artifact", tmp_path / "known.yaml")
    assert ran.code == 0, ran.err
    assert "PLACEHOLDER" not in ran.out
    assert f"name: {made.body['metadata']['name']}" in ran.out
    assert f"uid: {bert['metadata']['uid']}" in ran.out


@pytest.fixture
def record(api: KubeApi) -> Iterator[dict[str, Any]]:
    """A live BertArtifact."""
    claim = {"metadata": {"name": "seen-store", "uid": builders.CLAIM_UID, "namespace": NAMESPACE}}
    made = api.request(
        "POST", f"{ROOT}/bertartifacts", artifact.manifest(builders.report(artifact_key="7" * 32), claim, "ab", None)
    )
    assert made.code == 201, made.message
    yield made.body
    api.request("DELETE", f"{ROOT}/bertartifacts/{made.body['metadata']['name']}")


def test_an_artifact_is_listed_with_its_user_who_keeps_it(
    api: KubeApi, bert: dict[str, Any], record: dict[str, Any]
) -> None:
    name = record["metadata"]["name"]
    where = ("-n", NAMESPACE, "--kubeconfig", api.kubeconfig)
    row = {line.split()[0]: line for line in bertctl("artifacts", "ls", *where).out.splitlines()}[name]
    assert row.split()[1:4] == ["onnx", "fp32", "BertModel"]
    assert row.split()[-1] == "-"
    versions = [{"version": 1, "artifact": name}]
    say(api, {"observedGeneration": bert["metadata"]["generation"], "models": [{"name": "m", "versions": versions}]})
    assert bertctl("artifacts", "ls", *where).out.splitlines()[-1].endswith(" seen")
    refused = bertctl("artifacts", "rm", name, *where)
    assert (refused.code, refused.err) == (1, f"error: nothing was removed: {name} is used by seen\n")


def test_a_record_goes_only_as_it_was_seen_and_can_be_put_back(api: KubeApi, record: dict[str, Any]) -> None:
    editor = Editor(namespace=NAMESPACE, kubeconfig=str(api.kubeconfig))
    name = record["metadata"]["name"]
    path = f"{ROOT}/bertartifacts/{name}"
    api.request("PATCH", path, {"spec": {"requestKeys": ["ab", "cd"]}}, content_type=MERGE)
    assert not editor.delete(record, names.ARTIFACT_KIND, unchanged=True)
    seen = editor.get(names.ARTIFACT_KIND, name)
    assert seen is not None
    assert editor.delete(seen, names.ARTIFACT_KIND, unchanged=True)
    assert editor.get(names.ARTIFACT_KIND, name) is None
    kept = {key: seen[key] for key in ("apiVersion", "kind", "spec")}
    assert editor.create(kept | {"metadata": {"name": name}})["spec"] == seen["spec"]


def test_what_may_not_be_done_is_told_in_the_api_servers_words(
    api: KubeApi, record: dict[str, Any], tmp_path: Path
) -> None:
    file = kubeconfig_of(api, tmp_path / "kubeconfig", "stranger", namespace=NAMESPACE)
    ran = bertctl("artifacts", "rm", record["metadata"]["name"], "--kubeconfig", file, "--context", "stranger")
    assert ran.code == 1
    assert "is forbidden" in ran.err
