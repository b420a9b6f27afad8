"""The artifact store on a claim: finds and publishes. Called by fetch and publish; knows nothing of models.

    artifacts/onnx-<key>/           an artifact, if and only if its manifest.json is there
    artifacts/.tmp-<uid>/           one being written; becomes the above by one rename
    artifacts/.lock-onnx-<key>      see lock.py
    artifacts/.trash-<uid>/         what stood in an artifact's place and was none
    artifacts/.trash-onnx-<key>.<uid>/  an artifact that nothing used; a build that wants it brings it back
    artifacts/.gone-<uid>/          one being deleted: nobody brings it back

A crash at any moment leaves the artifact absent or whole: everything is written and synced beside its place first.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import pydantic

from bert_build import files, lock, progress
from bert_build.failures import FULL, BuildError
from bert_operator.api import names
from bert_operator.api.report import ExitCode, Manifest, ManifestFile

_TEMPORARY: Final = ".tmp-"
_TRASH: Final = ".trash-"
_GONE: Final = ".gone-"
_CLOCK: Final = ".clock-"
_LOCK: Final = ".lock-"
_TRASH_SECONDS: Final = 24 * 3600.0
"""How long what stood in the way is kept: a pod may still mount it, or somebody may miss it."""
_REPORT_IT: Final = "This is a defect of bert-operator: please report it with the pod's log."
WANTED_SECONDS: Final = 120.0
"""What was published or found so long before a list of unused artifacts isn't taken for unused: its user may not be
seen yet. Also what clocks may differ."""
_MARGIN: Final = 64 << 10
"""For the manifest and what folders take themselves."""
_NAME: Final = re.compile(r"[a-z0-9]{1,32}-[0-9a-f]{32}")
"""Of an artifact's folder. Nothing else in the store is ever taken for one."""


