"""Measured plans on a world in memory: when a measurement is asked for, recorded, shown, served by, and outdated."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.actions import Plan
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.measurement import (
    MAX_MEASUREMENTS,
    MeasuredPoint,
    MeasuredVariant,
    ProfileReport,
    ProfileRequest,
)
from bert_operator.api.report import MAX_REPORT_BYTES, ExitCode, ServedModels
from bert_operator.measuring import variants
from bert_operator.objects import claim, drift, identity
from bert_operator.plan import make_plan
from bert_operator.servers import triton_config
from support import builders
from support.fake_cluster import NOW, FakeCluster

IMAGES = {
    "operator": "registry.example/operator:1",
    "build": "registry.example/build:1",
    "analyzer": "registry.example/analyzer:1",
}
SETTINGS = builders.settings(images=IMAGES)
MODELS_CLAIM = builders.claim("models", uid="c1a1b2c3-0000-4000-8000-000000000002", ours=False)


def spec(mode: str, objective: dict[str, Any] | None = None, **tuning: Any) -> dict[str, Any]:
    wished = builders.model(objective=objective or {"maxLatencyMilliseconds": 100})
    return {"models": [wished], "tuning": {"mode": mode, **tuning}}


def a_world(mode: str = "Recommend", **parts: Any) -> FakeCluster:
    """A BertDeployment that serves, and whose measurement is asked for."""
    world = FakeCluster(builders.bert(spec=spec(mode, **parts)), MODELS_CLAIM)
    world.put(drift.stamped(claim.manifest(identity.Identity.of(world.bert()), api.Storage(size="2Gi"))))
    settle(world)
    return world


def settle(world: FakeCluster, *, now: Any = NOW) -> None:
    """Plan, do and let Kubernetes follow until there is nothing left to do; profile runs don't end by themselves."""
    for _ in range(20):
        plan = world.plan(SETTINGS, now=now)
        before = world.writes
        world.carry_out(plan)
        for job in world.all("Job"):
            if "status" not in job and job["metadata"]["labels"][names.COMPONENT_LABEL] == "build":
                world.finish_job(job)
        world.settle_deployments()
        if world.writes == before:
            return
    raise AssertionError("never at rest")


def profile_jobs(world: FakeCluster) -> list[dict[str, Any]]:
    return [job for job in world.all("Job") if job["metadata"]["labels"][names.COMPONENT_LABEL] == "profile"]


def request_of(job: dict[str, Any]) -> ProfileRequest:
    """What `prepare` is told, which is all."""
    container = job["spec"]["template"]["spec"]["initContainers"][0]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    return ProfileRequest.model_validate_json(env[names.PROFILE_REQUEST_ENV])


def report_of(request: ProfileRequest) -> ProfileReport:
    """Two instances with the largest batch are best; only one load of each is within 100 ms."""
    return ProfileReport(
        key=request.key,
        seconds=100,
        analyzer="1.58.0",
        variants=[
            MeasuredVariant(
                **variant.model_dump(exclude={"name", "config"}),
                points=[
                    MeasuredPoint(
                        concurrency=load,
                        throughput=10.0 * variant.instances + variant.max_batch_size + load,
                        p90=20.0 * load,
                        p95=25.0 * load,
                        p99=30.0 * load,
                    )
                    for load in request.concurrency
                ],
            )
            for variant in request.variants
        ],
    )


def measure(world: FakeCluster) -> None:
    """Play a profile run to its good end."""
    (job,) = profile_jobs(world)
    world.finish_profile(job, report_of(request_of(job)).model_dump_json(by_alias=True, exclude_none=True))
    settle(world)


def condition(world: FakeCluster, kind: str = "Tuned") -> dict[str, Any]:
    found = {one["type"]: one for one in world.bert()["status"]["conditions"]}
    return found.get(kind, {})


def tuning_status(world: FakeCluster) -> dict[str, Any]:
    found: dict[str, Any] = world.bert()["status"]["tuning"]
    return found


