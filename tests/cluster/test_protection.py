"""PodDisruptionBudget and NetworkPolicy on a real API server: what it stores is no drift, and off means gone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from support import builders
from support.kube_api import KubeApi
from support.operator_process import eventually, install_crds, operator

pytestmark = pytest.mark.cluster

MERGE: Final = "application/merge-patch+json"
PLURALS: Final = ("policy/v1/{}/poddisruptionbudgets", "networking.k8s.io/v1/{}/networkpolicies")
ALLOWED: Final = [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "gateway"}}}, {"podSelector": {}}]


@pytest.fixture
def namespace(api: KubeApi) -> Iterator[str]:
    install_crds(api)
    name = f"guarded-{uuid4().hex[:8]}"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    api.request("DELETE", f"/api/v1/namespaces/{name}")


def test_both_are_made_mended_and_taken_away_and_theirs_stays(api: KubeApi, namespace: str, tmp_path: Path) -> None:
    budgets, policies = (f"/apis/{plural.format(f'namespaces/{namespace}')}" for plural in PLURALS)
    bert = f"/apis/bertops.dev/v1alpha1/namespaces/{namespace}/bertdeployments"

    def live(path: str) -> list[dict[str, Any]]:
        return [each for each in api.request("GET", path).body["items"] if each["metadata"]["name"] != "theirs"]

    def edit(path: str, spec: dict[str, Any]) -> None:
        answer = api.request("PATCH", path, {"spec": spec}, content_type=MERGE)
        assert answer.code == 200, answer.message

    theirs = {"metadata": {"name": "theirs"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}}}
    assert api.request("POST", budgets, theirs).code == 201
    wish = builders.bert(spec={"networkPolicy": {"enabled": True, "allowFrom": ALLOWED}})
    with operator(api, tmp_path, "-n", namespace) as running:
        assert api.request("POST", bert, wish | {"metadata": {"name": "minilm"}}).code == 201
        (policy,) = eventually("a policy", lambda: live(policies))
        (budget,) = eventually("a budget", lambda: live(budgets))
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert len(policy["spec"]["ingress"][0]["from"]) == 2
        eventually("it comes to rest", running.idle)
        told = [line["message"] for line in running.lines() if "applied NetworkPolicy" in line["message"]]
        assert len(told) == 1, "what the API server leaves out or fills in is no drift"

        edit(f"{policies}/{policy['metadata']['name']}", {"egress": [{}]})
        eventually("nothing gets out again", lambda: "egress" not in live(policies)[0]["spec"])
        api.request("DELETE", f"{budgets}/{budget['metadata']['name']}")
        eventually("a new budget", lambda: live(budgets))

        edit(f"{bert}/minilm", {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}})
        eventually("both are gone", lambda: not live(budgets) and not live(policies))
        eventually("it comes to rest", running.idle)
        assert api.request("GET", f"{budgets}/theirs").code == 200
        assert running.forbidden() == 0
