"""A plan measured by the real Model Analyzer on the real Triton, shown, and served by."""

import json
from typing import Any

import pytest

from bert_operator.cli import tuning_report
from e2e import berts, volumes
from support.installation import wait_ready
from support.kube import Kube, wait_for

NAME = "minilm-tuned"
SHORT = {"maxInstances": 2, "maxBatchSize": 1, "maxConcurrency": 4, "budgetMinutes": 2}
"""Two ways of serving, two loads each: what two cores measure in a minute."""


def tuned(mode: str, store: str) -> dict[str, Any]:
    """The sample of what is published, with a shorter search and an objective that any machine meets."""
    bert = berts.sample(NAME)
    bert["spec"]["tuning"] |= {"mode": mode, "search": SHORT, "lengths": [32]}
    objective = {"maxLatencyMilliseconds": 60_000, "percentile": 95, "targetRequestsPerSecond": 1}
    bert["spec"]["storage"] = {"claimName": store}
    build = berts.minilm()["spec"]["models"][0]["build"]
    bert["spec"]["models"][0] |= {"build": build, "objective": objective}
    return bert


@pytest.fixture(scope="module")
def recommended(kube: Kube, store: str) -> dict[str, Any]:
    """Served by the spec's own values, measured; its status."""
    kube.apply(tuned("Recommend", store))
    wait_ready(kube, NAME, seconds=300)
    berts.verdict(kube, NAME, "Tuned", "True", seconds=240)
    status: dict[str, Any] = kube.get("bertdeployment", NAME)["status"]  # type: ignore[index]
    return status


def record(kube: Kube, status: dict[str, Any]) -> dict[str, Any]:
    found = kube.get("bertartifact", status["tuning"]["artifact"])
    assert found is not None
    return found


def instances(kube: Kube) -> int:
    """Of the configuration that serving pods mount."""
    (pod,) = berts.serving_pods(kube, NAME)
    config = next(one for one in pod["spec"]["volumes"] if one["name"] == "config")["configMap"]["name"]
    text = kube.get("configmap", config)["data"]["minilm.config.pbtxt"]  # type: ignore[index]
    return int(text.partition("instance_group {")[2].partition("count: ")[2].split()[0])


def test_a_plan_is_shown_and_nothing_is_changed(kube: Kube, recommended: dict[str, Any]) -> None:
    plan = recommended["tuning"]["plan"]
    assert plan["instances"] in {1, 2}
    assert plan["replicas"] >= 1
    assert float(plan["requestsPerSecond"]) > 0
    assert recommended["tuning"]["points"] >= 2
    assert instances(kube) == 1
    (deployment,) = kube.list("deployments")
    assert "bertops.dev/tuning" not in deployment["metadata"]["annotations"]


def test_the_points_are_kept_and_the_job_is_gone(kube: Kube, store: str, recommended: dict[str, Any]) -> None:
    key = recommended["tuning"]["key"]
    (measurement,) = record(kube, recommended)["spec"]["measurements"]
    assert measurement["key"] == key
    assert {point["concurrency"] for variant in measurement["variants"] for point in variant["points"]} <= {1, 4}
    jobs = "app.kubernetes.io/component=profile"
    wait_for("no profile Job", lambda: not kube.list("jobs", jobs), seconds=60)
    kept = {path.name for path in volumes.files(kube, store) if key in path.parts}
    assert kept >= {"metrics-model-inference.csv", "config.pbtxt"}


def test_the_page_shows_every_point(kube: Kube, recommended: dict[str, Any]) -> None:
    page = tuning_report.render(record(kube, recommended), recommended["tuning"])
    assert page.count("<circle") >= recommended["tuning"]["points"]
    assert "Plan: " in page


def test_applied_it_is_served_without_measuring_again(kube: Kube, recommended: dict[str, Any]) -> None:
    plan = recommended["tuning"]["plan"]
    kube.kubectl("patch", "bertd", NAME, "--type=merge", "-p", json.dumps({"spec": {"tuning": {"mode": "Apply"}}}))
    berts.verdict(kube, NAME, "Tuned", "True", seconds=180)
    wait_for("one pod left", lambda: len(berts.serving_pods(kube, NAME)) == plan["replicas"], seconds=90)
    live = kube.get("bertdeployment", NAME)
    assert live is not None
    assert live["status"]["tuning"]["served"] == live["status"]["tuning"]["plan"] == plan
    assert instances(kube) == plan["instances"]
    assert not kube.list("jobs", "app.kubernetes.io/component=profile")
