"""Build Jobs between being asked for and their end: who holds them, what holds them up, how far they are."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.actions import Plan
from bert_operator.objects import claim, drift, identity
from bert_operator.plan import jobs_to_probe, make_plan
from support import builders
from support.fake_cluster import NOW, FakeCluster

SETTINGS = builders.settings()
OTHER_UID = "22222222-7d9e-4c55-9a1b-3f2e1d0c9b8a"
STEPS = {"fetch": 1.0, "inspect": 0.5, "answer": 4.0, "convert": 20.0, "compare": 16.0, "publish": 2.0}


def a_world(**spec: Any) -> FakeCluster:
    """A BertDeployment whose build was asked for."""
    world = FakeCluster(builders.bert(spec=spec), builders.claim("models", uid="models", ours=False))
    world.put(drift.stamped(claim.manifest(identity.Identity.of(world.bert()), api.Storage(size="2Gi"))))
    step(world)
    return world


def step(world: FakeCluster, name: str = "minilm", **observed: Any) -> Plan:
    made = make_plan(replace(world.observe(name), **observed), SETTINGS, NOW)
    world.carry_out(made, name)
    return made


def the_job(world: FakeCluster) -> dict[str, Any]:
    (job,) = world.all("Job")
    return job


def condition(world: FakeCluster, kind: str = "Built", name: str = "minilm") -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in world.bert(name)["status"]["conditions"] if c["type"] == kind)
    return found


def at(world: FakeCluster, name: str) -> None:
    """Play the build's pod at one of its steps."""
    order = list(STEPS)
    done = [builders.terminated(one) for one in order[: order.index(name)]]
    world._build_pod(the_job(world), [*done, builders.running(name)], [builders.waiting("publish")], "Running")


def refuse(world: FakeCluster, why: str) -> Plan:
    """Play the Job controller that can't make the pod, and says so in an Event."""
    return step(world, refused_pods={the_job(world)["metadata"]["uid"]: why})


class TestShared:
    @pytest.fixture
    def world(self) -> FakeCluster:
        """Two who wait for the same build."""
        world = a_world()
        other = builders.bert("other", uid=OTHER_UID)
        other["spec"]["storage"] = {"claimName": "minilm-store"}
        world.put(other)
        step(world, "other")
        assert len(the_job(world)["metadata"]["ownerReferences"]) == 2
        return world

    def change(self, world: FakeCluster, name: str) -> Plan:
        world.bert(name)["spec"]["models"][0]["build"]["maxSequenceLength"] = 64
        return step(world, name)

    def test_who_changes_their_mind_leaves_and_the_build_goes_on_for_the_other(self, world: FakeCluster) -> None:
        before = the_job(world)
        plan = self.change(world, "minilm")
        (departure,) = plan.leave
        assert (departure.uid, departure.owner_uid) == (before["metadata"]["uid"], builders.BERT_UID)
        assert plan.delete == ()
        owners = [ref["uid"] for ref in world.objects["Job", before["metadata"]["name"]]["metadata"]["ownerReferences"]]
        assert owners == [OTHER_UID]
        assert step(world).leave == ()

    def test_the_last_one_ends_it(self, world: FakeCluster) -> None:
        before = the_job(world)["metadata"]["name"]
        self.change(world, "minilm")
        assert [ref.name for ref in self.change(world, "other").delete] == [before]

    def test_two_who_leave_at_once_dont_leave_it_to_nobody(self, world: FakeCluster) -> None:
        the_job(world)["metadata"]["resourceVersion"] = "7"
        for name in ("minilm", "other"):
            world.bert(name)["spec"]["models"][0]["build"]["maxSequenceLength"] = 64
        leaving = [one for name in ("minilm", "other") for one in make_plan(world.observe(name), SETTINGS, NOW).leave]
        assert [one.resource_version for one in leaving] == ["7", "7"], "the second one meets a conflict"

    def test_one_that_waits_in_a_queue_of_the_other_is_left_to_it_until_it_runs(self, world: FakeCluster) -> None:
        the_job(world)["spec"]["suspend"] = True
        world.bert()["spec"]["builds"] = {"queueName": "nightly"}
        assert [one.owner_uid for one in step(world).leave] == [builders.BERT_UID]
        still = step(world)
        assert (still.create, still.adopt, still.leave, still.delete) == ((), (), (), ())
        assert condition(world)["reason"] == "Queued"
        the_job(world)["spec"]["suspend"] = False
        assert [one.name for one in step(world).adopt] == [the_job(world)["metadata"]["name"]]

    def test_once_all_want_the_other_queue_it_waits_there_for_all(self, world: FakeCluster) -> None:
        the_job(world)["spec"]["suspend"] = True
        for name in ("minilm", "other", "other", "minilm"):
            world.bert(name)["spec"]["builds"] = {"queueName": "nightly"}
            step(world, name)
        job = the_job(world)
        assert job["metadata"]["labels"][names.QUEUE_LABEL] == "nightly"
        assert len(job["metadata"]["ownerReferences"]) == 2


