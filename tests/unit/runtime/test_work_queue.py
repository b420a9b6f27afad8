"""The work queue never loses a key, never works on one twice at once, is fair, and slows down when things fail."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_operator.metrics import Metrics
from bert_operator.work_queue import LONGEST_DELAY, PAUSE, Done, Key, Schedule, WorkQueue
from support import virtual_time

A: Key = ("blue", "a")
B: Key = ("blue", "b")
C: Key = ("green", "c")


def no_jitter() -> float:
    return 0.5


class RefusedError(Exception):
    expected = True

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__("the server said no")
        self.retry_after = retry_after


def test_a_key_added_twice_is_worked_on_once() -> None:
    schedule = Schedule()
    assert schedule.add(A, 0.0)
    assert not schedule.add(A, 1.0)
    assert schedule.take(3.0) == (A, 3.0)
    assert schedule.take(3.0) is None


def test_a_key_added_while_it_is_worked_on_comes_again_afterwards() -> None:
    schedule = Schedule()
    schedule.add(A, 0.0)
    schedule.take(0.0)
    schedule.add(A, 1.0)
    assert schedule.take(1.0) is None
    schedule.finish(A, Done(), 2.0)
    assert schedule.take(2.0) == (A, 0.0)


def test_a_key_added_while_it_fails_does_not_wait_for_the_back_off() -> None:
    schedule = Schedule()
    schedule.add(A, 0.0)
    schedule.take(0.0)
    schedule.add(A, 1.0)
    schedule.fail(A, 2.0)
    taken = schedule.take(2.0)
    assert taken is not None
    assert taken[0] == A


def test_namespaces_take_turns() -> None:
    schedule = Schedule()
    for number in range(3):
        schedule.add(("loud", str(number)), 0.0)
    schedule.add(("quiet", "x"), 0.0)
    order = [taken[0] for _ in range(4) if (taken := schedule.take(0.0))]
    assert order[:2] == [("loud", "0"), ("quiet", "x")]
    assert order[2:] == [("loud", "1"), ("loud", "2")]


def test_the_earliest_delayed_wish_wins() -> None:
    schedule = Schedule()
    schedule.add_at(A, 10.0)
    schedule.add_at(A, 5.0)
    schedule.add_at(A, 20.0)
    assert schedule.next_due() == 5.0
    assert schedule.ripen(5.0) == [A]
    assert schedule.next_due() is None


def test_work_answers_the_delayed_wishes_made_before_it() -> None:
    schedule = Schedule()
    schedule.add_at(A, 10.0)
    schedule.add(A, 0.0)
    schedule.take(0.0)
    schedule.finish(A, Done(again_after=60.0), 1.0)
    assert schedule.next_due() == 61.0


def test_failures_wait_ever_longer_up_to_a_minute() -> None:
    schedule = Schedule(no_jitter)
    delays = []
    for _ in range(10):
        schedule.add(A, 0.0)
        schedule.take(0.0)
        delays.append(schedule.fail(A, 0.0))
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_a_thousand_failures_do_not_break_the_arithmetic() -> None:
    schedule = Schedule(no_jitter)
    for _ in range(2000):
        schedule.add(A, 0.0)
        schedule.take(0.0)
        assert schedule.fail(A, 0.0) <= LONGEST_DELAY


def test_success_forgets_the_failures() -> None:
    schedule = Schedule(no_jitter)
    for _ in range(3):
        schedule.add(A, 0.0)
        schedule.take(0.0)
        schedule.fail(A, 0.0)
    schedule.add(A, 0.0)
    schedule.take(0.0)
    schedule.finish(A, Done(), 0.0)
    schedule.add(A, 0.0)
    schedule.take(0.0)
    assert schedule.fail(A, 0.0) == 0.5


@given(st.floats(0, 1), st.integers(1, 30))
def test_jitter_stays_within_a_fifth_and_under_the_cap(chance: float, tries: int) -> None:
    schedule, plain = Schedule(lambda: chance), Schedule(no_jitter)
    for each in (schedule, plain):
        for _ in range(tries):
            each.add(A, 0.0)
            each.take(0.0)
            delay = each.fail(A, 0.0)
        if each is plain:
            expected = delay
        else:
            seen = delay
    assert expected * 0.8 - 1e-9 <= seen <= min(expected * 1.2, LONGEST_DELAY) + 1e-9


def test_the_servers_wish_to_wait_is_respected() -> None:
    schedule = Schedule(no_jitter)
    schedule.add(A, 0.0)
    schedule.take(0.0)
    assert schedule.fail(A, 0.0, retry_after=17.0) == 17.0
    assert schedule.ripen(16.9) == []
    assert schedule.ripen(17.0) == [A]


def test_no_event_makes_a_key_come_earlier_than_the_server_asked_for() -> None:
    schedule = Schedule(no_jitter)
    schedule.add(A, 0.0)
    schedule.take(0.0)
    schedule.add(A, 0.5)
    schedule.fail(A, 1.0, retry_after=17.0)
    schedule.add(A, 2.0)
    assert schedule.take(17.9) is None
    assert schedule.ripen(18.0) == [A]
    assert schedule.take(18.0) == (A, 0.0)
    schedule.finish(A, Done(), 18.0)
    assert schedule.add(A, 18.0), "and then all is as before"


def test_after_a_write_the_key_is_looked_at_at_once_but_a_plan_that_never_rests_slows_down() -> None:
    schedule = Schedule(no_jitter)
    gaps = []
    for _ in range(6):
        schedule.add(A, 0.0)
        schedule.take(0.0)
        schedule.finish(A, Done(wrote=True, again_after=600.0), 0.0)
        due = schedule.next_due()
        assert due is not None
        gaps.append(due)
    assert gaps == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]


def test_news_that_may_wait_is_worked_on_at_once_but_then_gathers() -> None:
    schedule = Schedule()
    assert schedule.add_calmly(A, 10.0), "after a rest at once"
    assert schedule.take(10.0)
    schedule.add_calmly(A, 10.1)
    schedule.finish(A, Done(again_after=600.0), 10.2)
    for moment in (10.2, 10.3, 10.4):
        schedule.add_calmly(A, moment)
        assert schedule.take(moment) is None
    assert schedule.next_due() == 10.0 + PAUSE
    assert schedule.ripen(10.0 + PAUSE) == [A], "once for all of them"
    schedule.add(A, 10.6)
    assert schedule.take(10.6), "what may not wait does not"


def test_answered_wishes_do_not_pile_up() -> None:
    schedule = Schedule()
    for moment in range(10_000):
        schedule.add(A, moment)
        schedule.take(moment)
        schedule.finish(A, Done(again_after=1e6), moment)
    assert len(schedule._heap) < 100


def test_the_longest_wait_is_told() -> None:
    schedule = Schedule()
    schedule.add(A, 10.0)
    schedule.add(B, 12.0)
    assert schedule.oldest_waiting(15.0) == 5.0
    schedule.take(15.0)
    schedule.add(A, 15.0)
    assert schedule.oldest_waiting(20.0) == 8.0
    assert schedule.longest_running(20.0) == 5.0


class Steps:
    """Any interleaving of everything that can happen to a schedule."""

    def __init__(self, seed: int) -> None:
        self.schedule = Schedule(random.Random(seed).random)  # noqa: S311 - a repeatable script
        self.now = 0.0
        self.running: list[Key] = []
        self.owed: set[Key] = set()

    def add(self, key: Key) -> None:
        self.schedule.add(key, self.now)
        self.owed.add(key)

    def add_later(self, key: Key, seconds: float) -> None:
        self.schedule.add_at(key, self.now + seconds)
        self.owed.add(key)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.schedule.ripen(self.now)

    def take(self) -> None:
        taken = self.schedule.take(self.now)
        if taken is not None:
            assert taken[0] not in self.running, "worked on twice at once"
            self.running.append(taken[0])
            self.owed.discard(taken[0])

    def end(self, *, well: bool, again: float | None) -> None:
        if not self.running:
            return
        key = self.running.pop(0)
        if well:
            self.schedule.finish(key, Done(again_after=again), self.now)
            if again is not None:
                self.owed.add(key)
        else:
            self.schedule.fail(key, self.now)
            self.owed.add(key)

    def drain(self) -> None:
        for _ in range(1000):
            self.take()
            if self.running:
                self.end(well=True, again=None)
                continue
            due = self.schedule.next_due()
            if due is None:
                return
            self.pass_time(max(0.0, due - self.now))


keys = st.sampled_from([A, B, C])
steps = st.one_of(
    st.tuples(st.just("add"), keys),
    st.tuples(st.just("add_later"), keys, st.floats(0, 100)),
    st.tuples(st.just("pass_time"), st.floats(0, 50)),
    st.tuples(st.just("take")),
    st.tuples(st.just("end"), st.booleans(), st.none() | st.floats(0, 100)),
)


@settings(max_examples=300)
@given(st.lists(steps, max_size=60), st.integers(0, 1000))
def test_no_interleaving_loses_a_key_or_runs_it_twice_at_once(script: list[tuple[object, ...]], seed: int) -> None:
    world = Steps(seed)
    for name, *arguments in script:
        if name == "end":
            world.end(well=bool(arguments[0]), again=arguments[1])  # type: ignore[arg-type]
        else:
            getattr(world, str(name))(*arguments)
    world.drain()
    assert world.owed == set(), "asked for and never worked on"
    assert world.schedule.depth == 0
    assert world.schedule.running == 0


Behaviour = Callable[[Key, int], Done]


class Recorder:
    """Work that takes a second and tells how it went."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.runs: list[tuple[Key, float]] = []
        self.counts: Counter[Key] = Counter()
        self.at_once: Counter[Key] = Counter()
        self.most_at_once = 0

    async def __call__(self, key: Key) -> Done:
        self.runs.append((key, asyncio.get_running_loop().time()))
        self.counts[key] += 1
        self.at_once[key] += 1
        assert self.at_once[key] == 1
        self.most_at_once = max(self.most_at_once, self.at_once.total())
        try:
            await asyncio.sleep(1)
            return self.behaviour(key, self.counts[key])
        finally:
            self.at_once[key] -= 1


