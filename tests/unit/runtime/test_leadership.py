"""Two candidates and a Lease in memory: one leads, and one who can't be sure of it any more stops."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from bert_operator.cluster.errors import ApiError
from bert_operator.election import Record, Terms
from bert_operator.leadership import Leadership
from bert_operator.metrics import Metrics
from support import virtual_time

TERMS = Terms(duration=15, renew_deadline=10, retry_period=2)


def refused(status: int, message: str = "no") -> ApiError:
    return ApiError(status=status, reason="Refused", message=message, what="write Lease ns/op")


@dataclass
class FakeLease:
    """What an API server keeps: one object, changed only by who has read its newest version."""

    record: Record | None = None
    version: int = 0
    trouble: Callable[[], Awaitable[None]] | None = None
    """Awaited before each call."""
    writes: list[Record] = field(default_factory=list)

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def read(self) -> Record | None:
        await self._hindered()
        return self.record

    async def write(self, record: Record) -> Record:
        await self._hindered()
        if record.version and self.record is None:
            raise refused(404)
        if record.version != (self.record.version if self.record else ""):
            raise refused(409)
        self.version += 1
        self.record = replace(record, version=str(self.version))
        self.writes.append(self.record)
        return self.record

    async def _hindered(self) -> None:
        if self.trouble is not None:
            await self.trouble()

    def taken_by(self, name: str) -> None:
        assert self.record is not None
        self.record = replace(self.record, holder=name, version="99")

    @property
    def holder(self) -> str:
        return self.record.holder if self.record else "nobody"


@dataclass
class One:
    """A candidate without a thread, by the clock of the event loop."""

    lease: FakeLease
    name: str = "a"
    lost: list[str] = field(default_factory=list)
    won: int = 0

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.leadership = Leadership(
            lease=self.lease,
            name="ns/op",
            identity=self.name,
            terms=TERMS,
            metrics=self.metrics,
            lost=self.lost.append,
            clock=lambda: asyncio.get_running_loop().time(),
            random_number=lambda: 0.0,
        )
        self.leadership._won = self._has_won
        self.task: asyncio.Task[None] | None = None

    def _has_won(self) -> None:
        self.won += 1

    def begin(self) -> "One":
        self.task = asyncio.create_task(self.leadership._main())
        return self

    async def end(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def over(seconds: float, *others: str, lease: FakeLease | None = None) -> tuple[FakeLease, list[One]]:
    """Let candidates live for a while in virtual time."""
    lease = lease or FakeLease()
    made = [One(lease, name) for name in others]

    async def main() -> None:
        for one in made:
            one.begin()
            await asyncio.sleep(0.1)
        await asyncio.sleep(seconds)
        for one in made:
            assert one.leadership.leads() == (one.name == lease.holder)
            await one.end()

    virtual_time.run(main())
    return lease, made


def test_the_first_leads_and_the_second_stands_by_until_it_is_given_the_lease() -> None:
    lease, (first, second) = over(600, "a", "b")
    assert (first.won, second.won, first.lost, second.lost) == (1, 0, [], [])
    assert {record.holder for record in lease.writes} == {"a", ""}
    assert lease.holder == "", "given back at its end"
    assert len(lease.writes) == pytest.approx(600 / 2, abs=3)


def test_a_successor_takes_over_soon_after_the_lease_was_given_back() -> None:
    async def main() -> None:
        lease = FakeLease()
        first = One(lease, "a").begin()
        await asyncio.sleep(0.1)
        second = One(lease, "b").begin()
        await asyncio.sleep(30)
        await first.end()
        assert not first.leadership.leads()
        await asyncio.sleep(1.1)
        assert second.leadership.leads()
        assert lease.record is not None
        assert lease.record.transitions == 1
        await second.end()

    virtual_time.run(main())


def test_a_renewal_that_lands_while_the_lease_is_given_back_does_not_keep_it() -> None:
    async def main() -> None:
        lease = FakeLease()
        only = One(lease, "a").begin()
        await asyncio.sleep(0.1)
        original = lease.read

        async def overtaken() -> Record | None:
            found = await original()
            lease.read = original  # type: ignore[method-assign]
            lease.taken_by("a")
            return found

        lease.read = overtaken  # type: ignore[method-assign]
        await only.end()
        assert lease.holder == ""

    virtual_time.run(main())


def test_one_that_dies_is_followed_when_its_lease_has_run_out_and_not_before() -> None:
    async def main() -> None:
        lease = FakeLease()
        first = One(lease, "a").begin()
        await asyncio.sleep(0.1)
        second = One(lease, "b").begin()
        await asyncio.sleep(30)
        assert first.task is not None
        first.leadership._give_back = _nothing  # type: ignore[method-assign]
        first.task.cancel()
        await asyncio.sleep(12.5)
        assert not second.leadership.leads()
        await asyncio.sleep(4.5)
        assert second.leadership.leads()
        await second.end()

    virtual_time.run(main())


async def _nothing() -> None:
    pass


def test_a_leader_that_cannot_renew_stops_before_anybody_else_may_begin(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop, lease = asyncio.get_running_loop(), FakeLease()
        only = One(lease, "a").begin()
        await asyncio.sleep(30)
        renewed = only.leadership._renewed
        lease.trouble = _raising(refused(500, "etcd is away"))
        while not only.lost:
            assert only.leadership.leads()
            await asyncio.sleep(0.1)
        assert renewed is not None
        assert not only.leadership.leads()
        assert loop.time() - renewed < 10.2
        assert only.lost == [
            "Lease ns/op wasn't renewed for 10 s: write Lease ns/op: Refused: etcd is away",
        ]

    virtual_time.run(main())
    assert len([record for record in caplog.records if "etcd is away" in record.message]) <= 2, "told once, not again"


def test_an_api_server_that_says_nothing_costs_the_lease_too() -> None:
    async def main() -> None:
        lease = FakeLease()
        only = One(lease, "a").begin()
        await asyncio.sleep(30)
        lease.trouble = asyncio.Event().wait  # type: ignore[assignment]
        await asyncio.sleep(10.1)
        assert only.lost == ["Lease ns/op wasn't renewed for 10 s: no answer about Lease ns/op in time"]

    virtual_time.run(main())


def test_errors_shorter_than_the_deadline_cost_nothing() -> None:
    async def main() -> None:
        lease = FakeLease()
        only = One(lease, "a").begin()
        await asyncio.sleep(30)
        lease.trouble = _raising(refused(429))
        await asyncio.sleep(6)
        lease.trouble = None
        await asyncio.sleep(30)
        assert only.leadership.leads()
        assert (only.won, only.lost) == (1, [])
        await only.end()

    virtual_time.run(main())


@pytest.mark.parametrize("leads", [True, False])
def test_an_api_server_that_asks_for_a_pause_gets_it(leads: bool) -> None:  # noqa: FBT001
    async def main() -> None:
        lease, asked = FakeLease(), []
        only = One(lease, "a")
        if leads:
            only.begin()
            await asyncio.sleep(1)

        async def busy() -> None:
            asked.append(asyncio.get_running_loop().time())
            raise ApiError(status=429, reason="TooManyRequests", message="busy", retry_after=3.0)

        lease.trouble = busy
        if not leads:
            only.begin()
        await asyncio.sleep(6)
        lease.trouble = None
        await asyncio.sleep(5)
        assert all(later - before >= 3.0 for before, later in itertools.pairwise(asked))
        assert len(asked) >= 2
        assert only.leadership.leads()
        assert only.lost == []
        await only.end()

    virtual_time.run(main())


def test_a_leader_that_is_asked_to_wait_for_longer_than_its_lease_lasts_tries_before_the_end() -> None:
    async def main() -> None:
        lease = FakeLease()
        only = One(lease, "a").begin()
        await asyncio.sleep(1)

        async def busy_once() -> None:
            lease.trouble = None
            raise ApiError(status=429, reason="TooManyRequests", message="busy", retry_after=30.0)

        lease.trouble = busy_once
        await asyncio.sleep(20)
        assert only.leadership.leads()
        assert (only.won, only.lost) == (1, [])
        await only.end()

    virtual_time.run(main())


def test_one_that_slept_too_long_may_not_write_and_ends_without_touching_the_lease() -> None:
    async def main() -> None:
        lease = FakeLease()
        only = One(lease, "a").begin()
        await asyncio.sleep(30)
        lease.taken_by("b")
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual_time.VirtualTimeLoop)
        before = len(lease.writes)
        loop.virtual.now += 30
        assert not only.leadership.leads()
        await asyncio.sleep(0.01)
        assert len(only.lost) == 1
        assert len(lease.writes) == before

    virtual_time.run(main())


def test_a_leader_whose_lease_another_holds_ends_at_its_next_renewal() -> None:
    async def main() -> None:
        lease = FakeLease()
        only = One(lease, "a").begin()
        await asyncio.sleep(30)
        lease.taken_by("b")
        await asyncio.sleep(2.1)
        assert only.lost == ["Lease ns/op is held by b now"]
        assert not only.leadership.leads()
        await asyncio.sleep(60)
        assert lease.holder == "b"

    virtual_time.run(main())


def test_a_deleted_lease_is_made_again_by_its_holder_and_not_by_the_standby() -> None:
    async def main() -> None:
        lease = FakeLease()
        first, second = One(lease, "a").begin(), One(lease, "b")
        await asyncio.sleep(0.1)
        second.begin()
        await asyncio.sleep(30)
        lease.record = None
        await asyncio.sleep(60)
        assert lease.holder == "a"
        assert (second.won, first.lost) == (0, [])
        await first.end()
        await second.end()

    virtual_time.run(main())


def test_a_write_whose_reply_was_lost_counts_only_once_it_is_seen() -> None:
    async def main() -> None:
        lease = FakeLease()
        only = One(lease, "a")
        original = lease.write

        async def swallowed(record: Record) -> Record:
            await original(record)
            raise refused(0, "connection reset")

        lease.write = swallowed  # type: ignore[method-assign]
        only.begin()
        await asyncio.sleep(0.5)
        assert lease.holder == "a"
        assert not only.leadership.leads()
        lease.write = original  # type: ignore[method-assign]
        await asyncio.sleep(1)
        assert only.leadership.leads()
        await only.end()

    virtual_time.run(main())


def test_one_who_may_not_read_the_lease_says_so_and_is_not_taken_for_well(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        only = One(FakeLease(trouble=_raising(refused(403, "leases is forbidden")))).begin()
        await asyncio.sleep(60)
        assert only.leadership.silent_seconds() > 60
        assert (only.won, only.lost) == (0, [])
        await only.end()

    virtual_time.run(main())
    assert [record.levelname for record in caplog.records if "leases is forbidden" in record.message][:1] == ["WARNING"]
    assert len(caplog.records) <= 2


def _raising(error: ApiError) -> Callable[[], Awaitable[None]]:
    async def trouble() -> None:
        raise error

    return trouble


# --- the thread ---------------------------------------------------------------------------------------------------


async def test_it_renews_in_a_thread_of_its_own_and_tells_the_loop_that_it_leads() -> None:
    loop, won, renewed = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    lease, metrics = FakeLease(), Metrics()
    threads: set[str] = set()

    async def note() -> None:
        threads.add(threading.current_thread().name)
        if len(lease.writes) >= 3:
            loop.call_soon_threadsafe(renewed.set)

    lease.trouble = note
    terms = Terms(duration=3, renew_deadline=2, retry_period=0.01)
    one = Leadership(lease=lease, name="ns/op", identity="a", terms=terms, metrics=metrics)
    assert 'leader_election_master_status{name="ns/op"} 0' in metrics.render()
    one.start(won.set)
    one.start(won.set)
    async with asyncio.timeout(10):
        await won.wait()
        assert one.leads()
        assert 'leader_election_master_status{name="ns/op"} 1' in metrics.render()
        await renewed.wait()
    await one.stop()
    assert threads == {"leader election"}
    assert lease.holder == ""
    assert not one.leads()


async def test_a_thread_that_fails_is_a_lost_lease() -> None:
    lost: list[str] = []
    lease = FakeLease(trouble=_raising(ValueError("a bug")))  # type: ignore[arg-type]
    terms = Terms(duration=3, renew_deadline=2, retry_period=0.01)
    one = Leadership(lease=lease, name="ns/op", identity="a", terms=terms, metrics=Metrics(), lost=lost.append)
    one.start(lambda: None)
    assert one._thread is not None
    await asyncio.to_thread(one._thread.join, 10)
    assert lost == ["no election for Lease ns/op: ValueError('a bug')"]