def change(world: FakeCluster, **parts: Any) -> None:
    bert = world.bert()
    bert["spec"] = bert["spec"] | parts
    bert["metadata"]["generation"] += 1
    settle(world)


def deployment(world: FakeCluster) -> dict[str, Any]:
    (live,) = world.all("Deployment")
    return live


def served_config(world: FakeCluster) -> Any:
    mounted = {volume["name"]: volume for volume in deployment(world)["spec"]["template"]["spec"]["volumes"]}
    live = next(
        one for one in world.all("ConfigMap") if one["metadata"]["name"] == mounted["config"]["configMap"]["name"]
    )
    return triton_config.parse(live["data"]["minilm.config.pbtxt"])


KEYS = [f"{number:032x}" for number in range(MAX_MEASUREMENTS)]


def keep_many(world: FakeCluster) -> list[str]:
    """As many measurements as an artifact keeps."""
    (live,) = world.all(names.ARTIFACT_KIND)
    plain = {"measuredAt": "", "image": "", "profile": "cpu", "lengths": [8], "seconds": 1, "variants": []}
    live["spec"]["measurements"] = [plain | {"key": key} for key in KEYS]
    return KEYS


def asked_by_another(world: FakeCluster, *keys: str) -> None:
    """BertDeployments that share the artifact."""
    for number, key in enumerate(keys):
        other = builders.bert(f"other-{number}", uid=f"other-{number}")
        world.put(other | {"status": {"tuning": {"mode": "Recommend", "key": key}}})


class TestOff:
    def test_nothing_is_measured_and_nothing_is_said_about_it(self) -> None:
        world = a_world("Off")
        assert profile_jobs(world) == []
        assert condition(world) == {}
        assert "tuning" not in world.bert()["status"]

    def test_switched_off_a_running_measurement_is_ended(self) -> None:
        world = a_world()
        assert profile_jobs(world)
        change(world, tuning={"mode": "Off"})
        assert profile_jobs(world) == []