def start(work: Recorder, workers: int = 4) -> WorkQueue:
    clock = asyncio.get_running_loop().time
    queue = WorkQueue(work=work, workers=workers, metrics=Metrics(), clock=clock, schedule=Schedule(no_jitter))
    queue.start()
    return queue


def test_nothing_runs_before_the_queue_is_opened() -> None:
    async def main() -> None:
        work = Recorder(lambda _key, _n: Done())
        queue = start(work)
        queue.add(A)
        await asyncio.sleep(100)
        assert work.runs == []
        assert queue.oldest_waiting_seconds() == pytest.approx(100, abs=0.1)
        queue.open()
        await asyncio.sleep(2)
        assert [key for key, _ in work.runs] == [A]
        await queue.stop()

    virtual_time.run(main())


def test_at_most_so_many_workers_run() -> None:
    async def main() -> None:
        work = Recorder(lambda _key, _n: Done())
        queue = start(work, workers=3)
        queue.open()
        for number in range(10):
            queue.add(("n", str(number)))
        await asyncio.sleep(10)
        assert work.most_at_once == 3
        assert len(work.counts) == 10
        await queue.stop()

    virtual_time.run(main())


def test_a_failure_is_tried_again_and_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def behave(_key: Key, count: int) -> Done:
        if count < 3:
            raise RefusedError
        return Done()

    async def main() -> None:
        work = Recorder(behave)
        queue = start(work)
        queue.open()
        queue.add(A)
        await asyncio.sleep(30)
        moments = [moment for _, moment in work.runs]
        assert [round(b - a, 2) for a, b in pairwise(moments)] == [1.5, 2.0]
        assert "workqueue_retries_total" in queue.metrics.render()
        await queue.stop()

    with caplog.at_level(logging.WARNING):
        virtual_time.run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "blue/a: the server said no; trying again in 0.5 s",
        "blue/a: the server said no; trying again in 1.0 s",
    ]
    assert all(record.exc_info is None for record in caplog.records)


