"""Two Jobs to an engine: the ONNX artifact first, on a CPU, then the compilation on a GPU."""

from datetime import timedelta
from typing import Any

import pytest

from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.actions import Plan
from bert_operator.api.report import BuildRequest
from bert_operator.objects import claim, drift, identity
from bert_operator.plan import make_plan
from bert_operator.settings import Settings
from support import builders
from support.fake_cluster import NOW, FakeCluster

SETTINGS = builders.settings()
NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


def a_spec(*, serving: dict[str, Any] | None = None, **build: Any) -> dict[str, Any]:
    wish = {"task": "feature-extraction", "format": "tensorrt", **build}
    model = builders.model(build=wish, **({"serving": serving} if serving else {}))
    return {"server": {"type": "triton", "release": "26.08"}, "hardware": {"profile": "gpu"}, "models": [model]}


def a_world(spec: dict[str, Any] | None = None) -> FakeCluster:
    world = FakeCluster(builders.bert(spec=spec or a_spec()), builders.claim("models", uid="models", ours=False))
    world.put(drift.stamped(claim.manifest(identity.Identity.of(world.bert()), api.Storage(size="2Gi"))))
    return world


def step(world: FakeCluster, settings: Settings = SETTINGS) -> Plan:
    made = world.plan(settings)
    world.carry_out(made)
    return made


def exported(world: FakeCluster) -> dict[str, Any]:
    """Until the compile Job is asked for; returns it."""
    step(world)
    (export,) = world.all("Job")
    world.finish_job(export)
    step(world)
    step(world)
    (job,) = world.all("Job")
    return job


def request(job: dict[str, Any]) -> BuildRequest:
    env = job["spec"]["template"]["spec"]["initContainers"][0]["env"]
    return BuildRequest.model_validate_json(next(one["value"] for one in env if one["name"] == names.BUILD_REQUEST_ENV))


def conditions(world: FakeCluster) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in world.bert()["status"]["conditions"]}


def unsupported(spec: dict[str, Any], settings: Settings = SETTINGS) -> str:
    plan = make_plan(a_world(spec).observe(), settings, NOW)
    assert plan.status is not None
    accepted = plan.status["conditions"][0]
    assert (accepted["type"], accepted["status"]) == ("Accepted", "False")
    return str(accepted["message"])


def wait_for_a_node(world: FakeCluster, job: dict[str, Any]) -> None:
    meta = job["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_GPU}
    metadata = {"name": f"{meta['name']}-x", "labels": meta["labels"], "ownerReferences": [owner]}
    status = {"phase": "Pending", "conditions": [unscheduled]}
    world.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status})


