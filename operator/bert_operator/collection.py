"""Which artifacts in a store nothing uses, since when, and which may go. Pure; `collector` calls it.

That an artifact is unused is written on its BertArtifact when it is first seen, so that a restart doesn't forget it. It
goes once that was long enough ago. Whatever may be about to be used stays; so does the copy of an artifact that is
used elsewhere, since two claims may be of one volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from bert_operator import usage
from bert_operator.api import names
from bert_operator.api.maintenance import MAX_RECORDED
from bert_operator.api.observed import Manifest
from bert_operator.objects import pod, store_job
from bert_operator.usage import Users, World

LONGEST_INTERVAL: Final = 600.0
HELD_INTERVALS: Final = 6
"""How many intervals pass before what only pods and old revisions use is looked at again: no watch tells of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What is known about the store on one claim."""

    name: str
    """Of the claim."""
    claim: Manifest | None
    """None: it is gone."""
    records: Sequence[Manifest]
    """BertArtifacts that say they are on it."""
    world: World
    """What may use them."""
    elsewhere: frozenset[str] = frozenset()
    """Folders that are used, or were a short while ago, on other claims."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What to do about each record that something is to be done about."""

    mark: tuple[Manifest, ...] = ()
    """Unused from now."""
    unmark: tuple[Manifest, ...] = ()
    """Used again."""
    drop: tuple[Manifest, ...] = ()
    """Their claim is gone, and the artifact with it."""
    remove: tuple[Manifest, ...] = ()
    """Unused for long enough: the artifact may go."""
    again_seconds: float | None = None
    """When to look again even if nothing stirs."""

    @property
    def doubtful(self) -> bool:
        """Whether this needs a look at everything in the namespace: who uses something is seen from memory as well."""
        return bool(self.mark or self.drop or self.remove)


def judge(look: Look, retention: float, now: datetime) -> Verdict:
    """Decide about every record of a store.

    Args:
        look: what is known. If it misses a user, an artifact is taken for unused; that is to be acted on only after a
            look at everything.
        retention: how long what nothing uses stays, in seconds; 0: for ever.
        now: timezone-aware time.
    """
    found: dict[str, list[Manifest]] = {"mark": [], "unmark": [], "drop": [], "remove": []}
    waits: list[float] = []
    busy, users = bool(usage.unsettled(look.name, look.world)), Users(look.world)
    for record in look.records:
        done, wait = _judge(look, record, users, retention, now)
        if busy and done in ("mark", "remove"):
            done, wait = "", interval(retention)
        if done:
            found[done].append(record)
        if wait is not None:
            waits.append(wait)
    again = min(waits, default=None)
    return Verdict(again_seconds=again, **{what: tuple(records) for what, records in found.items()})


def _judge(look: Look, record: Manifest, users: Users, retention: float, now: datetime) -> tuple[str, float | None]:
    """What to do about one record, and when to look again."""
    since = unused_since(record)
    if users.of(record):
        return ("unmark" if since else ""), None
    if look.claim is None or look.claim["metadata"]["uid"] != record["spec"]["claimUid"]:
        return "drop", None
    if not retention:
        return ("unmark" if since else ""), None
    if "deletionTimestamp" in look.claim["metadata"] or pod.read_only(look.claim):
        return "", None
    if since is None:
        return "mark", retention
    left = (since + timedelta(seconds=retention) - now).total_seconds()
    if left > 0:
        # At most the whole of it: the clock that wrote the mark may be ahead.
        return "", min(left, retention)
    if store_job.folder(record) in look.elsewhere:
        return "", HELD_INTERVALS * interval(retention)
    return "remove", None


def unused_since(record: Manifest) -> datetime | None:
    """Since when nothing uses an artifact, as its record says; None if it doesn't, or not so that it can be read."""
    text = (record["metadata"].get("annotations") or {}).get(names.UNUSED_SINCE_ANNOTATION)
    try:
        found = datetime.fromisoformat(str(text)) if text else None
    except ValueError:
        return None
    return found if found and found.tzinfo else None


def stamp(now: datetime) -> str:
    """How the annotation says a time."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def interval(retention: float) -> float:
    """Seconds between something that stirs and the look at its store: many things stir at once."""
    return min(LONGEST_INTERVAL, max(1.0, retention / 10)) if retention else LONGEST_INTERVAL


def live_folders(look: Look, going: Sequence[Manifest]) -> list[str] | None:
    """What a Job must leave alone beside what it is to remove; None if it must look at nothing else.

    Only on a claim that no other node can mount: a volume behind one that many can may serve other namespaces and
    clusters, whose records nobody sees here.
    """
    gone = {record["metadata"]["uid"] for record in going}
    live = sorted({store_job.folder(one) for one in look.records if one["metadata"]["uid"] not in gone})
    return live if pod.one_node_only(look.claim) and len(live) <= MAX_RECORDED else None


def used_or_young(record: Manifest, retention: float, now: datetime) -> bool:
    """Whether a record of another claim doesn't say that its artifact was unused for long enough."""
    since = unused_since(record)
    return since is None or since + timedelta(seconds=retention) > now
