"""The running operator: every part, put together once. `handlers` starts, feeds and stops it.

It knows nothing of kopf. What it is told goes into the `World`; whom it concerns goes onto the work queue.
"""

import asyncio
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final
from uuid import uuid4

from bert_operator import collector, health, logs, observe
from bert_operator.api import names
from bert_operator.cluster.calls import Cluster
from bert_operator.cluster.connection import ConfigurationError, Connection
from bert_operator.cluster.errors import ApiError
from bert_operator.cluster.lease import Lease
from bert_operator.cluster.stores import Stores
from bert_operator.election import Terms
from bert_operator.leadership import Leadership
from bert_operator.metrics import Metrics
from bert_operator.reconcile import Outcome, Planner, Reconciler
from bert_operator.settings import LeaderElection, Settings
from bert_operator.watches import Listing, Watches
from bert_operator.work_queue import Done, Key, WorkQueue

logger = logging.getLogger(__name__)

RESYNC_JITTER: Final = 0.2
URGENT: Final = (names.KIND, names.ARTIFACT_KIND)
"""What users write and what builds end with is looked at at once; what the cluster says of our children may gather."""
LOOK_SECONDS: Final = 1.0
SERVED_SECONDS: Final = 60.0
"""How long our kinds are waited for: the chart installs the CRDs with us, and a node may start before its network."""


class Runtime:
    """All that lives as long as the process."""

    def __init__(self, settings: Settings, planner: Planner) -> None:
        self._metrics = Metrics()
        self._world = observe.World()
        self._watches = Watches()
        self._leadership = candidate(settings.leader_election, self._metrics)
        self._leading = self._leadership is None
        self.connection = Connection(self._metrics, self._leadership.leads if self._leadership else None)
        self._cluster = Cluster(self.connection)
        self._queue = WorkQueue(
            work=self._stores_apart(resynced(self._reconcile, settings.resync_seconds)),
            workers=settings.workers,
            metrics=self._metrics,
        )
        self._collector = collector.Collector(
            world=self._world,
            children=self._cluster,
            stores=Stores(self.connection),
            settings=settings,
            enqueue=self._queue.add,
        )
        self._reconciler = Reconciler(
            world=self._world,
            cluster=self._cluster,
            planner=planner,
            settings=settings,
            enqueue=self._queue.add,
        )
        judge = health.Health(
            watches=self._watches,
            kinds=observe.KINDS,
            heartbeat=health.Heartbeat(late=self._metrics.late),
            oldest_waiting=self._queue.oldest_waiting_seconds,
            longest_running=self._queue.longest_running_seconds,
            candidate=self._leadership,
        )
        self._server = health.Server(judge, self._metrics)

    async def start(self) -> None:
        """Connect and answer probes; keys gather until `listed`.

        Raises:
            ConfigurationError: no way to the API server is configured, or it doesn't serve our kinds in time.
            OSError: the port of the probes is taken.
        """
        await self.connection.open()
        await self._server.start()
        await self._until_served()
        self._queue.start()

    async def _until_served(self, seconds: float = SERVED_SECONDS) -> None:
        """Wait for our CRDs: kopf looks for them once, and without them would watch nothing for ever.

        An API server that can't be asked is waited for too: kopf would start everything a second time.
        """
        why = "the API server can't be asked: no answer"
        try:
            async with asyncio.timeout(seconds):
                while why_not := await self._unserved():
                    why = why_not
                    await asyncio.sleep(LOOK_SECONDS)  # a watch needs the CRD it would wait for
        except TimeoutError:
            raise ConfigurationError(why) from None

    async def _unserved(self) -> str:
        """Why our kinds can't be used, in one line; empty if they can."""
        try:
            served = await self._cluster.api_is_served()
        except ApiError as error:
            said = " ".join(str(error).split())
            return f"the API server can't be asked: {said}; check its address, the network and the operator's rights"
        missing = (
            f"the API server doesn't know {names.GROUP}/{names.VERSION}; install the CRDs (crds/*.yaml, or the chart "
            "with crds.install: true)"
        )
        return "" if served else missing

    async def stop(self) -> None:
        """Finish what runs, then let go of everything: of the Lease as soon as nothing is written any more."""
        await self._queue.stop()
        if self._leadership is not None:
            await self._leadership.stop()
        await self._server.stop()
        await self.connection.close()

    def seen(self, obj: Mapping[str, Any]) -> None:
        """A watch or a listing showed an object."""
        self._take(obj, self._world.put, calmly=obj.get("kind") not in URGENT)

    def gone(self, obj: Mapping[str, Any]) -> None:
        """An object was deleted."""
        self._take(obj, self._world.drop)

    def _take(
        self, obj: Mapping[str, Any], into: Callable[[Mapping[str, Any]], set[Key]], *, calmly: bool = False
    ) -> None:
        try:
            self._add(into(obj), calmly=calmly)
            self._stir(obj)
        except Exception:
            # One object of a shape nobody foresaw must not end the watch of all the others.
            logger.exception("%s can't be understood and is ignored", _described(obj))

    def begin_listing(self, kind: str, namespace: str | None) -> Listing:
        """A watch lists its kind, at start or because its connection could not be resumed."""
        return self._watches.begin(kind, namespace)

    def listed(self, listing: Listing) -> list[dict[str, Any]]:
        """A listing is complete, and everything in it was `seen`; once that is so for every kind, work begins.

        Returns:
            Stubs of what was there before and isn't any more.
        """
        vanished = listing.complete(self._world.laid_over_before(listing.kind, listing.started))
        if not self._watches.unlisted(observe.KINDS):
            if self._leadership is None:
                self._queue.open()
            else:
                # Who wins begins at once: only who has seen everything may want to.
                self._leadership.start(self._lead)
        return vanished

    def _lead(self) -> None:
        """The Lease is ours: everything is looked at, whatever the leader before has done about it."""
        self._leading = True
        self._add(self._world.keys())
        for namespace, claim in self._world.stores():
            self._queue.add_after(collector.key(namespace, claim), self._collector.pause)
        self._queue.open()

    def _add(self, keys: Iterable[Key], *, calmly: bool = False) -> None:
        """A standby lets nothing pile up: when it takes over, it looks at everything anyway."""
        if self._leading:
            add = self._queue.add_calmly if calmly else self._queue.add
            for key in keys:
                add(key)

    def _stir(self, obj: Mapping[str, Any]) -> None:
        """Have the store looked at that an object concerns; not at once, since much stirs at the same time."""
        try:
            found = self._collector.stirred(obj) if self._leading else None
        except Exception:
            logger.exception("%s can't be understood: no store is looked at", _described(obj))
            return
        if found is not None:
            self._queue.add_after(*found)

    def _stores_apart(self, work: Callable[[Key], Awaitable[Done]]) -> Callable[[Key], Awaitable[Done]]:
        """The work on a BertDeployment, or on the store of a claim, whichever a key is of."""

        async def either(key: Key) -> Done:
            claim = collector.claim_of(key)
            return Done(again_after=await self._collector.collect(key[0], claim)) if claim else await work(key)

        return either

    async def _reconcile(self, key: Key) -> Outcome:
        with logs.about(*key):
            return await self._reconciler.reconcile(key)


