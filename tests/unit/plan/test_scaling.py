"""The replica count passes to an autoscaler and back, and is never nobody's; the world knows server-side apply."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.actions import Hold, Plan
from bert_operator.case import Case
from bert_operator.objects import claim, drift, identity
from bert_operator.plan import make_plan, names_to_probe
from bert_operator.pod_state import Problem
from support import builders
from support.fake_cluster import NOW, FakeCluster

SETTINGS = builders.settings()
KCM = "kube-controller-manager"
HPA = "HorizontalPodAutoscaler"


def auto(low: int = 2, high: int = 8, **more: Any) -> dict[str, Any]:
    return {
        "minReplicas": low,
        "maxReplicas": high,
        "metrics": [{"type": "cpu", "averageUtilization": 70}],
    } | more


def a_world(*, settled: bool = True, **spec: Any) -> FakeCluster:
    """A BertDeployment with everything it needs."""
    world = FakeCluster(builders.bert(spec=spec), builders.claim("models", uid="models", ours=False))
    world.put(drift.stamped(claim.manifest(identity.Identity.of(world.bert()), api.Storage(size="2Gi"))))
    if settled:
        settle(world)
    return world


def settle(world: FakeCluster) -> list[Plan]:
    return list(world.settle(SETTINGS))


def change(world: FakeCluster, **spec: Any) -> None:
    """A user's edit; None removes a field."""
    bert = world.bert()
    bert["spec"] = {key: value for key, value in (bert["spec"] | spec).items() if value is not None}
    bert["metadata"]["generation"] += 1


def deployment(world: FakeCluster) -> dict[str, Any]:
    (live,) = world.all("Deployment")
    return live


def count(world: FakeCluster) -> int:
    found: int = deployment(world)["spec"]["replicas"]
    return found


def managers(world: FakeCluster) -> list[str]:
    return sorted(entry["manager"] for entry in deployment(world)["metadata"]["managedFields"])


def condition(world: FakeCluster, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in world.bert()["status"]["conditions"] if c["type"] == kind)
    return found


