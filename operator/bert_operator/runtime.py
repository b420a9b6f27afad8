"""The running operator: every part, put together once. `handlers` starts, feeds and stops it.

It knows nothing of kopf. What it is told goes into the `World`; whom it concerns goes onto the work queue.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from bert_operator import health, logs, observe
from bert_operator.api import names
from bert_operator.cluster.calls import Cluster
from bert_operator.cluster.connection import ConfigurationError, Connection
from bert_operator.cluster.errors import ApiError
from bert_operator.metrics import Metrics
from bert_operator.reconcile import Outcome, Planner, Reconciler
from bert_operator.settings import Settings
from bert_operator.watches import Listing, Watches
from bert_operator.work_queue import Done, Key, WorkQueue

logger = logging.getLogger(__name__)

RESYNC_JITTER: Final = 0.2
LOOK_SECONDS: Final = 1.0
SERVED_SECONDS: Final = 60.0
"""How long our kinds are waited for: the chart installs the CRDs with us, and a node may start before its network."""


class Runtime:
    """All that lives as long as the process."""

    def __init__(self, settings: Settings, planner: Planner) -> None:
        self._metrics = Metrics()
        self._world = observe.World()
        self._watches = Watches()
        self.connection = Connection(self._metrics)
        self._cluster = Cluster(self.connection)
        self._queue = WorkQueue(
            work=resynced(self._reconcile, settings.resync_seconds), workers=settings.workers, metrics=self._metrics
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
            heartbeat=health.Heartbeat(),
            oldest_waiting=self._queue.oldest_waiting_seconds,
            longest_running=self._queue.longest_running_seconds,
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
        """Finish what runs, then let go of everything."""
        await self._queue.stop()
        await self._server.stop()
        await self.connection.close()

    def seen(self, obj: Mapping[str, Any]) -> None:
        """A watch or a listing showed an object."""
        try:
            keys = self._world.put(obj)
        except Exception:
            # One object of a shape nobody foresaw must not end the watch of all the others.
            logger.exception("%s can't be understood and is ignored", _described(obj))
        else:
            self._add(keys)

    def gone(self, obj: Mapping[str, Any]) -> None:
        """An object was deleted."""
        self._add(self._world.drop(obj))

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
            self._queue.open()
        return vanished

    def _add(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._queue.add(key)

    async def _reconcile(self, key: Key) -> Outcome:
        with logs.about(*key):
            return await self._reconciler.reconcile(key)


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