def candidate(wish: LeaderElection | None, metrics: Metrics) -> Leadership | None:
    """Who takes part in the election of a leader, None if there is none."""
    if wish is None:
        return None
    # Renewals aren't the work that is counted, and their thread has a loop of its own.
    lease = Lease(Connection(Metrics()), wish.namespace, wish.name)
    host = os.environ.get("HOSTNAME") or socket.gethostname()
    return Leadership(
        lease=lease,
        name=f"{wish.namespace}/{wish.name}",
        identity=f"{host}_{uuid4()}",
        terms=Terms(
            duration=wish.lease_duration_seconds,
            renew_deadline=wish.renew_deadline_seconds,
            retry_period=wish.retry_period_seconds,
        ),
        metrics=metrics,
    )


def _described(obj: Mapping[str, Any]) -> str:
    metadata = obj.get("metadata") or {}
    return f"{obj.get('kind')} {metadata.get('namespace')}/{metadata.get('name')}"


def resynced(
    reconcile: Callable[[Key], Awaitable[Outcome]], seconds: float, random_number: Callable[[], float] = random.random
) -> Callable[[Key], Awaitable[Done]]:
    """Have everything that exists looked at again after a while, each at its own moment, even if nothing stirs."""

    async def work(key: Key) -> Done:
        outcome = await reconcile(key)
        if outcome.gone:
            return Done()
        spread = seconds * (1 - RESYNC_JITTER + 2 * RESYNC_JITTER * random_number())
        wish = outcome.recheck_after
        return Done(again_after=spread if wish is None else min(wish, spread), wrote=outcome.wrote)

    return work
