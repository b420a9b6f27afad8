"""The PodDisruptionBudget and the NetworkPolicy of a BertDeployment follow its spec, and nothing else is touched."""

from typing import Any

import pytest

from bert_operator.api.actions import Plan
from support import builders
from support.fake_cluster import FakeCluster

PDB, POLICY = "PodDisruptionBudget", "NetworkPolicy"


def a_world(**spec: Any) -> FakeCluster:
    """Everything made and at rest."""
    world = FakeCluster(builders.bert(spec=spec), builders.claim("models", uid="models", ours=False))
    list(world.settle(builders.settings()))
    return world


def change(world: FakeCluster, **spec: Any) -> list[Plan]:
    """A user's edit, and everything that follows from it."""
    world.bert()["spec"] |= spec
    world.bert()["metadata"]["generation"] += 1
    return list(world.settle(builders.settings()))


def test_a_drain_never_takes_more_than_one_answering_pod_and_never_waits_for_one_that_does_not_answer() -> None:
    world = a_world()
    (made,) = world.all(PDB)
    assert made["metadata"]["name"] == "minilm-0b5f3c"
    assert made["metadata"]["ownerReferences"][0]["uid"] == builders.BERT_UID
    (deployment,) = world.all("Deployment")
    selector = made["spec"].pop("selector")
    assert selector == deployment["spec"]["selector"]
    assert made["spec"] == {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"}
    assert not world.all(POLICY), "a default that denies would cut off scrapers"


def test_it_is_there_before_anything_is_built() -> None:
    world = FakeCluster(builders.bert(), builders.claim("models", uid="models", ours=False))
    world.carry_out(world.plan(builders.settings()))
    assert world.all(PDB)


def test_by_default_the_policy_lets_in_the_own_namespace_and_nothing_out() -> None:
    world = a_world(networkPolicy={"enabled": True})
    (made,) = world.all(POLICY)
    (deployment,) = world.all("Deployment")
    spec = made["spec"]
    assert spec["podSelector"] == deployment["spec"]["selector"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == []
    (rule,) = spec["ingress"]
    assert rule["from"] == [{"podSelector": {}}]


@pytest.mark.parametrize("server", ["triton", "tfserving", "torchserve"])
def test_the_policy_opens_every_port_of_the_service_and_no_other(server: str) -> None:
    releases = {"defaultRelease": "1", "releases": {"1": {"image": f"registry.example/{server}:1"}}}
    images = {name: f"registry.example/{name}:1" for name in ("operator", "build", "tensorflow")}
    settings = builders.settings(images=images, **({} if server == "triton" else {server: releases}))
    bert = builders.bert(spec={"server": {"type": server}, "networkPolicy": {"enabled": True}})
    world = FakeCluster(bert, builders.claim("models", uid="models", ours=False))
    world.carry_out(world.plan(settings))
    (policy,), (service,) = world.all(POLICY), world.all("Service")
    opened = {port["port"] for port in policy["spec"]["ingress"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= opened == {"http", "grpc", "metrics"}


def test_named_peers_replace_the_own_namespace() -> None:
    monitoring = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}, "podSelector": {}}
    world = a_world(networkPolicy={"enabled": True, "allowFrom": [monitoring]})
    (made,) = world.all(POLICY)
    everyone = {"matchLabels": {}}
    wanted = [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}, "podSelector": everyone}]
    assert made["spec"]["ingress"][0]["from"] == wanted


@pytest.mark.parametrize(
    ("kind", "bend"),
    [
        (PDB, {"maxUnavailable": 0}),
        (PDB, {"unhealthyPodEvictionPolicy": "IfHealthyBudget"}),
        (POLICY, {"egress": [{}]}),
        (POLICY, {"policyTypes": ["Ingress"]}),
        (POLICY, {"ingress": [{}]}),
    ],
)
def test_what_somebody_bends_is_mended(kind: str, bend: dict[str, Any]) -> None:
    world = a_world(networkPolicy={"enabled": True})
    (live,) = world.all(kind)
    live["spec"] |= bend
    (applied,) = world.plan(builders.settings()).apply
    assert (applied["kind"], applied["metadata"]["uid"]) == (kind, live["metadata"]["uid"])


def test_turned_off_both_go_and_only_ours() -> None:
    world = a_world(networkPolicy={"enabled": True})
    world.put({"kind": PDB, "metadata": {"name": "theirs"}, "spec": {}})
    gone = {(kind, world.all(kind)[0]["metadata"]["uid"]) for kind in (PDB, POLICY)}
    first, *_ = change(world, networkPolicy={"enabled": False}, podDisruptionBudget={"enabled": False})
    assert {(ref.kind, ref.uid) for ref in first.delete} == gone
    assert [left["metadata"]["name"] for left in world.all(PDB)] == ["theirs"]
    assert not world.all(POLICY)


def test_turning_the_policy_on_restarts_no_pod() -> None:
    world = a_world()
    plans = change(world, networkPolicy={"enabled": True})
    assert [made["kind"] for plan in plans for made in plan.apply] == [POLICY]
