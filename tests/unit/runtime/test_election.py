"""Who leads, decided from what was seen of the Lease and a monotonic clock alone."""

from dataclasses import replace

import pytest

from bert_operator.election import Record, Sighting, Terms, bid, given_back, look, pause

TERMS = Terms(duration=15, renew_deadline=10, retry_period=2)
WALL = "2026-01-01T00:00:00.000000Z"
THEIRS = Record(holder="b", duration=15, transitions=4, acquired="1999", renewed="2099", version="7")
MINE = replace(THEIRS, holder="a")


@pytest.mark.parametrize(
    ("held", "age", "wins"),
    [
        pytest.param(None, 0, True, id="there is none"),
        pytest.param(replace(THEIRS, holder=""), 0, True, id="given back"),
        pytest.param(MINE, 0, True, id="mine"),
        pytest.param(MINE, 999, True, id="mine, long ago"),
        pytest.param(THEIRS, 0, False, id="another's"),
        pytest.param(THEIRS, 14.9, False, id="another's, nearly run out"),
        pytest.param(THEIRS, 15, True, id="another's, run out"),
        pytest.param(replace(THEIRS, duration=60), 59, False, id="another's, who promised longer"),
        pytest.param(replace(THEIRS, duration=5), 5, True, id="another's, who promised less"),
        pytest.param(replace(THEIRS, duration=0), 14, False, id="another's, who promised nothing"),
        pytest.param(replace(THEIRS, duration=0), 15, True, id="another's, who promised nothing, run out by my terms"),
        pytest.param(replace(THEIRS, version=""), 3, False, id="another's, deleted: it will be back"),
        pytest.param(replace(THEIRS, version=""), 15, True, id="another's, deleted and not made again"),
        pytest.param(replace(THEIRS, renewed="1970"), 3, False, id="another's, whose clock is wrong"),
    ],
)
def test_a_lease_is_taken_only_from_nobody_or_from_one_who_was_silent_for_as_long_as_it_said(
    held: Record | None, age: float, *, wins: bool
) -> None:
    wanted = bid(Sighting(record=held, since=100), "a", TERMS, 100 + age, WALL)
    assert (wanted is not None) == wins
    if wanted is not None:
        assert (wanted.holder, wanted.duration, wanted.renewed) == ("a", 15, WALL)
        assert wanted.version == (held.version if held else ""), "it changes what was seen, and nothing newer"


def test_a_renewal_keeps_when_it_began_and_a_new_leader_counts_as_a_transition() -> None:
    renewed = bid(Sighting(record=MINE), "a", TERMS, 0, WALL)
    assert renewed == replace(MINE, renewed=WALL)
    taken = bid(Sighting(record=THEIRS), "a", TERMS, 99, WALL)
    assert taken is not None
    assert (taken.transitions, taken.acquired) == (5, WALL)


def test_only_a_change_starts_the_wait_anew() -> None:
    seen = look(Sighting(), THEIRS, 10)
    assert look(seen, THEIRS, 12).since == 10
    labelled = look(seen, replace(THEIRS, version="8"), 12)
    assert (labelled.since, labelled.record) == (10, replace(THEIRS, version="8"))
    assert look(seen, replace(THEIRS, renewed="2100", version="8"), 12).since == 12
    assert look(seen, replace(THEIRS, holder="c", version="8"), 12).since == 12


def test_a_lease_that_vanished_is_created_and_not_changed_and_only_after_its_time() -> None:
    vanished = look(look(Sighting(), THEIRS, 10), None, 12)
    assert bid(vanished, "a", TERMS, 24, WALL) is None
    created = bid(vanished, "a", TERMS, 25, WALL)
    assert created is not None
    assert created.version == ""
    assert look(vanished, replace(THEIRS, renewed="2100", version="1"), 13).since == 13, "its holder made it again"
    assert look(Sighting(), None, 5).record is None


def test_what_is_given_back_is_anybodys_at_once() -> None:
    left = given_back(MINE, WALL)
    assert (left.holder, left.version) == ("", "7")
    assert bid(look(Sighting(), left, 5), "b", TERMS, 5, WALL) is not None


@pytest.mark.parametrize(("leads", "longest"), [(True, 2.0), (False, 1.0)])
def test_candidates_do_not_move_in_step_and_a_standby_looks_twice_as_often(*, leads: bool, longest: float) -> None:
    pauses = [pause(TERMS, lambda number=number: number, leads=leads) for number in (0.0, 0.5, 1.0)]  # type: ignore[misc]
    assert pauses == [longest, longest * 0.875, longest * 0.75]