def test_a_mistake_of_ours_is_logged_with_its_traceback_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def behave(key: Key, count: int) -> Done:
        if key == A and count == 1:
            raise ZeroDivisionError
        return Done()

    async def main() -> None:
        work = Recorder(behave)
        queue = start(work)
        queue.open()
        queue.add(A)
        queue.add(C)
        await asyncio.sleep(30)
        assert work.counts == {A: 2, C: 1}
        await queue.stop()

    virtual_time.run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].exc_info


def test_a_wish_to_be_looked_at_later_is_kept() -> None:
    async def main() -> None:
        work = Recorder(lambda _key, count: Done(again_after=500.0 if count < 3 else None))
        queue = start(work)
        queue.open()
        queue.add(A)
        await asyncio.sleep(5000)
        moments = [moment for _, moment in work.runs]
        assert [round(b - a) for a, b in pairwise(moments)] == [501, 501]
        await queue.stop()

    virtual_time.run(main())


def test_an_earlier_add_after_interrupts_a_long_sleep() -> None:
    async def main() -> None:
        work = Recorder(lambda _key, _n: Done())
        queue = start(work)
        queue.open()
        queue.add_after(A, 1000)
        await asyncio.sleep(1)
        queue.add_after(A, 5)
        await asyncio.sleep(7)
        assert work.counts[A] == 1
        await queue.stop()

    virtual_time.run(main())


