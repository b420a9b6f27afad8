"""A published artifact as the source: served as it is, or refused with what to write instead."""

from typing import Any

import pytest

from bert_operator.api import names
from bert_operator.api.report import BuildRequest
from bert_operator.plan import make_plan
from support import builders
from support.fake_cluster import NOW, FakeCluster

SETTINGS = builders.settings()


def world_with(report: Any) -> tuple[FakeCluster, str]:
    """MiniLM built and serving on the claim `minilm-store`; the name of its record."""
    world = FakeCluster(builders.bert(spec={"storage": {"claimName": "minilm-store"}}), builders.claim(), models())
    world.carry_out(world.plan(SETTINGS))
    world.finish_job(world.all("Job")[0], report)
    list(world.settle(SETTINGS))
    return world, world.all(names.ARTIFACT_KIND)[0]["metadata"]["name"]


def models() -> dict[str, Any]:
    return builders.claim("models", uid="c1a1b2c3-0000-4000-8000-000000000002", ours=False)


def second(world: FakeCluster, artifact: str, **build: Any) -> dict[str, Any]:
    """Another BertDeployment that names the artifact; its settled state, by condition."""
    source = {"artifact": {"name": artifact}}
    wish = {"task": "feature-extraction", **build}
    other = builders.bert("other", uid="22222222-7d9e-4c55-9a1b-3f2e1d0c9b8a")
    other["spec"]["storage"] = {"claimName": "minilm-store"}
    other["spec"]["models"] = [builders.model(build=wish, versions=[{"version": 1, "source": source}])]
    world.put(other)
    plan = make_plan(world.observe("other"), SETTINGS, NOW)
    assert plan.create == ()
    assert plan.status is not None
    return {"plan": plan} | {one["type"]: one for one in plan.status["conditions"]}


def test_it_is_served_without_a_build() -> None:
    world, name = world_with(builders.report())
    found = second(world, name)
    assert found["Built"]["status"] == found["SourceResolved"]["status"] == "True"
    (deployment,) = [one for one in found["plan"].apply if one["kind"] == "Deployment"]
    paths = {one.get("subPath") for one in deployment["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert f"artifacts/onnx-{'5' * 32}" in paths


@pytest.mark.parametrize(
    ("build", "found", "advice"),
    [
        ({"task": "sequence-classification"}, "has task feature-extraction", "write build.task: feature-extraction"),
        ({"maxSequenceLength": 256}, "takes 128 tokens", "write build.maxSequenceLength: 128 or less"),
    ],
)
def test_what_it_is_not_is_named_with_the_field(build: dict[str, Any], found: str, advice: str) -> None:
    world, name = world_with(builders.report())
    resolved = second(world, name, **build)["SourceResolved"]
    assert (resolved["status"], resolved["reason"]) == ("False", "SourceMismatch")
    assert found in resolved["message"]
    assert advice in resolved["message"]


def test_another_format_is_named() -> None:
    world, name = world_with(builders.report(format="savedmodel"))
    assert "has format savedmodel, but the spec asks for onnx" in second(world, name)["SourceResolved"]["message"]


def test_a_name_that_isnt_there_comes_with_those_that_are() -> None:
    world, name = world_with(builders.report())
    resolved = second(world, "onnx-lost")["SourceResolved"]
    assert (resolved["status"], resolved["reason"]) == ("False", "SourceNotFound")
    assert "no such BertArtifact on the store's claim 'minilm-store'" in resolved["message"]
    assert f"on this one: {name}" in resolved["message"]


def test_a_record_of_a_claim_that_was_made_anew_is_not_served() -> None:
    world, name = world_with(builders.report())
    world.remove("PersistentVolumeClaim", "minilm-store")
    world.put(builders.claim(uid="c1a1b2c3-0000-4000-8000-00000000000f"))
    assert second(world, name)["SourceResolved"]["reason"] == "SourceNotFound"


def test_an_engine_is_compiled_from_a_named_onnx_model() -> None:
    world, name = world_with(builders.report())
    other = builders.bert("other", uid="22222222-7d9e-4c55-9a1b-3f2e1d0c9b8a")
    model = builders.model(
        build={"task": "feature-extraction", "format": "tensorrt"},
        versions=[{"version": 1, "source": {"artifact": {"name": name}}}],
    )
    server = {"type": "triton", "release": "26.08"}
    storage = {"claimName": "minilm-store"}
    other["spec"] |= {"server": server, "storage": storage, "hardware": {"profile": "gpu"}, "models": [model]}
    world.put(other)
    (job,) = make_plan(world.observe("other"), SETTINGS, NOW).create
    asked = BuildRequest.model_validate_json(
        next(
            one["value"]
            for one in job["spec"]["template"]["spec"]["initContainers"][0]["env"]
            if one["name"] == names.BUILD_REQUEST_ENV
        )
    )
    assert asked.onnx is not None
    assert asked.onnx.artifact_key == "5" * 32
