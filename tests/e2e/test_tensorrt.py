"""An engine on a cluster without a GPU: the ONNX artifact is built for real, and what is missing is said.

Nothing is compiled here: no GPU and no NVIDIA image is at hand. tests/unit/bert_build/test_compile.py follows the steps
on a stand-in, tests/tensorrt holds the script against the real library.
"""

from typing import Any

import pytest

from e2e import berts
from support.installation import TRITON_RELEASE, wait_ready
from support.kube import Kube, condition, wait_for

NAME = "sentiment-tensorrt"
"""The sample's, and its file's."""


def wish() -> dict[str, Any]:
    """The sample, of the model that is here: its own is on the Hugging Face Hub."""
    bert = berts.sample(NAME)
    (model,) = bert["spec"]["models"]
    model["build"] |= {"task": "feature-extraction", "maxSequenceLength": 64, "sequenceBuckets": [32, 64]}
    model["versions"][0]["source"] = {"pvc": {"claimName": "models", "path": "all-MiniLM-L6-v2"}}
    return bert


@pytest.fixture(scope="module")
def waiting(kube: Kube) -> dict[str, Any]:
    """The BertDeployment once it waits for a GPU."""
    kube.kubectl("apply", "--dry-run=server", "-f", str(berts.SAMPLES / f"{NAME}.yaml"))
    kube.apply(wish())

    def look() -> dict[str, Any] | None:
        live = kube.get("bertdeployment", NAME)
        return live if condition(live, "Built").get("reason") == "WaitingForAccelerator" else None

    return wait_for("it waits for a GPU", look, seconds=400, seen=lambda: kube.get("bertdeployment", NAME))


def test_the_resource_says_exactly_what_it_waits_for(kube: Kube, waiting: dict[str, Any]) -> None:
    (job,) = kube.list("jobs", berts.OURS)
    message = condition(waiting, "Built")["message"]
    assert f"compile Job {job['metadata']['name']} waits for a node with nvidia.com/gpu (profile 'gpu')" in message
    assert "0/1 nodes are available" in message
    assert "Insufficient nvidia.com/gpu" in message
    assert "next: add such a node, or write build.format: onnx" in message
    assert waiting["status"]["summary"]["stage"] == "WaitingForGpu"
    assert condition(waiting, "Degraded")["status"] == "False"


def test_the_source_is_resolved_and_the_onnx_artifact_is_there(kube: Kube, waiting: dict[str, Any]) -> None:
    assert condition(waiting, "SourceResolved")["status"] == "True"
    (artifact,) = kube.list("bertartifacts")
    report = artifact["spec"]["report"]
    assert (report["format"], report["precision"]) == ("onnx", "fp32")
    assert report["fidelity"]["minCosine"] > 0.9999


def test_only_the_steps_that_compile_ask_for_a_gpu(kube: Kube, waiting: dict[str, Any]) -> None:
    assert waiting
    (job,) = kube.list("jobs", berts.OURS)
    pod = job["spec"]["template"]["spec"]
    holders = [one["name"] for one in pod["initContainers"] if "nvidia.com/gpu" in one["resources"]["limits"]]
    assert holders == ["compile", "answer", "compile-mixed", "compile-fp32"]
    assert {one["image"] for one in pod["initContainers"] if one["name"] in holders} == {
        "nvcr.io/nvidia/tensorrt:26.08-py3"
    }


def test_the_next_step_that_it_names_works_and_builds_nothing_anew(kube: Kube, waiting: dict[str, Any]) -> None:
    assert waiting
    bert = wish()
    bert["spec"]["server"]["release"] = TRITON_RELEASE
    bert["spec"]["hardware"]["profile"] = "cpu"
    model = bert["spec"]["models"][0]
    model["build"] = {key: value for key, value in model["build"].items() if key not in ("precision", "maxBatchSize")}
    model["build"]["format"] = "onnx"
    model["serving"]["maxBatchSize"] = 4
    kube.apply(bert)
    live = wait_ready(kube, NAME, seconds=180)
    assert live["status"]["summary"]["precision"] == "fp32"
    assert len(kube.list("bertartifacts")) == 1
    assert list(kube.list("jobs", berts.OURS)) == []
