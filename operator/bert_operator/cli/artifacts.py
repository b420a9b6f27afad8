"""`bertctl artifacts ls|verify|rm`: what is in the stores of a namespace, is it whole, and away with the unused.

Removal never meets what is live. The record goes first: from then on nobody is served from the artifact without a
build Job, which looks at the store itself. Then whoever began to use it meanwhile is looked for once more. Only then a
Job moves the folder away, unless a build has found it since. Whatever is kept gets its record back. If this program
dies in between, a whole artifact without a record is left, which the next build that wants it finds again.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

from bert_operator import usage
from bert_operator.api import names
from bert_operator.api.maintenance import MAX_ARTIFACTS, StoreTask
from bert_operator.cli import store_jobs
from bert_operator.cli.cluster import Editor, Reader
from bert_operator.cli.terminal import Exit, FailureError, note, out, out_json, table
from bert_operator.objects import artifact
from bert_operator.objects.store_job import stored
from bert_operator.usage import Users, World

_HEAD: Final = ("NAME", "FORMAT", "MODEL", "SOURCE", "SIZE", "AGE", "USED BY")
_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"), (1.0, "s"))
_BYTES: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
_DIGEST: Final = 12
_GONE: Final = ("removed", "was gone already")
_REFUSED: Final = "ListTooOld: "
"""How a Job's log begins to say that it has not touched anything."""

Record = Mapping[str, Any]


def run(options: argparse.Namespace) -> Exit:
    """List, verify or remove."""
    editor = Editor(namespace=options.namespace, context=options.context, kubeconfig=options.kubeconfig)
    match options.action:
        case "ls":
            return _ls(editor, options)
        case "verify":
            return _verify(editor, options)
        case _:
            return _rm(editor, options)


def world(reader: Reader) -> World:
    """Everything of the namespace that may refer to an artifact."""

    def every(kind: str, *labels: str) -> list[dict[str, Any]]:
        return [{**live, "kind": kind} for live in reader.list(kind, ",".join(labels))]

    ours = f"{names.MANAGED_BY}={names.MANAGER}"
    return World(
        berts=every(names.KIND),
        deployments=every("Deployment", ours),
        replica_sets=every("ReplicaSet", ours),
        # Anybody's: a pod of the user's own may read an artifact as well.
        pods=every("Pod"),
        jobs=every("Job", ours),
    )


def gather(records: Sequence[Record], seen: World, now: datetime) -> list[dict[str, Any]]:
    """What there is to say about each artifact, as JSON."""
    users = Users(seen)
    return [_row(record, users.of(record), now) for record in records]


def _row(record: Record, users: Sequence[str], now: datetime) -> dict[str, Any]:
    spec, meta = record["spec"], record["metadata"]
    report = spec["report"]
    return {
        "name": meta["name"],
        "format": report["format"],
        "precision": report["precision"],
        "task": report["task"],
        "architecture": report["architecture"],
        "revision": report["revision"],
        "claim": spec["claimName"],
        "path": spec["path"],
        "sizeBytes": report["sizeBytes"],
        "ageSeconds": int((now - datetime.fromisoformat(meta["creationTimestamp"])).total_seconds()),
        "usedBy": list(users),
    }


