"""The reconcile of one artifact store: what nothing uses any more goes, in the end. The work queue calls it.

A record goes first: from then on nobody is served from the artifact without a build Job, which looks at the store
itself. Then whoever began to use it meanwhile is looked for once more, and only then a Job puts the files aside; until
it deletes them, and for as long as it is killed before, a build that wants the artifact brings it back. What stays gets
its record back. If this process dies in between, a whole artifact without a record is left: the next build that wants
it finds it, and on a claim of one node the next Job removes it when it was idle for long.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from pydantic import ValidationError

from bert_operator import collection, job_state, pod_state, usage
from bert_operator.api import names
from bert_operator.api.actions import Ref
from bert_operator.api.maintenance import MAX_COLLECTED, StoreReport, StoreTask
from bert_operator.api.observed import Manifest
from bert_operator.cluster.errors import ApiError
from bert_operator.collection import Look, Verdict
from bert_operator.objects import artifact, pod, store_job
from bert_operator.observe import Key, Store, World
from bert_operator.settings import Settings
from bert_operator.usage import Users

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 120
"""How long a Job leaves what it has put aside."""
SOON_SECONDS: Final = 2.0
WORDS_SECONDS: Final = 60.0
"""How long a Job's pod is waited for that has ended: the watch of pods may be later than that of Jobs."""
_PREFIX: Final = "claim/"
_CONFLICT: Final = 409
_NOT_FOUND: Final = 404
_UNTOUCHED: Final = "ListTooOld"
"""What a Job says that has done nothing at all."""


class Children(Protocol):
    """What `cluster.calls` does."""

    async def create(self, manifest: Manifest) -> dict[str, Any] | None:
        """POST one object; None if the name is taken."""

    async def delete(self, namespace: str, ref: Ref) -> dict[str, Any] | None:
        """Delete exactly this object."""