class TestHandOver:
    def test_the_autoscaler_scales_the_deployment_within_the_bounds(self) -> None:
        world = a_world(autoscaling=auto(2, 5))
        (made,) = world.all(HPA)
        assert made["metadata"]["name"] == "minilm-0b5f3c"
        assert made["metadata"]["ownerReferences"][0]["uid"] == builders.BERT_UID
        assert made["spec"] == {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "minilm-0b5f3c"},
            "minReplicas": 2,
            "maxReplicas": 5,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
                }
            ],
        }

    def test_a_wish_for_slower_scaling_down_reaches_it(self) -> None:
        world = a_world(autoscaling=auto(behavior={"scaleDown": {"stabilizationWindowSeconds": 600}}))
        (made,) = world.all(HPA)
        assert made["spec"]["behavior"] == {"scaleDown": {"stabilizationWindowSeconds": 600}}

    @pytest.mark.parametrize(("replicas", "start"), [(1, 2), (3, 3), (9, 5), (0, 2)])
    def test_replicas_is_the_start_value_within_the_bounds(self, replicas: int, start: int) -> None:
        world = a_world(replicas=replicas, autoscaling=auto(2, 5))
        assert count(world) == start

    def test_from_the_start_it_costs_one_write_more_than_the_objects(self) -> None:
        def writes(**spec: Any) -> int:
            plans = settle(a_world(settled=False, replicas=2, **spec))
            return sum(len(plan.hold) + len(plan.apply) + len(plan.release) for plan in plans)

        assert writes(autoscaling=auto()) - writes() == 2, "the autoscaler, and the start value"

    def test_where_one_is_the_start_value_the_autoscaler_comes_with_the_deployment(self) -> None:
        world = a_world(settled=False, replicas=1, autoscaling=auto(1, 4))
        made = [[manifest["kind"] for manifest in plan.apply] for plan in settle(world)]
        assert all(("Deployment" in kinds) == (HPA in kinds) for kinds in made), "not while there is nothing to scale"
        assert (count(world), sum(HPA in kinds for kinds in made)) == (1, 1)

    def test_turned_on_later_the_live_count_stays_while_it_changes_hands(self) -> None:
        world = a_world(replicas=4)
        assert managers(world) == ["bert-operator"]
        change(world, autoscaling=auto())
        plans = settle(world)
        assert world.counts == [], "nobody changed it"
        assert managers(world) == ["bertops-replicas"]
        first, second = plans[0], plans[1]
        (hold,) = first.hold
        assert (hold.count, hold.force) == (4, False)
        assert [made["kind"] for made in first.apply] == ["Deployment"]
        assert "replicas" not in first.apply[0]["spec"]
        assert [made["kind"] for made in second.apply] == [HPA], "only once we don't own the count"

    def test_the_second_manager_is_gone_once_the_autoscaler_has_written(self) -> None:
        world = a_world(replicas=4, autoscaling=auto())
        world.scale(7)
        settle(world)
        assert (count(world), managers(world)) == (7, [KCM])
        assert world.plan(SETTINGS) == Plan()

    def test_a_second_manager_beside_the_autoscaler_is_let_go(self) -> None:
        world = a_world(replicas=4, autoscaling=auto())
        world.scale(7)
        held = deployment(world)["metadata"]
        held["managedFields"].append(
            {"manager": names.REPLICAS_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        )
        (let_go,) = world.plan(SETTINGS).release
        assert let_go == Hold(name="minilm-0b5f3c", uid=held["uid"], count=None)
        settle(world)
        assert (count(world), managers(world)) == (7, [KCM])

    def test_a_rollout_while_the_autoscaler_owns_the_count_leaves_it_alone(self) -> None:
        world = a_world(autoscaling=auto())
        world.scale(7)
        change(world, models=[builders.model(serving={"maxBatchSize": 4})])
        settle(world)
        assert count(world) == 7

    @pytest.mark.parametrize("replicas", [0, 1, 5, 50])
    def test_kubectl_scale_of_the_bertdeployment_changes_nothing_while_it_is_on(self, replicas: int) -> None:
        world = a_world(autoscaling=auto())
        world.scale(3)
        settle(world)
        change(world, replicas=replicas)
        plans = settle(world)
        assert all(not plan.apply and not plan.hold for plan in plans)
        assert count(world) == 3

    def test_from_zero_it_is_raised_because_an_autoscaler_is_off_at_zero(self) -> None:
        world = a_world(replicas=0)
        assert count(world) == 0
        change(world, autoscaling=auto())
        settle(world)
        assert count(world) == 2
        world.scale(0, manager="kubectl")
        settle(world)
        assert count(world) == 2

    def test_while_a_new_artifact_is_built_the_count_stays_ours(self) -> None:
        world = a_world(replicas=4)
        model = builders.model(build={"task": "feature-extraction", "maxSequenceLength": 64})
        change(world, autoscaling=auto(), models=[model])
        plan = world.plan(SETTINGS)
        assert (plan.hold, plan.apply) == ((), ())

    def test_a_deployment_made_again_starts_with_the_start_value(self) -> None:
        world = a_world(replicas=4, autoscaling=auto())
        world.all(HPA)[0]["metadata"]["creationTimestamp"] = "2026-11-22T10:00:00Z"
        world.scale(7)
        world.remove("Deployment", "minilm-0b5f3c")
        settle(world)
        assert count(world) == 4
        assert len(world.all(HPA)) == 1


class TestRepair:
    def test_what_the_api_server_fills_in_is_no_drift(self) -> None:
        world = a_world(autoscaling=auto(behavior={"scaleDown": {"stabilizationWindowSeconds": 60}}))
        spec = world.all(HPA)[0]["spec"]
        spec["behavior"]["scaleDown"] |= {"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100}]}
        spec["behavior"]["scaleUp"] = {"stabilizationWindowSeconds": 0, "selectPolicy": "Max"}
        assert world.plan(SETTINGS) == Plan()

    def test_a_hand_edit_of_the_autoscaler_is_repaired(self) -> None:
        world = a_world(autoscaling=auto())
        world.all(HPA)[0]["spec"]["maxReplicas"] = 100
        (mended,) = world.plan(SETTINGS).apply
        assert (mended["kind"], mended["spec"]["maxReplicas"]) == (HPA, 8)
        assert mended["metadata"]["uid"] == world.all(HPA)[0]["metadata"]["uid"]

    def test_a_deleted_autoscaler_comes_back_and_the_count_stays(self) -> None:
        world = a_world(autoscaling=auto())
        world.scale(6)
        world.remove(HPA, "minilm-0b5f3c")
        settle(world)
        assert len(world.all(HPA)) == 1
        assert count(world) == 6


class TestTheWayBack:
    def test_first_the_autoscaler_goes_then_the_spec_counts(self) -> None:
        world = a_world(replicas=3, autoscaling=auto())
        world.scale(7)
        settle(world)
        world.counts.clear()
        change(world, autoscaling=None)
        first, second, *_ = settle(world)
        assert [ref.kind for ref in first.delete] == [HPA]
        assert (first.hold, first.apply) == ((), ())
        assert [(made["kind"], made["spec"]["replicas"]) for made in second.apply] == [("Deployment", 3)]
        assert world.counts == [("bert-operator", 7, 3)], "one write, to what the spec says"
        assert managers(world) == ["bert-operator"]
        assert names.AUTOSCALED_ANNOTATION not in deployment(world)["metadata"]["annotations"]

    def test_an_autoscaler_that_lingers_is_waited_for(self) -> None:
        world = a_world(replicas=3, autoscaling=auto())
        world.scale(7)
        settle(world)
        change(world, autoscaling=None)
        world.all(HPA)[0]["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
        plan = world.plan(SETTINGS)
        assert (plan.apply, plan.delete) == ((), ())

    def test_before_the_autoscaler_ever_wrote_both_our_managers_end_as_one(self) -> None:
        world = a_world(replicas=4, autoscaling=auto())
        change(world, autoscaling=None)
        settle(world)
        assert (count(world), managers(world)) == (4, ["bert-operator"])

    def test_it_is_taken_back_even_if_a_person_deleted_the_autoscaler_while_we_were_away(self) -> None:
        world = a_world(replicas=3, autoscaling=auto())
        world.scale(7)
        settle(world)
        change(world, autoscaling=None)
        world.remove(HPA, "minilm-0b5f3c")
        settle(world)
        assert (count(world), managers(world)) == (3, ["bert-operator"])


class TestAutoscalersThatArentOurs:
    def test_it_isnt_fought_and_the_condition_says_what_to_do(self) -> None:
        world = a_world(replicas=3)
        world.scale(6)
        settle(world)
        assert count(world) == 6
        assert world.counts == [(KCM, 3, 6)]
        ready = condition(world, "Ready")
        assert ready["status"] == "True"
        assert "an autoscaler that isn't ours" in ready["message"]
        assert "kubectl scale deployment/minilm-0b5f3c --replicas=3" in ready["message"]
        change(world, models=[builders.model(serving={"maxBatchSize": 4})])
        settle(world)
        assert count(world) == 6, "a rollout leaves it alone too"

    def test_what_a_person_scales_by_hand_is_repaired(self) -> None:
        world = a_world(replicas=3)
        world.scale(6, manager="kubectl")
        settle(world)
        assert count(world) == 3

    def test_the_next_step_of_the_condition_works(self) -> None:
        world = a_world(replicas=3)
        world.scale(6)
        settle(world)
        world.scale(3, manager="kubectl")
        settle(world)
        assert "bert-operator" in managers(world)
        change(world, replicas=5)
        settle(world)
        assert count(world) == 5


class TestWhatIsSaid:
    def test_ready_is_judged_by_what_the_autoscaler_wants(self) -> None:
        world = a_world(replicas=1, autoscaling=auto())
        world.scale(5)
        settle(world)
        ready = condition(world, "Ready")
        assert (ready["status"], ready["reason"]) == ("True", "Serving")
        assert ready["message"] == (
            "5 verified pods answer; the autoscaler sets their number (2 to 8), spec.replicas is the start value only"
        )
        assert condition(world, "Available")["message"].startswith("5 of 5 pods answer; the autoscaler")

    def test_scaling_up_is_progress_but_nothing_stops_being_ready_and_no_event_is_told(self) -> None:
        world = a_world(replicas=2, autoscaling=auto())
        world.scale(5)
        early = world.plan(SETTINGS)
        assert {c["type"]: c["status"] for c in _said(early)}["Ready"] == "True", "its controller hasn't looked yet"
        live = deployment(world)
        seen = {"observedGeneration": live["metadata"]["generation"], "replicas": 5, "updatedReplicas": 5}
        live["status"] |= seen | {"readyReplicas": 3, "availableReplicas": 3}
        plan = world.plan(SETTINGS)
        conditions = {c["type"]: c for c in _said(plan)}
        assert conditions["Ready"]["status"] == "True"
        assert conditions["Available"]["message"].startswith("3 of 5 pods answer")
        assert (conditions["Progressing"]["status"], conditions["Progressing"]["reason"]) == ("True", "Scaling")
        assert plan.status is not None
        assert plan.status["summary"]["stage"] == "Ready"
        assert plan.notes == ()

    def test_fewer_than_the_least_is_not_ready(self) -> None:
        world = a_world(replicas=2, autoscaling=auto(2, 8))
        deployment(world)["status"] |= {"readyReplicas": 1, "availableReplicas": 1}
        ready = {c["type"]: c for c in _said(world.plan(SETTINGS))}["Ready"]
        assert (ready["status"], ready["reason"]) == ("False", "RollingOut")
        assert ready["message"] == "2 of 2 pods are new, 1 of these answer, at least 2 are asked for"

    def test_a_new_spec_isnt_ready_before_the_deployments_controller_has_looked(self) -> None:
        world = a_world(replicas=2, autoscaling=auto())
        change(world, models=[builders.model(serving={"maxBatchSize": 4})])
        for _ in range(2):
            world.carry_out(world.plan(SETTINGS))
            assert condition(world, "Ready")["status"] == "False"

    def test_an_autoscaler_without_figures_is_trouble_once_it_has_had_time(self) -> None:
        world = a_world(autoscaling=auto())
        inactive = {
            "type": "ScalingActive",
            "status": "False",
            "reason": "FailedGetResourceMetric",
            "lastTransitionTime": NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        world.all(HPA)[0]["status"] = {"conditions": [inactive]}
        assert world.plan(SETTINGS) == Plan(recheck_after_seconds=300.0)
        plan = world.plan(SETTINGS, now=NOW + timedelta(seconds=300))
        conditions = {c["type"]: c for c in _said(plan)}
        assert conditions["Degraded"]["reason"] == "AutoscalerInactive"
        assert conditions["Degraded"]["message"] == (
            "HorizontalPodAutoscaler minilm-0b5f3c can't scale (FailedGetResourceMetric); next: see that the cluster "
            "has a metrics API (metrics-server) and that pods request CPU: kubectl describe hpa minilm-0b5f3c"
        )
        assert conditions["Ready"]["status"] == "True", "what serves goes on serving"


class TestATakenName:
    def test_the_name_is_looked_at_before_an_autoscaler_is_made_and_only_then(self) -> None:
        world = a_world(replicas=2)
        assert names_to_probe(world.observe()) == ()
        change(world, autoscaling=auto())
        assert names_to_probe(world.observe()) == ((HPA, "minilm-0b5f3c"),)
        settle(world)
        assert names_to_probe(world.observe()) == ()

    def test_an_autoscaler_that_somebody_made_under_it_is_left_alone(self) -> None:
        world = a_world(replicas=2)
        change(world, autoscaling=auto())
        plan = make_plan(world.observe(foreign=frozenset({(HPA, "minilm-0b5f3c")})), SETTINGS, NOW)
        assert (plan.hold, plan.apply, plan.create, plan.delete) == ((), (), (), ())
        accepted = _said(plan)[0]
        assert accepted["reason"] == "NameConflict"
        assert "next: remove spec.autoscaling or remove that object" in accepted["message"]


class TestAServerThatIsLate:
    """A readiness probe that fails: a busy server for a moment, one that hangs for longer."""

    def late(self, since: datetime) -> FakeCluster:
        world = a_world(replicas=1)
        live = deployment(world)
        live["status"] |= {"readyReplicas": 0, "availableReplicas": 0}
        state = {"running": {"startedAt": (since - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")}}
        status = {"name": "server", "state": state, "ready": False, "started": True}
        at = since.strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": "ContainersReady", "status": "False", "lastTransitionTime": at}
        metadata = {"name": "p", "labels": live["spec"]["template"]["metadata"]["labels"]}
        spec = {"containers": [{"name": "server", "startupProbe": {"periodSeconds": 3, "failureThreshold": 40}}]}
        pod = {"kind": "Pod", "metadata": metadata, "spec": spec}
        world.put(pod | {"status": {"conditions": [condition], "containerStatuses": [status]}})
        return world

    def test_for_a_moment_it_is_no_trouble_and_looked_at_again(self) -> None:
        plan = self.late(NOW).plan(SETTINGS)
        assert {c["type"]: c for c in _said(plan)}["Ready"]["reason"] == "RollingOut"
        assert plan.recheck_after_seconds == 4

    def test_then_it_is_named(self) -> None:
        plan = self.late(NOW).plan(SETTINGS, now=NOW + timedelta(seconds=4))
        told = {c["type"]: c for c in _said(plan)}
        assert (told["Ready"]["reason"], told["Degraded"]["reason"]) == ("ContainerNotReady", "ContainerNotReady")


class TestAPodMoreThatWaitsForANode:
    """A cluster's autoscaler adds nodes in minutes; that is no trouble, and comes and goes."""

    def waiting(self, world: FakeCluster, reason: str = "Unschedulable") -> None:
        world.scale(3)
        live = deployment(world)
        told = {"observedGeneration": live["metadata"]["generation"], "replicas": 3, "updatedReplicas": 3}
        live["status"] |= told | {"readyReplicas": 2, "availableReplicas": 2}
        why = {"type": "PodScheduled", "status": "False", "reason": reason, "message": "1 Insufficient cpu."}
        condition = why | {"lastTransitionTime": NOW.isoformat()}
        labels = live["spec"]["template"]["metadata"]["labels"]
        status = {"phase": "Pending", "conditions": [condition]}
        world.put({"kind": "Pod", "metadata": {"name": "p", "labels": labels}, "status": status})

    def test_for_some_minutes_it_is_progress(self) -> None:
        world = a_world(replicas=2, autoscaling=auto())
        self.waiting(world)
        plan = world.plan(SETTINGS)
        told = {c["type"]: c for c in _said(plan)}
        assert (told["Degraded"]["status"], told["Ready"]["status"]) == ("False", "True")
        assert told["Progressing"]["reason"] == "Scaling"
        assert plan.notes == ()
        assert plan.recheck_after_seconds == 300

    def test_then_it_is_trouble_with_what_helps(self) -> None:
        world = a_world(replicas=2, autoscaling=auto())
        self.waiting(world)
        degraded = {c["type"]: c for c in _said(world.plan(SETTINGS, now=NOW + timedelta(seconds=300)))}["Degraded"]
        assert degraded["reason"] == "Unschedulable"
        assert degraded["message"] == (
            "no node takes the pod: 1 Insufficient cpu.; next: free CPU or memory, lower server.resources.requests, or "
            "add a node"
        )

    def test_where_nothing_answers_it_is_trouble_at_once(self) -> None:
        world = a_world(replicas=2)
        self.waiting(world)
        deployment(world)["status"] |= {"readyReplicas": 0, "availableReplicas": 0}
        assert {c["type"]: c for c in _said(world.plan(SETTINGS))}["Degraded"]["reason"] == "Unschedulable"

    @pytest.mark.parametrize(
        ("scheduler", "advice"),
        [
            (
                "1 Insufficient nvidia.com/gpu.",
                "add a node with a free nvidia.com/gpu for hardware.profile 'gpu', or name a profile without GPUs",
            ),
            (
                "1 node(s) had untolerated taint {nvidia.com/gpu: present}.",
                "change what the scheduler names (a selector, a taint, a claim), or add a node that fits",
            ),
        ],
    )
    def test_a_missing_gpu_is_named_and_a_taint_is_no_missing_gpu(self, scheduler: str, advice: str) -> None:
        world = FakeCluster(builders.bert(spec={"hardware": {"profile": "gpu"}}))
        case = Case(
            observed=world.observe(),
            spec=api.BertDeploymentSpec.model_validate(world.bert()["spec"]),
            settings=SETTINGS,
            now=NOW,
        )
        assert case.more_room(Problem(reason="Unschedulable", message=scheduler), "server").startswith(advice)


def _said(plan: Plan) -> list[dict[str, Any]]:
    assert plan.status is not None
    found: list[dict[str, Any]] = plan.status["conditions"]
    return found


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("reconcile"), st.just(0)),
        st.tuples(st.just("autoscaler"), st.integers(2, 8)),
        st.tuples(st.just("on"), st.integers(2, 4)),
        st.tuples(st.just("off"), st.just(0)),
        st.tuples(st.just("replicas"), st.integers(2, 6)),
        st.tuples(st.just("controller"), st.just(0)),
    ),
    max_size=25,
)


def act(world: FakeCluster, what: str, number: int) -> None:
    match what:
        case "reconcile":
            world.carry_out(world.plan(SETTINGS))
        case "autoscaler" if world.all(HPA):
            world.scale(number)
        case "on":
            change(world, autoscaling=auto(number, 8))
        case "off":
            change(world, autoscaling=None)
        case "replicas":
            change(world, replicas=number)
        case "controller":
            world.settle_deployments()


@settings(max_examples=60)
@given(acts=ACTS)
def test_whatever_happens_in_whatever_order_the_count_never_falls_by_accident(acts: list[tuple[str, int]]) -> None:
    """We lower it only to what the spec says and without autoscaling; the second manager never lowers it."""
    world = a_world(replicas=3)
    for what, number in acts:
        world.counts.clear()
        act(world, what, number)
        spec = world.bert()["spec"]
        wrong = [
            (who, before, after)
            for who, before, after in world.counts
            if who != KCM and after < before and ("autoscaling" in spec or after != spec["replicas"])
        ]
        assert wrong == []
    settle(world)
    assert world.plan(SETTINGS) == Plan()
    spec = world.bert()["spec"]
    assert bool(world.all(HPA)) == ("autoscaling" in spec)
    assert "autoscaling" in spec or count(world) == spec["replicas"]