class TestTheChain:
    def test_first_the_onnx_artifact_is_asked_for_without_a_gpu(self) -> None:
        world = a_world()
        step(world)
        (job,) = world.all("Job")
        assert (request(job).build.format, request(job).build.precision) == (api.Format.ONNX, api.Precision.FP32)
        assert "nvidia.com/gpu" not in str(job)
        assert "nodeSelector" not in job["spec"]["template"]["spec"]

    def test_others_who_want_the_model_as_onnx_share_that_job(self) -> None:
        world, other = a_world(a_spec(precision="fp16", maxBatchSize=16)), a_world({})
        step(world)
        step(other)
        assert [job["metadata"]["name"] for job in world.all("Job")] == [
            job["metadata"]["name"] for job in other.all("Job")
        ]

    def test_ones_own_texts_judge_the_onnx_artifact_and_limits_for_fp16_dont(self) -> None:
        wish = {"samples": [{"text": "Where is my parcel?"}], "minCosine": "0.9"}
        world = a_world(a_spec(precision="fp16", fidelity=wish))
        step(world)
        asked = request(world.all("Job")[0]).build.fidelity
        assert [one.text for one in asked.samples] == ["Where is my parcel?"]
        assert asked.min_cosine is None

    def test_an_installation_without_an_export_profile_exports_on_the_same_nodes(self) -> None:
        settings = builders.settings(hardwareProfiles={"gpu": builders.GPU | {"exportProfile": ""}})
        world = a_world()
        step(world, settings)
        (job,) = world.all("Job")
        assert job["spec"]["template"]["spec"]["nodeSelector"] == builders.GPU["nodeSelector"]
        assert "nvidia.com/gpu" not in str(job["spec"]["template"]["spec"]["initContainers"])

    def test_then_the_compilation_names_the_onnx_artifact(self) -> None:
        job = exported(a_world(a_spec(precision="fp16")))
        asked = request(job)
        assert asked.onnx is not None
        assert (asked.onnx.artifact_key, asked.onnx.manifest_sha256) == ("5" * 32, builders.DIGEST)
        assert (asked.onnx.profile, asked.onnx.compute_capability) == ("gpu", "8.6")
        assert asked.build.precision is api.Precision.FP16
        assert asked.pvc is None

    def test_the_compilation_asks_for_one_gpu_of_the_profile(self) -> None:
        pod = exported(a_world())["spec"]["template"]["spec"]
        containers = {one["name"]: one for one in (*pod["initContainers"], *pod["containers"])}
        assert list(containers) == ["stage", "compile", "answer", "compare", "publish"]
        holders = {name for name, one in containers.items() if "nvidia.com/gpu" in one["resources"]["limits"]}
        assert holders == {"compile", "answer"}
        assert pod["nodeSelector"] == builders.GPU["nodeSelector"]
        assert pod["tolerations"] == builders.GPU["tolerations"]
        assert pod["runtimeClassName"] == "nvidia"

    def test_nvidias_image_gets_neither_the_store_nor_our_request(self) -> None:
        pod = exported(a_world())["spec"]["template"]["spec"]
        for one in pod["initContainers"]:
            if one["image"] == "registry.example/tensorrt:26.08-py3":
                assert {mount["name"] for mount in one["volumeMounts"]} == {"work", "tmp"}
                assert {variable["name"] for variable in one["env"]} == {"HOME", "PYTHONDONTWRITEBYTECODE"}
        assert [one["name"] for one in pod["initContainers"] if "tensorrt" in one["image"]] == ["compile", "answer"]

    def test_the_store_is_written_by_those_that_keep_something_there(self) -> None:
        pod = exported(a_world())["spec"]["template"]["spec"]
        mounts = {
            one["name"]: {mount["name"]: mount.get("readOnly", False) for mount in one["volumeMounts"]}
            for one in (*pod["initContainers"], *pod["containers"])
        }
        store = {name: found["store"] for name, found in mounts.items() if "store" in found}
        assert store == {"stage": True, "compare": False, "publish": False}

    def test_the_job_has_containers_for_each_precision_that_it_may_fall_back_to(self) -> None:
        pod = exported(a_world(a_spec(precision="fp16")))["spec"]["template"]["spec"]
        further = [one for one in pod["initContainers"] if "-" in one["name"]]
        names_of = ["compile-mixed", "compare-mixed", "compile-fp32", "compare-fp32"]
        assert [one["name"] for one in further] == names_of
        assert further[0]["command"] == ["python3", "/work/compile_engine.py", "compile-mixed"]
        assert further[1]["command"] == ["python", "-m", "bert_build", "compare-mixed"]
        limits = [one["resources"].get("limits", {}).get("nvidia.com/gpu") for one in further]
        assert limits == ["1", None, "1", None]
        only = exported(a_world(a_spec(precision="fp16", fidelity={"onFailure": "Fail"})))["spec"]["template"]["spec"]
        assert [one["name"] for one in only["initContainers"]] == ["stage", "compile", "answer", "compare"]

    def test_calibration_and_samples_go_with_the_export_and_limits_dont(self) -> None:
        build = {
            "precision": "int8",
            "calibration": {"texts": {"configMapName": "mine"}},
            "fidelity": {"samplesFrom": {"configMapName": "other"}, "minCosine": "0.9"},
        }
        world = a_world(a_spec(**build))
        step(world)
        (export,) = world.all("Job")
        asked = request(export).build
        assert (asked.precision, asked.format) == (api.Precision.FP32, api.Format.ONNX)
        assert set(asked.texts) == {"samples", "calibration"}
        assert asked.fidelity.min_cosine is None
        world.finish_job(export)
        step(world)
        step(world)
        (job,) = world.all("Job")
        volumes = {one["name"] for one in job["spec"]["template"]["spec"]["volumes"]}
        assert not volumes & {"samples", "calibration"}

    def test_in_the_end_the_engine_is_served(self) -> None:
        world = a_world()
        list(world.settle(SETTINGS))
        (deployment,) = world.all("Deployment")
        mounts = deployment["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        assert f"artifacts/tensorrt-{'6' * 32}" in {mount.get("subPath") for mount in mounts}
        assert conditions(world)["Ready"]["status"] == "True"
        assert {live["spec"]["report"]["format"] for live in world.all(names.ARTIFACT_KIND)} == {"onnx", "tensorrt"}
        assert world.all("Job") == ()

    def test_an_engine_outlives_the_record_of_the_onnx_artifact(self) -> None:
        world = a_world()
        list(world.settle(SETTINGS))
        for live in world.all(names.ARTIFACT_KIND):
            if live["spec"]["report"]["format"] == "onnx":
                world.remove(names.ARTIFACT_KIND, live["metadata"]["name"])
        plan = step(world)
        assert plan.create == ()
        assert conditions(world)["Ready"]["status"] == "True"

    def test_another_release_needs_another_engine(self) -> None:
        releases = {
            name: {"image": f"registry.example/tritonserver:{name}", "tensorrtImage": f"registry.example/trt:{name}"}
            for name in ("26.08", "26.11")
        }
        settings = builders.settings(triton={"defaultRelease": "26.08", "releases": releases})
        world = a_world()
        list(world.settle(settings))
        world.bert()["spec"]["server"]["release"] = "26.11"
        plan = step(world, settings)
        (job,) = plan.create
        assert request(dict(job)).onnx is not None
        images = {one["image"] for one in job["spec"]["template"]["spec"]["initContainers"]}
        assert "registry.example/trt:26.11" in images

    def test_the_revision_is_known_once_the_source_was_exported(self) -> None:
        world = a_world()
        wait_for_a_node(world, exported(world))
        step(world)
        assert conditions(world)["SourceResolved"]["status"] == "True"
        (version,) = world.bert()["status"]["models"][0]["versions"]
        assert version["revision"] == f"sha256:{builders.DIGEST}"


class TestWaitingForAGpu:
    def test_it_says_what_it_waits_for_and_what_to_do(self) -> None:
        world = a_world()
        job = exported(world)
        wait_for_a_node(world, job)
        step(world)
        message = conditions(world)["Built"]["message"]
        assert f"compile Job {job['metadata']['name']} waits for a node with nvidia.com/gpu (profile 'gpu')" in message
        assert NO_GPU in message
        assert "next: add such a node, or write build.format: onnx and a hardware.profile without GPUs (cpu)" in message
        assert conditions(world)["Built"]["reason"] == "WaitingForAccelerator"
        assert world.bert()["status"]["summary"]["stage"] == "WaitingForGpu"
        assert conditions(world)["Degraded"]["status"] == "False"

    def test_waiting_is_no_failure_however_long_it_takes(self) -> None:
        world = a_world()
        job = exported(world)
        assert "activeDeadlineSeconds" not in job["spec"]
        assert job["spec"]["template"]["spec"]["activeDeadlineSeconds"] == 3600
        wait_for_a_node(world, job)
        later = make_plan(world.observe(), SETTINGS, NOW + timedelta(days=3))
        assert later.create == ()
        assert later.delete == ()

    def test_a_compilation_beyond_its_deadline_says_so(self) -> None:
        world = a_world()
        job = exported(world)
        world.fail_job(job, "fetch", 137, "", reason="Error")
        (pod,) = world.all("Pod")
        pod["status"] |= {"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than ..."}
        step(world)
        assert conditions(world)["Built"]["reason"] == "BuildDeadlineExceeded"
        assert "3600 s" in conditions(world)["Built"]["message"]


class TestWhatIsRefused:
    def test_a_batch_beyond_the_engines(self) -> None:
        message = unsupported(a_spec(serving={"maxBatchSize": 64}))
        assert "spec.models[0].serving.maxBatchSize is 64, but build.maxBatchSize is unset, which means 32" in message
        assert "write build.maxBatchSize: 64" in message

    def test_a_release_without_an_image_that_compiles(self) -> None:
        releases = {"26.08": {"image": "registry.example/tritonserver:26.08-py3"}}
        settings = builders.settings(triton={"defaultRelease": "26.08", "releases": releases})
        message = unsupported(a_spec(), settings)
        assert "set triton.releases.26.08.tensorrtImage in the operator's chart, or write format: onnx" in message

    def test_the_cpu_image_on_a_profile_with_gpus(self) -> None:
        message = unsupported(a_spec(format="onnx") | {"server": {"type": "triton", "release": "24.10-cpu"}})
        assert "'24.10-cpu', whose image runs on CPUs only" in message
        assert "write one of 26.08" in message

    def test_an_engine_on_a_profile_without_gpus(self) -> None:
        message = unsupported(a_spec() | {"hardware": {"profile": "cpu"}})
        assert "build.format is 'tensorrt', which triton doesn't serve on hardware profile 'cpu'" in message
        assert "write one of auto, onnx" in message

    @pytest.mark.parametrize(
        ("build", "says"),
        [
            ({"precision": "fp16"}, "build.precision is 'fp16', and format auto is 'onnx' on hardware profile 'cpu'"),
            ({"precision": "fp16"}, "write fp32, or name a profile with GPUs"),
            ({"maxBatchSize": 8}, "build.maxBatchSize is 8, and format auto is 'onnx' on hardware profile 'cpu'"),
        ],
    )
    def test_what_only_engines_have_where_auto_is_onnx(self, build: dict[str, Any], says: str) -> None:
        message = unsupported(a_spec(format="auto", **build) | {"hardware": {"profile": "cpu"}})
        assert says in message

    def test_int8_is_an_engine_on_gpus_and_onnx_on_cpus(self) -> None:
        spec = a_spec(format="auto", precision="int8")
        for profile, made in (("gpu", api.Format.TENSORRT), ("cpu", api.Format.ONNX)):
            world = a_world(spec | {"hardware": {"profile": profile}})
            job = exported(world) if profile == "gpu" else step(world).create[-1]
            assert (request(job).build.format, request(job).build.precision) == (made, api.Precision.INT8)
        message = unsupported(a_spec(format="onnx", precision="int8"))
        assert "build.precision is 'int8', and format is 'onnx' on hardware profile 'gpu'" in message
        assert "write fp32, or write format: tensorrt" in message

    def test_bf16_on_a_gpu_that_doesnt_know_it(self) -> None:
        profiles = {"gpu": {"resourceName": "nvidia.com/gpu", "computeCapability": "7.5"}, "cpu": {}}
        message = unsupported(a_spec(precision="bf16"), builders.settings(hardwareProfiles=profiles))
        assert "have compute capability 7.5: they know BF16 from 8.0 on; write precision: fp16" in message

    def test_auto_is_an_engine_on_a_profile_with_gpus(self) -> None:
        job = exported(a_world(a_spec(format="auto", precision="fp16")))
        assert request(job).build.format is api.Format.TENSORRT