class Store:
    """The store on one claim."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        self.folder = mount / names.ARTIFACTS_FOLDER

    def path(self, format_name: str, key: str) -> Path:
        """Where an artifact lies, or will.

        Raises:
            BuildError: that isn't the name of an artifact, but perhaps a way out of the store.
        """
        name = f"{format_name}-{key}"
        if not _NAME.fullmatch(name):
            raise BuildError("InternalError", f"{name[:100]!r} names no artifact.", _REPORT_IT, ExitCode.INTERNAL)
        return self.folder / name

    def sound(self, format_name: str, key: str, *, thorough: bool = True) -> Manifest | None:
        """The manifest of a published artifact whose files are all there; `thorough` also takes their digests."""
        known = _NAME.fullmatch(f"{format_name}-{key}")
        return _sound(self.path(format_name, key), key, thorough=thorough) if known else None

    def found(self, format_name: str, key: str) -> Manifest | None:
        """Like `sound`, byte by byte; an artifact that was put aside because nothing used it is brought back."""
        manifest = self.sound(format_name, key)
        if manifest is not None or not _NAME.fullmatch(name := f"{format_name}-{key}"):
            return manifest
        if not self.put_aside(name):
            return None
        # A claim that can't be written, or a lock that stays busy: the build goes on as if it weren't there.
        with contextlib.suppress(OSError, BuildError), lock.held(self.folder / f"{_LOCK}{name}", "a build", 60):
            self._bring_back(self.path(format_name, key), key)
        return self.sound(format_name, key)

    def put_aside(self, name: str) -> list[Path]:
        """Where `put_away` has put artifacts of this name, the newest first."""
        there = self.folder.glob(f"{_TRASH}{name}.*") if self.folder.is_dir() else ()
        ages = {path: lock.age(path, 0.0) for path in there}
        return sorted((path for path, age in ages.items() if age is not None), key=lambda path: ages[path] or 0.0)

    def manifest_sha256(self, format_name: str, key: str) -> str:
        """Digest of a published manifest."""
        return hashlib.sha256((self.path(format_name, key) / names.MANIFEST_FILE).read_bytes()).hexdigest()

    def reuse(self, format_name: str, key: str) -> Manifest | None:
        """The manifest of a published artifact, which is marked as wanted just now; None if it isn't there (any more).

        Files were proved by their digests a moment ago. Takes no lock, so that it works on a claim that can't be
        written: whoever removes an artifact looks for the mark after having moved it away.
        """
        with contextlib.suppress(PermissionError):
            try:
                lock.touch(self.path(format_name, key))
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
        return self.sound(format_name, key, thorough=False)

    def faults(self, name: str, manifest_sha256: str, count: files.Count) -> list[str]:
        """What is wrong with a published artifact; empty if it is what was built, to the last byte.

        Args:
            name: of its folder.
            manifest_sha256: of its manifest as it was recorded.
            count: told how many bytes were read.
        """
        folder = self.folder / name
        path = folder / names.MANIFEST_FILE
        if folder.is_symlink() or path.is_symlink():
            return ["it is a link, not a folder with its own manifest"]
        if not path.is_file():
            return [f"it has no {names.MANIFEST_FILE}" if folder.is_dir() else "its folder isn't there"]
        if (found := files.sha256_of(path)) != manifest_sha256:
            return [f"{names.MANIFEST_FILE}: published with sha256 {manifest_sha256}, found {found}"]
        manifest = Manifest.model_validate_json(path.read_bytes())
        wrong = [_fault(folder / file, file, known, count) for file, known in sorted(manifest.files.items())]
        extra = sorted(set(others(folder)) - {*manifest.files, names.MANIFEST_FILE})
        return [fault for fault in wrong if fault] + [f"{file} was not published with it" for file in extra]

    def remove(self, name: str, holder: str, listed_seconds_ago: Callable[[], float]) -> bool:
        """Remove an artifact that nothing was seen to use; False if it isn't there.

        Args:
            name: of its folder.
            holder: who does it, for whoever waits meanwhile.
            listed_seconds_ago: how long ago its users were looked for: one that was wanted since then stays. Asked
                under the lock, and again after the move; it may raise BuildError, then the artifact stays.

        Raises:
            BuildError: it was published or found again since then, or the claim can't be written.
        """
        aside = self.put_away(name, holder, listed_seconds_ago)
        return aside is not None and self.delete(aside)

    def put_away(self, name: str, holder: str, listed_seconds_ago: Callable[[], float]) -> Path | None:
        """Move an artifact aside that nothing was seen to use, whole, so that a build can bring it back.

        Args and errors as `remove` has them. After an error it is `in_place` again, unless it can't be put back.

        Returns:
            Where it is now; None if it wasn't there.
        """
        if not self.folder.is_dir():
            return None
        target = self.folder / name
        trash = self.folder / f"{_TRASH}{name}.{uuid.uuid4().hex}"
        with _said(self, f"Removing {name}"), self._held_if_there_is_room(name, holder):
            self._clean()
            self._refuse_wanted(target, listed_seconds_ago)
            try:
                target.rename(trash)
            except FileNotFoundError:
                return None
            try:
                # Once more: a build may have found it between the look and the move. It can't any more.
                self._refuse_wanted(trash, listed_seconds_ago, name)
                # Kept from now, not from when it was published. Gone again: a build took our lock and brought it back.
                with contextlib.suppress(FileNotFoundError):
                    lock.touch(trash)
            except (BuildError, OSError):
                _put_back(trash, target)
                raise
            files.sync_folder(self.folder)
        return trash

    def in_place(self, name: str) -> bool:
        """Whether something with a manifest is where an artifact belongs; False as well if nobody can tell."""
        try:
            return (self.folder / name / names.MANIFEST_FILE).is_file()
        except OSError:
            return False

    @contextlib.contextmanager
    def _held_if_there_is_room(self, name: str, holder: str) -> Iterator[None]:
        """Hold an artifact's lock; on a full claim go without, or it could never be emptied. The renames are safe."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock.held(self.folder / f"{_LOCK}{name}", holder))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
            yield

    def delete(self, aside: Path) -> bool:
        """Delete what was put away; False if a build has brought it back.

        Needs no lock: of two renames of one folder one wins, and under its new name no build looks for it.
        """
        gone = self.folder / f"{_GONE}{uuid.uuid4().hex}"
        with _said(self, f"Removing {aside.name}"):
            try:
                aside.rename(gone)
            except FileNotFoundError:
                return False
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def idle_seconds(self, name: str) -> float | None:
        """How long ago an artifact was published or found by a build, by the claim's own clock; None if it is gone."""
        return lock.age(self.folder / name, lock.server_time(self.folder))

    def _bring_back(self, target: Path, key: str) -> bool:
        """Put the newest sound artifact of this name in its place again. For whoever holds its lock."""
        for aside in self.put_aside(target.name):
            if not _sound(aside, key, thorough=True):
                continue
            with contextlib.suppress(FileNotFoundError):  # it is being deleted: it was there too long
                lock.touch(aside)
                self._move(aside, target, key)
                progress.say("store", f"{target.name} was put aside because nothing used it: brought back")
                return True
        return False

    def _refuse_wanted(self, folder: Path, listed_seconds_ago: Callable[[], float], name: str = "") -> None:
        idle = lock.age(folder, lock.server_time(self.folder))
        # The list is the older one of the two the longer we wait: asked after the other.
        if idle is not None and idle < listed_seconds_ago() + WANTED_SECONDS:
            raise BuildError(
                "ArtifactWanted",
                f"{name or folder.name} was published, or found again by a build, {max(0, idle):.0f} s ago: a "
                "BertDeployment may be about to serve it.",
                "Try again in a few minutes.",
                ExitCode.PASSING,
            )

    def foreign(self, known: Iterable[str]) -> list[str]:
        """Folders of the store that look like artifacts and aren't among `known`."""
        entries = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted({entry.name for entry in entries if _NAME.fullmatch(entry.name)} - set(known))

    def publish(self, staged: Path, manifest: Manifest, holder: str) -> bool:
        """Publish the files of `staged` under their key; False if somebody else had done it meanwhile.

        Digests that the manifest leaves open are taken while the files are copied.

        Raises:
            BuildError: the claim is full or can't be written, its lock stays busy, or something is no plain file.
        """
        _refuse_names(manifest.files)
        target = self.path(manifest.report.format, manifest.report.artifact_key)
        with _explained(self, manifest):
            self.folder.mkdir(parents=True, exist_ok=True)
            _refuse_link(self.folder)
            with lock.held(self.folder / f"{_LOCK}{target.name}", holder) as heartbeat:
                self._clean()
                key = manifest.report.artifact_key
                if _sound(target, key, thorough=True):
                    # Wanted from now on, not from when the lock is given back. Gone: somebody took our lock.
                    with contextlib.suppress(FileNotFoundError):
                        lock.touch(target)
                    return False
                if self._bring_back(target, key):
                    return False
                self._publish(staged, manifest, target, heartbeat)
        return True

    def _publish(self, staged: Path, manifest: Manifest, target: Path, heartbeat: lock.Heartbeat) -> None:
        needed = sum(file.size for file in manifest.files.values()) + _MARGIN
        files.require_space(self.folder, needed, f"Publishing {target.name}", store=True)
        temporary = self.folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            temporary.mkdir()
            heartbeat.keep(temporary)
            manifest = _fill(temporary, staged, manifest)
            files.write(temporary / names.MANIFEST_FILE, manifest.model_dump_json(by_alias=True, indent=1))
            for folder in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
                files.sync_folder(folder)
            self._move(temporary, target, manifest.report.artifact_key)
        finally:
            # Also on SIGTERM and on a full disk: nothing half-written stays. Already renamed: nothing is there.
            shutil.rmtree(temporary, ignore_errors=True)

    def _move(self, temporary: Path, target: Path, key: str) -> None:
        try:
            # Also over an empty folder: the kubelet makes one where a pod mounts what isn't there yet.
            temporary.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            self._clear(target, key)
            if not target.exists():
                temporary.rename(target)
        files.sync_folder(self.folder)

    def _clear(self, target: Path, key: str) -> None:
        """Move away what stands in an artifact's place and is none."""
        if _sound(target, key, thorough=True):
            return
        trash = self.folder / f"{_TRASH}{uuid.uuid4().hex}"
        target.rename(trash)
        # Kept from now, not from when it was written.
        lock.touch(trash)
        if _sound(trash, key, thorough=True):
            # Whoever held the lock before us was slow, not dead, and published this very moment.
            with contextlib.suppress(OSError):
                trash.rename(target)
            return
        progress.say("publish", f"{target.name} was incomplete or foreign: moved to {trash.name}")

    def _clean(self) -> None:
        """Remove what dead publishers left. The living touch theirs."""
        now = lock.server_time(self.folder)
        for entry in self.folder.iterdir():
            limit = _lifetime(entry.name)
            idle = _idle(entry, now)
            if limit is None or idle is None or idle < limit:
                continue
            progress.say("publish", f"removing {entry.name}, left {idle:.0f} s ago")
            if entry.name.startswith(_TRASH):
                # Not where it lies: a build may bring it back this very moment.
                self.delete(entry)
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _idle(entry: Path, now: float) -> float | None:
    """Seconds since a leftover was touched or, if it is trash, moved there; None if it is gone."""
    try:
        found = entry.lstat()
    except FileNotFoundError:
        return None
    # Trash carries the age of what it was until it is touched; the rename has renewed its ctime.
    return now - (max(found.st_mtime, found.st_ctime) if entry.name.startswith(_TRASH) else found.st_mtime)


