"""One reconcile carries a plan out in order, takes replies in at once, and never hides a refusal."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from bert_operator.api.actions import Adoption, Departure, Hold, Note, Plan, Ref
from bert_operator.api.observed import Observed
from bert_operator.cluster.calls import Cluster
from bert_operator.cluster.errors import ApiError, Cause
from bert_operator.observe import Key, World
from bert_operator.reconcile import Outcome, Reconciler
from bert_operator.runtime import resynced
from bert_operator.settings import Settings
from bert_operator.work_queue import Done
from support.objects import OTHER_UID, a_bert, a_child, a_job, owner

DEMO = ("ns", "demo")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADOPTION = Adoption(kind="Job", name="build", uid="uid-Job-build", owner_reference=owner())
DEPARTURE = Departure(kind="Job", name="theirs", uid="uid-Job-theirs", owner_uid="x", resource_version="7")
OLD = Ref(kind="ConfigMap", name="old", uid="uid-ConfigMap-old")


@dataclass
class FakeCluster:
    """Answers as the API server does, notes what it was asked, fails where told."""

    calls: list[str] = field(default_factory=list)
    failures: dict[str, ApiError] = field(default_factory=dict)
    taken: set[tuple[str, str]] = field(default_factory=set)
    found: tuple[dict[str, Any], ...] = ()
    existing: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    version: int = 100

    def _do(self, call: str) -> None:
        self.calls.append(call)
        if call in self.failures:
            raise self.failures[call]
        self.version += 1

    def _reply(self, obj: Mapping[str, Any]) -> dict[str, Any]:
        metadata = {"uid": f"uid-{obj['kind']}-{obj['metadata']['name']}", **obj["metadata"]}
        return {**obj, "metadata": metadata | {"resourceVersion": str(self.version)}}

    async def apply(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        self._do(f"apply {manifest['metadata']['name']}")
        return self._reply(manifest)

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
        self._do(f"create {manifest['metadata']['name']}")
        return None if manifest["metadata"]["name"] in self.existing else self._reply(manifest)

    async def adopt(self, _namespace: str, adoption: Adoption) -> dict[str, Any]:
        self._do(f"adopt {adoption.name}")
        return self._reply(a_job(adoption.name, owners=(owner(), owner(OTHER_UID, "other"))))

    async def leave(self, _namespace: str, departure: Departure) -> dict[str, Any] | None:
        self._do(f"leave {departure.name}")
        if departure.name in self.gone:
            return None
        return self._reply(a_job(departure.name, owners=(owner(OTHER_UID, "other"),)))

    async def refused_pods(self, _namespace: str, jobs: Iterable[tuple[str, str]]) -> dict[str, str]:
        for name, _ in jobs:
            self._do(f"events of {name}")
        return {uid: "exceeded quota" for _, uid in jobs}

    async def hold(self, _namespace: str, hold: Hold) -> dict[str, Any]:
        self._do(f"hold {hold.count}")
        return self._reply(a_child("Deployment", hold.name, uid=hold.uid))

    async def delete(self, _namespace: str, ref: Ref) -> None:
        self._do(f"delete {ref.name}")

    async def write_status(self, bert: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
        self._do("status")
        return self._reply({**bert, "status": dict(status)})

    async def tell(self, _bert: Mapping[str, Any], note: Note) -> None:
        self._do(f"tell {note.reason}: {note.message}")

    async def foreign(self, _namespace: str, _uid: str, wanted: Any) -> tuple[frozenset[Any], tuple[Any, ...]]:
        self.calls += [f"probe {name}" for _, name in wanted]
        return frozenset(self.taken), self.found


@dataclass
class FakePlanner:
    plan: Plan
    probes: tuple[tuple[str, str], ...] = ()
    jobs: tuple[tuple[str, str], ...] = ()
    observed: Observed | None = None

    def make_plan(self, observed: Observed, _settings: Settings, now: datetime) -> Plan:
        assert now == NOW
        self.observed = observed
        refused = tuple(Note(type="Warning", reason="ApiRefused", message=one.message) for one in observed.refused)
        return replace(self.plan, notes=(*self.plan.notes, *refused))

    def names_to_probe(self, _observed: Observed) -> tuple[tuple[str, str], ...]:
        return self.probes

    def jobs_to_probe(self, _observed: Observed, now: datetime) -> tuple[tuple[str, str], ...]:
        assert now == NOW
        return self.jobs


@dataclass
class Bench:
    cluster: FakeCluster = field(default_factory=FakeCluster)
    world: World = field(default_factory=World)
    others: list[Key] = field(default_factory=list)

    def reconciler(self, planner: FakePlanner) -> Reconciler:
        return Reconciler(
            world=self.world,
            cluster=cast("Cluster", self.cluster),
            planner=planner,
            settings=cast("Settings", None),
            enqueue=self.others.append,
            now=lambda: NOW,
        )

    async def run(self, plan: Plan, **planner: Any) -> Outcome:
        return await self.reconciler(FakePlanner(plan, **planner)).reconcile(DEMO)


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.world.put(a_bert())
    return made


def refusal(status: int = 422) -> ApiError:
    return ApiError(status=status, reason="Invalid", message="replicas: must be positive", what="apply Service demo")


WHOLE = Plan(
    apply=(a_child("Service", "demo"),),
    create=(a_job(owners=(owner(),)),),
    adopt=(ADOPTION,),
    leave=(DEPARTURE,),
    delete=(OLD,),
    status={"summary": {"stage": "Building"}},
    notes=(Note(type="Normal", reason="Building", message="started"),),
    recheck_after_seconds=30.0,
)


async def test_a_plan_is_carried_out_in_order(bench: Bench) -> None:
    bench.world.put(a_child("ConfigMap", "old"))
    outcome = await bench.run(WHOLE)
    assert bench.cluster.calls == [
        "create build",
        "apply demo",
        "adopt build",
        "leave theirs",
        "delete old",
        "status",
        "tell Building: started",
    ]
    assert outcome == Outcome(recheck_after=30.0, wrote=True)


async def test_of_a_new_one_nothing_is_said_before_its_first_children_can_be_seen(bench: Bench) -> None:
    first = replace(WHOLE, adopt=(), leave=(), delete=())
    assert (await bench.run(first)).wrote, "so it is looked at again at once"
    assert bench.cluster.calls == ["create build", "apply demo"]
    await bench.run(replace(first, apply=(), create=()))
    assert bench.cluster.calls[2:] == ["status", "tell Building: started"]


async def test_a_new_one_whose_children_are_refused_says_so_at_once(bench: Bench) -> None:
    bench.cluster.failures["apply demo"] = refusal(422)
    with pytest.raises(ApiError):
        await bench.run(replace(WHOLE, adopt=(), leave=(), delete=()))
    assert "status" in bench.cluster.calls


HOLD = Hold(name="demo-aaaaaa", uid="uid-Deployment-demo-aaaaaa", count=4)


async def test_a_count_is_held_before_anything_is_applied_and_let_go_after(bench: Bench) -> None:
    outcome = await bench.run(Plan(hold=(HOLD,), apply=WHOLE.apply, release=(replace(HOLD, count=None),)))
    assert bench.cluster.calls == ["hold 4", "apply demo", "hold None"]
    assert outcome.wrote


@pytest.mark.parametrize("status", [0, 409, 422])
async def test_nothing_is_applied_while_the_count_could_not_be_held(bench: Bench, status: int) -> None:
    bench.cluster.failures["hold 4"] = refusal(status)
    with pytest.raises(ApiError):
        await bench.run(replace(WHOLE, hold=(HOLD,)))
    assert [call for call in bench.cluster.calls if not call.startswith("tell")] == ["hold 4", "status"]


async def test_every_reply_is_in_the_world_at_once(bench: Bench) -> None:
    bench.world.put(a_child("ConfigMap", "old"))
    await bench.run(WHOLE)
    observed = bench.world.observe(*DEMO)
    assert observed is not None
    assert observed.bert["status"] == {"summary": {"stage": "Building"}}
    assert [len(found) for found in (observed.services, observed.jobs, observed.config_maps)] == [1, 1, 0]


async def test_others_whom_our_write_concerns_are_asked_to_look(bench: Bench) -> None:
    bench.world.put(a_bert("other", uid=OTHER_UID))
    bench.world.put(a_job(owners=(owner(OTHER_UID, "other"),)))
    await bench.run(Plan(adopt=(ADOPTION,)))
    assert bench.others == [("ns", "other")]


async def test_an_empty_plan_sends_nothing(bench: Bench) -> None:
    assert await bench.run(Plan()) == Outcome()
    assert bench.cluster.calls == []


@pytest.mark.parametrize("state", ["unknown", "terminating"])
async def test_what_is_gone_or_going_is_left_to_the_garbage_collector(state: str) -> None:
    bench = Bench()
    if state == "terminating":
        bert = a_bert()
        bert["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        bench.world.put(bert)
    assert await bench.run(WHOLE) == Outcome(gone=True)
    assert bench.cluster.calls == []


async def test_a_refusal_is_told_to_the_user_the_rest_is_done_and_nothing_is_deleted(bench: Bench) -> None:
    bench.cluster.failures["apply demo"] = refusal()
    with pytest.raises(ApiError):
        await bench.run(WHOLE)
    assert bench.cluster.calls == [
        "create build",
        "apply demo",
        "status",
        "tell Building: started",
        "tell ApiRefused: replicas: must be positive",
    ]


async def test_a_job_that_a_quota_refuses_keeps_nothing_else_from_being_done(bench: Bench) -> None:
    bench.cluster.failures["create build"] = refusal()

    with pytest.raises(ApiError):
        await bench.run(WHOLE)

    assert "delete old" in bench.cluster.calls
    assert "adopt build" in bench.cluster.calls


@pytest.mark.parametrize("status", [0, 409, 429, 500, 503])
async def test_a_passing_failure_is_only_tried_again(bench: Bench, status: int) -> None:
    bench.cluster.failures["apply demo"] = refusal(status)
    with pytest.raises(ApiError):
        await bench.run(WHOLE)
    assert not [call for call in bench.cluster.calls if "ApiRefused" in call]


async def test_in_a_namespace_that_is_being_deleted_it_tries_nothing_again_and_warns_of_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    causes = frozenset({Cause("metadata.namespace", "NamespaceTerminating")})
    ending = ApiError(status=403, reason="Forbidden", message="being terminated", causes=causes)
    bench.cluster.failures = {"apply demo": ending, "create build": ending}
    assert await bench.run(WHOLE) == Outcome()
    assert bench.cluster.calls == ["create build", "apply demo"], "neither a status nor an Event"

    bench.cluster.failures = {"tell Building: started": ending}
    await bench.run(WHOLE)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_conflict_over_the_status_is_tried_again_and_says_nothing(bench: Bench) -> None:
    bench.cluster.failures["status"] = refusal(409)
    with pytest.raises(ApiError):
        await bench.run(WHOLE)
    assert bench.cluster.calls[-1] == "status"


async def test_an_event_that_cant_be_told_spoils_nothing(bench: Bench) -> None:
    bench.cluster.failures["tell Building: started"] = refusal(403)
    assert (await bench.run(WHOLE)).wrote


async def test_a_mistake_of_ours_is_not_taken_for_a_refusal(bench: Bench) -> None:
    def broken(_manifest: Mapping[str, Any]) -> None:
        raise ZeroDivisionError

    bench.cluster.apply = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        await bench.run(WHOLE)


async def test_a_name_somebody_took_first_is_looked_at_again_soon(bench: Bench) -> None:
    bench.cluster.existing.add("build")
    outcome = await bench.run(Plan(create=(a_job(),), recheck_after_seconds=600.0))
    assert outcome == Outcome(recheck_after=1.0, wrote=False)


async def test_names_are_probed_before_planning(bench: Bench) -> None:
    bench.cluster.taken = {("Service", "demo")}
    planner = FakePlanner(Plan(), probes=(("Service", "demo"),))
    await bench.reconciler(planner).reconcile(DEMO)
    assert bench.cluster.calls == ["probe demo"]
    assert planner.observed is not None
    assert planner.observed.foreign == {("Service", "demo")}


async def test_why_a_job_has_no_pod_is_asked_before_planning(bench: Bench) -> None:
    planner = FakePlanner(Plan(), jobs=(("build", "uid-Job-build"),))
    await bench.reconciler(planner).reconcile(DEMO)
    assert bench.cluster.calls == ["events of build"]
    assert planner.observed is not None
    assert planner.observed.refused_pods == {"uid-Job-build": "exceeded quota"}


async def test_a_shared_job_that_vanished_before_we_left_it_is_forgotten(bench: Bench) -> None:
    bench.cluster.gone.add(DEPARTURE.name)
    bench.world.put(a_job(DEPARTURE.name, owners=(owner(), owner(OTHER_UID, "other"))))
    assert await bench.run(Plan(leave=(DEPARTURE,))) == Outcome(wrote=True)
    observed = bench.world.observe(*DEMO)
    assert observed is not None
    assert observed.jobs == ()
    assert bench.others == [("ns", "other")]


async def test_an_object_found_to_be_ours_is_planned_with(bench: Bench) -> None:
    bench.cluster.found = (a_child("Service", "demo"),)
    planner = FakePlanner(Plan(), probes=(("Service", "demo"),))
    await bench.reconciler(planner).reconcile(DEMO)
    assert planner.observed is not None
    assert len(planner.observed.services) == 1
    assert planner.observed.foreign == frozenset()


outcomes: list[tuple[Outcome, Callable[[Done], bool]]] = [
    (Outcome(), lambda done: done.again_after == pytest.approx(480.0)),
    (Outcome(recheck_after=5.0), lambda done: done.again_after == 5.0),
    (Outcome(recheck_after=5000.0, wrote=True), lambda done: done.again_after == pytest.approx(480.0) and done.wrote),
    (Outcome(gone=True), lambda done: done.again_after is None),
]


@pytest.mark.parametrize(("outcome", "expected"), outcomes)
async def test_everything_that_exists_is_looked_at_again(outcome: Outcome, expected: Callable[[Done], bool]) -> None:
    async def reconcile(_key: Key) -> Outcome:
        await asyncio.sleep(0)
        return outcome

    assert expected(await resynced(reconcile, 600.0, lambda: 0.0)(DEMO))
