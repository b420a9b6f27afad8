"""What vanished while nobody watched is found at the next listing; a silent watch is told from a quiet one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_operator.watches import Watches
from support.objects import an_object

KINDS = ("Pod", "Job")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pod(name: str) -> dict[str, Any]:
    return an_object("Pod", name)


def uids(stubs: list[dict[str, Any]]) -> set[str]:
    return {stub["metadata"]["uid"] for stub in stubs}


def test_the_first_listing_misses_nothing(clock: Clock) -> None:
    listing = Watches(clock).begin("Pod", None)
    listing.heard(None, pod("a"))
    assert listing.complete() == []


def test_what_a_later_listing_does_not_show_has_vanished(clock: Clock) -> None:
    watches = Watches(clock)
    first = watches.begin("Pod", None)
    first.heard(None, pod("listed"))
    first.complete()
    first.heard("ADDED", pod("added"))
    first.heard("ADDED", pod("deleted"))
    first.heard("DELETED", pod("deleted"))
    first.heard("ADDED", pod("stays"))
    second = watches.begin("Pod", None)
    second.heard(None, pod("stays"))
    gone = second.complete()
    assert uids(gone) == {"uid-Pod-listed", "uid-Pod-added"}
    assert gone[0]["kind"] == "Pod"
    assert gone[0]["metadata"] == {"uid": "uid-Pod-listed", "namespace": "ns", "name": "listed"}
    assert watches.begin("Pod", None).complete() == [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"uid": "uid-Pod-stays", "namespace": "ns", "name": "stays"}}
    ]


def test_a_listing_that_breaks_off_tells_of_nothing(clock: Clock) -> None:
    watches = Watches(clock)
    first = watches.begin("Pod", None)
    first.heard(None, pod("a"))
    first.complete()
    watches.begin("Pod", None).heard(None, pod("b"))
    third = watches.begin("Pod", None)
    third.heard(None, pod("a"))
    third.heard(None, pod("b"))
    assert third.complete() == []


def test_an_object_that_only_our_write_has_shown_can_vanish_too(clock: Clock) -> None:
    watches = Watches(clock)
    watches.begin("Pod", "ns").complete()
    listing = watches.begin("Pod", "ns")
    elsewhere = an_object("Pod", "x", namespace="elsewhere")
    assert uids(listing.complete([pod("written"), elsewhere])) == {"uid-Pod-written"}


def test_namespaces_are_listed_apart(clock: Clock) -> None:
    watches = Watches(clock)
    one = watches.begin("Pod", "one")
    one.heard(None, pod("a"))
    one.complete()
    assert watches.begin("Pod", "two").complete() == []
    assert watches.unlisted(["Pod"]) == []


def test_each_kind_must_have_been_listed_in_every_namespace(clock: Clock) -> None:
    watches = Watches(clock)
    assert watches.unlisted(KINDS) == ["Pod", "Job"]
    watches.begin("Pod", "one").complete()
    assert watches.unlisted(KINDS) == ["Job"]
    watches.begin("Pod", "two")
    assert watches.unlisted(KINDS) == ["Pod", "Job"]


def test_bookmarks_keep_a_quiet_watch_fresh(clock: Clock) -> None:
    watches = Watches(clock)
    listing = watches.begin("Pod", None)
    assert watches.ages() == {"Pod": float("inf")}
    listing.complete()
    clock.now = 60.0
    listing.heard("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "9"}})
    clock.now = 90.0
    assert watches.ages() == {"Pod": 30.0}
    clock.now = 200.0
    assert watches.ages() == {"Pod": 140.0}


def test_the_age_of_a_kind_is_that_of_its_quietest_watch(clock: Clock) -> None:
    watches = Watches(clock)
    watches.begin("Pod", "one").complete()
    clock.now = 50.0
    watches.begin("Pod", "two").complete()
    assert watches.ages() == {"Pod": 50.0}


rounds = st.lists(
    st.tuples(st.sets(st.sampled_from("abcdef")), st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()))),
    max_size=6,
)


@given(rounds)
def test_after_each_listing_exactly_the_listed_objects_are_left(history: list[tuple[set[str], list[Any]]]) -> None:
    watches, left = Watches(Clock()), set[str]()
    for listed, events in history:
        listing = watches.begin("Pod", None)
        for name in listed:
            listing.heard(None, pod(name))
        left = (left | {f"uid-Pod-{name}" for name in listed}) - uids(listing.complete())
        assert left == {f"uid-Pod-{name}" for name in listed}
        for name, deleted in events:
            listing.heard("DELETED" if deleted else "MODIFIED", pod(name))
            (left.discard if deleted else left.add)(f"uid-Pod-{name}")