def _lifetime(name: str) -> float | None:
    """Seconds after which something may go; None for what is not ours to remove."""
    if name.startswith(_TRASH):
        return _TRASH_SECONDS
    if name.startswith((_TEMPORARY, _CLOCK, _GONE)):
        return lock.STALE_SECONDS
    # A lock put aside or a draft of one; a lock itself is broken only by who wants it.
    if name.startswith(_LOCK) and "." in name.removeprefix(_LOCK):
        return lock.STALE_SECONDS
    return None


def _sound(folder: Path, key: str, *, thorough: bool) -> Manifest | None:
    try:
        if folder.is_symlink():
            return None
        manifest = Manifest.model_validate_json((folder / names.MANIFEST_FILE).read_bytes())
        if manifest.report.artifact_key != key:
            return None
        for name, file in manifest.files.items():
            path = folder / name
            found = path.lstat()
            # A link may lead elsewhere tomorrow.
            if (
                not stat.S_ISREG(found.st_mode)
                or found.st_size != file.size
                or (thorough and files.sha256_of(path) != file.sha256)
            ):
                return None
    except (OSError, pydantic.ValidationError):
        return None
    return manifest


def plain_files(folder: Path) -> dict[str, Path]:
    """Every file below a folder by its relative path, in order.

    Raises:
        BuildError: it holds a link, a second name of some other file, a pipe or a device. Whoever filled it may have
            run what users bring, so nothing of it is followed.
    """
    found: dict[str, Path] = {}
    _refuse_unsafe(folder, folder.name, folder.lstat())
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        status = path.lstat()
        _refuse_unsafe(path, name, status)
        if stat.S_ISREG(status.st_mode):
            found[name] = path
    _refuse_names(found)
    return found


