"""The chart on a real API server: install, upgrade with newer CRDs, uninstall, install again. No pod runs here."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import helm, spec_corpus
from support.kube_api import KubeApi

pytestmark = pytest.mark.cluster

SYSTEM = "chart-system"
TEAM = "chart-team"
RELEASE = "bert-operator"
CRDS = ("bertdeployments.bertops.dev", "bertartifacts.bertops.dev")
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
BERTS = f"/apis/bertops.dev/v1alpha1/namespaces/{TEAM}/bertdeployments"
IMAGES = ("--set", "images.operator=registry.example/operator:1", "--set", "images.build=registry.example/build:1")
ACCOUNT = f"system:serviceaccount:{SYSTEM}:{RELEASE}"


@pytest.fixture(scope="module", autouse=True)
def _namespaces(api: KubeApi) -> Iterator[None]:
    for name in CRDS:  # another test may have applied them without helm
        api.kubectl("delete", "crd", name, "--ignore-not-found", "--wait")
    # Everything in here, the operator's own pod included, must pass Pod Security "restricted".
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name in (SYSTEM, TEAM):
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    yield
    api.helm("uninstall", RELEASE, "-n", SYSTEM, "--ignore-not-found")
    api.request("DELETE", BERTS)


def _upgrade(api: KubeApi, chart: Path = helm.CHART, *more: str) -> str:
    done = api.helm("upgrade", "--install", RELEASE, str(chart), "-n", SYSTEM, *IMAGES, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def notes(_namespaces: None, api: KubeApi) -> str:
    """The chart as it comes, installed; tests that change it bring it back. Gives the notes."""
    return _upgrade(api)


def _crd(api: KubeApi) -> dict[str, Any]:
    answer = api.request("GET", f"{CRD_PATH}/bertdeployments.bertops.dev")
    assert answer.code == 200
    return answer.body


def _spec_fields(crd: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    fields: dict[str, Any] = schema["spec"]["properties"]
    return fields


def _newer(folder: Path) -> Path:
    """A later chart: its CRD has one more field."""
    chart = folder / "bert-operator"
    shutil.copytree(helm.CHART, chart)
    file = chart / "files" / "crds" / "bertdeployments.yaml"
    crd = yaml.safe_load(file.read_text())
    _spec_fields(crd)["later"] = {"type": "string", "maxLength": 5}
    file.write_text(yaml.safe_dump(crd))
    return chart


def test_notes_name_the_next_three_commands(api: KubeApi, notes: str) -> None:
    notes = notes.split("NOTES:\n")[1]
    assert f"kubectl rollout status -n {SYSTEM} deployment/{RELEASE}" in notes
    assert "kubectl get bertd -A -o wide --watch" in notes
    manifest = notes.split("<<EOF\n")[1].split("     EOF")[0]
    waited = api.kubectl("wait", "--for=condition=Established", "crd", *CRDS, "--timeout=120s")
    assert waited.returncode == 0, waited.stderr
    applied = api.kubectl("apply", "-n", TEAM, "--dry-run=server", "-f", "-", stdin=manifest)
    assert applied.returncode == 0, applied.stderr


@pytest.mark.usefixtures("notes")
def test_upgrade_brings_new_crd_fields_and_uninstall_keeps_what_users_made(api: KubeApi, tmp_path: Path) -> None:
    made = api.kubectl("apply", "-n", TEAM, "-f", "-", stdin=yaml.safe_dump(spec_corpus.good()))
    assert made.returncode == 0, made.stderr
    assert "later" not in _spec_fields(_crd(api))

    _upgrade(api, _newer(tmp_path))
    assert "later" in _spec_fields(_crd(api))

    gone = api.helm("uninstall", RELEASE, "-n", SYSTEM)
    assert gone.returncode == 0, gone.stderr
    assert api.request("GET", f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/{RELEASE}").code == 404
    assert api.request("GET", f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{RELEASE}").code == 404
    assert api.request("GET", f"{BERTS}/minilm").code == 200

    _upgrade(api)
    assert "later" not in _spec_fields(_crd(api))
    assert api.request("GET", f"{BERTS}/minilm").code == 200


def test_an_operator_that_asks_for_no_lease_ends_before_one_that_does_begins(api: KubeApi) -> None:
    def strategy() -> Any:
        return api.request("GET", f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/{RELEASE}").body["spec"]["strategy"]

    _upgrade(api, helm.CHART, "--set", "leaderElection.enabled=false")
    assert strategy() == {"type": "Recreate"}
    _upgrade(api)
    assert strategy() == {"type": "Recreate"}, "the one before asked for no Lease"
    next_one = _upgrade(api, helm.CHART, "--dry-run=server")
    assert "type: RollingUpdate" in next_one, "this one time only"
    assert "type: Recreate" not in next_one


@pytest.mark.usefixtures("notes")
def test_the_operators_pod_passes_the_restricted_profile(api: KubeApi) -> None:
    deployment = api.request("GET", f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/{RELEASE}").body
    pod = {"metadata": {"generateName": "probe-"}, "spec": deployment["spec"]["template"]["spec"]}
    answer = api.request("POST", f"/api/v1/namespaces/{SYSTEM}/pods", pod, dryRun="All")
    assert answer.code == 201, answer.message
    container: dict[str, Any] = pod["spec"]["containers"][0]
    del container["securityContext"]
    refused = api.request("POST", f"/api/v1/namespaces/{SYSTEM}/pods", pod, dryRun="All")
    assert "violates PodSecurity" in refused.message, "the check above would pass anything"


MAY = [
    ("list", "bertops.dev", "bertdeployments", ""),
    ("watch", "bertops.dev", "bertartifacts", ""),
    ("patch", "bertops.dev", "bertdeployments", "status"),
    ("create", "bertops.dev", "bertartifacts", ""),
    ("delete", "bertops.dev", "bertartifacts", ""),
    ("patch", "apps", "deployments", ""),
    ("create", "apps", "deployments", ""),
    ("watch", "apps", "replicasets", ""),
    ("delete", "autoscaling", "horizontalpodautoscalers", ""),
    ("delete", "policy", "poddisruptionbudgets", ""),
    ("create", "networking.k8s.io", "networkpolicies", ""),
    ("get", "", "services", ""),
    ("delete", "", "configmaps", ""),
    ("delete", "batch", "jobs", ""),
    ("create", "", "persistentvolumeclaims", ""),
    ("watch", "", "pods", ""),
    ("create", "events.k8s.io", "events", ""),
]
MAY_NOT = [
    *[(verb, "", "secrets", "") for verb in ("get", "list", "watch", "create")],
    ("create", "", "pods", "exec"),
    ("get", "", "pods", "log"),
    ("create", "", "pods", ""),
    ("create", "", "serviceaccounts", "token"),
    ("patch", "bertops.dev", "bertdeployments", ""),
    ("delete", "bertops.dev", "bertdeployments", ""),
    ("delete", "", "persistentvolumeclaims", ""),
    ("delete", "apps", "deployments", ""),
    ("create", "rbac.authorization.k8s.io", "roles", ""),
    ("patch", "apiextensions.k8s.io", "customresourcedefinitions", ""),
    ("list", "", "nodes", ""),
]


def _may(api: KubeApi, user: str, namespace: str, question: tuple[str, str, str, str]) -> bool:
    verb, group, resource, subresource = question
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
    answer = api.request(
        "POST",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {"spec": {"user": user, "resourceAttributes": attributes | {"subresource": subresource}}},
    )
    return bool(answer.body["status"]["allowed"])


@pytest.mark.usefixtures("notes")
def test_the_operator_may_do_its_work_and_nothing_else(api: KubeApi) -> None:
    assert [question for question in MAY if not _may(api, ACCOUNT, TEAM, question)] == []
    assert [question for question in MAY_NOT if _may(api, ACCOUNT, TEAM, question)] == []


def test_watch_namespaces_confines_the_operator(api: KubeApi) -> None:
    _upgrade(api, helm.CHART, "--set", f"watchNamespaces={{{TEAM}}}")
    assert [question for question in MAY if not _may(api, ACCOUNT, TEAM, question)] == []
    assert [question for question in MAY if _may(api, ACCOUNT, "default", question)] == []
    _upgrade(api)


@pytest.mark.usefixtures("notes")
def test_of_all_leases_the_operator_may_touch_its_own_only(api: KubeApi) -> None:
    def may(verb: str, namespace: str, name: str) -> bool:
        lease = {
            "verb": verb,
            "namespace": namespace,
            "name": name,
            "group": "coordination.k8s.io",
            "resource": "leases",
        }
        body = {"spec": {"user": ACCOUNT, "resourceAttributes": lease}}
        answer = api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        return bool(answer.body["status"]["allowed"])

    assert all(may(verb, SYSTEM, RELEASE) for verb in ("get", "create", "patch"))
    others = [(SYSTEM, "another"), (TEAM, RELEASE), ("kube-system", "kube-controller-manager")]
    assert not [other for other in others for verb in ("get", "patch", "update", "delete") if may(verb, *other)]


@pytest.mark.usefixtures("notes")
def test_the_clusters_own_roles_learn_about_bert_deployments(api: KubeApi) -> None:
    """Aggregation is the controller manager's work; what it selects by is ours."""
    found = api.kubectl("get", "clusterrole", "-l", "rbac.authorization.k8s.io/aggregate-to-edit=true", "-o", "json")
    ours = {role["metadata"]["name"]: role["rules"] for role in json.loads(found.stdout)["items"]}
    assert {f"{RELEASE}-view", f"{RELEASE}-edit"} <= set(ours)
    writers = [rule["resources"] for rule in ours[f"{RELEASE}-edit"]]
    assert ["bertdeployments"] in writers
    assert all("bertartifacts" not in resources for resources in writers)
