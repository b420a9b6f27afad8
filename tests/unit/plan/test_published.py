"""A published artifact as the source: served as it is, or refused with what to write instead."""

from typing import Any

import pytest

from bert_operator.api import names
from bert_operator.api.actions import Plan
from bert_operator.api.report import BuildRequest, Lowering
from bert_operator.plan import make_plan
from bert_operator.settings import Settings
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


def second(
    world: FakeCluster,
    artifact: str,
    *,
    on_gpus: bool = False,
    settings: Settings = SETTINGS,
    serving: dict[str, Any] | None = None,
    **build: Any,
) -> dict[str, Any]:
    """Another BertDeployment that names the artifact; its settled state, by condition."""
    source = {"artifact": {"name": artifact}}
    wish = {"task": "feature-extraction", **build}
    other = builders.bert("other", uid="22222222-7d9e-4c55-9a1b-3f2e1d0c9b8a")
    other["spec"]["storage"] = {"claimName": "minilm-store"}
    served = {"serving": serving} if serving else {}
    other["spec"]["models"] = [builders.model(build=wish, versions=[{"version": 1, "source": source}], **served)]
    if on_gpus:
        other["spec"] |= {"server": {"type": "triton", "release": "26.08"}, "hardware": {"profile": "gpu"}}
    world.put(other)
    plan = make_plan(world.observe("other"), settings, NOW)
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


def test_where_nothing_was_built_no_build_has_failed() -> None:
    world, _ = world_with(builders.report())
    plan = second(world, "nothing-of-that-name")["plan"]
    assert plan.status["summary"]["stage"] == "SourceRefused"


def test_another_format_is_named() -> None:
    world, name = world_with(builders.report(format="savedmodel"))
    assert "has format savedmodel, but the spec asks for onnx" in second(world, name)["SourceResolved"]["message"]


@pytest.mark.parametrize(
    ("device", "on_gpus", "says"),
    [
        ({}, True, "was traced on CPUs, and runs on no other kind of device, but hardware profile 'gpu' has GPUs"),
        ({"device": "cuda"}, False, "was traced on GPUs, and runs on no other kind of device"),
    ],
)
def test_a_trace_of_another_device_is_not_served(device: dict[str, str], *, on_gpus: bool, says: str) -> None:
    release = {"image": "registry.example/torch", "onnxBackend": "", "torchBackend": "pytorch_python"}
    releases = SETTINGS.triton.model_dump(by_alias=True)["releases"] | {"24.10-torch": release}
    settings = builders.settings(
        images={"operator": "o", "build": "b", "buildGpu": "g"},
        triton={"defaultRelease": "24.10-torch", "releases": releases},
    )
    world, name = world_with(builders.report(format="torchscript", toolchain=device))
    told = second(world, name, on_gpus=on_gpus, settings=settings, format="torchscript")["SourceResolved"]
    assert told["reason"] == "SourceMismatch"
    assert says in told["message"]


def with_tensorrt(version: str) -> Settings:
    """An installation that says which TensorRT its release brings."""
    triton = SETTINGS.triton.model_dump(by_alias=True)
    triton["releases"]["26.08"]["tensorrtVersion"] = version
    return builders.settings(triton=triton)


@pytest.mark.parametrize(
    ("engine", "brought", "says"),
    [
        (
            {"compute_capability": "9.0"},
            "11.2.1.2",
            "compute capability 9.0, but those of hardware profile 'gpu' have 8.6; next: name a hardware.profile",
        ),
        (
            {"compute_capability": "8.6"},
            "11.3.0.1",
            "TensorRT 11.2.1.2, but release '26.08' brings 11.3.0.1; next: name a server.release",
        ),
    ],
)
def test_an_engine_of_another_gpu_or_tensorrt_is_refused_before_a_pod_fails_on_it(
    engine: dict[str, Any], brought: str, says: str
) -> None:
    world, name = world_with(builders.engine_report(**engine))
    wish = {"format": "tensorrt", "on_gpus": True, "settings": with_tensorrt(brought)}
    resolved = second(world, name, **wish)["SourceResolved"]
    assert (resolved["status"], resolved["reason"]) == ("False", "SourceMismatch")
    assert says in resolved["message"]