def screen(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table."""
    cells = [
        [
            row["name"],
            f"{row['format']} {row['precision']}",
            row["architecture"],
            _short(row["revision"]),
            _amount(row["sizeBytes"], _BYTES),
            _amount(row["ageSeconds"], _UNITS),
            ", ".join(row["usedBy"]) or "-",
        ]
        for row in rows
    ]
    return table(_HEAD, cells)


def _ls(editor: Editor, options: argparse.Namespace) -> Exit:
    rows = gather(editor.list(names.ARTIFACT_KIND), world(editor), datetime.now(UTC))
    if options.output == "json":
        out_json(rows)
    elif rows:
        out(screen(rows))
    else:
        note(f"namespace {editor.namespace} has no BertArtifacts")
    return Exit.OK


def _verify(editor: Editor, options: argparse.Namespace) -> Exit:
    chosen = _chosen(editor.list(names.ARTIFACT_KIND), options.names)
    if not chosen:
        note(f"namespace {editor.namespace} has no BertArtifacts")
        return Exit.OK
    where = store_jobs.ground(world(editor), options.image)
    sound = True
    for claim, every in _by_claim(chosen):
        there = [record for record in every if not _claim_gone(editor, record)]
        sound = sound and there == every
        for some in _batches(there):
            whole = not options.names and len(there) == len(some)
            task = StoreTask(action="verify", claim=claim, artifacts=[stored(each) for each in some], whole=whole)
            sound = store_jobs.run(editor, task, where, []) and sound
    return Exit.OK if sound else Exit.FAILED


def _claim_gone(editor: Editor, record: Record) -> bool:
    """Whether the artifact went with its claim; a new claim of the same name holds nothing of it."""
    claim = editor.get("PersistentVolumeClaim", record["spec"]["claimName"])
    gone = claim is None or claim["metadata"]["uid"] != record["spec"]["claimUid"]
    if gone:
        name = record["metadata"]["name"]
        note(f"{name}: its claim {record['spec']['claimName']} was deleted, and the artifact with it")
    return gone


def _rm(editor: Editor, options: argparse.Namespace) -> Exit:
    if bool(options.names) == options.unused:
        raise FailureError("name the artifacts to remove (bertctl artifacts ls lists them), or give --unused")
    listed_at = time.time()
    seen, now = world(editor), datetime.now(UTC)
    records = _chosen(editor.list(names.ARTIFACT_KIND), options.names)
    if options.unused:
        rows = {row["name"]: row for row in gather(records, seen, now)}
        age = seconds(options.older_than)
        old = (each for each in records if rows[each["metadata"]["name"]]["ageSeconds"] >= age)
        records = [each for each in old if not rows[each["metadata"]["name"]]["usedBy"]]
    refused = [] if options.unused else _refusals(records, seen)
    if refused:
        raise FailureError("nothing was removed: " + "; ".join(refused))
    if not records:
        note("nothing to remove")
        return Exit.OK
    if options.dry_run:
        out(screen(gather(records, seen, now)))
        note("nothing was removed: --dry-run")
        return Exit.OK
    return _removed(editor, records, store_jobs.ground(seen, options.image), listed_at)


def _refusals(records: Sequence[Record], seen: World) -> list[str]:
    """Which of them are in use, in words."""
    known = Users(seen)
    users = {str(record["metadata"]["name"]): known.of(record) for record in records}
    return [f"{name} is used by {', '.join(who)}" for name, who in users.items() if who]


def _removed(editor: Editor, records: Sequence[Record], where: store_jobs.Ground, listed_at: float) -> Exit:
    """Remove what nothing uses, claim by claim."""
    whole = True
    for claim, some in _by_claim(records):
        for batch in _batches(some):
            whole = _removed_from(editor, claim, batch, where, listed_at) and whole
    return Exit.OK if whole else Exit.FAILED


def _removed_from(
    editor: Editor, claim: str, records: Sequence[Record], where: store_jobs.Ground, listed_at: float
) -> bool:
    """Remove artifacts of one claim; whether all are gone."""
    going = [record for record in records if _unrecorded(editor, record)]
    there = [record for record in going if not _claim_gone(editor, record)]
    back, said = list(there), list[str]()
    try:
        if there and not _wanted_meanwhile(editor, claim, there):
            task = StoreTask(action="rm", claim=claim, artifacts=[stored(each) for each in there], listed_at=listed_at)
            done = store_jobs.run(editor, task, where, said)
            back = [] if done else _kept(there, said)
        elif not there:
            back = []
    except (KeyboardInterrupt, store_jobs.UnknownEndError):
        # How far the Job came isn't known: an artifact without a record does no harm, a record without one does.
        back = []
        note("it isn't known what was removed: what was not has no BertArtifact now, and a build would find it again")
        raise
    finally:
        for record in back:
            _record_again(editor, record)
    return not back and len(going) == len(records)


def _kept(records: Sequence[Record], said: Sequence[str]) -> list[Record]:
    """Those that a Job has left where they were, by its whole log. It takes one after the other.

    The first that it says nothing of may have been moved away when the Job was killed, unless it began with none.
    """
    words = (line.removeprefix("[rm] ").partition(": ") for line in said if line.startswith("[rm] "))
    told = {folder: end for folder, _, end in words}
    silent = [record for record in records if stored(record).folder not in told]
    doubtful = silent[: 0 if any(line.startswith(_REFUSED) for line in said) else 1]
    gone = {folder for folder, end in told.items() if end in _GONE}
    return [record for record in records if record not in doubtful and stored(record).folder not in gone]


def _wanted_meanwhile(editor: Editor, claim: str, going: Sequence[Record]) -> bool:
    """Whether somebody has come to use one of them since they were listed, or is about to."""
    seen = world(editor)
    busy = [f"claim {claim} is about to be used by {who}" for who in usage.unsettled(claim, seen)]
    wanted = [*_refusals(going, seen), *busy]
    if wanted:
        note("kept: " + "; ".join(wanted) + "; try again later")
    return bool(wanted)


def _unrecorded(editor: Editor, record: Record) -> bool:
    """Delete the record, unless somebody has changed it since it was read: then somebody wants it."""
    gone = editor.delete(record, names.ARTIFACT_KIND, unchanged=True)
    if not gone:
        note(f"kept: {record['metadata']['name']} has changed since it was looked at; try again")
    return gone


def _record_again(editor: Editor, record: Record) -> None:
    """Put back what was deleted, if the operator hasn't done so already."""
    if editor.get(names.ARTIFACT_KIND, record["metadata"]["name"]) is None:
        editor.create(artifact.anew(record))


def _chosen(known: Sequence[Record], wanted: Sequence[str]) -> list[Record]:
    """The records of these names, or all.

    Raises:
        FailureError: one isn't there.
    """
    found = {str(record["metadata"]["name"]): record for record in known}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise FailureError(f"there is no BertArtifact {missing[0]!r}: bertctl artifacts ls lists all")
    return [found[name] for name in dict.fromkeys(wanted)] if wanted else list(known)


def _by_claim(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    def claim(record: Record) -> str:
        return str(record["spec"]["claimName"])

    for name, some in groupby(sorted(records, key=claim), claim):
        yield name, list(some)


def _batches(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    for start in range(0, len(records), MAX_ARTIFACTS):
        yield records[start : start + MAX_ARTIFACTS]


def seconds(age: str) -> float:
    """The seconds of `7d`, `12h`, `30m`, `90s`.

    Raises:
        FailureError: it is no such text.
    """
    number, unit = age[:-1], age[-1:]
    known = {name: size for size, name in _UNITS}
    if unit not in known or not number.isdigit():
        raise FailureError(f"--older-than {age!r}: write a number with d, h, m or s, such as 7d")
    return int(number) * known[unit]


def _amount(count: float, units: Sequence[tuple[float, str]]) -> str:
    """A number in the largest unit that it fills."""
    size, unit = next((each for each in units if count >= each[0]), units[-1])
    return f"{count / size:.1f} {unit}" if units is _BYTES and size > 1 else f"{int(count / size)}{unit}"


def _short(revision: str) -> str:
    kind, colon, value = revision.rpartition(":")
    return f"{kind}{colon}{value[:_DIGEST]}"