def test_stopping_lets_running_work_finish_and_begins_nothing_new() -> None:
    async def main() -> None:
        finished = []
        work = Recorder(lambda key, _n: finished.append(key) or Done())  # type: ignore[func-returns-value]
        queue = start(work, workers=1)
        queue.open()
        queue.add(A)
        queue.add(B)
        await asyncio.sleep(0.5)
        await queue.stop(grace=5)
        assert finished == [A]
        assert [key for key, _ in work.runs] == [A]

    virtual_time.run(main())


def test_stopping_cancels_work_that_outlives_the_grace() -> None:
    async def main() -> None:
        async def forever(_key: Key) -> Done:
            await asyncio.sleep(1e9)
            return Done()

        clock = asyncio.get_running_loop().time
        queue = WorkQueue(work=forever, workers=1, metrics=Metrics(), clock=clock)
        queue.start()
        queue.open()
        queue.add(A)
        await asyncio.sleep(1)
        before = clock()
        await queue.stop(grace=5)
        assert clock() - before == pytest.approx(5, abs=0.1)
        assert queue._tasks == set()

    virtual_time.run(main())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(keys, st.floats(0, 20)), max_size=30), st.integers(0, 100), st.integers(1, 4))
def test_whatever_fails_in_the_end_every_key_was_worked_on_after_its_last_add(
    adds: list[tuple[Key, float]], seed: int, workers: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - a repeatable script

    def behave(_key: Key, count: int) -> Done:
        if count < 8 and chance.random() < 0.4:
            raise RefusedError
        return Done(wrote=count < 8 and chance.random() < 0.2)

    async def main() -> None:
        work = Recorder(behave)
        queue = start(work, workers)
        queue.open()
        last: dict[Key, float] = {}
        for key, pause in adds:
            await asyncio.sleep(pause)
            queue.add(key)
            last[key] = asyncio.get_running_loop().time()
        await asyncio.sleep(2000)
        for key, moment in last.items():
            assert max(at for worked, at in work.runs if worked == key) >= moment
        assert queue.schedule.depth == 0
        await queue.stop()

    virtual_time.run(main())