class TestQueued:
    def test_the_queue_is_named_on_the_job_and_nowhere_else(self) -> None:
        job = the_job(a_world(builds={"queueName": "nightly"}))
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "nightly"
        assert "kueue.x-k8s.io/queue-name" not in job["spec"]["template"]["metadata"]["labels"]
        assert "suspend" not in job["spec"], "without Kueue nobody would wake it"
        assert names.QUEUE_LABEL not in the_job(a_world())["metadata"]["labels"]

    def test_a_suspended_job_is_queued_and_that_is_no_trouble(self) -> None:
        world = a_world(builds={"queueName": "nightly"})
        the_job(world)["spec"]["suspend"] = True
        plan = step(world)
        built = condition(world)
        assert (built["status"], built["reason"]) == ("Unknown", "Queued")
        assert "waits in queue 'nightly'; to see for what: kubectl describe localqueue nightly" in built["message"]
        assert condition(world, "Progressing")["reason"] == "Queued"
        assert condition(world, "Degraded")["status"] == "False"
        assert world.bert()["status"]["summary"]["stage"] == "Queued"
        assert plan.recheck_after_seconds is None
        assert jobs_to_probe(world.observe(), NOW) == ()

    def test_let_go_it_is_building(self) -> None:
        world = a_world(builds={"queueName": "nightly"})
        the_job(world)["spec"]["suspend"] = True
        step(world)
        the_job(world)["spec"]["suspend"] = False
        at(world, "fetch")
        step(world)
        assert condition(world)["reason"] == "Building"

    @pytest.mark.parametrize("queue", ["daily", None])
    def test_another_queue_takes_over_what_waits(self, queue: str | None) -> None:
        world = a_world(builds={"queueName": "nightly"})
        before = the_job(world)
        before["spec"]["suspend"] = True
        step(world)
        world.bert()["spec"]["builds"] = {"queueName": queue} if queue else {}
        assert [ref.uid for ref in step(world).delete] == [before["metadata"]["uid"]]
        step(world)
        assert the_job(world)["metadata"]["name"] == before["metadata"]["name"], "it is the same build"
        assert the_job(world)["metadata"]["labels"].get(names.QUEUE_LABEL) == queue
        assert step(world).delete == ()

    def test_a_queue_that_kueue_or_a_policy_chose_is_kept(self) -> None:
        world = a_world()
        the_job(world)["spec"]["suspend"] = True
        the_job(world)["metadata"]["labels"][names.QUEUE_LABEL] = "default"
        plan = step(world)
        assert (plan.delete, plan.leave) == ((), ())
        assert "waits in queue 'default'" in condition(world)["message"]

    def test_another_queue_leaves_alone_what_was_let_go(self) -> None:
        world = a_world(builds={"queueName": "nightly"})
        at(world, "convert")
        step(world)
        world.bert()["spec"]["builds"] = {"queueName": "daily"}
        plan = step(world)
        assert (plan.create, plan.delete) == ((), ())

    def test_one_suspended_by_hand_says_how_to_wake_it(self) -> None:
        world = a_world()
        the_job(world)["spec"]["suspend"] = True
        step(world)
        assert "is suspended; to let it go on: kubectl patch job bert-build-" in condition(world)["message"]


