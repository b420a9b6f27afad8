"""R12 and R14: an upgrade disturbs nothing that serves, and everything it says keeps to the conventions.

`python3 -m chaos.upgrade --resources 50` does the first with more.
"""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from support import conventions
from support.kube_api import KubeApi
from support.operator_process import install_crds
from support.upgrade import Upgrade, upgrade

pytestmark = pytest.mark.cluster

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RESOURCES = 5


@pytest.fixture(scope="module")
def namespace(api: KubeApi) -> Iterator[str]:
    name = f"upgrade-{uuid4().hex[:8]}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    api.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="module")
def upgraded(api: KubeApi, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Upgrade:
    install_crds(api)
    folder: Path = tmp_path_factory.mktemp("operators")
    return upgrade(api, namespace, folder, resources=RESOURCES)


def test_an_upgrade_with_new_default_images_restarts_nothing_and_says_what_a_refresh_would_bring(
    upgraded: Upgrade,
) -> None:
    assert upgraded.disturbed() == []
    assert len(upgraded.after.pods) == RESOURCES
    told = {name: _condition(bert, "UpToDate") for name, bert in upgraded.after.berts.items()}
    assert set(told.values()) == {("False", "NewerToolchain")}, told
    assert {_condition(bert, "UpToDate")[0] for bert in upgraded.before.berts.values()} == {"True"}
    assert (upgraded.writes, upgraded.forbidden) == (RESOURCES, 0), "one status each, and nothing else"


def test_what_it_says_keeps_to_the_conventions(upgraded: Upgrade) -> None:
    wrong = {
        name: found
        for snapshot in (upgraded.before, upgraded.after)
        for name, bert in snapshot.berts.items()
        if (found := conventions.of_object(bert) + conventions.of_ownership(bert))
    }
    assert wrong == {}
    moved = {
        name: conventions.of_change(bert, upgraded.after.berts[name]) for name, bert in upgraded.before.berts.items()
    }
    assert {name: found for name, found in moved.items() if found} == {}
    assert all(artifact["spec"] for artifact in upgraded.after.artifacts.values())


def test_kubectl_waits_for_what_it_says(api: KubeApi, namespace: str, upgraded: Upgrade) -> None:
    assert upgraded.after.berts
    for condition in ("Built", "UpToDate=false"):
        waited = api.kubectl("wait", "-n", namespace, f"--for=condition={condition}", "bertd", "--all", "--timeout=60s")
        assert waited.returncode == 0, waited.stderr


@pytest.mark.parametrize("plural", ["bertdeployments", "bertartifacts"])
def test_each_field_of_a_definition_has_a_type_and_a_description(api: KubeApi, upgraded: Upgrade, plural: str) -> None:
    assert upgraded.after.berts
    crd = api.request("GET", f"{CRDS}/{plural}.bertops.dev").body
    assert conventions.of_crd(crd) == []


def _condition(bert: conventions.Object, kind: str) -> tuple[str, str]:
    found = next(condition for condition in bert["status"]["conditions"] if condition["type"] == kind)
    return found["status"], found["reason"]
