"""The path of a BertDeployment, decision by decision, on a world in memory."""

import functools
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_operator import job_state
from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.actions import Plan
from bert_operator.api.observed import Refusal
from bert_operator.api.report import BuildRequest, ExitCode, Lowering
from bert_operator.objects import claim, drift, identity
from bert_operator.plan import make_plan, names_to_probe
from support import builders
from support.fake_cluster import NOW, FakeCluster, copied

SETTINGS = builders.settings()
MODELS_CLAIM = builders.claim("models", uid="c1a1b2c3-0000-4000-8000-000000000002", ours=False)


def a_world(*, spec: dict[str, Any] | None = None, settled: bool = False, **metadata: Any) -> FakeCluster:
    """A BertDeployment whose claims exist."""
    world = FakeCluster(builders.bert(spec=spec, **metadata), MODELS_CLAIM)
    if (spec or {}).get("storage", {}).get("claimName"):
        world.put(builders.claim())
    else:
        world.put(drift.stamped(claim.manifest(identity.Identity.of(world.bert()), api.Storage(size="2Gi"))))
    if settled:
        list(world.settle(SETTINGS))
    return world


def conditions(plan_or_world: Plan | FakeCluster) -> dict[str, dict[str, Any]]:
    status = plan_or_world.status if isinstance(plan_or_world, Plan) else plan_or_world.bert()["status"]
    assert status is not None
    return {condition["type"]: condition for condition in status["conditions"]}


def kinds(plan: Plan) -> list[str]:
    return [manifest["kind"] for manifest in plan.apply]


def step(world: FakeCluster, **plan: Any) -> Plan:
    made = world.plan(SETTINGS, **plan)
    world.carry_out(made)
    return made


def edit(world: FakeCluster, **spec: Any) -> None:
    world.bert()["spec"] |= spec
    world.bert()["metadata"]["generation"] += 1