class TestProgress:
    def test_without_experience_the_step_is_told(self) -> None:
        world = a_world()
        at(world, "convert")
        step(world)
        job = the_job(world)["metadata"]["name"]
        assert condition(world)["message"] == f"minilm/1: step convert, 4 of 6 (Job {job})"

    @pytest.mark.parametrize(
        ("name", "left"), [("fetch", "about 45 s"), ("convert", "about 40 s"), ("publish", "about 5 s")]
    )
    def test_what_others_took_tells_about_how_long_the_rest_will_take(self, name: str, left: str) -> None:
        world = a_world()
        for number, factor in enumerate((0.9, 1.0, 50.0)):
            experience(world, str(number), {one: seconds * factor for one, seconds in STEPS.items()})
        experience(world, "3", {"fetch": 900.0}, reused=True)
        experience(world, "4", dict.fromkeys(STEPS, 900.0), format="mar")
        at(world, name)
        step(world)
        assert f"{list(STEPS).index(name) + 1} of 6, {left} left (Job" in condition(world)["message"]

    def test_minutes_are_told_as_minutes(self) -> None:
        world = a_world()
        experience(world, "0", {one: seconds * 20 for one, seconds in STEPS.items()})
        at(world, "fetch")
        step(world)
        assert "about 14 min left" in condition(world)["message"]

    def test_one_status_write_for_each_step(self) -> None:
        world = a_world()
        experience(world, "0", STEPS)
        at(world, "convert")
        assert step(world).status is not None
        later = make_plan(world.observe(), SETTINGS, NOW + timedelta(seconds=19))
        assert later.status is None


def experience(world: FakeCluster, name: str, durations: dict[str, float], **changes: Any) -> None:
    """Another artifact on the same claim."""
    report = builders.report(durations_seconds=durations, **changes).model_dump(mode="json", by_alias=True)
    spec = {"claimName": "minilm-store", "claimUid": builders.CLAIM_UID, "requestKeys": [name * 32], "report": report}
    world.put({"kind": names.ARTIFACT_KIND, "metadata": {"name": f"a{name}"}, "spec": spec})