@pytest.mark.parametrize("brought", ["11.2.1.2", ""])
def test_an_engine_that_fits_as_far_as_is_known_is_served(brought: str) -> None:
    world, name = world_with(builders.engine_report())
    found = second(world, name, format="tensorrt", on_gpus=True, settings=with_tensorrt(brought))
    assert found["SourceResolved"]["status"] == "True"


def test_an_engine_isnt_compiled_from_a_quantised_model() -> None:
    world, name = world_with(builders.report(precision="int8"))
    message = second(world, name, format="tensorrt", precision="fp16", on_gpus=True)["SourceResolved"]["message"]
    assert f"BertArtifact {name!r} has precision int8, and an engine is compiled from an fp32 ONNX artifact" in message
    assert "next: name another one" in message
    assert "write build.precision" not in message


def test_an_engine_for_smaller_batches_than_are_served_is_refused_by_name() -> None:
    """Its profiles end there, whatever the spec says of build.maxBatchSize."""
    world, name = world_with(builders.engine_report())
    wish = {"format": "tensorrt", "on_gpus": True, "maxBatchSize": 64}
    resolved = second(world, name, **wish, serving={"maxBatchSize": 64})["SourceResolved"]
    assert (resolved["status"], resolved["reason"]) == ("False", "SourceMismatch")
    assert f"{name!r} is an engine for batches of up to 32, but serving.maxBatchSize is 64" in resolved["message"]
    assert "write serving.maxBatchSize: 32 or less" in resolved["message"]
    found = second(world, name, format="tensorrt", on_gpus=True, serving={"maxBatchSize": 32})
    assert found["SourceResolved"]["status"] == "True"


def test_an_engine_that_fell_back_is_what_its_wish_makes() -> None:
    lowering = Lowering(asked="fp16", achieved="mixed", why="fp16: too far")
    world, name = world_with(builders.engine_report(precision="mixed", lowering=lowering))
    found = second(world, name, format="tensorrt", precision="fp16", on_gpus=True)
    assert found["SourceResolved"]["status"] == "True"
    (version,) = found["plan"].status["models"][0]["versions"]
    assert (version["precision"], version["precisionReason"]) == ("mixed", "fp16 was asked for: fp16: too far")
    resolved = second(world, name, format="tensorrt", precision="fp32", on_gpus=True)["SourceResolved"]
    assert "write build.precision: fp16, or name another artifact" in resolved["message"]


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


def compiled_from(world: FakeCluster, name: str) -> None:
    """Another BertDeployment that wants an engine of the named ONNX artifact."""
    other = builders.bert("other", uid="22222222-7d9e-4c55-9a1b-3f2e1d0c9b8a")
    model = builders.model(
        build={"task": "feature-extraction", "format": "tensorrt"},
        versions=[{"version": 1, "source": {"artifact": {"name": name}}}],
    )
    server = {"type": "triton", "release": "26.08"}
    storage = {"claimName": "minilm-store"}
    other["spec"] |= {"server": server, "storage": storage, "hardware": {"profile": "gpu"}, "models": [model]}
    world.put(other)


def test_an_engine_outlives_the_record_of_the_named_onnx_model() -> None:
    world, name = world_with(builders.report())
    compiled_from(world, name)
    list(world.settle(SETTINGS, "other"))
    world.remove(names.ARTIFACT_KIND, name)
    assert make_plan(world.observe("other"), SETTINGS, NOW) == Plan()
    said = {one["type"]: one["status"] for one in world.bert("other")["status"]["conditions"]}
    assert (said["Built"], said["Ready"], said["Degraded"]) == ("True", "True", "False")


def test_an_engine_is_compiled_from_a_named_onnx_model() -> None:
    world, name = world_with(builders.report())
    compiled_from(world, name)
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
