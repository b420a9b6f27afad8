"""Which artifacts may go: never one that anybody uses or may be about to use, and no other before its time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_operator import collection, usage
from bert_operator.api import names
from bert_operator.collection import Look, Verdict
from bert_operator.objects import artifact
from support import builders

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = 86400.0
NOBODY = usage.World(berts=(), deployments=(), replica_sets=(), pods=(), jobs=())


def record(key: str = "9" * 32, *, days: float | None = None, claim: Any = None) -> dict[str, Any]:
    """A BertArtifact, unused for so many days if it says so."""
    made = artifact.manifest(builders.report(artifact_key=key), claim or builders.claim(), "f" * 32, None)
    made["metadata"] |= {"uid": f"uid-{key}", "resourceVersion": "7"}
    if days is not None:
        made["metadata"]["annotations"] = {names.UNUSED_SINCE_ANNOTATION: collection.stamp(NOW - timedelta(days=days))}
    return made


def pod(path: str) -> dict[str, Any]:
    mounts = [{"name": "store", "mountPath": "/models/m/1", "subPath": path}]
    volumes = [{"name": "store", "persistentVolumeClaim": {"claimName": "minilm-store"}}]
    spec = {"containers": [{"name": "server", "volumeMounts": mounts}], "volumes": volumes}
    return {"kind": "Pod", "metadata": {"name": "somebodys"}, "spec": spec, "status": {"phase": "Running"}}


def labelled(live: dict[str, Any], manager: str, component: str) -> dict[str, Any]:
    live["metadata"]["labels"] = {names.MANAGED_BY: manager, names.COMPONENT_LABEL: component}
    return live


def new_bert() -> dict[str, Any]:
    """One that the operator has not looked at."""
    return builders.bert() | {"status": {}}


def look(*records: dict[str, Any], world: usage.World = NOBODY, **more: Any) -> Look:
    return Look(**{"name": "minilm-store", "claim": builders.claim(), "records": records, "world": world} | more)


def judge(seen: Look, retention: float = 30 * DAY) -> Verdict:
    return collection.judge(seen, retention, NOW)


def outcome(verdict: Verdict) -> str:
    return next((what for what in ("mark", "unmark", "drop", "remove") if getattr(verdict, what)), "stays")


@pytest.mark.parametrize(
    ("seen", "retention", "expected"),
    [
        (look(record()), 30 * DAY, "mark"),
        (look(record(days=29)), 30 * DAY, "stays"),
        (look(record(days=31)), 30 * DAY, "remove"),
        (look(record(days=31)), 0, "unmark"),
        (look(record()), 0, "stays"),
        (look(record(days=-1)), 30 * DAY, "stays"),  # the clock that wrote it is ahead
        (look(record(days=31), claim=None), 30 * DAY, "drop"),
        (look(record(days=31), claim=builders.claim(uid="another")), 30 * DAY, "drop"),
        (look(record(), claim=None), 0, "drop"),
        (look(record(days=31), claim=builders.claim(accessModes=["ReadOnlyMany"])), 30 * DAY, "stays"),
        (look(record(days=31), elsewhere=frozenset({f"onnx-{'9' * 32}"})), 30 * DAY, "stays"),
    ],
)
def test_what_nothing_uses_goes_after_its_time(seen: Look, retention: float, expected: str) -> None:
    assert outcome(judge(seen, retention)) == expected


@pytest.mark.parametrize("days", [None, 31])
def test_whoever_uses_it_keeps_it(days: float | None) -> None:
    one = record(days=days)
    used = usage.World(berts=(), deployments=(), replica_sets=(), pods=(pod(one["spec"]["path"]),), jobs=())
    assert outcome(judge(look(one, world=used))) == ("stays" if days is None else "unmark")


FOLDER = record()["spec"]["path"]


@pytest.mark.parametrize(
    ("live", "uses"),
    [
        (pod(FOLDER), True),
        (pod(f"{FOLDER}/1"), True),
        (pod(""), True),
        (pod("artifacts/"), True),
        (pod("./artifacts"), True),
        (pod("models"), False),
        (pod("artifacts/onnx-another"), False),
        (pod("artifacts-of-mine"), False),
        # They mount all, and touch what they are told alone.
        (labelled(pod(""), names.MANAGER, "store"), False),
        (labelled(pod(""), "bertctl", "store"), False),
        (labelled(pod(""), names.MANAGER, "build"), False),
        (labelled(pod(FOLDER), names.MANAGER, "build"), True),
        (labelled(pod(""), "Helm", "store"), True),
    ],
)
def test_a_pod_uses_all_that_it_can_read(live: dict[str, Any], uses: bool) -> None:  # noqa: FBT001
    world = usage.World(berts=(), deployments=(), replica_sets=(), pods=(live,), jobs=())
    assert usage.Users(world).of(record()) == (["Pod/somebodys"] if uses else [])


def test_a_job_that_looks_after_a_store_uses_nothing_of_it() -> None:
    template = {"spec": {"template": {"spec": pod("")["spec"]}}}
    for component, uses in (("store", []), ("profile", ["Job/x"])):
        live = labelled({"kind": "Job", "metadata": {"name": "x"}, **template}, names.MANAGER, component)
        world = usage.World(berts=(), deployments=(), replica_sets=(), pods=(), jobs=(live,))
        assert usage.Users(world).of(record()) == uses


@pytest.mark.parametrize("claim", [builders.claim(), None])
def test_whoever_may_be_about_to_use_something_of_the_claim_keeps_all_of_it(claim: Any) -> None:
    unseen = usage.World(berts=(new_bert(),), deployments=(), replica_sets=(), pods=(), jobs=())
    verdict = judge(look(record(), record("8" * 32, days=31), world=unseen, claim=claim))
    assert not verdict.remove
    assert not verdict.mark
    assert claim is None or verdict.again_seconds == 600


def test_a_mark_that_nobody_can_read_is_written_anew() -> None:
    odd = record(days=31)
    for text in ("yesterday", "2026-01-01T00:00:00"):
        odd["metadata"]["annotations"][names.UNUSED_SINCE_ANNOTATION] = text
        assert outcome(judge(look(odd))) == "mark"


def test_it_looks_again_when_the_first_is_due() -> None:
    assert judge(look(record(days=10), record("8" * 32, days=29))).again_seconds == DAY
    assert judge(look()).again_seconds is None


def test_a_job_is_told_what_lives_only_where_nobody_else_can_have_the_volume() -> None:
    going, live = record(days=31), record("8" * 32)
    assert collection.live_folders(look(going, live), [going]) == [f"onnx-{'8' * 32}"]
    shared = builders.claim(accessModes=["ReadWriteMany"])
    assert collection.live_folders(look(going, live, claim=shared), [going]) is None


ACTORS = st.sampled_from(["pod", "bert", "deployment", "job", "unseen"])


@settings(max_examples=60, deadline=None)
@given(
    days=st.lists(st.none() | st.integers(-5, 60), min_size=1, max_size=4),
    users=st.lists(st.tuples(ACTORS, st.integers(0, 3)), max_size=4),
    retention=st.sampled_from([0.0, DAY, 30 * DAY]),
)
def test_whatever_the_world_nothing_live_goes(
    days: list[int | None], users: list[tuple[str, int]], retention: float
) -> None:
    records = [record(f"{number:032x}", days=since) for number, since in enumerate(days)]
    world, live = _world(records, users)
    verdict = judge(look(*records, world=world), retention)
    going = {one["metadata"]["name"] for one in (*verdict.remove, *verdict.mark)}
    assert not going & live
    if any(who == "unseen" for who, _ in users) or not retention:
        assert not verdict.remove
    for one in verdict.remove:
        since = collection.unused_since(one)
        assert since is not None
        assert (NOW - since).total_seconds() >= retention
    # And what is neither used, nor young, nor in doubt does go: a rule that keeps all would pass the rest.
    due = {one["metadata"]["name"] for one, since in zip(records, days, strict=True) if since and since >= 30}
    if retention and not any(who == "unseen" for who, _ in users):
        assert due - live <= {one["metadata"]["name"] for one in verdict.remove}


def _world(records: list[dict[str, Any]], users: list[tuple[str, int]]) -> tuple[usage.World, set[str]]:
    """A world in which these use those, and the names of what is used."""
    found: dict[str, list[dict[str, Any]]] = {"berts": [], "deployments": [], "pods": [], "jobs": []}
    live = set()
    for who, number in users:
        one = records[number % len(records)]
        name, path = one["metadata"]["name"], one["spec"]["path"]
        if who == "unseen":
            found["berts"].append(new_bert())
            continue
        live.add(name)
        if who == "bert":
            status = {"observedGeneration": 1, "models": [{"versions": [{"artifact": name}]}]}
            found["berts"].append(builders.bert() | {"status": status})
        elif who == "pod":
            found["pods"].append(pod(path))
        else:
            template = {"spec": {"template": {"spec": pod(path)["spec"]}}}
            kind = {"deployment": ("deployments", "Deployment"), "job": ("jobs", "Job")}[who]
            found[kind[0]].append({"kind": kind[1], "metadata": {"name": "x", "labels": {}}} | template)
    return usage.World(replica_sets=(), **found), live