def images(world: FakeCluster) -> dict[str, str]:
    (deployment,) = world.all("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    return {one["name"]: one["image"] for one in (*pod["initContainers"], *pod["containers"])}


def the_job(world: FakeCluster) -> dict[str, Any]:
    (job,) = world.all("Job")
    return job


class TestTheGoodWay:
    def test_access_modes_in_another_order_leave_the_claim_as_it_is(self) -> None:
        world, modes = a_world(), ["ReadWriteOnce", "ReadWriteMany"]
        storage = {"size": "2Gi", "accessModes": modes}
        made = claim.manifest(identity.Identity.of(world.bert()), api.Storage.model_validate(storage))
        world.put(drift.stamped(made))
        world.put(world.bert() | {"spec": world.bert()["spec"] | {"storage": storage | {"accessModes": modes[::-1]}}})
        assert "PersistentVolumeClaim" not in kinds(world.plan(SETTINGS))

    def test_first_the_claim_of_storage_size_is_made_without_an_owner(self) -> None:
        world = FakeCluster(builders.bert(), MODELS_CLAIM)
        plan = step(world)
        made = next(manifest for manifest in plan.apply if manifest["kind"] == "PersistentVolumeClaim")
        assert made["metadata"]["name"] == "minilm-store"
        assert "ownerReferences" not in made["metadata"]
        assert plan.create == ()

    def test_then_a_build_is_asked_for_and_the_service_is_there_from_the_start(self) -> None:
        world = a_world()
        plan = step(world)
        assert [job["kind"] for job in plan.create] == ["Job"]
        assert kinds(plan) == ["Service", "PodDisruptionBudget"]
        assert conditions(plan)["Built"]["status"] == "Unknown"

    def test_containers_that_run_a_source_have_nothing_of_the_store(self) -> None:
        build = {"task": "sequence-classification", "framework": "tensorflow"}
        world = a_world(spec={"models": [builders.model(build=build)]})
        images = {name: f"registry.example/{name}:1" for name in ("operator", "build", "tensorflow")}
        world.carry_out(world.plan(builders.settings(images=images)))
        pod = the_job(world)["spec"]["template"]["spec"]

        mounts = {
            one["name"]: {mount["name"]: mount.get("readOnly", False) for mount in one["volumeMounts"]}
            for one in (*pod["initContainers"], *pod["containers"])
        }

        store = {name: found["store"] for name, found in mounts.items() if "store" in found}
        assert store == {"fetch": True, "inspect": True, "publish": False}
        sealed = {name: found["sealed"] for name, found in mounts.items() if "sealed" in found}
        assert sealed == {"fetch": False, "publish": True}
        assert all(found["source"] is True for found in mounts.values())

    def test_a_job_on_a_read_only_claim_knows_that_it_can_only_find(self) -> None:
        world = a_world()
        for volume in world.all("PersistentVolumeClaim"):
            volume["spec"]["accessModes"] = ["ReadOnlyMany"]
        world.carry_out(world.plan(builders.settings()))
        spec = the_job(world)["spec"]["template"]["spec"]
        store = next(each for each in spec["volumes"] if each["name"] == "store")
        assert store["persistentVolumeClaim"]["readOnly"] is True
        request = {entry["name"]: entry["value"] for entry in spec["initContainers"][0]["env"]}
        assert BuildRequest.model_validate_json(request[names.BUILD_REQUEST_ENV]).store_read_only

    def test_what_the_job_reports_is_recorded_before_the_job_goes(self) -> None:
        world = a_world()
        step(world)
        world.finish_job(the_job(world))
        plan = step(world)
        assert names.ARTIFACT_KIND in kinds(plan)
        assert plan.delete == ()
        plan = step(world)
        assert [ref.kind for ref in plan.delete] == ["Job"]

    def test_it_ends_ready_and_at_rest(self) -> None:
        world = a_world(settled=True)
        assert conditions(world)["Ready"]["status"] == "True"
        assert world.bert()["status"]["summary"] == {
            "stage": "Ready",
            "precision": "fp32",
            "fidelity": "1.000000",
            "models": "1/1",
        }
        assert world.plan(SETTINGS) == Plan()

    def test_a_precision_that_was_not_reached_is_told_with_the_reason(self) -> None:
        world = a_world()
        step(world)
        came = Lowering(asked="int8", achieved="fp32", why="static int8: its cosine is 0.95")
        world.finish_job(the_job(world), builders.report(precision="fp32", lowering=came))
        step(world)
        plan = step(world)
        assert conditions(plan)["Built"]["message"].startswith(
            "minilm/1 in fp32, not int8 (static int8: its cosine is 0.95): cosine"
        )
        assert plan.status is not None
        assert plan.status["summary"]["precision"] == "fp32"
        (version,) = plan.status["models"][0]["versions"]
        assert (version["precision"], version["precisionReason"]) == (
            "fp32",
            "int8 was asked for: static int8: its cosine is 0.95",
        )

    def test_the_deployment_mounts_the_artifact_read_only_at_its_place(self) -> None:
        world = a_world(settled=True)
        (live,) = world.all("Deployment")
        server = live["spec"]["template"]["spec"]["containers"][0]
        mount = next(m for m in server["volumeMounts"] if m["name"] == "store")
        assert mount == {
            "name": "store",
            "mountPath": "/models/minilm/1",
            "subPath": f"artifacts/onnx-{'5' * 32}",
            "readOnly": True,
        }

    def test_clients_are_told_where_to_ask(self) -> None:
        world = a_world(settled=True)

        endpoint = world.bert()["status"]["endpoint"]
        assert endpoint["http"] == "http://minilm.team.svc:8000"
        assert endpoint["grpc"] == "minilm.team.svc:8001"
        assert endpoint["metrics"] == "http://minilm.team.svc:8002/metrics"

    def test_another_server_takes_over_the_service_only_with_its_deployment(self) -> None:
        settings = builders.settings(
            torchserve={"defaultRelease": "0.12.0", "releases": {"0.12.0": {"image": "registry.example/torchserve:1"}}}
        )
        world = a_world(settled=True)
        edit(world, server={"type": "torchserve"})

        building = world.plan(settings)
        world.carry_out(building)
        assert "Service" not in kinds(building)
        assert world.bert()["status"]["endpoint"]["http"] == "http://minilm.team.svc:8000"
        world.finish_job(the_job(world), builders.report(format="mar", artifact_key="6" * 32))
        list(world.settle(settings))

        (service,) = world.all("Service")
        assert [port["port"] for port in service["spec"]["ports"]] == [8080, 7070, 8082]
        assert world.bert()["status"]["endpoint"]["http"] == "http://minilm.team.svc:8080"

    def test_a_count_is_no_rollout_to_new_default_images(self) -> None:
        world = a_world(settled=True)
        before = images(world)
        newer = builders.settings(
            images={"operator": "registry.example/operator:2", "build": "registry.example/build:1"}
        )
        edit(world, replicas=4)

        list(world.settle(newer))

        (deployment,) = world.all("Deployment")
        assert deployment["spec"]["replicas"] == 4
        assert images(world) == before

    def test_what_another_release_wrote_is_not_stumbled_over(self) -> None:
        world = a_world(settled=True)
        (record,) = world.all(names.ARTIFACT_KIND)
        record["spec"]["measurements"] = [{"key": "ab", "wordOfALaterRelease": 1}]
        world.bert()["status"]["conditions"][0]["wordOfALaterRelease"] = 1
        (deployment,) = world.all("Deployment")
        deployment["metadata"]["annotations"][names.ARTIFACTS_ANNOTATION] = "edited by hand"

        list(world.settle(SETTINGS))

        assert conditions(world)["Ready"]["status"] == "True"
        record["spec"]["report"]["wordOfALaterRelease"] = 1
        assert step(world).create, "the next build finds the artifact and writes the record anew"

    def test_a_new_deployment_is_no_previous_revision_before_its_controller_has_met_it(self) -> None:
        world = a_world(settled=True)
        (live,) = world.all("Deployment")
        live["status"] = {}
        world.bert()["status"] = {}
        first = step(world)
        assert conditions(first)["UpToDate"]["status"] == "True"
        assert conditions(first)["Ready"]["status"] == "False"
        live["status"] = {"observedGeneration": live["metadata"]["generation"], "unavailableReplicas": 1}
        assert world.plan(SETTINGS).status is None, "nothing new to say, so no write"

    def test_every_turn_is_told_once(self) -> None:
        world = a_world()
        told = [note.reason for plan in world.settle(SETTINGS) for note in plan.notes]
        assert told == ["Building", "Built", "RollingOut", "GoldenRequestsMatched", "Serving"]


class TestChanges:
    def test_a_serving_change_makes_one_rollout_and_no_build(self) -> None:
        world = a_world(settled=True)
        bert = world.bert()
        bert["spec"]["models"][0]["serving"] = {"maxBatchSize": 4}
        bert["metadata"]["generation"] = 2
        plan = step(world)
        assert plan.create == ()
        assert kinds(plan) == ["ConfigMap", "Deployment"]
        assert conditions(plan)["UpToDate"]["status"] == "False"
        list(world.settle(SETTINGS))
        assert world.plan(SETTINGS) == Plan()

    def test_a_recipe_change_builds_while_the_old_artifact_serves(self) -> None:
        world = a_world(settled=True)
        before = world.all("Deployment")
        bert = world.bert()
        bert["spec"]["models"][0]["build"]["maxSequenceLength"] = 256
        bert["metadata"]["generation"] = 2
        plan = step(world)
        assert len(plan.create) == 1
        assert world.all("Deployment") == before
        assert conditions(plan)["Available"]["status"] == "True"
        assert conditions(plan)["Ready"]["status"] == "False"

    def test_a_new_default_image_keeps_what_serves_and_says_so(self) -> None:
        world = a_world(settled=True)
        newer = builders.settings(
            images={"operator": "registry.example/operator:2", "build": "registry.example/build:2"}
        )
        plan = world.plan(newer)
        assert plan.create == ()
        assert kinds(plan) == []
        assert conditions(plan)["UpToDate"]["reason"] == "NewerToolchain"

    def test_a_new_default_image_mends_a_server_that_never_came_up(self) -> None:
        world = a_world(settled=True)
        (live,) = world.all("Deployment")
        live["status"]["availableReplicas"] = 0
        newer = builders.settings(
            images={"operator": "registry.example/operator:2", "build": "registry.example/build:1"}
        )
        assert kinds(world.plan(newer)) == ["Deployment"]

    def test_the_refresh_annotation_builds_again(self) -> None:
        world = a_world(settled=True)
        world.bert()["metadata"]["annotations"] = {names.REFRESH_ANNOTATION: "1"}
        assert len(world.plan(SETTINGS).create) == 1

    def test_scaling_changes_replicas_alone(self) -> None:
        world = a_world(settled=True)
        world.bert()["spec"]["replicas"] = 3
        plan = world.plan(SETTINGS)
        (deployment,) = plan.apply
        assert deployment["spec"]["replicas"] == 3
        assert plan.create == ()

    def test_a_hand_edit_of_a_child_is_repaired(self) -> None:
        world = a_world(settled=True)
        (live,) = world.all("Deployment")
        live["spec"]["template"]["spec"]["containers"][0]["image"] = "evil"
        plan = world.plan(SETTINGS)
        (deployment,) = plan.apply
        assert deployment["metadata"]["uid"] == live["metadata"]["uid"]

    def test_quantities_are_compared_by_value(self) -> None:
        world = a_world(spec={"server": {"type": "triton", "resources": {"limits": {"cpu": "1000m"}}}}, settled=True)
        (live,) = world.all("Deployment")
        live["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "1"
        assert world.plan(SETTINGS).apply == ()

    def test_config_maps_of_kept_revisions_stay(self) -> None:
        world = a_world(settled=True)
        (old,) = world.all("ConfigMap")
        revision = {"kind": "ReplicaSet", "metadata": {"name": "old", "labels": old["metadata"]["labels"]}}
        world.put(revision)
        world.bert()["spec"]["models"][0]["serving"] = {"maxBatchSize": 4}
        list(world.settle(SETTINGS))
        assert len(world.all("ConfigMap")) == 2
        world.remove("ReplicaSet", "old")
        list(world.settle(SETTINGS))
        assert len(world.all("ConfigMap")) == 1


class TestReuse:
    def test_deleted_and_applied_again_it_asks_for_no_build(self) -> None:
        world = a_world(settled=True)
        world.remove(names.KIND, "minilm")
        assert world.all("Deployment") == ()
        world.put(builders.bert(uid="11111111-7d9e-4c55-9a1b-3f2e1d0c9b8a"))
        plans = list(world.settle(SETTINGS))
        assert all(plan.create == () for plan in plans)
        assert conditions(world)["Ready"]["status"] == "True"

    def test_a_second_bert_deployment_joins_a_running_build(self) -> None:
        world = a_world(spec={"storage": {"claimName": "minilm-store"}})
        step(world)
        other = builders.bert("other", uid="22222222-7d9e-4c55-9a1b-3f2e1d0c9b8a")
        other["spec"]["storage"] = {"claimName": "minilm-store"}
        world.put(other)
        plan = make_plan(world.observe("other"), SETTINGS, NOW)
        assert plan.create == ()
        (adoption,) = plan.adopt
        world.carry_out(plan, "other")
        world.remove(names.KIND, "minilm")
        assert the_job(world)["metadata"]["name"] == adoption.name

    def test_a_lost_record_does_not_move_a_branch(self) -> None:
        source = {"huggingFace": {"repo": "org/bert", "revision": "main"}}
        model = builders.model(versions=[{"version": 1, "source": source}])
        world = a_world(spec={"models": [model]})
        step(world)
        world.finish_job(the_job(world), builders.report(revision="c0ffee"))
        list(world.settle(SETTINGS))
        (record,) = world.all(names.ARTIFACT_KIND)
        world.remove(names.ARTIFACT_KIND, record["metadata"]["name"])
        del world.bert()["status"]
        (job,) = world.plan(SETTINGS).create
        env = job["spec"]["template"]["spec"]["containers"][0]["env"]
        request = BuildRequest.model_validate_json(
            next(e["value"] for e in env if e["name"] == names.BUILD_REQUEST_ENV)
        )
        assert request.hugging_face is not None
        assert request.hugging_face.revision == "c0ffee"

    def test_a_lost_record_leaves_the_deployment_alone(self) -> None:
        world = a_world(settled=True)
        before = world.all("Deployment")
        world.remove(names.ARTIFACT_KIND, world.all(names.ARTIFACT_KIND)[0]["metadata"]["name"])
        step(world)
        assert world.all("Deployment") == before


class TestFailures:
    def test_a_mistake_of_the_user_is_told_with_the_next_step_and_not_tried_again(self) -> None:
        world = a_world()
        step(world)
        text = builders.failure("SourceNotFound", "no folder 'x'", "write y")
        world.fail_job(the_job(world), "fetch", ExitCode.USER_ERROR, text)
        plan = step(world)
        built = conditions(plan)["Built"]
        assert built["reason"] == "SourceNotFound"
        assert built["message"] == "minilm/1: no folder 'x'; next: write y"
        assert conditions(plan)["SourceResolved"]["reason"] == "SourceNotFound"
        assert plan.recheck_after_seconds is None
        assert world.plan(SETTINGS, now=NOW + timedelta(days=1)).create == ()
        assert the_job(world), "the failed Job stays as evidence"

    @pytest.mark.parametrize("phase", ["Pending", "Running", "Failed"])
    def test_a_failed_pod_whose_job_has_not_ended_yet_is_still_under_way(self, phase: str) -> None:
        world = a_world()
        step(world)
        world.fail_job(the_job(world), "fetch", ExitCode.USER_ERROR, builders.failure())
        del the_job(world)["status"]
        (pod,) = world.all("Pod")
        pod["status"]["phase"] = phase
        plan = step(world)
        assert plan.status is not None
        assert plan.status["summary"]["stage"] == "Fetching"
        assert plan.notes == ()

    def test_a_build_pod_that_finds_no_node_says_so_while_it_waits(self) -> None:
        world = a_world()
        step(world)
        reference = {"kind": "Job", "uid": the_job(world)["metadata"]["uid"]}
        labels = the_job(world)["metadata"]["labels"]
        lost = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: cpu"}
        world.put(
            {
                "kind": "Pod",
                "metadata": {"name": "p", "labels": labels, "ownerReferences": [reference]},
                "status": {"phase": "Pending", "conditions": [lost]},
            }
        )
        built = conditions(step(world))["Built"]
        assert (built["status"], built["reason"]) == ("False", "Unschedulable")
        assert "0/1 nodes: cpu" in built["message"]

    def test_a_passing_fault_is_tried_again_ever_more_slowly_then_not_at_all(self) -> None:
        world = a_world()
        step(world)
        waits = []
        for _ in range(4):
            world.fail_job(the_job(world), "fetch", ExitCode.PASSING, builders.failure("HubUnreachable"))
            plan = step(world)
            waits.append(plan.recheck_after_seconds)
            step(world, now=NOW + timedelta(minutes=31))
            step(world, now=NOW + timedelta(minutes=31))
        assert waits == [60.0, 300.0, 1800.0, None]

    def test_a_secret_that_isnt_there_is_looked_for_for_good_and_every_time_it_says_so(self) -> None:
        world = a_world()
        step(world)
        waits = []
        for _ in range(5):
            world.fail_job(the_job(world), "fetch", ExitCode.PASSING, builders.failure("SecretNotFound"))
            plan = step(world)
            waits.append(plan.recheck_after_seconds)
            assert "it is tried again by itself" in conditions(plan)["Built"]["message"]
            # Somebody must make it: no retry ever will.
            assert (conditions(plan)["Degraded"]["status"], conditions(plan)["Degraded"]["reason"]) == (
                *("True", "SecretNotFound"),
            )
            assert conditions(plan)["Progressing"]["status"] == "False"
            step(world, now=NOW + timedelta(minutes=31))
            step(world, now=NOW + timedelta(minutes=31))
        assert waits == [60.0, 300.0, 1800.0, 1800.0, 1800.0]

    def test_out_of_memory_names_the_limit(self) -> None:
        world = a_world()
        step(world)
        world.fail_job(the_job(world), "convert", 137, "", reason="OOMKilled")
        plan = step(world)
        assert conditions(plan)["Degraded"]["reason"] == "OutOfMemory"
        assert "next: raise builds.resources.limits.memory" in conditions(plan)["Degraded"]["message"]

    def test_a_mistake_mended_in_the_spec_builds_at_once(self) -> None:
        world = a_world()
        step(world)
        world.fail_job(the_job(world), "fetch", ExitCode.USER_ERROR, builders.failure())
        step(world)
        world.bert()["spec"]["models"][0]["versions"][0]["source"]["pvc"]["path"] = "right"
        plan = step(world)
        assert len(plan.create) == 1
        assert len(plan.delete) == 1, "the old evidence goes"

    def test_a_finished_job_without_a_report_runs_again_at_most_twice(self) -> None:
        world = a_world()
        created = []
        for _ in range(5):
            created.append(len(step(world, now=NOW + job_state.SEEN_WITHIN).create))
            for job in world.all("Job"):
                world._job_condition(job, "Complete", "")
        assert created == [1, 1, 1, 0, 0]
        assert conditions(world)["Built"]["reason"] == "NoReport"

    def test_a_finished_job_whose_pod_still_seems_to_run_is_not_asked_again(self) -> None:
        """Kinds are watched apart: the end of a Job may be seen before the end of its pod, which brings the report."""
        world = a_world()
        step(world)
        job = the_job(world)
        world._build_pod(job, [builders.running("fetch")], [builders.waiting("publish")], "Running")
        world._job_condition(job, "Complete", "")
        assert step(world).create == ()
        world.finish_job(job)
        plan = step(world)
        assert plan.create == ()
        assert [made["kind"] for made in plan.apply if made["kind"] == names.ARTIFACT_KIND] == [names.ARTIFACT_KIND]

    def test_a_finished_job_whose_pod_was_not_seen_yet_is_not_asked_again(self) -> None:
        """The watch of pods may have died without a word, which takes a minute to notice; the Jobs' goes on."""
        world = a_world()
        step(world)
        job = the_job(world)
        world._job_condition(job, "Complete", "")
        plan = step(world, now=NOW + timedelta(seconds=10))
        assert plan.create == ()
        assert plan.recheck_after_seconds == 65
        assert conditions(plan)["Built"]["status"] == "Unknown"
        assert "finished, its report is still to be seen" in conditions(plan)["Built"]["message"]
        world.finish_job(job)
        assert [made["kind"] for made in step(world).apply if made["kind"] == names.ARTIFACT_KIND] == [
            names.ARTIFACT_KIND
        ]

    def test_a_pod_that_was_disrupted_before_says_nothing_of_a_finished_job(self) -> None:
        """Its successor brings the report, and may be unseen as above."""
        world = a_world()
        step(world)
        job = the_job(world)
        world._build_pod(job, [builders.terminated("fetch", 137)], [builders.waiting("publish")], "Failed")
        world._job_condition(job, "Complete", "")
        assert step(world, now=NOW + timedelta(seconds=10)).create == ()
        assert len(step(world, now=NOW + job_state.SEEN_WITHIN).create) == 1

    def test_a_failed_job_whose_pod_was_not_seen_yet_is_not_tried_again_before_it_could_be(self) -> None:
        world = a_world()
        step(world)
        world._job_condition(the_job(world), "Failed", "PodFailurePolicy")
        assert step(world, now=NOW + timedelta(seconds=70)).create == ()
        assert len(step(world, now=NOW + job_state.SEEN_WITHIN).create) == 1

    def test_a_missing_claim_is_named_with_its_field(self) -> None:
        world = FakeCluster(builders.bert(), builders.claim())
        plan = step(world)
        assert plan.create == ()
        built = conditions(plan)["Built"]
        assert built["reason"] == "ClaimNotFound"
        assert "spec.models[0].versions[0].source.pvc.claimName" in built["message"]

    def test_a_pod_that_fails_verification_names_the_difference(self) -> None:
        world = a_world(settled=True)
        (live,) = world.all("Deployment")
        live["status"] |= {"updatedReplicas": 0}
        text = builders.failure("VerificationFailed", "minilm: last_hidden_state differs by 0.5", "set refresh")
        verify = builders.waiting("verify", "CrashLoopBackOff") | {
            "lastState": builders.terminated("v", 1, text)["state"]
        }
        pod = {
            "kind": "Pod",
            "metadata": {"name": "p", "labels": live["spec"]["template"]["metadata"]["labels"]},
            "status": {"initContainerStatuses": [builders.terminated("preflight"), verify]},
        }
        world.put(pod)
        verified = conditions(step(world))["Verified"]
        assert (verified["status"], verified["reason"]) == ("False", "VerificationFailed")
        assert "differs by 0.5" in verified["message"]


class TestRefusals:
    def test_what_the_api_server_refuses_is_a_condition_and_one_event(self) -> None:
        world = a_world()
        step(world)
        refusal = Refusal(what="apply Deployment minilm-0b5f3c", message="exceeded quota: compute")
        plan = make_plan(replace(world.observe(), refused=(refusal,)), SETTINGS, NOW)
        ready = conditions(plan)["Degraded"]
        assert ready["reason"] == "ApiRefused"
        assert "apply Deployment minilm-0b5f3c: exceeded quota" in ready["message"]
        assert [note.reason for note in plan.notes] == ["ApiRefused"]

    @pytest.mark.parametrize(
        ("spec", "reason", "words"),
        [
            ({"hardware": {"profile": "h100"}}, "Unsupported", "spec.hardware.profile: 'h100'"),
            ({"server": {"type": "triton", "release": "22.05"}}, "Unsupported", "release"),
            (
                {"models": [builders.model(build={"task": "feature-extraction", "format": "mar"})]},
                "Unsupported",
                "spec.models[0].build.format is 'mar', which triton doesn't serve on hardware profile 'cpu': write one",
            ),
            (
                {"models": [builders.model(build={"task": "feature-extraction", "framework": "tensorflow"})]},
                "Unsupported",
                "set images.tensorflow in the operator's chart",
            ),
            (
                {
                    "server": {"type": "torchserve"},
                    "models": [builders.model(build={"task": "feature-extraction", "framework": "tensorflow"})],
                },
                "Unsupported",
                "torchserve takes archives made from PyTorch checkpoints only: serve this source by triton",
            ),
            ({"models": []}, "InvalidSpec", "spec.models"),
            ({"server": {"type": "triton", "typo": 1}}, "InvalidSpec", "spec.server.typo"),
        ],
    )
    def test_what_cannot_be_done_touches_nothing(self, spec: dict[str, Any], reason: str, words: str) -> None:
        world = a_world(settled=True)
        world.bert()["spec"] |= spec
        plan = step(world)
        assert (plan.apply, plan.create, plan.delete, plan.adopt) == ((), (), (), ())
        assert conditions(plan)["Accepted"]["reason"] == reason
        assert words in conditions(plan)["Accepted"]["message"]

    def test_a_foreign_service_of_our_name_is_left_alone(self) -> None:
        world = a_world()
        observed = world.observe(foreign=frozenset({("Service", "minilm")}))
        plan = make_plan(observed, SETTINGS, NOW)
        assert (plan.apply, plan.create) == ((), ())
        assert conditions(plan)["Accepted"]["reason"] == "NameConflict"

    @pytest.mark.parametrize(("age", "seconds"), [(59, 5.0), (60, 60.0), (86_400, 60.0)])
    def test_a_name_that_may_get_free_is_looked_at_soon_then_every_minute(self, age: int, seconds: float) -> None:
        world = a_world()
        world.bert()["metadata"]["creationTimestamp"] = (NOW - timedelta(seconds=age)).isoformat()
        observed = world.observe(foreign=frozenset({("Service", "minilm")}))
        assert make_plan(observed, SETTINGS, NOW).recheck_after_seconds == seconds

    def test_a_foreign_claim_of_our_store_name_is_left_alone(self) -> None:
        world = FakeCluster(builders.bert(), MODELS_CLAIM, builders.claim(ours=False))
        plan = step(world)
        assert (plan.apply, plan.create) == ((), ())
        assert conditions(plan)["Accepted"]["reason"] == "NameConflict"

    def test_only_a_missing_service_is_probed(self) -> None:
        world = a_world()
        assert names_to_probe(world.observe()) == (("Service", "minilm"),)
        step(world)
        assert names_to_probe(world.observe()) == ()


class TestProperties:
    @given(
        serving=st.fixed_dictionaries(
            {},
            optional={
                "maxBatchSize": st.integers(1, 64),
                "instances": st.integers(1, 4),
                "warmup": st.booleans(),
                "batching": st.fixed_dictionaries(
                    {}, optional={"enabled": st.booleans(), "maxQueueDelayMicroseconds": st.integers(0, 9)}
                ),
            },
        ),
        replicas=st.integers(0, 5),
    )
    def test_planning_on_the_world_it_asked_for_changes_nothing(self, serving: dict[str, Any], replicas: int) -> None:
        world = a_world(spec={"replicas": replicas, "models": [builders.model(serving=serving)]}, settled=True)
        writes = world.writes
        assert world.plan(SETTINGS) == Plan()
        assert world.writes == writes

    @given(data=st.data())
    def test_any_order_of_steps_ends_in_the_same_state(self, data: st.DataObject) -> None:
        """Reconcile, a finishing Job and the Deployment controller in any order, forgetting all memory in between."""
        world = a_world()
        for _ in range(data.draw(st.integers(0, 12))):
            match data.draw(st.sampled_from(["reconcile", "job", "deployment"])):
                case "reconcile":
                    step(world)
                case "job":
                    for job in world.all("Job"):
                        world.finish_job(job)
                case _:
                    world.settle_deployments()
        list(world.settle(SETTINGS))
        assert _end_state(world) == _undisturbed()

    @given(lost=st.sets(st.sampled_from(["status", "Job", "Deployment", "Service", "ConfigMap", names.ARTIFACT_KIND])))
    def test_whatever_is_lost_comes_back(self, lost: set[str]) -> None:
        world = a_world(settled=True)
        for kind in lost:
            if kind == "status":
                world.bert().pop("status", None)
            for item in world.all(kind):
                world.remove(kind, item["metadata"]["name"])
        list(world.settle(SETTINGS))
        assert _end_state(world) == _undisturbed()


@functools.cache
def _undisturbed() -> dict[tuple[str, str], Any]:
    return _end_state(a_world(settled=True))


def _end_state(world: FakeCluster) -> dict[tuple[str, str], Any]:
    """Everything but what counts attempts and the evidence of builds that went well."""
    state = copied(world.objects)
    for (kind, _), item in list(state.items()):
        item["metadata"] = {key: item["metadata"].get(key) for key in ("name", "labels", "annotations")}
        if kind == "Deployment":
            item.pop("status")
    return {key: item for key, item in state.items() if key[0] != "Pod"}
