"""The parts together: nobody plans on half a view, and what was written unseen can vanish too."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest
from pydantic import ValidationError

from bert_operator import observe
from bert_operator import runtime as runtime_module
from bert_operator.cluster.connection import ConfigurationError
from bert_operator.cluster.errors import ApiError
from bert_operator.runtime import Runtime
from bert_operator.settings import Settings
from bert_operator.work_queue import Done
from support.objects import a_bert, a_child, an_object


def started(**more: Any) -> Runtime:
    settings = Settings.model_validate(
        {
            "images": {"operator": "o", "build": "b"},
            "triton": {"defaultRelease": "1", "releases": {"1": {"image": "t"}}},
            "hardwareProfiles": {"cpu": {}},
            "build": {"resources": {}},
            **more,
        }
    )
    return Runtime(settings, cast("Any", None))


CLAIM = {"claimName": "store", "path": "artifacts/onnx-1"}


@pytest.fixture
def runtime() -> Runtime:
    return started()


def show(runtime: Runtime, kind: str, *objects: Mapping[str, Any], namespace: str | None = None) -> list[Any]:
    listing = runtime.begin_listing(kind, namespace)
    for obj in objects:
        listing.heard(None, obj)
        runtime.seen(obj)
    return runtime.listed(listing)


def test_work_begins_once_every_kind_is_listed_even_the_one_whose_crd_comes_last(runtime: Runtime) -> None:
    *early, last = observe.KINDS
    for kind in early:
        show(runtime, kind, *([a_bert()] if kind == "BertDeployment" else []))
    assert not runtime._queue._open
    assert runtime._queue.schedule.depth == 1
    show(runtime, last)
    assert runtime._queue._open


def test_a_namespace_that_is_still_being_listed_holds_work_back(runtime: Runtime) -> None:
    slow = runtime.begin_listing("Pod", "slow")
    for kind in observe.KINDS:
        show(runtime, kind, namespace="quick")
    assert not runtime._queue._open
    runtime.listed(slow)
    assert runtime._queue._open


def test_a_standby_sees_everything_lets_nothing_pile_up_and_looks_at_all_of_it_once_it_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    standby, asked = started(leaderElection={"namespace": "sys", "name": "op"}), []
    assert standby._leadership is not None
    monkeypatch.setattr(standby._leadership, "start", asked.append)
    *early, last = observe.KINDS
    for kind in early:
        show(standby, kind, *([a_bert(), a_bert("other", uid="u2")] if kind == "BertDeployment" else []))
    assert asked == [], "who hasn't seen everything must not lead"
    show(standby, last)
    standby.seen(a_bert("third", uid="u3"))
    standby.gone({"kind": "BertDeployment", "metadata": {"uid": "u2"}})
    assert (standby._queue._open, standby._queue.schedule.depth) == (False, 0)
    (won,) = asked
    won()
    assert (standby._queue._open, standby._queue.schedule.depth) == (True, 2)
    standby.seen(a_bert("fourth", uid="u4"))
    assert standby._queue.schedule.depth == 3


def test_without_an_election_there_is_no_candidate(runtime: Runtime) -> None:
    assert runtime._leadership is None
    assert "leader_election" not in runtime._metrics.render()


@pytest.mark.parametrize(
    "terms",
    [
        {"leaseDurationSeconds": 10},
        {"renewDeadlineSeconds": 15},
        {"renewDeadlineSeconds": 3},
        {"retryPeriodSeconds": 6},
    ],
)
def test_terms_that_could_let_two_lead_are_refused_with_what_to_write(terms: dict[str, int]) -> None:
    with pytest.raises(
        ValidationError, match=r"renewDeadlineSeconds is \d+: write less than leaseDurationSeconds \(\d+\)"
    ):
        started(leaderElection={"namespace": "sys", "name": "op", **terms})


def test_deleted_objects_concern_their_owner(runtime: Runtime) -> None:
    runtime.seen(a_bert())
    runtime.seen(a_child("Service", "demo"))
    runtime._queue.schedule.take(0.0)
    runtime.gone({"kind": "Service", "metadata": {"uid": "uid-Service-demo"}})
    assert runtime._queue.schedule.depth == 1


def test_what_only_our_write_has_shown_vanishes_with_the_next_listing(runtime: Runtime) -> None:
    show(runtime, "Service")
    runtime._world.lay_over(a_child("Service", "demo"))
    (stub,) = show(runtime, "Service", an_object("Service", "another"))
    runtime.gone(stub)
    assert runtime._world.count("Service") == 1


def test_a_write_made_while_a_listing_is_under_way_is_not_taken_for_vanished(runtime: Runtime) -> None:
    show(runtime, "Service")
    listing = runtime.begin_listing("Service", None)
    runtime._world.lay_over(a_child("Service", "demo"))
    assert runtime.listed(listing) == []


def test_one_odd_object_does_not_end_the_watch_of_all_others(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    runtime.seen(a_bert(status={"models": "nonsense"}))
    runtime.seen(a_bert("fine", uid="u2"))
    assert runtime._queue.schedule.depth == 1
    assert "BertDeployment ns/demo can't be understood and is ignored" in caplog.text


async def test_a_store_waits_for_its_look_beside_the_bertdeployments(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    async def collect(namespace: str, claim: str) -> float:
        asked.append((namespace, claim))
        return 7.0

    monkeypatch.setattr(runtime._collector, "collect", collect)
    runtime.seen({"kind": "BertArtifact", "metadata": {"namespace": "ns", "name": "a", "uid": "u"}, "spec": CLAIM})
    runtime.seen({"kind": "BertArtifact", "metadata": {"namespace": "ns", "name": "b", "uid": "v"}, "spec": "odd"})
    assert list(runtime._queue.schedule._due) == [("ns", "claim/store")]
    assert await runtime._queue.work(("ns", "claim/store")) == Done(again_after=7.0)
    assert asked == [("ns", "store")]


async def test_without_crds_it_ends_in_one_line_that_says_what_to_install(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_served() -> bool:
        return False

    monkeypatch.setattr(runtime._cluster, "api_is_served", not_served)
    with pytest.raises(ConfigurationError, match="install the CRDs"):
        await runtime._until_served(0.01)


async def test_crds_that_come_a_little_later_are_waited_for(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])

    async def served() -> bool:
        return next(answers)

    monkeypatch.setattr(runtime._cluster, "api_is_served", served)
    await runtime._until_served(30)
    assert next(answers, "all used") == "all used"


def unreachable(status: int = 0) -> ApiError:
    return ApiError(status=status, reason="Unreachable", message="Connect call failed\n('10.0.0.1', 443)", what="look")


async def test_an_api_server_that_comes_a_little_later_is_waited_for(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Iterator[ApiError | bool] = iter([unreachable(), unreachable(503), False, True])

    async def served() -> bool:
        answer = next(answers)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    monkeypatch.setattr(runtime_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(runtime._cluster, "api_is_served", served)
    await runtime._until_served(30)
    assert next(answers, "all used") == "all used"


@pytest.mark.parametrize("status", [0, 403, 503])
async def test_without_an_api_server_it_ends_in_one_line_that_says_so_and_not_that_crds_are_missing(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    async def cut_off() -> bool:
        raise unreachable(status)

    monkeypatch.setattr(runtime._cluster, "api_is_served", cut_off)
    with pytest.raises(ConfigurationError, match=r"the API server can't be asked: .*Connect call failed") as caught:
        await runtime._until_served(0.01)
    assert "CRD" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_an_api_server_that_never_answers_is_told_apart_too(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent() -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(runtime._cluster, "api_is_served", silent)
    with pytest.raises(ConfigurationError, match="the API server can't be asked: no answer"):
        await runtime._until_served(0.01)
