"""Takes part in the election of a leader, in a thread of its own. `runtime` starts it, asks it before writes, ends it.

A thread, because a busy event loop must not cost us the Lease. It decides by `election`, talks through `cluster.lease`,
and calls back at most twice: once when we lead, and once when we lead no more; after that the process is over.
"""

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from bert_operator import election
from bert_operator.cluster.connection import ConfigurationError
from bert_operator.cluster.errors import ApiError
from bert_operator.election import Record, Sighting, Terms
from bert_operator.metrics import Metrics

logger = logging.getLogger(__name__)

CONFLICTS: Final = frozenset({404, 409})
"""The Lease isn't what we read any more: read again before anything else."""
GIVE_BACK_SECONDS: Final = 3.0
JOIN_SECONDS: Final = 5.0


class Lease(Protocol):
    """Where the Lease is kept."""

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Close all sockets."""

    async def read(self) -> Record | None:
        """What it says, None if there is none."""

    async def write(self, record: Record) -> Record:
        """Create or change it."""


def end(why: str) -> None:
    """Say why, and end this process at once: whatever it still wants to write is another's business now."""
    logger.error("%s; this process ends", why)
    os._exit(1)


@dataclass(kw_only=True)
class Leadership:
    """One candidate."""

    lease: Lease
    """Used in the candidate's thread only."""
    name: str
    """The Lease in words: namespace/name."""
    identity: str
    """Unlike any other candidate's, and unlike our own before a restart."""
    terms: Terms
    metrics: Metrics
    lost: Callable[[str], None] = end
    """Told, in the candidate's thread, why we lead no more."""
    clock: Callable[[], float] = time.monotonic
    random_number: Callable[[], float] = random.random
    _won: Callable[[], None] = lambda: None
    _seen: Sighting = field(default_factory=Sighting)
    _reread: bool = True
    _renewed: float | None = None
    """When the last successful renewal was sent; None: not the leader."""
    _answered: float = float("-inf")
    _turned: float = float("-inf")
    _told: str = ""
    _asked_to_wait: float = 0.0
    """Seconds that the API server wants to be left alone, since the last attempt."""
    _stopping: bool = False
    _loop: asyncio.AbstractEventLoop | None = None
    _task: asyncio.Task[None] | None = None
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        labels = (("name", self.name),)
        self.metrics.gauge(
            "leader_election_master_status", "Whether this process leads.", lambda: {labels: float(self.leads())}
        )

    def start(self, won: Callable[[], None]) -> None:
        """Begin to want the Lease; once is enough.

        Args:
            won: called in the event loop that runs now, as soon as we lead.
        """
        if self._thread is None:
            loop = asyncio.get_running_loop()
            self._won = lambda: _call(loop, won)
            self._thread = threading.Thread(target=self._run, name="leader election", daemon=True)
            self._turned = self.clock()
            self._thread.start()

    def leads(self) -> bool:
        """Whether we may write now: asked before each write, so that one who slept too long writes nothing."""
        renewed = self._renewed
        return renewed is not None and self.clock() < renewed + self.terms.renew_deadline

    def silent_seconds(self) -> float:
        """Since the API server last said anything about the Lease."""
        return self.clock() - self._answered

    def stuck_seconds(self) -> float:
        """By how much the thread is behind; a restart helps if that is long."""
        return 0.0 if self._thread is None else max(0.0, self.clock() - self._turned - self.terms.renew_deadline)

    async def stop(self) -> None:
        """Want the Lease no more, and give it back if it is ours: call it when nothing is written any more."""
        if self._thread is None:
            return
        self._stopping = True
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            _call(loop, task.cancel)
        await asyncio.to_thread(self._thread.join, JOIN_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            pass  # told to stop
        except ConfigurationError as error:
            self.lost(f"no election for Lease {self.name}: {error}")
        except Exception as error:  # whatever went wrong: nobody would renew any more
            logger.exception("the election for Lease %s failed", self.name)
            self.lost(f"no election for Lease {self.name}: {error!r}")

    async def _main(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._stopping:
            return
        await self.lease.open()
        try:
            await self._campaign()
        except asyncio.CancelledError:
            await self._give_back()
            raise
        finally:
            await self.lease.close()

    async def _campaign(self) -> None:
        """Look or renew, again and again, until the Lease is lost."""
        while (why := self._loss()) is None:
            self._turned = self.clock()
            await self._attempt()
            if self._loss() is None:
                await asyncio.sleep(self._pause())
        self._renewed = None
        self.lost(why)

    def _loss(self) -> str | None:
        """Why we lead no more; None if we do, or never did."""
        if self._renewed is None:
            return None
        held = self._seen.record
        if held is not None and held.holder != self.identity:
            return f"Lease {self.name} is held by {held.holder or 'nobody'} now"
        if not self.leads():
            deadline = self.terms.renew_deadline
            return f"Lease {self.name} wasn't renewed for {deadline:g} s{self._told and ': '}{self._told}"
        return None

    def _pause(self) -> float:
        pause = election.pause(self.terms, self.random_number, leads=self._renewed is not None)
        if self._renewed is None:
            return max(pause, min(self._asked_to_wait, self.terms.renew_deadline))
        left = max(0.0, self._renewed + self.terms.renew_deadline - self.clock())
        # However long the API server asks for: whoever waits to the end has lost the Lease without another try.
        return min(max(pause, min(self._asked_to_wait, left / 2)), left)

    async def _attempt(self) -> None:
        """Read the Lease if need be, and write it if it is ours to take; a failure is told once."""
        try:
            async with asyncio.timeout(self._patience()):
                if self._reread or self._renewed is None:
                    await self._look()
                try:
                    await self._bid()
                except ApiError as error:
                    if error.status not in CONFLICTS:
                        raise
                    await self._look()
        except (ApiError, TimeoutError) as error:
            self._reread = True
            self._asked_to_wait = getattr(error, "retry_after", None) or 0.0
            self._complain(str(error) or f"no answer about Lease {self.name} in time")
        else:
            self._answered, self._asked_to_wait = self.clock(), 0.0
            self._complain("")

    def _patience(self) -> float:
        """How long one attempt may take: half of the deadline, and never beyond it."""
        half = self.terms.renew_deadline / 2
        left = half if self._renewed is None else self._renewed + self.terms.renew_deadline - self.clock()
        return min(half, left)

    async def _look(self) -> None:
        found = await self.lease.read()
        before = self._seen.record
        self._seen = election.look(self._seen, found, self.clock())
        self._reread = False
        held = self._seen.record
        another = held is not None and held.holder not in ("", self.identity)
        if held and another and self._renewed is None and (before is None or before.holder != held.holder):
            logger.info("standing by: Lease %s is held by %s", self.name, held.holder)

    async def _bid(self) -> None:
        sent = self.clock()
        record = election.bid(self._seen, self.identity, self.terms, sent, _wall())
        if record is None or self._loss() is not None:
            return
        self._seen = Sighting(record=await self.lease.write(record), since=self.clock())
        first, self._renewed = self._renewed is None, sent
        if first:
            logger.info("leading: Lease %s is held by %s", self.name, self.identity)
            self._won()

    def _complain(self, why: str) -> None:
        if why and why != self._told:
            logger.warning("%s", why)
        self._told = why

    async def _give_back(self) -> None:
        """Let the next one begin at once. First we lead no more, then we say so."""
        self._renewed = None
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                try:
                    await self._hand_over()
                except ApiError as error:
                    if error.status not in CONFLICTS:
                        raise
                    # A renewal was on its way when we were told to stop, and came between the read and the write.
                    await self._hand_over()
        except (ApiError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            logger.warning("couldn't give Lease %s back, it runs out by itself: %s", self.name, why)

    async def _hand_over(self) -> None:
        held = await self.lease.read()
        if held is not None and held.holder == self.identity:
            await self.lease.write(election.given_back(held, _wall()))
            logger.info("gave Lease %s back", self.name)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        logger.debug("the event loop is closed already")


def _wall() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
