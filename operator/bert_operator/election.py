"""Who leads: what a Lease that was seen means for one candidate. Pure; `leadership` asks.

The times in a Lease are never compared with our own clock, since no two machines agree on the time. A candidate notes
by its own monotonic clock when it saw the Lease change, and takes it once nothing has changed for as long as its holder
said. client-go does the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

STANDBY_SHARE: Final = 0.5
"""A standby looks this much more often than a leader renews, so that a Lease given back is taken up at once."""
JITTER: Final = 0.25
"""By how much of it a pause is shortened at most, at random: candidates don't move in step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How long things take, in seconds."""

    duration: float
    """Others leave the Lease alone for this long after its last change."""
    renew_deadline: float
    """The leader that couldn't renew for this long writes nothing any more, and ends."""
    retry_period: float
    """Between two renewals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a Lease says."""

    holder: str
    """Identity of who leads; empty: it was given back."""
    duration: float
    """Seconds; 0 if it says nothing."""
    transitions: int
    acquired: str
    renewed: str
    """RFC 3339, for people: never compared with a clock."""
    version: str = ""
    """resourceVersion of the Lease it was read from; empty: there is none, it would have to be created."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """What a candidate knows of the Lease."""

    record: Record | None = None
    """None: none was ever seen."""
    since: float = 0.0
    """Monotonic time since when it says so."""


def look(before: Sighting, found: Record | None, now: float) -> Sighting:
    """Take in what was read.

    A Lease that vanished is still its holder's: the holder makes it anew at its next renewal, and others must leave it
    the time for that.
    """
    if found is None:
        gone = before.record and replace(before.record, version="")
        return replace(before, record=gone)
    same = before.record is not None and replace(before.record, version=found.version) == found
    return Sighting(record=found, since=before.since if same else now)


def bid(seen: Sighting, identity: str, terms: Terms, now: float, wall: str) -> Record | None:
    """What to write to become, or to stay, the leader.

    Args:
        seen: the Lease as it was last seen.
        identity: who asks.
        terms: its own.
        now: monotonic time.
        wall: the time of day as RFC 3339, to be read by people.

    Returns:
        None: another one leads, leave it alone.
    """
    mine = Record(holder=identity, duration=terms.duration, transitions=0, acquired=wall, renewed=wall)
    held = seen.record
    if held is None:
        return mine
    if held.holder == identity:
        return replace(mine, transitions=held.transitions, acquired=held.acquired, version=held.version)
    if held.holder and now < seen.since + (held.duration or terms.duration):
        return None
    return replace(mine, transitions=held.transitions + 1, version=held.version)


def given_back(record: Record, wall: str) -> Record:
    """A leader's Lease as it is left behind: anybody may take it at once."""
    return replace(record, holder="", duration=1, renewed=wall, acquired=wall)


def pause(terms: Terms, random_number: Callable[[], float], *, leads: bool) -> float:
    """Seconds until the next look or renewal."""
    return terms.retry_period * (1.0 if leads else STANDBY_SHARE) * (1 - JITTER * random_number())
