"""TorchScript: traced where it is served, refused where nothing runs it."""

from typing import Any

import pytest

from bert_operator.api import names
from bert_operator.api.report import BuildRequest
from bert_operator.plan import make_plan
from bert_operator.settings import Settings
from support import builders
from support.fake_cluster import NOW, FakeCluster

IMAGES = {"operator": "registry.example/operator:1", "build": "registry.example/build:1"}
GPU_IMAGE = "registry.example/build-gpu:1"
SETTINGS = builders.settings(images=IMAGES | {"buildGpu": GPU_IMAGE})
TORCH = {"24.10-cpu-torch": {"image": "registry.example/torch", "onnxBackend": "", "torchBackend": "pytorch_python"}}


def a_spec(profile: str = "gpu", server: dict[str, Any] | None = None, **build: Any) -> dict[str, Any]:
    wish = {"task": "feature-extraction", "format": "torchscript", **build}
    return {
        "server": server or {"type": "triton", "release": "26.08"},
        "hardware": {"profile": profile},
        "models": [builders.model(build=wish)],
    }


def a_world(spec: dict[str, Any]) -> FakeCluster:
    return FakeCluster(builders.bert(spec=spec), builders.claim("models", uid="models", ours=False))


def the_job(spec: dict[str, Any], settings: Settings = SETTINGS) -> dict[str, dict[str, Any]]:
    """The containers of the build Job that is asked for, by name."""
    world = a_world(spec)
    for _ in range(2):
        world.carry_out(world.plan(settings))
    (job,) = world.all("Job")
    pod = job["spec"]["template"]["spec"]
    return {one["name"]: one for one in (*pod["initContainers"], *pod["containers"])}


def request(containers: dict[str, dict[str, Any]]) -> BuildRequest:
    env = {one["name"]: one.get("value", "") for one in containers["convert"]["env"]}
    return BuildRequest.model_validate_json(env[names.BUILD_REQUEST_ENV])


def refused(spec: dict[str, Any], settings: Settings = SETTINGS) -> str:
    plan = make_plan(a_world(spec).observe(), settings, NOW)
    assert plan.status is not None
    accepted = plan.status["conditions"][0]
    assert (accepted["type"], accepted["status"]) == ("Accepted", "False")
    return str(accepted["message"])


def test_for_cpus_it_is_traced_on_the_cpu() -> None:
    containers = the_job(a_spec("cpu"))
    assert {one["image"] for one in containers.values()} == {"registry.example/build:1"}
    assert request(containers).trace_device is None
    assert "nvidia.com/gpu" not in str(containers)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_for_gpus_it_is_traced_and_judged_on_a_gpu_and_the_source_is_asked_on_the_cpu(precision: str) -> None:
    containers = the_job(a_spec(precision=precision))
    assert request(containers).trace_device == "cuda"
    assert {name for name, one in containers.items() if one["image"] != GPU_IMAGE} == {"answer"}
    holders = {name for name, one in containers.items() if "nvidia.com/gpu" in one["resources"]["limits"]}
    assert holders == {"convert", "compare"}


def test_a_profile_that_gains_gpus_gets_a_trace_of_its_own() -> None:
    """What was traced on CPUs is no older version of it: it fails there at the first request."""
    images = IMAGES | {"buildGpu": GPU_IMAGE}
    profiles: tuple[dict[str, str], ...] = ({}, {"resourceName": "nvidia.com/gpu"})
    without, having = (builders.settings(images=images, hardwareProfiles={"own": one}) for one in profiles)
    world = a_world(a_spec("own"))
    for _ in range(2):
        world.carry_out(world.plan(without))
    world.finish_job(*world.all("Job"), builders.report(format="torchscript"))
    list(world.settle(without))

    plan = world.plan(having)

    (job,) = plan.create
    pod = job["spec"]["template"]["spec"]
    assert request({one["name"]: one for one in pod["initContainers"]}).trace_device == "cuda"
    assert [one["kind"] for one in plan.apply if one["kind"] == "Deployment"] == []


def test_other_formats_on_gpus_dont_need_its_image() -> None:
    containers = the_job(a_spec(format="onnx"))
    assert {one["image"] for one in containers.values()} == {"registry.example/build:1"}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (a_spec("cpu", precision="fp16"), ["models[0].build.precision is 'fp16'", "name a profile with GPUs"]),
        (a_spec("cpu", precision="bf16"), ["models[0].build.precision is 'bf16'", "name a profile with GPUs"]),
        (
            a_spec("cpu", server={"type": "triton"}),
            ["build.format is 'torchscript'", "release '24.10-cpu'", "write server.release: 26.08, or format: onnx"],
        ),
        (
            a_spec("cpu", server={"type": "torchserve"}),
            ["build.format is 'torchscript', which torchserve doesn't serve", "write one of auto, mar"],
        ),
    ],
)
def test_what_nothing_here_could_run_is_refused_by_name(spec: dict[str, Any], told: list[str]) -> None:
    torchserve = {"defaultRelease": "0.12.0", "releases": {"0.12.0": {"image": "registry.example/torchserve"}}}
    settings = builders.settings(images=IMAGES | {"buildGpu": GPU_IMAGE}, torchserve=torchserve)
    message = refused(spec, settings)
    assert [part for part in told if part not in message] == [], message


def test_without_an_image_that_traces_on_gpus_it_is_for_cpus_alone() -> None:
    message = refused(a_spec(), builders.settings())
    assert "hardware profile 'gpu' has nvidia.com/gpu" in message
    assert "set images.buildGpu in the operator's chart" in message
    assert the_job(a_spec("cpu"), builders.settings())


def test_our_cpu_image_runs_nothing_else() -> None:
    triton = builders.settings().triton.model_dump(by_alias=True)
    settings = builders.settings(triton=triton | {"releases": triton["releases"] | TORCH})
    server = {"type": "triton", "release": "24.10-cpu-torch"}
    assert the_job(a_spec("cpu", server), settings)
    message = refused(a_spec("cpu", server, format="auto"), settings)
    assert "build.format is 'onnx'" in message
    assert "write server.release: 24.10-cpu or 26.08, or format: torchscript" in message
    assert "runs on CPUs only" in refused(a_spec("gpu", server), settings)
