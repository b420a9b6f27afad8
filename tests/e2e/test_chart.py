"""The operator itself: upgraded, taken away, and what it leaves."""

from dataclasses import replace
from typing import Any

import pytest

from e2e import berts, ground
from support.installation import RELEASE, SYSTEM_NAMESPACE, Images, wait_ready
from support.kube import Kube, wait_for


@pytest.fixture(scope="module")
def served(kube: Kube, store: str) -> dict[str, Any]:
    """MiniLM, Ready."""
    kube.apply(berts.minilm(storage={"claimName": store}))
    return wait_ready(kube, "minilm", seconds=300)


def test_an_upgrade_restarts_no_serving_pod(kube: Kube, served: dict[str, Any], images: Images) -> None:
    assert served
    before = [pod["metadata"]["uid"] for pod in berts.serving_pods(kube, "minilm")]
    system = replace(kube, namespace=SYSTEM_NAMESPACE)
    old = [pod["metadata"]["uid"] for pod in system.list("pods")]
    ground.install(kube, images, workers=4)
    wait_for(
        "a new operator", lambda: not set(old) & {pod["metadata"]["uid"] for pod in system.list("pods")}, seconds=90
    )
    kube.kubectl("annotate", "bertd", "minilm", "tests.bertops.dev/stir=1")
    wait_ready(kube, "minilm", seconds=60)
    assert [pod["metadata"]["uid"] for pod in berts.serving_pods(kube, "minilm")] == before


def test_scaling_by_kubectl_works(kube: Kube, served: dict[str, Any]) -> None:
    assert served
    kube.kubectl("scale", "bertd", "minilm", "--replicas=2")
    live = wait_ready(kube, "minilm", seconds=90)
    assert live["status"]["readyReplicas"] == 2


def test_uninstalled_nothing_is_stuck(kube: Kube, served: dict[str, Any]) -> None:
    assert served
    kube.apply(berts.minilm("building", storage={"size": "1Gi", "retentionPolicy": "Delete"}))
    wait_for("its Job and its claim", lambda: kube.list("jobs") and kube.get("pvc", "building-store"), seconds=60)
    kube.helm("uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE, "--wait")
    kube.kubectl("delete", "bertd", "minilm", "building", "--wait=true", "--timeout=120s")

    def left() -> str:
        return kube.kubectl("get", "deploy,rs,svc,cm,job,pod,pvc", "-o", "name", "-l", berts.OURS)

    wait_for("every child gone, the claim too", lambda: not left().strip(), seconds=120, seen=left)
