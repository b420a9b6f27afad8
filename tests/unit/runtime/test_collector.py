"""One look at a store: the record goes before the files, and whoever comes in between keeps the artifact."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bert_operator import collection, collector, usage
from bert_operator.api import names
from bert_operator.api.actions import Ref
from bert_operator.api.maintenance import StoreReport, StoreTask
from bert_operator.cluster.errors import ApiError
from bert_operator.collector import Collector
from bert_operator.objects import artifact
from bert_operator.observe import World
from support import builders

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CLAIM = "minilm-store"
UNUSED, USED = "9" * 32, "5" * 32


class Api:
    """A namespace as the API server has it; the operator's memory follows it, unless told not to."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}
        self.failures: dict[str, ApiError] = {}
        self._version = 100

    def put(self, obj: Mapping[str, Any], *, seen: bool = True) -> dict[str, Any]:
        self._version += 1
        known = self.objects.get((obj["kind"], obj["metadata"]["name"]), {"metadata": {"uid": f"uid-{self._version}"}})
        meta = {"namespace": builders.NAMESPACE, "uid": known["metadata"]["uid"]}
        made = {**obj, "metadata": {**meta, **obj["metadata"], "resourceVersion": str(self._version)}}
        self.objects[made["kind"], made["metadata"]["name"]] = made
        if seen:
            self.world.put(made)
        return made

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [obj for (known, _), obj in self.objects.items() if known == kind]

    def _do(self, call: str) -> None:
        self.calls.append(call)
        self.before.pop(call.split(maxsplit=1)[0], lambda: None)()
        if failure := self.failures.pop(call.split(maxsplit=1)[0], None):
            raise failure

    async def records(self, _namespace: str) -> list[dict[str, Any]]:
        self._do("records")
        return self.all(names.ARTIFACT_KIND)

    async def claim(self, _namespace: str, name: str) -> dict[str, Any] | None:
        return self.objects.get(("PersistentVolumeClaim", name))

    async def world_of(self) -> usage.World:
        found = {key: self.all(kind) for key, kind in KINDS.items()}
        return usage.World(**found)

    async def mark(self, record: Mapping[str, Any], since: str | None) -> dict[str, Any]:
        self._do(f"mark {'unused' if since else 'used'}")
        annotations = {names.UNUSED_SINCE_ANNOTATION: since} if since else {}
        return self.put({**record, "metadata": {**record["metadata"], "annotations": annotations}}, seen=False)

    async def withdraw(self, record: Mapping[str, Any]) -> bool:
        self._do("withdraw")
        known = self.objects.get((names.ARTIFACT_KIND, record["metadata"]["name"]))
        if known is None:
            return True
        if known["metadata"]["resourceVersion"] != record["metadata"]["resourceVersion"]:
            return False
        del self.objects[names.ARTIFACT_KIND, record["metadata"]["name"]]
        if lost := self.failures.pop("answer", None):
            raise lost
        return True

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
        self._do(f"create {manifest['kind']}")
        if (manifest["kind"], manifest["metadata"]["name"]) in self.objects:
            return None
        return self.put(manifest, seen=False)

    async def delete(self, _namespace: str, ref: Ref) -> dict[str, Any] | None:
        self._do(f"delete {ref.kind}")
        self.objects.pop((ref.kind, ref.name), None)
        return None


KINDS = {
    "berts": names.KIND,
    "deployments": "Deployment",
    "replica_sets": "ReplicaSet",
    "pods": "Pod",
    "jobs": "Job",
}


class StoresOf:
    """The same under the names of `cluster.stores`."""

    def __init__(self, api: Api) -> None:
        self.records, self.claim, self.mark, self.withdraw = api.records, api.claim, api.mark, api.withdraw
        self._api = api

    async def world(self, _namespace: str) -> usage.World:
        self._api._do("world")
        return await self._api.world_of()


