"""The life of one BertDeployment on the real node: applied, built, asked, changed, tampered with, mended, deleted."""

import json
from pathlib import Path
from typing import Any

import pytest

from e2e import berts, volumes
from e2e.load import steady_load
from support import answers
from support.installation import Images, wait_ready
from support.kube import Kube, wait_for

SENTENCES = ("A pod is the smallest unit.", "BERT reads both ways, and pads short rows.", "Yes.")
MIN_COSINE = 0.9999


@pytest.fixture(scope="module")
def served(kube: Kube) -> dict[str, Any]:
    """MiniLM, Ready."""
    kube.apply(berts.minilm())
    return wait_ready(kube, "minilm", seconds=300)


def test_it_answers_like_the_source_model(kube: Kube, served: dict[str, Any], images: Images, model: Path) -> None:
    assert served["status"]["summary"]["stage"] == "Ready"
    ids = answers.tokens(model, SENTENCES)
    match = answers.compare(kube, images, answers.Sample.of(served), ids)
    assert match.answer.shape == (3, ids["input_ids"].shape[1], 384)
    assert match.cosine >= MIN_COSINE


def test_users_see_it_in_kubectl(kube: Kube, served: dict[str, Any]) -> None:
    assert served
    head, row = kube.kubectl("get", "bertd").strip().splitlines()
    shown = dict(zip(head.split(), row.split(), strict=False))
    assert shown["NAME"] == "minilm"
    assert shown["READY"] == "True"
    assert shown["STAGE"] == "Ready"
    told = [event["reason"] for event in kube.list("events") if event["involvedObject"]["name"] == "minilm"]
    assert {"Building", "Built", "GoldenRequestsMatched", "Serving"} <= set(told)
    assert len(told) == len(set(told)), "an event is told once"


def test_a_new_batch_size_is_one_rollout_without_a_failed_request(
    kube: Kube, served: dict[str, Any], images: Images
) -> None:
    (deployment,) = kube.list("deployments")
    before = int(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"])
    with steady_load(kube, images.operator, "minilm", "minilm") as load:
        kube.kubectl("patch", "bertd", "minilm", "--type=merge", "-p", _batch_size(served, 4))
        live = wait_ready(kube, "minilm", seconds=120)
        # The old pod drains for some seconds after the new one is Ready: the load goes on until it is gone.
        wait_for("one pod left", lambda: len(berts.serving_pods(kube, "minilm")) == 1, seconds=90)
    assert live["status"]["observedGeneration"] == served["metadata"]["generation"] + 1
    (deployment,) = kube.list("deployments")
    assert int(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"]) == before + 1
    assert load.sent > 50
    assert load.failed == []


def _batch_size(live: dict[str, Any], size: int) -> str:
    models = live["spec"]["models"]
    return json.dumps({"spec": {"models": [{**models[0], "serving": {"maxBatchSize": size}}]}})


def test_a_tampered_artifact_never_gets_traffic(kube: Kube) -> None:
    (record,) = kube.list("bertartifacts")
    with (volumes.folder_of(kube, "minilm-store") / record["spec"]["path"] / "model.onnx").open("r+b") as file:
        file.seek(4096)
        file.write(b"X")
    kube.kubectl("scale", "bertd", "minilm", "--replicas=2")
    verified = berts.verdict(kube, "minilm", "Verified", "False", seconds=90)
    assert verified["reason"] == "ArtifactCorrupt"
    assert "model.onnx" in verified["message"]
    assert "bertops.dev/refresh" in verified["message"]
    (good,) = [pod for pod in berts.serving_pods(kube, "minilm") if _ready(pod)]
    (slice_,) = kube.list("endpointslices", "kubernetes.io/service-name=minilm")
    answering = [e["targetRef"]["name"] for e in slice_["endpoints"] if e["conditions"]["ready"]]
    assert answering == [good["metadata"]["name"]]


def test_the_refresh_annotation_mends_it(kube: Kube) -> None:
    kube.kubectl("annotate", "bertd", "minilm", "bertops.dev/refresh=again")
    live = wait_ready(kube, "minilm", seconds=200)
    assert live["status"]["readyReplicas"] == 2


def test_deleted_it_leaves_only_what_was_built(kube: Kube, served: dict[str, Any]) -> None:
    assert served
    artifacts = [item["metadata"]["name"] for item in kube.list("bertartifacts")]
    kube.kubectl("delete", "bertd", "minilm")

    def children() -> str:
        return kube.kubectl("get", "deploy,rs,svc,cm,job,pod", "-o", "name", "-l", berts.OURS)

    wait_for("every child gone", lambda: not children().strip(), seconds=90, seen=children)
    assert [item["metadata"]["name"] for item in kube.list("bertartifacts")] == artifacts
    assert kube.get("pvc", "minilm-store") is not None


def _ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
