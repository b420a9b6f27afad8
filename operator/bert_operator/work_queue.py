"""The work queue: which BertDeployment is looked at next, and when again. `handlers` adds keys and starts it.

Keys are deduplicated; one key is never worked on twice at once; namespaces take turns; failures wait longer each
time. It knows nothing of Kubernetes: work is a callable. Nothing in it survives a restart, and nothing needs to: the
first listings name every key again.
"""

import asyncio
import contextlib
import heapq
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from bert_operator.metrics import Metrics

logger = logging.getLogger(__name__)

Key = tuple[str, str]
"""(namespace, name)."""

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 60.0
JITTER: Final = 0.2
STALE_ENTRIES: Final = 64
PAUSE: Final = 0.5
"""Seconds from the start of one piece of work to the next, for news that may wait: pods come and go many at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """How a piece of work ended well."""

    again_after: float | None = None
    """Look again then, even if nothing stirs; None forgets the key."""
    wrote: bool = False
    """It changed the world: look at once whether that was enough; then ever later if it keeps changing it."""


class Schedule:
    """Who is next: pure bookkeeping, told the time, never waiting."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._ready: dict[str, dict[Key, float]] = {}
        self._turns: deque[str] = deque()
        self._running: dict[Key, float] = {}
        self._dirty: dict[Key, float] = {}
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._tries: dict[Key, int] = {}
        self._worked: dict[Key, float] = {}
        self._closed: dict[Key, float] = {}
        """Until when the server asked us to leave a key alone, whatever happens to it."""

    def add(self, key: Key, now: float) -> bool:
        """Ask for a key to be worked on as soon as possible.

        Returns:
            Whether it was not waiting already.
        """
        if (opens := self._closed.pop(key, now)) > now:
            self._closed[key] = opens
            self.add_at(key, opens)
            return False
        waiting = self._dirty if key in self._running else self._ready.get(key[0], {})
        if key in waiting:
            return False
        if key in self._running:
            self._dirty[key] = now
            return True
        if key[0] not in self._ready:
            self._ready[key[0]] = {}
            self._turns.append(key[0])
        self._ready[key[0]][key] = now
        return True

    def add_calmly(self, key: Key, now: float) -> bool:
        """Ask for a key to be worked on: at once, or if it was a moment ago, after a pause that gathers more such news.

        Returns:
            Whether it is ready and was not waiting already.
        """
        due = self._worked.get(key, float("-inf")) + PAUSE
        if due <= now:
            return self.add(key, now)
        self.add_at(key, due)
        return False

    def add_at(self, key: Key, due: float) -> None:
        """Ask for a key to be worked on at a later time; the earliest such wish wins."""
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
        if len(self._heap) > STALE_ENTRIES + 2 * len(self._due):
            # Wishes that were answered earlier than due stay in the heap; don't let them pile up until then.
            self._heap = [(due, key) for key, due in self._due.items()]
            heapq.heapify(self._heap)

    def ripen(self, now: float) -> list[Key]:
        """Make everything ready whose time has come, and name what was not waiting already."""
        ripe = []
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                if self.add(key, now):
                    ripe.append(key)
        return ripe

    def take(self, now: float) -> tuple[Key, float] | None:
        """The next key and how long it waited; it counts as running until `finish` or `fail`."""
        if not self._turns:
            return None
        namespace = self._turns.popleft()
        keys = self._ready[namespace]
        key = next(iter(keys))
        added = keys.pop(key)
        if keys:
            self._turns.append(namespace)
        else:
            del self._ready[namespace]
        self._running[key] = self._worked[key] = now
        # What it asked for earlier is answered now; it will say anew when it wants to be looked at.
        self._due.pop(key, None)
        return key, now - added

    def finish(self, key: Key, done: Done, now: float) -> None:
        """Work on a key ended well."""
        self._end(key, now)
        if done.wrote:
            self.add_at(key, now + self._again(key))
        else:
            self._tries.pop(key, None)
        if done.again_after is not None:
            self.add_at(key, now + done.again_after)
        elif not done.wrote:
            self._worked.pop(key, None)

    def fail(self, key: Key, now: float, retry_after: float = 0.0) -> float:
        """Work on a key failed.

        Returns:
            Seconds until it is tried again.
        """
        if retry_after:
            self._closed[key] = now + min(retry_after, LONGEST_DELAY)
        self._end(key, now)
        self._tries[key] = self._tries.get(key, 0) + 1
        delay = max(self._delay(self._tries[key]), retry_after)
        self.add_at(key, now + delay)
        return delay

    def next_due(self) -> float | None:
        """When something ripens next."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    @property
    def depth(self) -> int:
        """Keys that wait to be worked on."""
        return sum(map(len, self._ready.values())) + len(self._dirty)

    @property
    def running(self) -> int:
        """Keys that are being worked on."""
        return len(self._running)

    def oldest_waiting(self, now: float) -> float:
        """Seconds that the longest waiting key has waited."""
        times = [added for keys in self._ready.values() for added in keys.values()]
        return max((now - added for added in (*times, *self._dirty.values())), default=0.0)

    def longest_running(self, now: float) -> float:
        """Seconds that the longest piece of work has taken so far."""
        return max((now - since for since in self._running.values()), default=0.0)

    def unfinished(self, now: float) -> float:
        """Seconds that all work in progress has taken so far, together."""
        return sum(now - since for since in self._running.values())

    def _end(self, key: Key, now: float) -> None:
        del self._running[key]
        if self._dirty.pop(key, None) is not None:
            self.add(key, now)

    def _again(self, key: Key) -> float:
        """Once at once, since a write changes what should be said of the world; a plan that never rests slows down."""
        tries = self._tries.get(key, 0)
        self._tries[key] = tries + 1
        return self._delay(tries) if tries else 0.0

    def _delay(self, tries: int) -> float:
        # The exponent is bounded because 2.0**1024 is an OverflowError.
        plain = min(FIRST_DELAY * 2.0 ** min(tries - 1, 16), LONGEST_DELAY)
        return min(plain * (1 - JITTER + 2 * JITTER * self._jitter()), LONGEST_DELAY)


@dataclass(kw_only=True)
class WorkQueue:
    """Runs work for keys, a bounded number at once."""

    work: Callable[[Key], Awaitable[Done]]
    workers: int
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    schedule: Schedule = field(default_factory=Schedule)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _open: bool = False
    _stopping: bool = False
    _dispatcher: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self) -> None:
        """Begin to wait for `open`; call it inside the event loop."""
        self.metrics.queue_gauges(self.schedule, self.clock, self.workers)
        self._dispatcher = asyncio.create_task(self._dispatch(), name="work queue")

    def open(self) -> None:
        """Let work begin. Until then keys only gather."""
        if not self._open:
            self._open = True
            self._wake.set()

    def add(self, key: Key) -> None:
        """Look at this key as soon as possible."""
        if self.schedule.add(key, self.clock()):
            self.metrics.added()
        self._wake.set()

    def add_calmly(self, key: Key) -> None:
        """Look at this key soon: at once unless it was looked at a moment ago."""
        if self.schedule.add_calmly(key, self.clock()):
            self.metrics.added()
        self._wake.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Look at this key later; the earliest wish wins."""
        self.schedule.add_at(key, self.clock() + seconds)
        self._wake.set()

    def oldest_waiting_seconds(self) -> float:
        """How long the longest waiting key has waited."""
        return self.schedule.oldest_waiting(self.clock())

    def longest_running_seconds(self) -> float:
        """How long the longest piece of work has taken so far."""
        return self.schedule.longest_running(self.clock())

    async def stop(self, grace: float = 10.0) -> None:
        """Begin nothing new, let what runs finish within the grace, then cancel it."""
        self._stopping = True
        self._wake.set()
        if self._dispatcher is not None:
            await self._dispatcher
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _dispatch(self) -> None:
        while not self._stopping:
            self._wake.clear()
            for _ in self.schedule.ripen(self.clock()):
                self.metrics.added()
            self._begin()
            await self._sleep()

    def _begin(self) -> None:
        while self._open and len(self._tasks) < self.workers:
            taken = self.schedule.take(self.clock())
            if taken is None:
                return
            key, waited = taken
            self.metrics.took(waited)
            task = asyncio.create_task(self._run(key), name=f"reconcile {key[0]}/{key[1]}")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    async def _run(self, key: Key) -> None:
        started = self.clock()
        try:
            done = await self.work(key)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the key must be tried again
            self._failed(key, error, started)
        except asyncio.CancelledError:
            self.schedule.fail(key, self.clock())
            raise
        else:
            self.schedule.finish(key, done, self.clock())
            self.metrics.ended("requeue_after" if done.again_after is not None else "success", self.clock() - started)

    def _failed(self, key: Key, error: Exception, started: float) -> None:
        retry_after = getattr(error, "retry_after", None) or 0.0
        delay = self.schedule.fail(key, self.clock(), retry_after)
        self.metrics.retried()
        self.metrics.ended("error", self.clock() - started)
        # What the API server says is told in one line; a traceback is for our own mistakes only.
        known = getattr(error, "expected", False)
        logger.log(
            logging.WARNING if known else logging.ERROR,
            "%s/%s: %s; trying again in %.1f s",
            *key,
            error if known else repr(error),
            delay,
            exc_info=None if known else error,
        )

    async def _sleep(self) -> None:
        due = self.schedule.next_due()
        timeout = None if due is None else max(0.0, due - self.clock())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), timeout)