class TestNoPod:
    QUOTA = (
        'Error creating: pods "bert-build-x-1-7fk2p" is forbidden: exceeded quota: compute, requested: '
        "limits.memory=4Gi, used: limits.memory=0, limited: limits.memory=2Gi"
    )

    @pytest.mark.parametrize(
        ("why", "reason", "says"),
        [
            (QUOTA, "QuotaExceeded", "next: lower builds.resources, or have the namespace's ResourceQuota raised"),
            (
                'Error creating: pods "x" is forbidden: failed quota: compute: must specify limits.cpu for: fetch',
                "QuotaExceeded",
                "must specify limits.cpu for: fetch; next: write what it misses into builds.resources",
            ),
            (
                'Error creating: pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 4Gi',
                "LimitRangeExceeded",
                "limit is 4Gi; next: write builds.resources within the namespace's LimitRange",
            ),
            ('Error creating: pods "x" is forbidden: violates PodSecurity', "PodRefused", "violates PodSecurity; next"),
            (f"(combined from similar events): {QUOTA}", "QuotaExceeded", "gets no pod: exceeded quota: compute, requ"),
        ],
    )
    def test_what_refuses_the_pod_is_named_with_what_to_write(self, why: str, reason: str, says: str) -> None:
        world = a_world()
        refuse(world, why)
        built = condition(world)
        assert (built["status"], built["reason"]) == ("False", reason)
        assert says in built["message"]
        assert "7fk2p" not in built["message"], "each try is for a pod of another name"

    def test_a_pod_that_came_after_all_ends_it(self) -> None:
        world = a_world()
        refuse(world, self.QUOTA)
        at(world, "fetch")
        step(world)
        assert (condition(world)["status"], condition(world)["reason"]) == ("Unknown", "Building")

    def test_the_events_are_asked_for_soon_and_only_while_there_is_no_pod(self) -> None:
        world = a_world()
        job = the_job(world)
        job["metadata"]["creationTimestamp"] = NOW.isoformat()
        assert world.plan(SETTINGS).recheck_after_seconds == 5
        assert jobs_to_probe(world.observe(), NOW + timedelta(seconds=4)) == ()
        soon = NOW + timedelta(seconds=5)
        assert jobs_to_probe(world.observe(), soon) == ((job["metadata"]["name"], job["metadata"]["uid"]),)
        assert world.plan(SETTINGS, now=soon).recheck_after_seconds == 55
        at(world, "fetch")
        assert jobs_to_probe(world.observe(), soon) == ()
        assert world.plan(SETTINGS, now=soon).recheck_after_seconds is None

    def test_one_that_waited_in_a_queue_gets_its_looks_once_it_is_let_go(self) -> None:
        world = a_world()
        the_job(world)["status"] = {"startTime": NOW.isoformat()}
        assert jobs_to_probe(world.observe(), NOW + timedelta(seconds=4)) == ()
        assert world.plan(SETTINGS).recheck_after_seconds == 5

    def test_one_that_lost_its_pod_is_looked_at_until_it_is_known_why(self) -> None:
        world = a_world()
        assert world.plan(SETTINGS).recheck_after_seconds == 60
        assert refuse(world, self.QUOTA).recheck_after_seconds is None

    @pytest.mark.parametrize(
        ("why", "advice"),
        [
            ("1 Insufficient memory.", "free CPU or memory, lower builds.resources.requests, or add a node"),
            ("1 node(s) had untolerated taint(s).", "change what the scheduler names (a selector, a taint, a claim)"),
        ],
    )
    def test_a_pod_without_room_says_what_helps(self, why: str, advice: str) -> None:
        world = a_world()
        world.hold_up(the_job(world), f"0/1 nodes are available: {why}")
        step(world)
        assert f"{why}; next: {advice}" in condition(world)["message"]


class TestOutOfTime:
    def fail(self, world: FakeCluster, container: dict[str, Any]) -> None:
        job = the_job(world)
        world._build_pod(job, [container], [builders.waiting("publish")], "Failed")
        (pod,) = world.all("Pod")
        pod["status"]["reason"] = "DeadlineExceeded"
        world._job_condition(job, "Failed", "PodFailurePolicy")
        step(world)

    def test_only_the_time_on_its_node_counts(self) -> None:
        spec = the_job(a_world())["spec"]
        assert "activeDeadlineSeconds" not in spec, "it would delete the pod that tells why"
        assert spec["template"]["spec"]["activeDeadlineSeconds"] == 3600

    def test_a_pod_whose_image_never_came_names_the_image(self) -> None:
        """As a real kubelet leaves it: it forgets that it was waiting for an image."""
        gone = builders.terminated("fetch", 137, "The container could not be located", "ContainerStatusUnknown")
        world = a_world()
        self.fail(world, gone | {"image": "nowhere.example/build:1"})
        built = condition(world)
        assert built["reason"] == "ContainerNotStarted"
        assert "container fetch never started: image nowhere.example/build:1 could not be pulled" in built["message"]
        assert "it is tried again by itself" in built["message"]

    def test_one_that_ran_names_the_step_that_took_so_long(self) -> None:
        killed = builders.terminated("convert", 137)
        killed["state"]["terminated"]["startedAt"] = "2026-11-22T11:00:00Z"
        world = a_world()
        self.fail(world, killed)
        assert condition(world)["reason"] == "BuildDeadlineExceeded"
        says = "took longer than 3600 s (it was at convert); next: raise spec.builds.activeDeadlineSeconds"
        assert says in condition(world)["message"]
