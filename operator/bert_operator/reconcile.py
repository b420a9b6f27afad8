"""The one impure recipe: look, plan, carry out, say. The work queue calls it, for one BertDeployment at a time.

It decides nothing: what to do is in the `Plan`, how is in `cluster`. It keeps nothing: replies go into the `World`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from bert_operator.api.actions import Departure, Hold, Note, Plan, Ref
from bert_operator.api.observed import Manifest, Observed, Refusal
from bert_operator.cluster.calls import Cluster
from bert_operator.cluster.errors import ApiError
from bert_operator.observe import Key, World
from bert_operator.settings import Settings

logger = logging.getLogger(__name__)

CREATED_ELSEWHERE_SECONDS: Final = 1.0
"""When a name was taken by a create of somebody else's, the watch shows the object within this time."""


class Planner(Protocol):
    """The pure heart."""

    def make_plan(self, observed: Observed, settings: Settings, now: datetime) -> Plan:
        """Decide what to do."""

    def names_to_probe(self, observed: Observed) -> Iterable[tuple[str, str]]:
        """Names we need whose ownership memory can't tell."""

    def jobs_to_probe(self, observed: Observed, now: datetime) -> Iterable[tuple[str, str]]:
        """Jobs, as (name, UID), of which memory can't tell why they have no pod."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a reconcile ended."""

    recheck_after: float | None = None
    wrote: bool = False
    gone: bool = False
    """There is nothing to look after any more."""