class TestTheJob:
    def test_it_is_asked_for_once_the_artifact_is_there_beside_a_server_that_serves(self) -> None:
        world = a_world()
        assert len(profile_jobs(world)) == 1
        assert condition(world, "Ready")["status"] == "True"
        assert condition(world)["reason"] == "Measuring"
        assert profile_jobs(world)[0]["metadata"]["name"] in condition(world)["message"]

    def test_one_that_somebody_else_asked_for_is_shared(self) -> None:
        world = a_world()
        (job,) = profile_jobs(world)
        job["metadata"]["ownerReferences"][0]["uid"] = "another-bert-deployments"
        plan = world.plan(SETTINGS)
        assert plan.create == ()
        assert [adoption.name for adoption in plan.adopt] == [job["metadata"]["name"]]
        world.carry_out(plan)
        change(world, tuning={"mode": "Off"})
        assert [one["metadata"]["name"] for one in profile_jobs(world)] == [job["metadata"]["name"]]

    def test_a_world_at_rest_writes_nothing(self) -> None:
        world = a_world()
        world._build_pod(profile_jobs(world)[0], [builders.running("prepare")], [], "Running")
        assert world.plan(SETTINGS) == Plan()
        measure(world)
        assert world.plan(SETTINGS) == Plan()

    def test_the_server_has_what_serves_has_but_answers_on_loopback_alone(self) -> None:
        world = a_world()
        pod = profile_jobs(world)[0]["spec"]["template"]["spec"]
        server = next(one for one in pod["initContainers"] if one["name"] == "server")
        serving = deployment(world)["spec"]["template"]["spec"]["containers"][0]
        assert server["restartPolicy"] == "Always"
        assert (server["image"], server["env"]) == (serving["image"], serving["env"])
        assert {"--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1"} <= set(
            server["args"]
        )
        assert "--model-control-mode=explicit" in server["args"]
        assert not any("ports" in one for one in (*pod["initContainers"], *pod["containers"]))
        kept = {one for one in serving["args"] if "port=" in one or "exit-timeout" in one or "auto-complete" in one}
        assert kept <= set(server["args"])

    def test_its_pod_is_restricted_and_can_write_no_artifact(self) -> None:
        pod = profile_jobs(a_world())[0]["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in (*pod["initContainers"], *pod["containers"]):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert mounts[names.ARTIFACT_MOUNT]["readOnly"] is True
        server = next(one for one in pod["initContainers"] if one["name"] == "server")
        assert names.STORE_MOUNT not in {mount["mountPath"] for mount in server["volumeMounts"]}

    def test_a_claim_that_cannot_be_written_is_mounted_read_only(self) -> None:
        readable = builders.claim("models", uid="c1", ours=False)
        readable["spec"]["accessModes"] = ["ReadOnlyMany"]
        world = FakeCluster(builders.bert(spec=spec("Recommend") | {"storage": {"claimName": "models"}}), readable)
        settle(world)
        pod = profile_jobs(world)[0]["spec"]["template"]["spec"]
        store = next(volume for volume in pod["volumes"] if volume["name"] == "store")
        assert store["persistentVolumeClaim"]["readOnly"] is True
        mounts = (mount for one in (*pod["initContainers"], *pod["containers"]) for mount in one["volumeMounts"])
        assert all(mount["readOnly"] for mount in mounts if mount["name"] == "store")

    def test_what_is_measured_is_what_would_be_served(self) -> None:
        world = a_world(search={"maxInstances": 2, "maxBatchSize": 8, "maxConcurrency": 16})
        request = request_of(profile_jobs(world)[0])
        assert [(one.instances, one.max_batch_size) for one in request.variants] == [
            (1, 1), (1, 4), (1, 8), (2, 1), (2, 4), (2, 8),
        ]  # fmt: skip
        assert request.concurrency == [1, 4, 16]
        for variant in request.variants:
            config = triton_config.parse(variant.config)
            assert config.name == variant.name
            assert config.max_batch_size == variant.max_batch_size
            assert config.instance_group[0].count == variant.instances
            assert config.HasField("dynamic_batching") == (variant.max_batch_size > 1)

    def test_lengths_are_the_specs_else_the_buckets_else_the_longest(self) -> None:
        assert request_of(profile_jobs(a_world())[0]).lengths == [128]
        assert request_of(profile_jobs(a_world(lengths=[64, 16]))[0]).lengths == [16, 64]
        world = a_world()
        buckets = builders.model(build={"task": "feature-extraction", "sequenceBuckets": [32, 64]})
        change(world, models=[buckets])
        assert request_of(profile_jobs(world)[0]).lengths == [32, 64]

    @pytest.mark.parametrize("limits", [(1, 1, 1), (16, 1024, 256), (3, 100, 20), (2, 8, 16)])
    def test_the_search_stays_within_its_limits_and_its_report_fits_a_termination_message(
        self, limits: tuple[int, int, int]
    ) -> None:
        instances, batch, load = limits
        search = {"maxInstances": instances, "maxBatchSize": batch, "maxConcurrency": load}
        request = request_of(profile_jobs(a_world(search=search))[0])
        assert max(one.instances for one in request.variants) == instances
        assert max(one.max_batch_size for one in request.variants) == batch
        assert request.concurrency[0] == 1
        assert request.concurrency[-1] == load
        point = {"throughput": 123456.7, "p90": 123456.7, "p95": 123456.7, "p99": 123456.7}
        wide = report_of(request)
        wide = wide.model_copy(
            update={
                "variants": [
                    one.model_copy(update={"points": [at.model_copy(update=point) for at in one.points]})
                    for one in wide.variants
                ]
            }
        )
        assert len(wide.model_dump_json(by_alias=True, exclude_none=True).encode()) <= MAX_REPORT_BYTES

    def test_an_engines_own_limit_bounds_the_batches(self) -> None:
        world = a_world()
        (live,) = world.all(names.ARTIFACT_KIND)
        built = BertArtifactSpec.model_validate(live["spec"])
        report = built.report
        profile = type("Profile", (), {"max": [4, 128]})
        bound = built.model_copy(update={"report": report.model_copy(update={"profiles": [profile]})})
        wish = api.BertDeploymentSpec.model_validate(world.bert()["spec"])
        assert max(one.max_batch_size for one in variants(wish, bound)) == 4


class TestRecommend:
    def test_the_measurement_is_recorded_before_the_job_goes(self) -> None:
        world = a_world()
        (job,) = profile_jobs(world)
        request = request_of(job)
        world.finish_profile(job, report_of(request).model_dump_json(by_alias=True, exclude_none=True))
        plan = world.plan(SETTINGS)
        (record,) = [made for made in plan.apply if made["kind"] == names.ARTIFACT_KIND]
        assert [one["key"] for one in record["spec"]["measurements"]] == [request.key]
        assert plan.delete == ()
        settle(world)
        assert profile_jobs(world) == []

    def test_the_plan_is_shown_and_nothing_is_changed(self) -> None:
        world = a_world(objective={"maxLatencyMilliseconds": 100, "targetRequestsPerSecond": 100})
        before = deployment(world)["spec"]
        measure(world)
        plan = tuning_status(world)["plan"]
        assert (plan["instances"], plan["maxBatchSize"], plan["concurrency"]) == (2, 8, 4)
        assert plan["replicas"] == 5  # ceil(100 * 1.3 / 32)
        assert condition(world)["reason"] == "Recommended"
        assert "set tuning.mode to Apply" in condition(world)["message"]
        assert deployment(world)["spec"] == before

    def test_a_measurement_is_found_again_and_not_made_twice(self) -> None:
        world = a_world()
        measure(world)
        change(world, tuning={"mode": "Off"})
        change(world, tuning={"mode": "Recommend"})
        assert profile_jobs(world) == []
        assert condition(world)["reason"] == "Recommended"

    def test_another_objective_needs_no_other_measurement(self) -> None:
        world = a_world()
        measure(world)
        change(world, models=[builders.model(objective={"maxLatencyMilliseconds": 25})])
        assert profile_jobs(world) == []
        assert tuning_status(world)["plan"]["concurrency"] == 1

    def test_whoever_asks_for_a_measurement_asks_for_the_same_one(self) -> None:
        """Its points are read by every objective: none may have had a say in how they were measured."""
        other = {"maxLatencyMilliseconds": 5, "percentile": 99, "targetRequestsPerSecond": 7}
        first, second = (request_of(*profile_jobs(a_world(objective=one))) for one in (None, other))
        assert first == second

    def test_an_objective_that_nothing_meets_is_said_with_the_best_that_was_seen(self) -> None:
        world = a_world(objective={"maxLatencyMilliseconds": 5})
        measure(world)
        assert condition(world)["status"] == "False"
        assert condition(world)["reason"] == "ObjectiveNotMet"
        assert "the best was 25.0 ms" in condition(world)["message"]
        assert "plan" not in tuning_status(world)
        assert condition(world, "Ready")["status"] == "True"

    @pytest.mark.parametrize(
        "parts",
        [
            {"server": {"type": "triton", "resources": {"limits": {"cpu": "1"}}}},
            {"server": {"type": "triton", "image": "mirror.example/triton:1"}},
            {"hardware": {"profile": "cpu", "nodeSelector": {"disk": "fast"}}},
            {"tuning": {"mode": "Recommend", "search": {"maxInstances": 3}}},
            {"tuning": {"mode": "Recommend", "lengths": [16]}},
        ],
        ids=["resources", "image", "hardware", "search", "lengths"],
    )
    def test_what_a_measurement_depends_on_makes_it_stale(self, parts: dict[str, Any]) -> None:
        world = a_world()
        measure(world)
        change(world, **parts)
        assert len(profile_jobs(world)) == 1
        assert condition(world)["reason"] == "Measuring"
        (live,) = world.all(names.ARTIFACT_KIND)
        assert len(live["spec"]["measurements"]) == 1

    def test_a_measurement_for_an_earlier_spec_ends_before_the_next_begins(self) -> None:
        world = a_world()
        (before,) = profile_jobs(world)
        bert = world.bert()
        bert["spec"]["tuning"] = {"mode": "Recommend", "lengths": [16]}
        plan = world.plan(SETTINGS)
        assert plan.create == ()
        assert [ref.name for ref in plan.delete] == [before["metadata"]["name"]]
        settle(world)
        assert [request_of(job).lengths for job in profile_jobs(world)] == [[16]]

    def test_the_oldest_measurement_that_nobody_asks_for_makes_room(self) -> None:
        world = a_world()
        asked_by_another(world, keep_many(world)[0])
        measure(world)
        (live,) = world.all(names.ARTIFACT_KIND)
        kept = [one["key"] for one in live["spec"]["measurements"]]
        assert len(kept) == MAX_MEASUREMENTS
        assert kept[0] == KEYS[0], "another BertDeployment asks for it, and would have it measured again"
        assert KEYS[1] not in kept
        assert kept[-1] == tuning_status(world)["key"]

    def test_where_everything_kept_is_asked_for_nothing_more_is_measured(self) -> None:
        world = a_world("Off")
        asked_by_another(world, *keep_many(world))
        change(world, tuning={"mode": "Recommend"})
        assert profile_jobs(world) == []
        assert condition(world)["reason"] == "TooManyMeasurements"
        assert f"keeps {MAX_MEASUREMENTS} measurements" in condition(world)["message"]
        assert condition(world, "Degraded")["status"] == "False"
        world.remove(names.KIND, "other-3")
        settle(world)
        assert len(profile_jobs(world)) == 1

    def test_a_job_is_told_which_measurements_files_may_stay(self) -> None:
        world = a_world("Off")
        keep_many(world)
        change(world, tuning={"mode": "Recommend"})
        request = request_of(profile_jobs(world)[0])
        assert request.kept == KEYS
        assert request.artifact_path == f"artifacts/onnx-{'5' * 32}"

    @pytest.mark.parametrize(
        "away",
        [
            {},
            {"spec": {"replicas": 0}},
            {"conditions": [{"type": "Available", "status": "False", "lastTransitionTime": "2026-11-22T11:59:00Z"}]},
        ],
        ids=["serving", "scaled to zero", "its only pod restarts"],
    )
    def test_new_default_images_alone_are_not_measured(self, away: dict[str, Any]) -> None:
        world = a_world()
        measure(world)
        if away:
            change(world, **away.get("spec", {}))
            deployment(world)["status"] |= {"availableReplicas": 0} | away
        releases = {"24.10-cpu": {"image": "registry.example/triton-cpu:newer", "onnxBackend": "onnxruntime_python"}}
        newer = builders.settings(images=IMAGES, triton={"defaultRelease": "24.10-cpu", "releases": releases})
        plan = world.plan(newer)
        assert plan.create == ()
        assert [made["kind"] for made in plan.apply] == []


class TestApply:
    def test_the_plan_is_served_by_an_ordinary_rollout(self) -> None:
        world = a_world("Apply", objective={"maxLatencyMilliseconds": 100, "targetRequestsPerSecond": 100})
        assert served_config(world).instance_group[0].count == 1
        measure(world)
        config = served_config(world)
        assert (config.instance_group[0].count, config.max_batch_size) == (2, 8)
        assert deployment(world)["spec"]["replicas"] == 5
        assert condition(world)["reason"] == "Applied"
        assert condition(world, "Ready")["status"] == "True"
        assert tuning_status(world)["served"] == tuning_status(world)["plan"]

    def test_until_the_pods_follow_it_says_so(self) -> None:
        world = a_world("Apply")
        (job,) = profile_jobs(world)
        world.finish_profile(job, report_of(request_of(job)).model_dump_json(by_alias=True, exclude_none=True))
        for _ in range(3):
            world.carry_out(world.plan(SETTINGS))
        assert condition(world)["reason"] == "Applying"

    def test_an_older_plan_is_served_until_the_new_one_is_measured(self) -> None:
        world = a_world("Apply")
        measure(world)
        change(world, tuning={"mode": "Apply", "lengths": [16]})
        assert condition(world)["reason"] == "Measuring"
        assert served_config(world).instance_group[0].count == 2
        measure(world)
        assert condition(world)["reason"] == "Applied"

    def test_an_older_plan_outlives_a_lost_status_and_a_restart(self) -> None:
        world = a_world("Apply")
        measure(world)
        world.bert()["status"] = {}
        change(world, tuning={"mode": "Apply", "lengths": [16]})
        assert served_config(world).instance_group[0].count == 2

    def test_an_older_plan_is_cut_to_what_a_new_engine_takes(self) -> None:
        world = a_world("Apply")
        batching = {"batching": {"preferredBatchSizes": [4, 8]}}
        change(world, models=[builders.model(serving=batching, objective={"maxLatencyMilliseconds": 100})])
        measure(world)
        change(world, tuning={"mode": "Apply", "lengths": [16]})
        (live,) = world.all(names.ARTIFACT_KIND)
        live["spec"]["report"]["profiles"] = [{"min": [1, 1], "opt": [2, 64], "max": [4, 128]}]
        settle(world)
        assert condition(world)["reason"] == "Measuring"
        config = served_config(world)
        assert (config.instance_group[0].count, config.max_batch_size) == (2, 4)
        assert list(config.dynamic_batching.preferred_batch_size) == [4], "Triton loads no model with a larger one"
        guard = deployment(world)["spec"]["template"]["spec"]["initContainers"][0]
        served = ServedModels.model_validate_json(guard["env"][0]["value"])
        assert served.models[0].max_batch_size == 4, "verify asks for no more"

    def test_switched_off_the_specs_own_values_are_served_again(self) -> None:
        world = a_world("Apply", objective={"maxLatencyMilliseconds": 100, "targetRequestsPerSecond": 100})
        measure(world)
        change(world, tuning={"mode": "Off"})
        assert served_config(world).instance_group[0].count == 1
        assert deployment(world)["spec"]["replicas"] == 1
        assert names.TUNING_ANNOTATION not in deployment(world)["metadata"]["annotations"]

    def test_without_a_target_load_the_replicas_stay_the_specs(self) -> None:
        world = a_world("Apply")
        change(world, replicas=3)
        measure(world)
        assert deployment(world)["spec"]["replicas"] == 3

    def test_a_deployment_scaled_to_zero_stays_so(self) -> None:
        world = a_world("Apply", objective={"targetRequestsPerSecond": 100})
        change(world, replicas=0)
        measure(world)
        assert deployment(world)["spec"]["replicas"] == 0

    def test_an_autoscaler_keeps_the_count(self) -> None:
        world = a_world("Apply", objective={"maxLatencyMilliseconds": 100, "targetRequestsPerSecond": 100})
        change(world, autoscaling={"maxReplicas": 3, "metrics": [{"type": "cpu", "averageUtilization": 70}]})
        measure(world)
        assert deployment(world)["spec"]["replicas"] <= 3
        assert served_config(world).instance_group[0].count == 2

    def test_preferred_batch_sizes_that_the_plan_outgrows_are_dropped(self) -> None:
        batching = {"preferredBatchSizes": [4, 8]}
        world = a_world("Apply", objective={"maxLatencyMilliseconds": 100}, search={"maxBatchSize": 4})
        wished = builders.model(serving={"batching": batching}, objective={"maxLatencyMilliseconds": 100})
        change(world, models=[wished])
        measure(world)
        assert list(served_config(world).dynamic_batching.preferred_batch_size) == [4]


class TestTrouble:
    def test_a_failed_run_disturbs_no_server_and_stays_as_evidence(self) -> None:
        world = a_world("Apply")
        (job,) = profile_jobs(world)
        told = builders.failure("NothingMeasured", "No variant could be measured", "See the Job's log")
        world.finish_profile(job, told, code=ExitCode.USER_ERROR)
        settle(world, now=NOW + timedelta(days=1))
        assert [one["metadata"]["name"] for one in profile_jobs(world)] == [job["metadata"]["name"]]
        assert condition(world)["reason"] == "NothingMeasured"
        assert f"delete the Job {job['metadata']['name']}" in condition(world)["message"]
        assert condition(world, "Ready")["status"] == "True"
        assert condition(world, "Degraded")["status"] == "False"

    def test_the_analyzers_words_count_however_the_server_beside_it_ended(self) -> None:
        world = a_world()
        (job,) = profile_jobs(world)
        told = builders.failure("NothingMeasured", "No variant could be measured: out of memory", "Raise memory")
        world.finish_profile(job, told, code=ExitCode.USER_ERROR)
        (pod,) = [one for one in world.all("Pod") if one["metadata"]["name"].startswith(job["metadata"]["name"])]
        pod["status"]["initContainerStatuses"].append(builders.terminated("server", 137, reason="OOMKilled"))
        settle(world)
        assert condition(world)["reason"] == "NothingMeasured"

    def test_an_artifact_that_prepare_refuses_is_said(self) -> None:
        world = a_world()
        (job,) = profile_jobs(world)
        world.finish_profile(job, "", code=ExitCode.USER_ERROR)
        (pod,) = [one for one in world.all("Pod") if one["metadata"]["name"].startswith(job["metadata"]["name"])]
        refused = builders.failure("ArtifactCorrupt", "manifest.json was changed")
        pod["status"]["initContainerStatuses"] = [builders.terminated("prepare", ExitCode.USER_ERROR, refused)]
        pod["status"]["containerStatuses"] = [builders.waiting("profile")]
        settle(world)
        assert condition(world)["reason"] == "ArtifactCorrupt"

    def test_deleting_the_failed_job_measures_again(self) -> None:
        world = a_world()
        (job,) = profile_jobs(world)
        world.finish_profile(job, builders.failure(), code=ExitCode.USER_ERROR)
        settle(world)
        world.remove("Job", job["metadata"]["name"])
        settle(world)
        measure(world)
        assert condition(world)["reason"] == "Recommended"

    def test_a_passing_fault_is_tried_again_after_a_while(self) -> None:
        world = a_world()
        (job,) = profile_jobs(world)
        world.finish_profile(job, builders.failure("BuildStopped", "stopped"), code=ExitCode.PASSING)
        ended = NOW.replace(hour=12, minute=0, second=0)
        soon = world.plan(SETTINGS, now=ended + timedelta(seconds=20))
        assert soon.create == ()
        assert soon.recheck_after_seconds == 40
        later = world.plan(SETTINGS, now=ended + timedelta(seconds=61))
        assert [made["metadata"]["labels"][names.ATTEMPT_LABEL] for made in later.create] == ["2"]

    def test_a_finished_run_whose_pod_was_not_seen_yet_is_not_asked_again(self) -> None:
        world = a_world()
        (job,) = profile_jobs(world)
        world._job_condition(job, "Complete", "")
        soon = world.plan(SETTINGS, now=NOW + timedelta(seconds=10))
        assert (soon.create, soon.recheck_after_seconds) == ((), 65)
        later = world.plan(SETTINGS, now=NOW + timedelta(seconds=75))
        assert [made["metadata"]["labels"][names.ATTEMPT_LABEL] for made in later.create] == ["2"]

    def test_a_lost_report_is_measured_again_at_most_twice(self) -> None:
        world = a_world()
        for _ in range(3):
            (job,) = profile_jobs(world)
            world.finish_profile(job, "")
            settle(world)
        assert condition(world)["reason"] == "NoReport"

    def test_no_room_beside_the_server_is_said(self) -> None:
        world = a_world()
        world.hold_up(profile_jobs(world)[0], "0/1 nodes are available: 1 Insufficient cpu")
        settle(world)
        found = condition(world)
        assert found["reason"] == "Unschedulable"
        assert "1 Insufficient cpu" in found["message"]
        assert "beside it; next: free CPU or memory" in found["message"]
        assert "serving goes on as it is" in found["message"]

    @pytest.mark.parametrize("mode", ["Recommend", "Apply"])
    def test_an_installation_without_the_image_serves_untuned_and_says_what_to_set(self, mode: str) -> None:
        settings = builders.settings()
        world = FakeCluster(builders.bert(spec=spec(mode)), MODELS_CLAIM)
        list(world.settle(settings))
        assert condition(world, "Accepted")["status"] == "True"
        assert condition(world, "Ready")["status"] == "True"
        assert (condition(world)["status"], condition(world)["reason"]) == ("False", "NoAnalyzer")
        assert "next: set images.analyzer" in condition(world)["message"]
        assert profile_jobs(world) == []

    def test_what_was_measured_while_there_was_an_image_still_counts(self) -> None:
        world = a_world("Apply")
        measure(world)
        assert world.plan(builders.settings()) == Plan()

    def test_a_profile_pod_whose_image_never_came_says_so_and_not_to_raise_the_budget(self) -> None:
        world = a_world()
        (job,) = profile_jobs(world)
        world.finish_profile(job, "", code=137)
        (pod,) = [one for one in world.all("Pod") if one["metadata"]["name"].startswith(job["metadata"]["name"])]
        gone = builders.terminated("prepare", 137, reason="ContainerStatusUnknown") | {"image": "nowhere/analyzer:1"}
        waits = [builders.waiting("profile")]
        pod["status"] |= {"reason": "DeadlineExceeded", "initContainerStatuses": [gone], "containerStatuses": waits}
        settle(world)
        assert condition(world)["reason"] == "ContainerNotStarted"
        assert "image nowhere/analyzer:1 could not be pulled" in condition(world)["message"]
        assert "budgetMinutes" not in condition(world)["message"]

    def test_a_profile_job_that_waits_in_a_queue_says_so(self) -> None:
        world = FakeCluster(builders.bert(spec=spec("Recommend") | {"builds": {"queueName": "nightly"}}), MODELS_CLAIM)
        settle(world)
        (job,) = profile_jobs(world)
        assert job["metadata"]["labels"][names.QUEUE_LABEL] == "nightly"
        job["spec"]["suspend"] = True
        settle(world)
        assert (condition(world)["status"], condition(world)["reason"]) == ("Unknown", "Queued")
        assert "in queue 'nightly'" in condition(world)["message"]

    def test_a_profile_job_that_waits_in_a_wrong_queue_is_made_anew_in_the_right_one(self) -> None:
        world = FakeCluster(builders.bert(spec=spec("Recommend") | {"builds": {"queueName": "mistyped"}}), MODELS_CLAIM)
        settle(world)
        profile_jobs(world)[0]["spec"]["suspend"] = True
        change(world, builds={"queueName": "nightly"})
        settle(world)
        (job,) = profile_jobs(world)
        assert job["metadata"]["labels"][names.QUEUE_LABEL] == "nightly"

    def test_a_quota_that_refuses_the_profile_pod_is_said(self) -> None:
        world = a_world()
        (job,) = profile_jobs(world)
        refused = {job["metadata"]["uid"]: 'Error creating: pods "x" is forbidden: exceeded quota: q, requested: cpu=4'}
        world.carry_out(make_plan(replace(world.observe(), refused_pods=refused), SETTINGS, NOW))
        assert condition(world)["reason"] == "QuotaExceeded"
        assert "lower server.resources" in condition(world)["message"]

    def test_only_triton_can_be_measured(self) -> None:
        serving = {"releases": {"2.20.0": {"image": "x/y:1"}}, "defaultRelease": "2.20.0"}
        settings = builders.settings(images=IMAGES | {"tensorflow": "x/t:1"}, tfserving=serving)
        wished = spec("Recommend") | {
            "server": {"type": "tfserving"},
            "models": [builders.model(build={"task": "sequence-classification"})],
        }
        world = FakeCluster(builders.bert(spec=wished), MODELS_CLAIM)
        plan = world.plan(settings)
        assert plan.status is not None
        accepted = next(one for one in plan.status["conditions"] if one["type"] == "Accepted")
        assert "only Triton can be measured, not tfserving" in accepted["message"]
