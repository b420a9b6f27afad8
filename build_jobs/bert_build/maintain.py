"""`python -m bert_build store`: looks after the artifacts on one claim, for `bertctl artifacts` or for the operator.

Runs in the operator's image. Its log is the answer: a line for each artifact, and the exit code. To verify it needs the
claim read-only. The operator, which reads no logs, gets a StoreReport as termination message.
"""

import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pydantic

from bert_build import environment, job, progress, report_io
from bert_build.failures import BuildError
from bert_build.store import Store
from bert_operator.api import names
from bert_operator.api.maintenance import StoredArtifact, StoreReport, StoreTask
from bert_operator.api.report import Manifest

MAX_LIST_SECONDS: Final = 600.0
"""Older than this, a list of what nothing uses is no ground to remove anything."""
_COLLECTOR: Final = "bert-operator, collecting what nothing uses"
_OTHER_RELEASE: Final = "bertctl and the operator's image must be of the same release."


def main(_arguments: list[str], mount: Path = Path(names.STORE_MOUNT)) -> int:
    """Do what the task says; returns the exit code."""
    signal.signal(signal.SIGTERM, job.stop)
    return job.guarded(
        "store", lambda: _run(environment.read(StoreTask, names.STORE_TASK_ENV, _OTHER_RELEASE), Store(mount))
    )


def _run(task: StoreTask, store: Store) -> None:
    if task.action == "collect":
        report_io.write_store_report(_collect(task, store))
        return
    failed = _verify(task, store) if task.action == "verify" else _remove(task, store)
    if failed:
        done = {"verify": "damaged", "rm": "not removed"}[task.action]
        message = f"{failed} of {len(task.artifacts)} artifacts on claim {task.claim} {done}; the log says why."
        raise BuildError("StoreFaulty", message)


def _verify(task: StoreTask, store: Store) -> int:
    """Read every byte of the artifacts; returns how many are damaged."""
    damaged = 0
    for number, artifact in enumerate(task.artifacts, start=1):
        size = _size(store, artifact)
        began = time.monotonic()
        counter = progress.Bytes(f"{number}/{len(task.artifacts)}", size, f"of {artifact.folder}")
        faults = _faults(store, artifact, counter)
        seconds = time.monotonic() - began
        for fault in faults:
            progress.say("verify", f"{artifact.folder}: DAMAGED: {fault}")
        if not faults:
            progress.say("verify", f"{artifact.folder}: intact, {progress.size(size)} read in {seconds:.1f} s")
        damaged += bool(faults)
    if task.whole:
        for name in store.foreign(artifact.folder for artifact in task.artifacts):
            progress.say("verify", f"{name}: in the store, but no BertArtifact records it; a build would find it again")
    return damaged


def _faults(store: Store, artifact: StoredArtifact, counter: progress.Bytes) -> list[str]:
    try:
        return store.faults(artifact.folder, artifact.manifest_sha256, counter.add)
    except pydantic.ValidationError:
        return [f"{names.MANIFEST_FILE} was written by another release of bert-operator: use that release's image"]


def _size(store: Store, artifact: StoredArtifact) -> int:
    """Bytes to read, for the progress; a manifest that can't be read is told later."""
    try:
        content = (store.folder / artifact.folder / names.MANIFEST_FILE).read_bytes()
        return sum(file.size for file in Manifest.model_validate_json(content).files.values())
    except (OSError, pydantic.ValidationError):
        return 0


def _remove(task: StoreTask, store: Store) -> int:
    """Remove the artifacts; returns how many could not be."""
    _listed_ago(task)
    kept = 0
    for artifact in task.artifacts:
        try:
            found = store.remove(artifact.folder, "bertctl artifacts rm", lambda: _listed_ago(task))
        except BuildError as error:
            kept += 1
            if store.in_place(artifact.folder):
                progress.say("rm", f"{artifact.folder}: KEPT: {error.message} {error.next_step}")
            else:  # in bertctl's words, or it would write the record again
                progress.say("rm", f"{artifact.folder} is not in its place: {error.message} {error.next_step}")
                progress.say("rm", f"{artifact.folder}: was gone already")
        else:
            progress.say("rm", f"{artifact.folder}: {'removed' if found else 'was gone already'}")
    return kept


def _collect(task: StoreTask, store: Store) -> StoreReport:
    """Put away what nothing uses, wait, delete what no build has brought back.

    Raises:
        BuildError: ListTooOld, only before anything is touched: the operator then writes every record again.
    """
    _listed_ago(task)
    sizes = {artifact.folder: _size(store, artifact) for artifact in task.artifacts}
    aside, kept = _put_away(store, task, sizes)
    aside |= _put_away(store, task, _unrecorded(task, store))[0]
    if aside:
        progress.say("collect", f"{len(aside)} put aside; deleted in {task.grace_seconds} s unless a build wants them")
        time.sleep(task.grace_seconds)
    removed, freed = 0, 0
    for folder, trash in aside.items():
        if store.delete(trash):
            removed, freed = removed + 1, freed + sizes.get(folder, 0)
            progress.say("collect", f"{folder}: removed")
        elif store.in_place(folder):
            kept += [folder] if folder in sizes else []
            progress.say("collect", f"{folder}: KEPT: a build has brought it back")
        else:
            progress.say("collect", f"{folder}: was gone already")
    return StoreReport(removed=removed, kept=kept, freed_bytes=freed)


def _put_away(store: Store, task: StoreTask, folders: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """Where each of the folders is now that could be put away, and those that are in their place."""
    aside: dict[str, Path] = {}
    kept: list[str] = []
    for folder in folders:
        try:
            trash = store.put_away(folder, _COLLECTOR, lambda: _listed_ago(task))
        except BuildError as error:
            there = store.in_place(folder)
            progress.say(
                "collect", f"{folder}: {'KEPT' if there else 'not in its place'}: {error.message} {error.next_step}"
            )
            kept += [folder] if there else []
            continue
        if trash is None:
            progress.say("collect", f"{folder}: was gone already")
        else:
            aside[folder] = trash
    return aside, kept


def _unrecorded(task: StoreTask, store: Store) -> list[str]:
    """Artifacts that no record names and no build has wanted for long: whoever made them died before they were told."""
    if task.recorded is None:
        return []
    known = {*task.recorded, *(artifact.folder for artifact in task.artifacts)}
    idle = {name: store.idle_seconds(name) for name in store.foreign(known)}
    return [name for name, seconds in idle.items() if seconds is not None and seconds >= task.idle_seconds]


def _listed_ago(task: StoreTask) -> float:
    """Seconds since the users of the artifacts were looked for.

    Raises:
        BuildError: too long ago, or the clocks differ by as much.
    """
    age = time.time() - task.listed_at
    if not -MAX_LIST_SECONDS < age < MAX_LIST_SECONDS:
        raise BuildError(
            "ListTooOld",
            f"Nothing is removed: what uses these artifacts was looked up {age:.0f} s ago by this node's clock, and at "
            f"most {MAX_LIST_SECONDS:.0f} s are trusted.",
            "Try again; if it stays so, the clocks of your machine and of the node differ.",
        )
    return max(0.0, age)
