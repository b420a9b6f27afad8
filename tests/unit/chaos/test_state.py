"""Two runs can be compared though every UID and every random name differs."""

from typing import Any

from bert_operator.api import names
from chaos import state


def world(seed: str, namespace: str, **labels: str) -> list[dict[str, Any]]:
    uid = f"{seed * 8}-0000-4000-8000-000000000000"
    own, request = seed * 6, seed * 64
    owner = {"kind": "BertDeployment", "name": "demo", "uid": uid}
    bert = {
        "kind": names.KIND,
        "metadata": {"name": "demo", "namespace": namespace, "uid": uid, "resourceVersion": seed},
        "status": {"models": [{"name": "m", "versions": [{"version": 1, "requestKey": request}]}]},
    }
    deployment = {
        "kind": "Deployment",
        "metadata": {
            "name": f"demo-{own}",
            "labels": {names.OWNER_LABEL: own} | labels,
            "annotations": {"answers": f'{{"{request}": {{"revision": "r"}}}}'},
            "ownerReferences": [owner],
        },
    }
    return [bert, deployment]


def test_two_runs_of_the_same_are_equal() -> None:
    one, two = state.canonical(world("a", "space-1"), "space-1"), state.canonical(world("b", "space-2"), "space-2")
    assert one == two
    assert "Deployment/demo-<own>" in one


def test_what_differs_is_named_by_its_path() -> None:
    one, two = state.canonical(world("a", "space"), "space"), state.canonical(world("b", "space", app="bent"), "space")
    (found,) = state.differences(two, one, frozenset())
    assert (found.path, found.want, found.found) == ("Deployment/demo-<own>.metadata.labels.app", "nothing", "bent")
    assert state.differences(two, one, state.masked(one, two)) == []


def test_an_object_too_many_is_one_difference() -> None:
    one = state.canonical(world("a", "space")[:1], "space")
    two = state.canonical(world("b", "space"), "space")
    assert [found.path for found in state.differences(two, one, frozenset())] == ["Deployment/demo-<own>"]


def test_twins_are_compared_by_what_they_say() -> None:
    pods = [{"kind": "Pod", "metadata": {"name": f"x-{number}"}, "status": {"phase": number}} for number in "21"]
    assert state.canonical(pods, "space") == state.canonical(reversed(pods), "space")


def test_keys_that_are_alike_but_for_what_is_random_lose_nothing_and_have_no_order() -> None:
    def record(first: str, second: str) -> dict[str, Any]:
        keys = [first * 64, second * 64]
        return {"kind": names.ARTIFACT_KIND, "metadata": {"name": "x"}, "spec": {"requestKeys": keys}}

    def copied(first: str, second: str) -> dict[str, Any]:
        said = f'{{"{first * 64}": "one", "{second * 64}": "other"}}'
        return {"kind": "ReplicaSet", "metadata": {"name": "y", "annotations": {"answers": said}}}

    one = state.canonical([record("a", "b"), copied("a", "b")], "space")
    assert one == state.canonical([record("a", "b"), copied("b", "a")], "space")
    assert {"one", "other"} <= set(one.values())