class Place:
    def __init__(self, retention: str = "30d") -> None:
        self.world = World()
        self.api = Api(self.world)
        self.moment = NOW
        self.woken: list[tuple[str, str]] = []
        wish = builders.settings(store={"unusedArtifactsRetention": retention})
        self.collector = Collector(
            world=self.world,
            children=self.api,
            stores=StoresOf(self.api),
            settings=wish,
            enqueue=self.woken.append,
            now=lambda: self.moment,
            clock=self._clock,
        )
        self.api.put(builders.claim())
        self.record(UNUSED, days=31)
        self.record(USED)
        self.bert("keeper", USED)

    def record(self, key: str, days: float | None = None) -> dict[str, Any]:
        made = artifact.manifest(builders.report(artifact_key=key), builders.claim(), key, None)
        if days is not None:
            since = collection.stamp(NOW - timedelta(days=days))
            made["metadata"]["annotations"] = {names.UNUSED_SINCE_ANNOTATION: since}
        return self.api.put(made)

    def bert(self, name: str, key: str, *, seen: bool = True) -> dict[str, Any]:
        """A BertDeployment that serves an artifact, or one that nobody has looked at yet."""
        versions = [{"version": 1, "artifact": self.name(key)}]
        status = {"observedGeneration": 1, "models": [{"name": "m", "versions": versions}]} if key else {}
        spec = {"storage": {"claimName": CLAIM}}
        return self.api.put(builders.bert(name, spec=spec, uid=f"uid-{name}") | {"status": status}, seen=seen)

    def name(self, key: str) -> str:
        return str(
            artifact.manifest(builders.report(artifact_key=key), builders.claim(), "0", None)["metadata"]["name"]
        )

    def there(self, key: str) -> bool:
        return (names.ARTIFACT_KIND, self.name(key)) in self.api.objects

    def _clock(self) -> float:
        return self.moment.timestamp()

    async def look(self) -> float | None:
        return await self.collector.collect(builders.NAMESPACE, CLAIM)

    def jobs(self) -> list[StoreTask]:
        found = []
        for job in self.api.all("Job"):
            (container,) = job["spec"]["template"]["spec"]["containers"]
            found.append(StoreTask.model_validate_json(container["env"][0]["value"]))
        return found

    def over(self, how: str, **counted: int) -> None:
        """The Job ends; of its pod nothing is shown."""
        (job,) = self.api.all("Job")
        condition = {"type": how, "status": "True", "lastTransitionTime": collection.stamp(self.moment)}
        self.api.put({**job, "status": {"conditions": [condition], **counted}})

    def pod(self, phase: str, *containers: dict[str, Any]) -> dict[str, Any]:
        """The Job's pod is shown."""
        (job,) = self.api.all("Job")
        owner = {"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
        meta = {"name": "p", "ownerReferences": [owner], "labels": {}}
        status = {"phase": phase, "containerStatuses": list(containers)}
        made = self.api.put({"kind": "Pod", "metadata": meta, "spec": {}, "status": status})
        assert self.collector.stirred(made) is None
        return made

    def pod_gone(self, last: Mapping[str, Any]) -> None:
        """Its end is shown, with its last state or only by name."""
        self.api.objects.pop(("Pod", "p"))
        self.world.drop(last)
        self.collector.stirred(last)

    def end(self, how: str, words: str) -> None:
        """The Job ends and its pod says so."""
        self.over(how, **{"succeeded" if how == "Complete" else "failed": 1})
        ended = builders.terminated("store", 0 if how == "Complete" else 65, words)
        self.pod("Succeeded" if how == "Complete" else "Failed", ended)


@pytest.fixture
def place() -> Place:
    return Place()


async def test_the_record_goes_first_then_a_job_removes_just_that_artifact(place: Place) -> None:
    await place.look()
    assert not place.there(UNUSED)
    assert place.there(USED)
    (task,) = place.jobs()
    assert [one.folder for one in task.artifacts] == [f"onnx-{UNUSED}"]
    assert task.recorded == [f"onnx-{USED}"]
    assert (task.action, task.listed_at, task.grace_seconds) == ("collect", NOW.timestamp(), 120)
    assert place.api.calls == ["records", "world", "withdraw", "world", "create Job"]
    (job,) = place.api.all("Job")
    assert job["spec"]["activeDeadlineSeconds"] <= 3600
    assert job["metadata"]["labels"][names.MANAGED_BY] == names.MANAGER


async def test_while_a_job_works_no_other_is_started(place: Place) -> None:
    await place.look()
    place.record("8" * 32, days=31)
    assert await place.look() == 600
    assert len(place.jobs()) == 1


async def test_a_store_at_rest_costs_no_request_but_is_thought_of_now_and_then(place: Place) -> None:
    gone = place.api.objects.pop((names.ARTIFACT_KIND, place.name(UNUSED)))
    place.world.drop(gone)
    assert await place.look() == 3600
    assert place.api.calls == []


async def test_what_is_unused_is_marked_once_and_unmarked_by_its_next_user() -> None:
    place = Place()
    place.record("8" * 32)
    place.record(UNUSED, days=1)
    await place.look()
    assert place.api.calls.count("mark unused") == 1
    place.api.calls.clear()
    assert await place.look() == 3600
    assert place.api.calls == []
    bert = place.bert("again", "8" * 32)
    assert place.collector.stirred(bert) == (collector.key(builders.NAMESPACE, CLAIM), collector.SOON_SECONDS)
    await place.look()
    assert place.api.calls == ["mark used"]


@pytest.mark.parametrize("moment", ["records", "world", "withdraw", "second world"])
async def test_who_comes_at_any_moment_keeps_it(place: Place, moment: str) -> None:
    """A BertDeployment that nobody has looked at yet: what it wants isn't known."""

    def comes() -> None:
        place.bert("new", "", seen=False)

    if moment == "second world":
        place.api.before["withdraw"] = lambda: place.api.before.update(world=comes)
    else:
        place.api.before[moment] = comes
    assert await place.look() == 600
    assert place.there(UNUSED)
    assert place.jobs() == []


async def test_who_serves_it_already_keeps_it_though_no_watch_has_shown_him(place: Place) -> None:
    place.bert("quick", UNUSED, seen=False)
    await place.look()
    assert place.there(UNUSED)
    assert "withdraw" not in place.api.calls
    assert "mark used" in place.api.calls


async def test_a_record_that_changed_since_it_was_judged_stays(place: Place) -> None:
    place.api.before["withdraw"] = lambda: place.record(UNUSED) and None
    await place.look()
    assert place.there(UNUSED)
    assert place.jobs() == []


async def test_a_copy_on_another_claim_that_is_used_keeps_this_one(place: Place) -> None:
    other = builders.claim("other", uid="uid-of-another-claim")
    copy = artifact.manifest(builders.report(artifact_key=UNUSED), other, "1a", None)
    copy["metadata"]["namespace"] = "elsewhere"
    place.world.put({**copy, "metadata": copy["metadata"] | {"uid": "copy", "resourceVersion": "1"}})
    await place.look()
    assert place.there(UNUSED)
    assert place.jobs() == []


@pytest.mark.parametrize("status", [0, 500])
async def test_no_record_comes_back_while_a_job_may_be_under_way(place: Place, status: int) -> None:
    place.api.failures["create"] = ApiError(status=status, reason="No", message="no", what="create Job x")
    with pytest.raises(ApiError):
        await place.look()
    assert not place.there(UNUSED)


REFUSED = ApiError(status=403, reason="Forbidden", message="exceeded quota", what="create Job x")


async def test_a_job_that_is_refused_is_left_alone_for_a_while(place: Place) -> None:
    """Or records would go and come back with every look, for as long as the quota is full."""
    place.api.failures["create"] = REFUSED
    assert await place.look() == 3600
    assert place.there(UNUSED)
    place.api.calls.clear()
    place.world.put(place.api.objects[names.ARTIFACT_KIND, place.name(UNUSED)])  # its echo stirs the store
    place.moment += timedelta(seconds=600)
    assert await place.look() == 3000
    assert place.api.calls == []
    place.moment += timedelta(seconds=3000)
    await place.look()
    assert len(place.jobs()) == 1


async def test_a_record_that_cannot_be_put_back_at_once_is_not_forgotten(place: Place) -> None:
    def again() -> None:
        place.api.failures["create"] = ApiError(status=500, reason="No", message="no", what="create BertArtifact")

    place.api.before["world"] = lambda: place.api.before.update(withdraw=lambda: place.bert("new", "", seen=False))
    place.api.before["create"] = again
    with pytest.raises(ApiError):
        await place.look()
    assert not place.there(UNUSED)
    place.api.calls.clear()
    await place.look()
    assert place.there(UNUSED)
    assert place.api.calls[0] == "create BertArtifact"


async def test_a_kept_artifact_has_its_record_though_the_first_try_fails(place: Place) -> None:
    await place.look()
    place.end("Complete", StoreReport(kept=[f"onnx-{UNUSED}"]).model_dump_json(by_alias=True))
    place.api.failures["create"] = ApiError(status=500, reason="No", message="no", what="create BertArtifact")
    with pytest.raises(ApiError):
        await place.look()
    await place.look()
    found = place.api.objects[names.ARTIFACT_KIND, place.name(UNUSED)]
    assert collection.unused_since(found) == NOW
    assert place.jobs() == []


async def test_in_a_namespace_that_is_gone_no_record_is_owed(place: Place) -> None:
    place.api.before["world"] = lambda: place.api.before.update(withdraw=lambda: place.bert("new", "", seen=False))
    place.api.failures["create"] = ApiError(status=404, reason="NotFound", message="namespaces", what="create")
    await place.look()
    await place.look()
    assert place.api.calls.count("create BertArtifact") == 1


async def test_whom_a_record_that_goes_or_comes_back_concerns_is_looked_at(place: Place) -> None:
    """The watch shows our own writes as nothing new."""
    keeper = (builders.NAMESPACE, "keeper")
    place.api.failures["create"] = REFUSED
    went: list[int] = []
    place.api.before["create"] = lambda: went.append(place.woken.count(keeper))
    await place.look()
    assert went == [1]
    assert place.woken.count(keeper) == 2


async def test_a_record_that_is_gone_already_is_not_put_back_and_its_files_follow(place: Place) -> None:
    def goes() -> None:
        del place.api.objects[names.ARTIFACT_KIND, place.name(UNUSED)]

    place.api.before["withdraw"] = goes
    await place.look()
    assert not place.there(UNUSED)
    assert len(place.jobs()) == 1


async def test_a_look_that_fails_after_the_record_went_puts_it_back(place: Place) -> None:
    def later() -> None:
        place.api.failures["world"] = ApiError(status=0, reason="No", message="no", what="list each Pod of team")

    place.api.before["withdraw"] = later
    with pytest.raises(ApiError):
        await place.look()
    assert place.there(UNUSED)


@pytest.mark.parametrize(
    ("how", "words", "back"),
    [
        ("Complete", StoreReport(removed=1), False),
        ("Complete", StoreReport(kept=[f"onnx-{UNUSED}"]), True),
        ("Failed", builders.failure("ListTooOld", "Nothing is removed"), True),
        ("Failed", builders.failure("StoreReadOnly", "can't be written"), False),
        ("Failed", "", False),
    ],
)
async def test_only_what_surely_stays_has_its_record_again(place: Place, how: str, words: Any, back: bool) -> None:  # noqa: FBT001
    await place.look()
    place.end(how, words if isinstance(words, str) else words.model_dump_json(by_alias=True))
    await place.look()
    assert place.there(UNUSED) is back
    assert place.jobs() == []
    if back:
        found = place.api.objects[names.ARTIFACT_KIND, place.name(UNUSED)]
        assert found["spec"]["requestKeys"] == [UNUSED]
        # What a build wanted stays its whole time anew; nothing was tried with what a Job has not touched.
        assert collection.unused_since(found) == (NOW if how == "Complete" else NOW - timedelta(days=31))


async def test_a_process_that_died_meanwhile_leaves_a_job_that_the_next_one_lets_go(place: Place) -> None:
    await place.look()
    place.end("Complete", StoreReport(removed=1).model_dump_json(by_alias=True))
    place.collector._withdrawn.clear()
    await place.look()
    assert place.jobs() == []
    assert not place.there(UNUSED)


async def test_a_pod_whose_words_have_not_come_yet_is_waited_for(place: Place) -> None:
    await place.look()
    place.end("Complete", "")
    assert await place.look() == collector.SOON_SECONDS
    assert len(place.jobs()) == 1
    place.moment += timedelta(seconds=collector.WORDS_SECONDS)
    await place.look()
    assert place.jobs() == []


def _unstarted() -> dict[str, Any]:
    """What the kubelet says of a container that it stopped before it had an image for it."""
    return builders.terminated("store", 137, reason="ContainerStatusUnknown")


def _stub(live: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": live["kind"], "metadata": {"uid": live["metadata"]["uid"], "name": "p"}}


async def _pending_then_gone(place: Place) -> None:
    place.pod_gone(place.pod("Pending", builders.waiting("store", "ImagePullBackOff")))
    place.over("Failed", failed=1)


async def _ran_then_gone(place: Place) -> None:
    place.pod("Pending")
    place.pod_gone(place.pod("Running", builders.running("store")))
    place.over("Failed", failed=1)


async def _vanished(place: Place) -> None:
    place.pod_gone(_stub(place.pod("Pending")))
    place.over("Failed", failed=1)


async def _stopped_unstarted(place: Place) -> None:
    place.pod("Pending")
    place.pod("Failed", _unstarted())
    place.over("Failed", failed=1)


async def _without_pod(place: Place) -> None:
    place.over("Failed")


async def _with_a_pod_that_nobody_saw(place: Place) -> None:
    place.over("Failed", failed=1)


@pytest.mark.parametrize(
    ("happens", "back"),
    [
        (_pending_then_gone, True),
        (_stopped_unstarted, True),
        (_without_pod, True),
        (_ran_then_gone, False),
        (_vanished, False),
        (_with_a_pod_that_nobody_saw, False),
    ],
)
async def test_a_job_that_never_ran_gives_the_records_back_and_is_tried_again_later(
    place: Place,
    happens: Callable[[Place], Any],
    back: bool,  # noqa: FBT001
) -> None:
    await place.look()
    await happens(place)
    await place.look()
    assert place.there(UNUSED) is back
    place.moment += timedelta(seconds=600)
    await place.look()
    assert place.jobs() == []
    place.moment += timedelta(seconds=3000)
    await place.look()
    assert bool(place.jobs()) is back


async def test_the_words_of_a_pod_that_is_shown_later_than_the_end_of_its_job_are_heard(place: Place) -> None:
    await place.look()
    place.pod("Running", builders.running("store"))
    place.over("Failed", failed=1)
    assert await place.look() == collector.SOON_SECONDS
    words = builders.failure("ListTooOld", "Nothing is removed")
    place.pod("Failed", builders.terminated("store", 65, words))
    await place.look()
    assert place.there(UNUSED)


async def test_what_a_deleted_job_was_to_remove_is_forgotten(place: Place) -> None:
    await place.look()
    ((_, name),) = [known for known in place.api.objects if known[0] == "Job"]
    place.world.drop(place.api.objects.pop(("Job", name)))
    await place.look()
    assert place.collector._withdrawn == {}


async def test_of_a_deleted_claim_the_records_go_without_a_job(place: Place) -> None:
    claim = place.api.objects.pop(("PersistentVolumeClaim", CLAIM))
    place.world.drop(claim)
    await place.look()
    assert not place.there(UNUSED)
    assert place.there(USED), "its BertDeployment is told that the claim is gone; it may come back"
    assert place.jobs() == []


async def test_a_record_that_cannot_be_deleted_does_not_lose_those_before_it(place: Place) -> None:
    place.record("8" * 32, days=31)

    def then() -> None:
        place.api.failures["withdraw"] = ApiError(status=500, reason="No", message="no", what="delete")

    place.api.before["world"] = lambda: place.api.before.update(withdraw=lambda: place.api.before.update(withdraw=then))
    await place.look()
    (task,) = place.jobs()
    assert len(task.artifacts) == 1
    assert place.there(UNUSED) != place.there("8" * 32)


@pytest.mark.parametrize("seen", [True, False])
async def test_a_record_whose_deletion_got_no_answer_is_followed_by_its_files(place: Place, seen: bool) -> None:  # noqa: FBT001
    gone = place.api.objects[names.ARTIFACT_KIND, place.name(UNUSED)]
    place.api.failures["answer"] = ApiError(status=0, reason="Unreachable", message="cut", what="delete")
    with pytest.raises(ApiError):
        await place.look()
    if seen:
        place.world.drop(gone)
    assert place.jobs() == []
    await place.look()
    (task,) = place.jobs()
    assert [one.folder for one in task.artifacts] == [f"onnx-{UNUSED}"]
    assert not place.collector._unanswered


async def test_a_record_whose_deletion_never_arrived_is_judged_anew(place: Place) -> None:
    place.api.failures["withdraw"] = ApiError(status=0, reason="Unreachable", message="cut", what="delete")
    with pytest.raises(ApiError):
        await place.look()
    place.bert("again", UNUSED)
    await place.look()
    assert place.there(UNUSED)
    assert place.jobs() == []
    assert not place.collector._unanswered


async def test_a_record_that_went_without_an_answer_comes_back_if_its_copy_is_used_elsewhere(place: Place) -> None:
    gone = place.api.objects[names.ARTIFACT_KIND, place.name(UNUSED)]
    place.api.failures["answer"] = ApiError(status=500, reason="Internal", message="no", what="delete")
    with pytest.raises(ApiError):
        await place.look()
    place.world.drop(gone)
    copy = {**gone, "metadata": {**gone["metadata"], "uid": "copy", "namespace": "elsewhere", "annotations": {}}}
    place.world.put(copy)
    await place.look()
    assert place.there(UNUSED)
    assert place.jobs() == []


async def test_of_a_claim_that_went_meanwhile_nothing_is_removed_though_an_answer_is_missing(place: Place) -> None:
    place.api.failures["answer"] = ApiError(status=0, reason="Unreachable", message="cut", what="delete")
    with pytest.raises(ApiError):
        await place.look()
    place.world.drop(place.api.objects.pop(("PersistentVolumeClaim", CLAIM)))
    await place.look()
    assert place.jobs() == []
    assert not place.collector._unanswered


async def test_only_claims_of_which_something_is_recorded_are_looked_at(place: Place) -> None:
    found = place.collector.stirred(builders.claim()), place.collector.stirred(builders.claim("data", uid="x"))
    assert found == ((collector.key(builders.NAMESPACE, CLAIM), 600), None)
    assert place.collector.stirred(builders.bert("other", spec={"storage": {"claimName": "data"}})) is None
    vanished = {"kind": names.ARTIFACT_KIND, "metadata": {"uid": "x", "namespace": builders.NAMESPACE, "name": "x"}}
    assert place.collector.stirred(vanished) is None
    assert collector.claim_of(collector.key("team", "store")) == "store"
    assert collector.claim_of(("team", "minilm")) == ""


async def test_switched_off_it_removes_nothing_and_forgets_its_marks() -> None:
    place = Place("0")
    await place.look()
    assert place.there(UNUSED)
    assert place.api.calls == ["mark used"]
    assert place.jobs() == []
