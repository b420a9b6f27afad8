"""Memory shows what the cluster showed, in whatever order it was told; our own writes stand until it has caught up."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_operator.api import names
from bert_operator.api.observed import Observed
from bert_operator.observe import GRAVES, KINDS, World
from bert_operator.slim import LAST_APPLIED
from support.objects import (
    OTHER_UID,
    a_bert,
    a_child,
    a_job,
    a_job_pod,
    a_server_pod,
    an_artifact,
    an_object,
    owner,
    with_request,
)

DEMO = ("ns", "demo")
OTHER = ("ns", "other")


def named(objects: tuple[Any, ...]) -> list[str]:
    return [obj["metadata"]["name"] for obj in objects]


def seen(*objects: dict[str, Any]) -> World:
    world = World()
    for obj in objects:
        world.put(obj)
    return world


def look(world: World) -> Observed:
    observed = world.observe(*DEMO)
    assert observed is not None
    return observed


def everything() -> list[dict[str, Any]]:
    """One of each kind, all of the BertDeployment `demo`, and strangers that must not be mixed in."""
    replica_set = a_child("ReplicaSet", "demo-rs") | {"spec": {"replicas": 1, "template": {"big": 1}}}
    replica_set["metadata"]["ownerReferences"] = [owner("uid-Deployment-demo-aaaaaa", "demo-aaaaaa", "Deployment")]
    return [
        a_bert(**with_request("0123")),
        a_bert("other", uid=OTHER_UID),
        a_child("Deployment", "demo-aaaaaa"),
        replica_set,
        a_child("HorizontalPodAutoscaler", "demo-aaaaaa"),
        a_child("PodDisruptionBudget", "demo-aaaaaa"),
        a_child("NetworkPolicy", "demo-aaaaaa"),
        a_child("Service", "demo"),
        a_child("ConfigMap", "demo-config-1-aaaaaa", data={"big": "text"}),
        an_object("PersistentVolumeClaim", "demo-store"),
        an_object("PersistentVolumeClaim", "stranger"),
        a_job(owners=(owner(OTHER_UID, "other"),)),
        a_job("stranger", request="9999"),
        a_job_pod(),
        a_job_pod("stranger", request="9999"),
        a_server_pod(),
        an_artifact(),
        an_artifact("onnx-2", claim="elsewhere", requests=("0123",)),
        an_artifact("stranger", claim="elsewhere", requests=("9999",)),
    ]


def check_everything(observed: Observed) -> None:
    assert named((observed.bert,)) == ["demo"]
    assert named(observed.deployments) == ["demo-aaaaaa"]
    assert named(observed.replica_sets) == ["demo-rs"]
    assert named(observed.autoscalers) == ["demo-aaaaaa"]
    assert named(observed.budgets) == ["demo-aaaaaa"]
    assert named(observed.network_policies) == ["demo-aaaaaa"]
    assert named(observed.services) == ["demo"]
    assert named(observed.config_maps) == ["demo-config-1-aaaaaa"]
    assert named(observed.claims) == ["demo-store"]
    assert named(observed.jobs) == ["build"]
    assert named(observed.job_pods) == ["build-pod"]
    assert named(observed.pods) == ["demo-x"]
    assert named(observed.artifacts) == ["onnx-1", "onnx-2"]


def test_an_observation_holds_what_belongs_to_it_and_nothing_else() -> None:
    check_everything(look(seen(*everything())))


@settings(max_examples=200)
@given(st.permutations(range(len(everything()))))
def test_any_order_of_first_sight_ends_in_the_same_observation(order: list[int]) -> None:
    objects = everything()
    assert look(seen(*(objects[index] for index in order))) == look(seen(*objects))


changes = st.lists(st.tuples(st.integers(0, len(everything()) - 1), st.booleans()), max_size=60)


@settings(max_examples=200)
@given(changes)
def test_after_any_history_memory_equals_a_fresh_listing(history: list[tuple[int, bool]]) -> None:
    """Forgetting everything and listing again must change nothing: a restart is not an event."""
    world, live, version = World(), dict[str, dict[str, Any]](), 10
    for index, deleted in history:
        obj = everything()[index]
        version += 1
        uid = obj["metadata"]["uid"]
        obj["metadata"]["resourceVersion"] = str(version)
        obj["metadata"]["annotations"] = {"touched": str(version)}
        if deleted and uid in live:
            del live[uid]
            world.drop(obj)
        else:
            world.put(obj)
            live[uid] = obj
    before = world.observe(*DEMO)
    world.forget()
    for obj in live.values():
        world.put(obj)
    assert world.observe(*DEMO) == before
    assert all(world.count(kind) == sum(obj["kind"] == kind for obj in live.values()) for kind in KINDS)


def test_a_gone_bertdeployment_is_none_and_leaves_nothing_in_the_index() -> None:
    world = seen(*everything())
    for obj in everything():
        world.drop(obj)
    assert world.observe(*DEMO) is None
    assert world._index == {}


def test_a_successor_of_the_same_name_replaces_its_forerunner_and_has_none_of_its_children() -> None:
    world = seen(*everything())
    world.put(a_bert(uid="cccccc11-0000-4000-8000-000000000003", version=50))
    observed = look(world)
    assert observed.bert["metadata"]["uid"].startswith("cccccc11")
    assert (observed.deployments, observed.services, observed.pods) == ((), (), ())
    assert named(observed.claims) == ["demo-store"]


def test_labels_alone_make_nothing_ours() -> None:
    stray = a_child("Service", "copied")
    stray["metadata"]["ownerReferences"] = []
    assert look(seen(a_bert(), stray)).services == ()


# --- whom an event concerns ---------------------------------------------------------------------------------------


def test_a_bertdeployment_concerns_itself() -> None:
    assert World().put(a_bert()) == {DEMO}


def test_pods_that_a_budget_counts_anew_concern_nobody_but_what_it_asks_for_does() -> None:
    def budget(version: int, most: int, healthy: int) -> dict[str, Any]:
        said = {"spec": {"maxUnavailable": most}, "status": {"currentHealthy": healthy}}
        return a_child("PodDisruptionBudget", "demo-aaaaaa", version=version) | said

    world = seen(a_bert(), budget(2, most=1, healthy=0))
    assert world.put(budget(3, most=1, healthy=5)) == set()
    assert world.put(budget(4, most=2, healthy=5)) == {DEMO}


@pytest.mark.parametrize("kind", ["Deployment", "ReplicaSet", "HorizontalPodAutoscaler", "Service", "ConfigMap"])
def test_a_child_concerns_its_owner_even_before_that_is_known(kind: str) -> None:
    assert World().put(a_child(kind, "demo-aaaaaa")) == {DEMO}


def test_a_serving_pod_concerns_its_bertdeployment() -> None:
    assert World().put(a_server_pod()) == {DEMO}


def test_a_job_concerns_everybody_who_owns_it_or_waits_for_its_request() -> None:
    waiting = a_bert("waiting", uid="dddddddd-0", **with_request("0123"))
    world = seen(a_bert(), a_bert("other", uid=OTHER_UID), waiting)
    assert world.put(a_job(owners=(owner(), owner(OTHER_UID, "other")))) == {DEMO, OTHER, ("ns", "waiting")}


def test_a_profile_job_concerns_everybody_whose_status_names_its_key() -> None:
    waiting = a_bert("waiting", uid="dddddddd-0", status={"tuning": {"mode": "Recommend", "key": "0123"}})
    world = seen(a_bert(), waiting)
    assert world.put(a_job(owners=(owner(),))) == {DEMO, ("ns", "waiting")}
    observed = world.observe("ns", "waiting")
    assert observed is not None
    assert [job["metadata"]["name"] for job in observed.jobs] == ["build"]


def test_a_build_pod_concerns_the_owners_of_its_job() -> None:
    world = seen(a_bert(), a_job(owners=(owner(), owner(OTHER_UID, "other"))))
    assert world.put(a_job_pod()) == {DEMO, OTHER}


def test_a_claim_concerns_those_that_name_it_in_any_way() -> None:
    source = {"models": [{"versions": [{"source": {"pvc": {"claimName": "shared"}}}]}]}
    world = seen(
        a_bert("by-storage", uid="u1", spec={"storage": {"claimName": "shared"}}),
        a_bert("by-source", uid="u2", spec={"storage": {"size": "1Gi"}, **source}),
        a_bert("shared-not", uid="u3"),
    )
    assert world.put(an_object("PersistentVolumeClaim", "shared")) == {("ns", "by-storage"), ("ns", "by-source")}
    assert world.put(an_object("PersistentVolumeClaim", "shared-not-store")) == {("ns", "shared-not")}


def test_an_artifact_concerns_those_on_its_claim_and_those_that_wait_for_it() -> None:
    world = seen(a_bert(), a_bert("other", uid=OTHER_UID, **with_request("77")), a_bert("third", uid="u3"))
    assert world.put(an_artifact(claim="demo-store", requests=("77",))) == {DEMO, OTHER}


def test_a_child_that_loses_its_owner_still_concerns_the_former_owner() -> None:
    world = seen(a_bert(), a_job(owners=(owner(),)))
    bereft = a_job()
    bereft["metadata"]["resourceVersion"] = "2"
    assert world.put(bereft) == {DEMO}


def test_a_deletion_concerns_those_who_knew_the_object_even_if_the_event_says_only_its_uid() -> None:
    world = seen(a_bert(), a_child("Service", "demo"))
    assert world.drop({"kind": "Service", "metadata": {"uid": "uid-Service-demo"}}) == {DEMO}
    assert look(world).services == ()


def test_bookkeeping_concerns_nobody() -> None:
    world = seen(a_child("Service", "demo"))
    echo = a_child("Service", "demo", version=2)
    echo["metadata"]["managedFields"] = [{"manager": "somebody else"}]
    assert world.put(echo) == set()
    assert world._objects["Service"]["uid-Service-demo"]["metadata"]["resourceVersion"] == "2"


def test_who_owns_a_deployments_count_concerns_its_owner_and_nothing_else_of_managed_fields_is_kept() -> None:
    def owned_by(manager: str, version: int) -> dict[str, Any]:
        fields = {"f:spec": {"f:replicas": {}, "f:template": {"big": {}}}}
        entry = {"manager": manager, "operation": "Update", "subresource": "scale", "time": f"{version}"}
        noise = {"manager": "noise", "fieldsV1": {"f:status": {"f:replicas": {}}}}
        child = a_child("Deployment", "demo-aaaaaa", version=version)
        child["metadata"]["managedFields"] = [noise, entry | {"fieldsV1": fields}]
        return child

    world = seen(a_bert(), owned_by("bert-operator", 2))
    assert world.put(owned_by("bert-operator", 3)) == set()
    assert world.put(owned_by("kube-controller-manager", 4)) == {DEMO}
    (kept,) = look(world).deployments
    assert kept["metadata"]["managedFields"] == [
        {
            "manager": "kube-controller-manager",
            "operation": "Update",
            "subresource": "scale",
            "fieldsV1": {"f:spec": {"f:replicas": {}}},
        }
    ]


def test_what_an_autoscaler_measures_concerns_nobody_but_whether_it_scales_does() -> None:
    def autoscaler(version: int, active: str) -> dict[str, Any]:
        scaling = {"type": "ScalingActive", "status": active, "reason": "Any", "message": f"about pod {version}"}
        conditions = [{"type": "AbleToScale", "status": "True"}, scaling]
        status = {"currentMetrics": [version], "conditions": conditions}
        return a_child("HorizontalPodAutoscaler", "demo-aaaaaa", version=version) | {"status": status}

    world = seen(a_bert(), autoscaler(2, "True"))
    assert world.put(autoscaler(3, "True")) == set()
    assert world.put(autoscaler(4, "False")) == {DEMO}


# --- our own writes -----------------------------------------------------------------------------------------------


def test_a_write_is_seen_before_the_watch_shows_it() -> None:
    world = seen(a_bert())
    world.lay_over(a_child("Service", "demo", version=5))
    assert named(look(world).services) == ["demo"]


def test_the_watch_catching_up_on_our_write_concerns_nobody_again() -> None:
    world = seen(a_bert())
    assert world.lay_over(a_child("Service", "demo", version=5)) == {DEMO}
    assert world.put(a_child("Service", "demo", version=5)) == set()


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 30))
def test_events_older_than_our_write_do_not_undo_it(versions: list[int], written: int) -> None:
    world = World()
    world.lay_over(a_child("Service", "demo", version=written, spec={"from": written}))
    for version in sorted(versions):
        world.put(a_child("Service", "demo", version=version, spec={"from": version}))
    newest = max([written, *versions])
    assert world._objects["Service"]["uid-Service-demo"]["spec"] == {"from": newest}


def test_a_reply_that_comes_after_the_watch_has_moved_on_is_not_laid_over() -> None:
    world = seen(a_child("Service", "demo", version=9, spec={"from": 9}))
    assert world.lay_over(a_child("Service", "demo", version=5, spec={"from": 5})) == set()
    assert world._objects["Service"]["uid-Service-demo"]["spec"] == {"from": 9}


def test_a_reply_that_comes_after_the_deletion_does_not_bring_the_object_back() -> None:
    world = seen(a_bert(), a_child("Service", "demo"))
    world.drop(a_child("Service", "demo", version=6))
    world.lay_over(a_child("Service", "demo", version=5))
    world.put(a_child("Service", "demo", version=4))
    assert look(world).services == ()


def test_an_object_that_regains_the_label_we_watch_by_is_seen_again() -> None:
    """Losing it ends the object for the watch; mending it brings the same UID back, in our reply first."""
    world = seen(a_bert(), a_child("Service", "demo"))
    world.drop(a_child("Service", "demo", version=6))
    world.lay_over(a_child("Service", "demo", version=7))
    assert named(look(world).services) == ["demo"]


def test_versions_that_are_no_numbers_let_our_write_stand_until_exactly_it_comes_back() -> None:
    world = World()
    world.put(a_child("Service", "demo", version="x1", spec={"from": "x1"}))
    world.lay_over(a_child("Service", "demo", version="x3", spec={"from": "x3"}))
    spec = lambda: world._objects["Service"]["uid-Service-demo"]["spec"]["from"]  # noqa: E731 - a glance, thrice
    world.put(a_child("Service", "demo", version="x2", spec={"from": "x2"}))
    assert spec() == "x3"
    world.put(a_child("Service", "demo", version="x3", spec={"from": "x3"}))
    world.put(a_child("Service", "demo", version="x4", spec={"from": "x4"}))
    assert spec() == "x4"


def test_writes_the_watch_has_not_confirmed_are_known_by_their_age() -> None:
    now = 10.0
    world = World(clock=lambda: now)
    world.lay_over(a_child("Service", "demo", version=5))
    assert world.laid_over_before("Service", 10.0) == ()
    assert named(world.laid_over_before("Service", 11.0)) == ["demo"]
    world.put(a_child("Service", "demo", version=5))
    assert world.laid_over_before("Service", 11.0) == ()


def test_the_memory_of_the_dead_is_bounded() -> None:
    world = World()
    for number in range(GRAVES + 10):
        world.drop({"kind": "Pod", "metadata": {"uid": str(number)}})
    assert len(world._graves) == GRAVES


# --- what is kept -------------------------------------------------------------------------------------------------


def test_thousands_of_alike_objects_share_their_words() -> None:
    """Each event brings its own copies of all words: without sharing, an object takes twice the memory."""
    world = World()
    for number in range(2):
        world.put(json.loads(json.dumps(a_child("Deployment", f"d{number}", spec={"strategy": {"type": "Recreate"}}))))
    one, other = world._objects["Deployment"].values()
    assert one["spec"]["strategy"]["type"] is other["spec"]["strategy"]["type"]
    assert all(mine is its for mine, its in zip(one["metadata"], other["metadata"], strict=True))


def test_only_what_is_planned_with_is_kept() -> None:
    config = a_child("ConfigMap", "c", data={"big": "text"})
    config["metadata"]["annotations"] = {LAST_APPLIED: "{}", "kept": "yes"}
    pod = a_server_pod()
    limits = {"limits": {"memory": "1Gi"}}
    startup = {"periodSeconds": 3, "failureThreshold": 40}
    given = {"resources": limits | {"requests": {"cpu": "1"}}, "startupProbe": startup | {"httpGet": {"path": "/"}}}
    pod["spec"]["containers"] = [{"name": "triton", "image": "x"} | given, {"name": "other"}]
    pod["status"] |= {
        "podIP": "10.0.0.1",
        "containerStatuses": [
            {
                "name": "triton",
                "ready": True,
                "started": True,
                "restartCount": 1,
                "state": {"running": {}},
                "lastState": {},
                "imageID": "x",
            }
        ],
    }
    world = seen(config, pod)
    kept = world._objects["ConfigMap"][config["metadata"]["uid"]]
    assert kept.keys() == {"apiVersion", "kind", "metadata"}
    assert kept["metadata"]["annotations"] == {"kept": "yes"}
    assert "managedFields" not in kept["metadata"]
    slim = world._objects["Pod"][pod["metadata"]["uid"]]
    kept_container = {"name": "triton", "resources": limits, "startupProbe": startup}
    assert slim["spec"] == {"nodeName": "n", "containers": [kept_container]}
    assert slim["status"]["containerStatuses"] == [
        {"name": "triton", "ready": True, "started": True, "restartCount": 1, "state": {"running": {}}, "lastState": {}}
    ]
    assert config["data"] == {"big": "text"}, "the given object is not changed"


@given(st.sampled_from(KINDS), st.none() | st.just({}), st.none() | st.just({}))
def test_objects_without_spec_or_status_are_no_trouble(kind: str, spec: Any, status: Any) -> None:
    obj = an_object(kind, "demo", labels=None, ownerReferences=None) | {"spec": spec, "status": status}
    world = World()
    world.put(obj)
    world.put(a_bert())
    look(world)
    assert world.drop(obj) is not None


def test_kinds_are_those_that_the_operator_is_built_from() -> None:
    assert names.KIND in KINDS
    assert len(set(KINDS)) == 12
