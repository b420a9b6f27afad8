"""The artifact store on a claim: finds and publishes. Called by fetch and publish; knows nothing of models.

    artifacts/onnx-<key>/           an artifact, if and only if its manifest.json is there
    artifacts/.tmp-<uid>/           one being written; becomes the above by one rename
    artifacts/.lock-onnx-<key>      see lock.py
    artifacts/.trash-<uid>/         what stood in an artifact's place and was none

A crash at any moment leaves the artifact absent or whole: everything is written and synced beside its place first.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pydantic

from bert_build import files, lock, progress
from bert_build.failures import FULL, BuildError
from bert_operator.api import names
from bert_operator.api.report import ExitCode, Manifest, ManifestFile

_TEMPORARY: Final = ".tmp-"
_TRASH: Final = ".trash-"
_CLOCK: Final = ".clock-"
_LOCK: Final = ".lock-"
_TRASH_SECONDS: Final = 24 * 3600.0
"""How long what stood in the way is kept: a pod may still mount it, or somebody may miss it."""
_MARGIN: Final = 64 << 10
"""For the manifest and what folders take themselves."""


class Store:
    """The store on one claim."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        self.folder = mount / names.ARTIFACTS_FOLDER

    def path(self, format_name: str, key: str) -> Path:
        """Where an artifact lies, or will."""
        return self.folder / f"{format_name}-{key}"

    def sound(self, format_name: str, key: str, *, thorough: bool = True) -> Manifest | None:
        """The manifest of a published artifact whose files are all there; `thorough` also takes their digests."""
        return _sound(self.path(format_name, key), key, thorough=thorough)

    def manifest_sha256(self, format_name: str, key: str) -> str:
        """Digest of a published manifest."""
        return hashlib.sha256((self.path(format_name, key) / names.MANIFEST_FILE).read_bytes()).hexdigest()

    def publish(self, staged: Path, manifest: Manifest, holder: str) -> bool:
        """Publish the files of `staged` under their key; False if somebody else had done it meanwhile.

        Raises:
            BuildError: the claim is full or can't be written, or its lock stays busy.
        """
        target = self.path(manifest.report.format, manifest.report.artifact_key)
        with _explained(self, manifest):
            self.folder.mkdir(parents=True, exist_ok=True)
            with lock.held(self.folder / f"{_LOCK}{target.name}", holder) as heartbeat:
                self._clean()
                if _sound(target, manifest.report.artifact_key, thorough=True):
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
            _fill(temporary, staged, manifest.files)
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
        os.utime(trash)
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
            idle = lock.age(entry, now)
            if limit is None or idle is None or idle < limit:
                continue
            progress.say("publish", f"removing {entry.name}, left {idle:.0f} s ago")
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _lifetime(name: str) -> float | None:
    """Seconds after which something may go; None for what is not ours to remove."""
    if name.startswith(_TRASH):
        return _TRASH_SECONDS
    if name.startswith((_TEMPORARY, _CLOCK)):
        return lock.STALE_SECONDS
    # A lock put aside or a draft of one; a lock itself is broken only by who wants it.
    if name.startswith(_LOCK) and "." in name.removeprefix(_LOCK):
        return lock.STALE_SECONDS
    return None


def _sound(folder: Path, key: str, *, thorough: bool) -> Manifest | None:
    try:
        manifest = Manifest.model_validate_json((folder / names.MANIFEST_FILE).read_bytes())
        if manifest.report.artifact_key != key:
            return None
        for name, file in manifest.files.items():
            path = folder / name
            if path.stat().st_size != file.size or (thorough and files.sha256_of(path) != file.sha256):
                return None
    except (OSError, pydantic.ValidationError):
        return None
    return manifest


def _fill(temporary: Path, staged: Path, listed: Mapping[str, ManifestFile]) -> None:
    counter = progress.Bytes("publish", sum(file.size for file in listed.values()))
    for name, file in listed.items():
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        if files.copy(staged / name, temporary / name, counter.add) != file.sha256:
            raise BuildError(
                "ScratchCorrupt",
                f"{name} changed between its check and its publication.",
                "It is tried again.",
                ExitCode.PASSING,
            )


@contextlib.contextmanager
def _explained(store: Store, manifest: Manifest) -> Iterator[None]:
    """Say what a failed write means."""
    try:
        yield
    except OSError as error:
        raise _explanation(error, store, manifest) from error


def _explanation(error: OSError, store: Store, manifest: Manifest) -> BuildError | OSError:
    needed = progress.size(sum(file.size for file in manifest.files.values()))
    if error.errno == errno.EROFS:
        return BuildError(
            "StoreReadOnly",
            "The artifact store's claim is mounted read-only by its volume.",
            "Use a claim that can be written.",
            ExitCode.NO_SPACE,
        )
    if error.errno in FULL:
        with contextlib.suppress(OSError):
            free = progress.size(files.free(store.mount))
            return files.no_space(f"the artifact needs {needed}, {free} are free ({error.strerror})", store=True)
        return files.no_space(f"the artifact needs {needed} ({error.strerror})", store=True)
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
