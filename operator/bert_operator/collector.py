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
from dataclasses import dataclass, field
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
        """Delete a record that has not changed."""


def key(namespace: str, claim: str) -> Key:
    """What the work queue knows a store by; no BertDeployment has such a name."""
    return namespace, f"{_PREFIX}{claim}"


def claim_of(wanted: Key) -> str:
    """The claim of a store's key; empty if it is a BertDeployment's."""
    return wanted[1].removeprefix(_PREFIX) if wanted[1].startswith(_PREFIX) else ""


@dataclass(kw_only=True)
class Collector:
    """Looks after the stores of all claims."""

    world: World
    children: Children
    stores: Stores
    settings: Settings
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.time
    _withdrawn: dict[str, list[Manifest]] = field(default_factory=dict)
    """UID of a Job -> the records of what it removes."""

    def stirred(self, obj: Manifest) -> tuple[Key, float] | None:
        """Which store an object that has changed concerns, and how soon to look at it."""
        namespace, kind = str(obj["metadata"].get("namespace") or ""), obj.get("kind")
        pause = self.pause
        if kind == names.ARTIFACT_KIND:
            return key(namespace, str((obj.get("spec") or {}).get("claimName") or "")), pause
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
        found = self.world.store(namespace, claim)
        jobs = [job for job in found.jobs if job_state.alive(job)]
        again = [await self._conclude(namespace, found, job) for job in jobs if job_state.over(job)]
        if jobs:
            # Its end is news enough; this is for one that is deleted without a word.
            return min([*again, collection.LONGEST_INTERVAL])
        if not found.records:
            return None
        held = collection.HELD_INTERVALS * self.pause
        verdict = self._judged(self._remembered(namespace, claim, found))
        if not verdict.doubtful:
            await self._note(verdict.unmark, None)
            return min(held, verdict.again_seconds or held)
        look = await self._fresh(namespace, claim)
        verdict = self._judged(look)
        await self._note(verdict.unmark, None)
        await self._note(verdict.mark, collection.stamp(self.now()))
        await self._withdraw(verdict.drop)
        if verdict.remove and not await self._remove(namespace, look, verdict.remove[:MAX_COLLECTED]):
            held = self.pause
        return min(held, verdict.again_seconds or held)

    @property
    def pause(self) -> float:
        """Seconds between something that stirs and the look at its store."""
        return collection.interval(self._retention)

    @property
    def _retention(self) -> float:
        return self.settings.store.retention_seconds

    def _judged(self, look: Look) -> Verdict:
        return collection.judge(look, self._retention, self.now())

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
                if error.status not in (_CONFLICT, 404):
                    raise

    async def _withdraw(self, records: Iterable[Manifest]) -> list[Manifest]:
        """Those of the records that are gone now; the rest is for another time."""
        gone: list[Manifest] = []
        for record in records:
            try:
                done = await self.stores.withdraw(record)
            except ApiError as error:
                if not gone:
                    raise
                logger.warning("%s", error)
                break
            if done:
                # At once: who plans from now on plans without it.
                self.world.drop({"kind": names.ARTIFACT_KIND, "metadata": record["metadata"]})
                gone.append(record)
        return gone

    async def _remove(self, namespace: str, look: Look, records: Sequence[Manifest]) -> bool:
        """Have a Job remove artifacts; False if somebody has come to use one."""
        going = await self._withdraw(records)
        try:
            made = await self._start(namespace, look, going)
        except ApiError as error:
            # An answer that was lost may have been good: then files go, and no record may outlive them.
            if error.refused or error.what.startswith("list"):
                await self._record_again(going)
            raise
        if made is None:
            await self._record_again(going)
            return False
        self._withdrawn[made["metadata"]["uid"]] = going
        self._lay(made)
        told = ", ".join(map(_title, going))
        logger.info("claim %s: Job %s removes what nothing uses: %s", look.name, made["metadata"]["name"], told)
        return True

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
        report, complete = _report(last), job_state.ended(job, "Complete")
        if report is None and complete and self._age(complete) < WORDS_SECONDS:
            return SOON_SECONDS
        withdrawn = self._withdrawn.pop(uid, [])
        if report is not None:
            logger.info("Job %s removed %d artifacts, %d bytes", name, report.removed, report.freed_bytes)
            kept = [record for record in withdrawn if store_job.folder(record) in report.kept]
            # A build wanted it, or it can't be moved: its time begins anew, or the next Job would be for it again.
            await self._record_again(kept, **{names.UNUSED_SINCE_ANNOTATION: collection.stamp(self.now())})
        else:
            await self._after_failure(job, last, withdrawn)
        await self.children.delete(namespace, Ref(kind="Job", name=name, uid=uid))
        self.world.drop({"kind": "Job", "metadata": {"uid": uid}})
        return self.pause if report is not None else collection.HELD_INTERVALS * self.pause

    async def _after_failure(self, job: Manifest, last: Manifest | None, withdrawn: Sequence[Manifest]) -> None:
        """Tell why; a record comes back only if its artifact is surely there: one without does harm."""
        problem = pod_state.problem(last) if last is not None else None
        failed = job_state.ended(job, "Failed") or {}
        why = problem.message if problem is not None else failed.get("message") or "it left no word"
        logger.warning("Job %s failed: %s", job["metadata"]["name"], why)
        if problem is not None and problem.reason == _UNTOUCHED:
            await self._record_again(withdrawn)

    def _age(self, condition: Manifest) -> float:
        since = condition.get("lastTransitionTime")
        return (self.now() - datetime.fromisoformat(str(since))).total_seconds() if since else WORDS_SECONDS

    async def _record_again(self, records: Iterable[Manifest], **annotations: str) -> None:
        for record in records:
            made = await self.children.create(artifact.anew(record, **annotations))
            if made is not None:
                self._lay(made)

    def _lay(self, reply: Manifest) -> None:
        self.world.lay_over(reply)


def _title(record: Manifest) -> str:
    return str(record["metadata"]["name"])


def _report(last: Manifest | None) -> StoreReport | None:
    try:
        return StoreReport.model_validate_json(pod_state.last_words(last)) if last is not None else None
    except ValidationError:
        return None