class Stores(Protocol):
    """What `cluster.stores` does."""

    async def records(self, namespace: str) -> list[dict[str, Any]]:
        """Every BertArtifact."""

    async def claim(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A claim by name."""

    async def world(self, namespace: str) -> usage.World:
        """Everything that may refer to an artifact."""

    async def mark(self, record: Manifest, since: str | None) -> dict[str, Any]:
        """Write on a record since when nothing uses it."""

    async def withdraw(self, record: Manifest) -> bool:
        """Delete a record that has not changed; False if it has."""


def key(namespace: str, claim: str) -> Key:
    """What the work queue knows a store by; no BertDeployment has such a name."""
    return namespace, f"{_PREFIX}{claim}"


def claim_of(wanted: Key) -> str:
    """The claim of a store's key; empty if it is a BertDeployment's."""
    return wanted[1].removeprefix(_PREFIX) if wanted[1].startswith(_PREFIX) else ""


@dataclass(kw_only=True)
class _Going:
    """What a Job of ours removes, and what is known of its pods as long as it lives."""

    store: Key
    """(namespace, claim)."""
    records: list[Manifest]
    pods: set[str] = field(default_factory=set)
    """UIDs of those that were seen."""
    begun: bool = False
    """One of them may have run."""


@dataclass(kw_only=True)
class Collector:
    """Looks after the stores of all claims."""

    world: World
    children: Children
    stores: Stores
    settings: Settings
    enqueue: Callable[[Key], None]
    """Asks for BertDeployments that our writes concern: the watch will not name them again."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.time
    _withdrawn: dict[str, _Going] = field(default_factory=dict)
    """UID of a Job -> what it removes."""
    _unanswered: dict[Key, dict[str, Manifest]] = field(default_factory=dict)
    """(namespace, claim) -> by UID, records whose deletion got no answer: they may be gone, and their files aren't."""
    _owed: dict[Key, list[Manifest]] = field(default_factory=dict)
    """(namespace, claim) -> records to write again, which may take more than one try."""
    _not_before: dict[Key, float] = field(default_factory=dict)
    """(namespace, claim) -> when the next Job may be tried, where the last one was in vain."""

    def stirred(self, obj: Manifest) -> tuple[Key, float] | None:
        """Which store an object that has changed concerns, and how soon to look at it."""
        namespace, kind = str(obj["metadata"].get("namespace") or ""), obj.get("kind")
        pause = self.pause
        if kind == "Pod":
            self._notice(obj)
            return None
        if kind == names.ARTIFACT_KIND:
            # Of one that vanished while nobody watched only the name is known.
            found = str((obj.get("spec") or {}).get("claimName") or "")
            return (key(namespace, found), pause) if found else None
        if kind == "Job" and (claim := store_job.claim(obj)):
            return key(namespace, claim), 0.0
        if kind not in (names.KIND, "PersistentVolumeClaim"):
            return None
        claim = usage.claim_of(obj) if kind == names.KIND else str(obj["metadata"].get("name") or "")
        if not self.world.is_store(namespace, claim):
            return None
        # Whoever uses something again is noted before he may be gone again.
        used = (self.world.record(namespace, name) for name in usage.named(obj))
        marked = any(record and collection.unused_since(record) for record in used)
        return key(namespace, claim), min(pause, SOON_SECONDS) if marked else pause

    async def collect(self, namespace: str, claim: str) -> float | None:
        """Look at one store once.

        Returns:
            Seconds until it is to be looked at again, even if nothing stirs; None: not at all.

        Raises:
            ApiError: something could not be read or written; what was done so far stands.
        """
        await self._pay((namespace, claim))
        found = self.world.store(namespace, claim)
        self._forget((namespace, claim), found.jobs)
        jobs = [job for job in found.jobs if job_state.alive(job)]
        again = [await self._conclude(namespace, found, job) for job in jobs if job_state.over(job)]
        if jobs:
            # Its end is news enough; this is for one that is deleted without a word.
            return min([*again, collection.LONGEST_INTERVAL])
        if not found.records and not self._unanswered.get((namespace, claim)):
            return None
        return await self._look(namespace, claim, found)

    async def _look(self, namespace: str, claim: str, found: Store) -> float:
        """Do what is to be done about the records of a store; when to look again."""
        verdict = self._judged(namespace, self._remembered(namespace, claim, found))
        if not verdict.doubtful and not self._unanswered.get((namespace, claim)):
            await self._note(verdict.unmark, None)
            return min(self._held, verdict.again_seconds or self._held)
        look = await self._fresh(namespace, claim)
        verdict = self._judged(namespace, look)
        await self._note(verdict.unmark, None)
        await self._note(verdict.mark, collection.stamp(self.now()))
        await self._withdraw((namespace, claim), verdict.drop)
        again = verdict.again_seconds or self._held
        if remove := [*await self._gone(namespace, look), *verdict.remove]:
            again = min(again, await self._remove(namespace, look, remove[:MAX_COLLECTED]))
        return min(self._held, again)

    async def _gone(self, namespace: str, look: Look) -> list[Manifest]:
        """Records that are gone by a deletion of ours that got no answer, and whose artifacts have to follow them.

        One that is still there is judged like any other. If its claim goes, the artifact goes along; if a copy of it
        is used elsewhere, the record comes back.
        """
        store, there = (namespace, look.name), {record["metadata"]["uid"] for record in look.records}
        begun = [one for uid, one in self._unanswered.pop(store, {}).items() if uid not in there]
        if look.claim is None or "deletionTimestamp" in look.claim["metadata"] or pod.read_only(look.claim):
            return []
        begun = [one for one in begun if one["spec"]["claimUid"] == look.claim["metadata"]["uid"]]
        elsewhere = self._elsewhere(namespace, look.name, begun)
        await self._record_again(store, [one for one in begun if store_job.folder(one) in elsewhere])
        return [one for one in begun if store_job.folder(one) not in elsewhere]

    @property
    def pause(self) -> float:
        """Seconds between something that stirs and the look at its store."""
        return collection.interval(self._retention)

    @property
    def _held(self) -> float:
        """Seconds until that is tried again which didn't work, and that is looked at which no watch tells of."""
        return collection.HELD_INTERVALS * self.pause

    @property
    def _retention(self) -> float:
        return self.settings.store.retention_seconds

    def _judged(self, namespace: str, look: Look) -> Verdict:
        verdict = collection.judge(look, self._retention, self.now())
        left = self._not_before.get((namespace, look.name), 0.0) - self.clock()
        if left <= 0 or not verdict.remove:
            return verdict
        return replace(verdict, remove=(), again_seconds=min(left, verdict.again_seconds or left))

    def _wait(self, store: Key) -> None:
        """No Job for this store for a while: records that go and come back stir everybody."""
        self._not_before[store] = self.clock() + self._held

    def _notice(self, live_pod: Manifest) -> None:
        """Keep in mind whether a Job's pod may have run: later nobody may be able to tell."""
        meta = live_pod["metadata"]
        owners = {str(owner.get("uid")) for owner in meta.get("ownerReferences") or ()}
        for uid, going in self._withdrawn.items():
            # Of a pod that vanished while nobody watched only its UID is known.
            if uid in owners or meta["uid"] in going.pods:
                going.pods.add(meta["uid"])
                going.begun = going.begun or _may_have_run(live_pod)

    def _forget(self, store: Key, jobs: Iterable[Manifest]) -> None:
        """Let go of what Jobs were to remove that somebody deleted: how far they came nobody knows."""
        known = {job["metadata"]["uid"] for job in jobs}
        for uid in [uid for uid, going in self._withdrawn.items() if going.store == store and uid not in known]:
            told = ", ".join(map(_title, self._withdrawn.pop(uid).records))
            logger.warning("claim %s: a Job that was to remove %s was deleted before its end", store[1], told)

    def _remembered(self, namespace: str, claim: str, found: Store) -> Look:
        """What the watches have shown. It may miss users, never invents one."""
        seen = usage.World(berts=found.berts, deployments=found.deployments, replica_sets=(), pods=(), jobs=())
        elsewhere = self._elsewhere(namespace, claim, found.records)
        return Look(name=claim, claim=found.claim, records=found.records, world=seen, elsewhere=elsewhere)

    async def _fresh(self, namespace: str, claim: str) -> Look:
        records = [one for one in await self.stores.records(namespace) if one["spec"]["claimName"] == claim]
        return Look(
            name=claim,
            claim=await self.stores.claim(namespace, claim),
            records=records,
            world=await self.stores.world(namespace),
            elsewhere=self._elsewhere(namespace, claim, records),
        )

    def _elsewhere(self, namespace: str, claim: str, records: Iterable[Manifest]) -> frozenset[str]:
        paths = {str(record["spec"]["path"]) for record in records}
        return frozenset(
            store_job.folder(other)
            for path in paths
            for other in self.world.recorded(path)
            if (other["metadata"].get("namespace"), other["spec"]["claimName"]) != (namespace, claim)
            and collection.used_or_young(other, self._retention, self.now())
        )

    async def _note(self, records: Iterable[Manifest], since: str | None) -> None:
        for record in records:
            try:
                self._lay(await self.stores.mark(record, since))
            except ApiError as error:
                # Somebody has changed it, or it is gone: news of that is on its way.
                if error.status not in (_CONFLICT, _NOT_FOUND):
                    raise

    async def _withdraw(self, store: Key, records: Iterable[Manifest]) -> list[Manifest]:
        """Those of the records that are gone now; the rest is for another time."""
        gone: list[Manifest] = []
        for record in records:
            try:
                done = await self.stores.withdraw(record)
            except ApiError as error:
                if error.unanswered:
                    self._unanswered.setdefault(store, {})[record["metadata"]["uid"]] = record
                if not gone:
                    raise
                logger.warning("%s", error)
                break
            if done:
                # At once: who plans from now on plans without it.
                self._others(self.world.drop({"kind": names.ARTIFACT_KIND, "metadata": record["metadata"]}))
                gone.append(record)
        return gone

    async def _remove(self, namespace: str, look: Look, records: Sequence[Manifest]) -> float:
        """Have a Job remove artifacts, unless somebody has come to use one; when to look again."""
        store = namespace, look.name
        going = await self._withdraw(store, records)
        try:
            made = await self._start(namespace, look, going)
        except ApiError as error:
            # An answer that was lost may have been good: then files go, and no record may outlive them.
            listing = error.what.startswith("list")
            if error.refused or listing:
                await self._record_again(store, going)
            if listing or not error.refused:
                raise
            logger.warning("claim %s: no Job can remove what nothing uses: %s", look.name, error)
            self._wait(store)
            return self._held
        if made is None:
            await self._record_again(store, going)
            return self.pause
        self._started(store, made, going)
        return self._held

    def _started(self, store: Key, made: Manifest, going: list[Manifest]) -> None:
        self._withdrawn[made["metadata"]["uid"]] = _Going(store=store, records=going)
        self._lay(made)
        for live_pod in self.world.store(*store).job_pods:
            self._notice(live_pod)
        told = ", ".join(map(_title, going))
        logger.info("claim %s: Job %s removes what nothing uses: %s", store[1], made["metadata"]["name"], told)

    async def _start(self, namespace: str, look: Look, going: Sequence[Manifest]) -> dict[str, Any] | None:
        """Look once more, then make the Job; None if somebody uses an artifact, or there is none to remove."""
        listed_at = self.clock()
        seen = await self.stores.world(namespace)
        known = Users(seen)
        wanted = [f"{_title(one)} by {', '.join(users)}" for one in going if (users := known.of(one))]
        wanted += usage.unsettled(look.name, seen)
        if wanted:
            logger.info("claim %s: nothing is removed now; used, or about to be: %s", look.name, "; ".join(wanted))
        if wanted or not going:
            return None
        return await self.children.create(self._job(namespace, look, going, seen, listed_at))

    def _job(
        self, namespace: str, look: Look, going: Sequence[Manifest], seen: usage.World, listed_at: float
    ) -> dict[str, Any]:
        secrets, tolerations = store_job.terms(seen.deployments, look.name)
        return store_job.manifest(
            store_job.StoreJob(
                namespace=namespace,
                name=f"bert-store-collect-{uuid.uuid4().hex[:8]}",
                manager=names.MANAGER,
                task=StoreTask(
                    action="collect",
                    claim=look.name,
                    artifacts=[store_job.stored(record) for record in going],
                    listed_at=listed_at,
                    grace_seconds=min(GRACE_SECONDS, int(self._retention)),
                    recorded=collection.live_folders(look, going),
                    idle_seconds=int(self._retention),
                ),
                image=self.settings.images.operator,
                image_pull_policy=self.settings.image_pull_policy,
                image_pull_secrets=secrets,
                tolerations=tolerations,
                one_node_claim=pod.one_node_only(look.claim),
            )
        )

    async def _conclude(self, namespace: str, found: Store, job: Manifest) -> float:
        """Take in how a Job ended, put back the records of what stays, let it go; when to look again."""
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        last = job_state.newest_pod(job, found.job_pods)
        report = _report(last)
        if report is None and self._awaits_words(job, last):
            return SOON_SECONDS
        store = namespace, store_job.claim(job)
        going = self._withdrawn.pop(uid, None) or _Going(store=store, records=[])
        if report is not None:
            logger.info("Job %s removed %d artifacts, %d bytes", name, report.removed, report.freed_bytes)
            kept = [record for record in going.records if store_job.folder(record) in report.kept]
            # A build wanted it, or it can't be moved: its time begins anew, or the next Job would be for it again.
            await self._record_again(store, kept, **{names.UNUSED_SINCE_ANNOTATION: collection.stamp(self.now())})
        else:
            await self._after_failure(job, last, going)
        await self.children.delete(namespace, Ref(kind="Job", name=name, uid=uid))
        self._others(self.world.drop({"kind": "Job", "metadata": {"uid": uid}}))
        return self.pause if report is not None else self._held

    def _awaits_words(self, job: Manifest, last: Manifest | None) -> bool:
        """Whether the end of a Job's pod is still to be shown. Of one that failed there may be no pod at all."""
        complete, failed = job_state.ended(job, "Complete"), job_state.ended(job, "Failed")
        runs = last is not None and not pod_state.over(last)
        return any(one and self._age(one) < WORDS_SECONDS for one in (complete, failed if runs else None))

    async def _after_failure(self, job: Manifest, last: Manifest | None, going: _Going) -> None:
        """Tell why; a record comes back only if its artifact is surely there: one without does harm."""
        self._wait(going.store)
        problem = pod_state.problem(last) if last is not None else None
        failed = job_state.ended(job, "Failed") or {}
        why = problem.message if problem is not None else failed.get("message") or "it left no word"
        logger.warning("Job %s failed: %s", job["metadata"]["name"], why)
        if (problem is not None and problem.reason == _UNTOUCHED) or _never_ran(job, last, going):
            await self._record_again(going.store, going.records)

    def _age(self, condition: Manifest) -> float:
        since = condition.get("lastTransitionTime")
        return (self.now() - datetime.fromisoformat(str(since))).total_seconds() if since else WORDS_SECONDS

    async def _record_again(self, store: Key, records: Iterable[Manifest], **annotations: str) -> None:
        self._owed.setdefault(store, []).extend(artifact.anew(record, **annotations) for record in records)
        await self._pay(store)

    async def _pay(self, store: Key) -> None:
        """Write records again. What can't be written now is owed still, and comes before anything else."""
        owed = self._owed.get(store, [])
        while owed:
            try:
                made = await self.children.create(owed[0])
            except ApiError as error:
                if error.status != _NOT_FOUND:
                    raise
                made = None  # the namespace is gone, and with it the claim
            del owed[0]
            if made is not None:
                self._lay(made)
        self._owed.pop(store, None)

    def _lay(self, reply: Manifest) -> None:
        self._others(self.world.lay_over(reply))

    def _others(self, keys: Iterable[Key]) -> None:
        for other in keys:
            self.enqueue(other)


def _may_have_run(live_pod: Manifest) -> bool:
    """Whether a container of a pod may have been started: a pod that doesn't say counts as one that was."""
    phase = (live_pod.get("status") or {}).get("phase")
    return phase != "Pending" and not (phase == "Failed" and pod_state.never_started(live_pod))


def _never_ran(job: Manifest, last: Manifest | None, going: _Going) -> bool:
    """Whether a Job surely did nothing: it failed without a pod, or its pod got no node or no image."""
    if job_state.ended(job, "Complete"):
        return False
    if last is not None:
        return pod_state.over(last) and not going.begun and not _may_have_run(last)
    counted = job.get("status") or {}
    unseen = not going.pods and any(counted.get(how) for how in ("active", "failed", "succeeded", "terminating"))
    return not going.begun and not unseen


def _title(record: Manifest) -> str:
    return str(record["metadata"]["name"])


def _report(last: Manifest | None) -> StoreReport | None:
    try:
        return StoreReport.model_validate_json(pod_state.last_words(last)) if last is not None else None
    except ValidationError:
        return None