def _refuse_unsafe(path: Path, name: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        return
    if path.is_symlink():
        what = "is a link"
    elif not stat.S_ISREG(status.st_mode):
        what = "is no regular file"
    elif status.st_nlink > 1:
        what = "has another name elsewhere"
    else:
        return
    raise BuildError(
        "ArtifactUnsafe",
        f"What was built can't be published: {name} {what}.",
        "The conversion writes plain files only: take the source from somebody you trust, or report this.",
    )


def _refuse_names(listed: Iterable[str]) -> None:
    """Refuse paths that leave the artifact's folder, or take the place of its manifest."""
    for name in listed:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.as_posix() != name or name in (".", names.MANIFEST_FILE):
            raise BuildError(
                "ArtifactUnsafe",
                f"{name!r} can't be the name of a file of an artifact.",
                "The conversion writes no such file: take the source from somebody you trust, or report this.",
            )


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise BuildError(
            "StoreUnsafe",
            f"{folder.name} on the artifact store's claim is a link; the store writes to a folder of the claim only.",
            f"Replace the link {folder.name} in the claim's root by a folder.",
        )


def others(folder: Path) -> list[str]:
    """Everything below an artifact's folder that is no folder, by relative path; NFS's own leftovers don't count."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and not path.name.startswith(".nfs")
    ]


def _fault(path: Path, name: str, known: ManifestFile, count: files.Count) -> str:
    """What is wrong with one file, or nothing."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return f"{name} is no regular file"
        if status.st_size != known.size:
            return f"{name}: published with {known.size} bytes, found {status.st_size}"
        found = files.sha256_of(path, count)
    except OSError as error:
        return f"{name}: {error.strerror}"
    return "" if found == known.sha256 else f"{name}: published with sha256 {known.sha256}, found {found}"


def _put_back(trash: Path, target: Path) -> None:
    try:
        # Also over the empty folder that the kubelet makes for a pod that starts this very moment.
        trash.rename(target)
    except FileNotFoundError:
        progress.say("store", f"{target.name} is not put back: somebody else has moved it on")
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            why = "was published anew meanwhile"
        else:
            why = f"can't be put back ({error.strerror}), a build that wants it tries again"
        progress.say("store", f"{target.name} {why}: {trash.name} is the one before")


def _fill(temporary: Path, staged: Path, manifest: Manifest) -> Manifest:
    """Copy what a manifest lists; the manifest with the digests of what was copied."""
    counter = progress.Bytes("publish", sum(file.size for file in manifest.files.values()))
    copied: dict[str, ManifestFile] = {}
    for name, file in manifest.files.items():
        target = temporary / name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = files.copy(staged / name, target, counter.add)
        copied[name] = ManifestFile(size=target.stat().st_size, sha256=digest)
        # A digest that the manifest leaves open is the one of what was read: then only the size can tell.
        if copied[name] != file.model_copy(update={"sha256": file.sha256 or digest}):
            raise BuildError(
                "ScratchCorrupt",
                f"{name} had {file.size} bytes when it was listed, and {copied[name].size} when it was published; "
                f"its sha256 then was {digest}{f', not {file.sha256}' if file.sha256 else ''}.",
                "It is tried again.",
                ExitCode.PASSING,
            )
    return manifest.model_copy(update={"files": copied})


def read_only_store() -> BuildError:
    """The claim of the store can't be written."""
    return BuildError(
        "StoreReadOnly",
        "The artifact store's claim can't be written: its volume is mounted read-only, as that of every claim is "
        "whose only access mode is ReadOnlyMany. It serves what is in it already; nothing can be built into it or "
        "removed from it.",
        "Set storage.claimName to a claim with ReadWriteOnce or ReadWriteMany, or build through another claim of "
        "the same volume.",
        ExitCode.NO_SPACE,
    )


@contextlib.contextmanager
def _explained(store: Store, manifest: Manifest) -> Iterator[None]:
    """Say what a failed publication means."""
    needed = progress.size(sum(file.size for file in manifest.files.values()))
    with _said(store, f"the artifact needs {needed}"):
        yield


@contextlib.contextmanager
def _said(store: Store, what: str) -> Iterator[None]:
    """Say what a failed write means."""
    try:
        yield
    except OSError as error:
        raise _explanation(error, store, what) from error


def _explanation(error: OSError, store: Store, what: str) -> BuildError | OSError:
    if error.errno == errno.EROFS:
        return read_only_store()
    if error.errno in FULL:
        with contextlib.suppress(OSError):
            free = progress.size(files.free(store.mount))
            return files.no_space(f"{what}, {free} are free ({error.strerror})", store=True)
        return files.no_space(f"{what} ({error.strerror})", store=True)
    if error.errno in (errno.EACCES, errno.EPERM):
        found = store.folder if store.folder.exists() else store.mount
        owner = found.stat()
        return BuildError(
            "StoreNotWritable",
            f"User {os.getuid()}, group {os.getgid()} can't write to the folder {found.name} of the artifact store's "
            f"claim (owner {owner.st_uid}:{owner.st_gid}, mode {owner.st_mode & 0o777:o}).",
            f"Make it writable for group {os.getgid()}: `chgrp -R {os.getgid()} <folder> && chmod -R g+rwX <folder>`.",
        )
    return error