@dataclass(kw_only=True)
class Reconciler:
    """Brings one BertDeployment closer to what its spec says."""

    world: World
    cluster: Cluster
    planner: Planner
    settings: Settings
    enqueue: Callable[[Key], None]
    """Asks for other BertDeployments that our writes concern."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def reconcile(self, key: Key) -> Outcome:
        """Look at one BertDeployment once.

        Raises:
            ApiError: something could not be written; what could be is written and said.
        """
        observed = self.world.observe(*key)
        if observed is None or observed.bert["metadata"].get("deletionTimestamp"):
            return Outcome(gone=True)  # owner references collect the children
        observed = await self._probe(key, observed)
        plan = self.planner.make_plan(observed, self.settings, self.now())
        raced, failures = await self._write_children(key, plan)
        if any(failure.namespace_ends for failure in failures):
            logger.info("the namespace is being deleted: nothing more is made in it")
            return Outcome()  # trying again is of no use; the deletion of the BertDeployment will be seen
        done = _done(plan)
        wrote = any((plan.hold, plan.apply, plan.create, plan.adopt, plan.leave, plan.release, plan.delete))
        if wrote and not failures and not raced and _first_of_all(observed, plan):
            logger.info("%s", done)
            return Outcome(recheck_after=plan.recheck_after_seconds, wrote=True)
        said = self._with_refusals(observed, plan, failures)
        if said.status is not None:
            self._lay(key, await self.cluster.write_status(observed.bert, said.status))
        for note in said.notes:
            await self._tell(observed, note)
        if failures:
            raise failures[0]
        if done:
            logger.info("%s", done)
        recheck = CREATED_ELSEWHERE_SECONDS if raced else plan.recheck_after_seconds
        return Outcome(recheck_after=recheck, wrote=wrote and not raced)

    async def _probe(self, key: Key, observed: Observed) -> Observed:
        refused = await self.cluster.refused_pods(key[0], self.planner.jobs_to_probe(observed, self.now()))
        wanted = tuple(self.planner.names_to_probe(observed))
        if not wanted:
            return replace(observed, refused_pods=refused) if refused else observed
        taken, ours = await self.cluster.foreign(key[0], observed.bert["metadata"]["uid"], wanted)
        for obj in ours:
            self._lay(key, obj)
        return replace(self.world.observe(*key) or observed, foreign=taken, refused_pods=refused)

    def _with_refusals(self, observed: Observed, plan: Plan, failures: Iterable[ApiError]) -> Plan:
        """What to say: judged again where the API server refused something that only a person can change."""
        refused = tuple(Refusal(what=error.what, message=error.message) for error in failures if error.refused)
        if not refused:
            return plan
        return self.planner.make_plan(replace(observed, refused=refused), self.settings, self.now())

    async def _write_children(self, key: Key, plan: Plan) -> tuple[bool, list[ApiError]]:
        """First what is new or different, all at once; only if all that was applied worked, adoptions and deletions.

        A Job that can't be made (a quota) is waited for; nothing that goes depends on it.

        Before all that, counts are held: if that fails, nothing may be applied that relies on it.
        """
        held = await self._holds(key, plan.hold)
        if held:
            return False, held
        created, applied = await asyncio.gather(
            _all(self._create(key, manifest) for manifest in plan.create),
            _all(self._apply(key, manifest) for manifest in plan.apply),
        )
        failures = _errors([*created, *applied])
        raced = any(result is False for result in created)
        if not _errors(applied):
            shared = [self._lay_reply(key, self.cluster.adopt(key[0], adoption)) for adoption in plan.adopt]
            shared += [self._leave(key, departure) for departure in plan.leave]
            later = await _all([*shared, *(self._delete(key, ref) for ref in plan.delete)])
            failures += _errors(later)
            failures += await self._holds(key, plan.release)
        return raced, failures

    async def _holds(self, key: Key, holds: Iterable[Hold]) -> list[ApiError]:
        results = await _all([self._lay_reply(key, self.cluster.hold(key[0], hold)) for hold in holds])
        return _errors(results)

    async def _apply(self, key: Key, manifest: Manifest) -> bool:
        return await self._lay_reply(key, self.cluster.apply(manifest))

    async def _create(self, key: Key, manifest: Manifest) -> bool:
        reply = await self.cluster.create(manifest)
        if reply is not None:
            self._lay(key, reply)
        return reply is not None

    async def _delete(self, key: Key, ref: Ref) -> bool:
        return self._lay_or_drop(key, ref, await self.cluster.delete(key[0], ref))

    async def _leave(self, key: Key, departure: Departure) -> bool:
        return self._lay_or_drop(key, departure, await self.cluster.leave(key[0], departure))

    def _lay_or_drop(self, key: Key, ref: Ref | Departure, reply: Manifest | None) -> bool:
        if reply is not None:
            self._lay(key, reply)
        else:
            self._others(key, self.world.drop({"kind": ref.kind, "metadata": {"uid": ref.uid}}))
        return True

    async def _lay_reply(self, key: Key, call: Awaitable[dict[str, Any]]) -> bool:
        self._lay(key, await call)
        return True

    async def _tell(self, observed: Observed, note: Note) -> None:
        try:
            await self.cluster.tell(observed.bert, note)
        except ApiError as error:
            # An Event is a courtesy; the status says the same and must not be judged anew for its sake.
            logger.log(logging.DEBUG if error.namespace_ends else logging.WARNING, "%s", error)

    def _lay(self, key: Key, reply: Manifest) -> None:
        self._others(key, self.world.lay_over(reply))

    def _others(self, key: Key, keys: Iterable[Key]) -> None:
        for other in keys:
            if other != key:
                self.enqueue(other)


def _first_of_all(observed: Observed, plan: Plan) -> bool:
    """Whether this was the first look at a new BertDeployment: nothing of it was there or said, and things were made.

    Because of them it is looked at again at once, and only then there is something to say: one status instead of two.
    """
    there = observed.bert.get("status") or observed.services or observed.deployments or observed.jobs
    return not (there or plan.hold or plan.adopt or plan.leave or plan.release or plan.delete)


def _errors(results: Iterable[bool | ApiError]) -> list[ApiError]:
    return [result for result in results if isinstance(result, ApiError)]


async def _all(calls: Iterable[Awaitable[bool]]) -> list[bool | ApiError]:
    """Run all to their end, whatever becomes of some; anything but a refusal by the API server is raised."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ApiError):
            raise result
    return [result for result in results if isinstance(result, bool | ApiError)]


def _done(plan: Plan) -> str:
    """One line of what was written, for the log; empty for a world at rest."""
    objects = [
        *(f"held {hold.count} replicas of Deployment {hold.name}" for hold in plan.hold),
        *(f"applied {made['kind']} {made['metadata']['name']}" for made in plan.apply),
        *(f"created {made['kind']} {made['metadata']['name']}" for made in plan.create),
        *(f"joined {adoption.kind} {adoption.name}" for adoption in plan.adopt),
        *(f"left {departure.kind} {departure.name}" for departure in plan.leave),
        *(f"deleted {ref.kind} {ref.name}" for ref in plan.delete),
        *(f"let go of the replicas of Deployment {hold.name}" for hold in plan.release),
    ]
    stage = plan.status.get("summary", {}).get("stage") if plan.status else None
    return "; ".join([*objects, *([f"stage {stage}"] if stage else [])])
