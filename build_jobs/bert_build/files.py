"""Hashing, copying and space on disk. Used by fetch and the store; knows nothing of models."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bert_build import progress
from bert_build.failures import BuildError
from bert_operator.api.report import ExitCode

BLOCK: Final = 4 * progress.MIB

Count = Callable[[int], None]


def _ignore(_: int) -> None:
    """Nobody wants progress."""


def sha256_of(path: Path, count: Count = _ignore) -> str:
    """Digest of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            count(len(block))
    return digest.hexdigest()


def copy(source: Path, target: Path, count: Count = _ignore) -> str:
    """Copy a file so that it survives a power cut; returns the digest of what was read."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(BLOCK):
            digest.update(block)
            writer.write(block)
            count(len(block))
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def write(target: Path, text: str) -> None:
    """Write a small file whole or not at all, and so that it survives a power cut."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free(folder: Path) -> int:
    """Bytes that we may still write on the volume of `folder`."""
    return shutil.disk_usage(folder).free


def require_space(folder: Path, needed: int, what: str, *, store: bool) -> None:
    """Refuse before writing what can't fit.

    Raises:
        BuildError: less than `needed` bytes are free.
    """
    available = free(folder)
    if available >= needed:
        return
    raise no_space(f"{what} needs {progress.size(needed)}, {progress.size(available)} are free", store=store)


def no_space(message: str, *, store: bool) -> BuildError:
    """The claim of the artifact store, or the pod's scratch space, is full."""
    if store:
        return BuildError(
            "StoreFull",
            f"The artifact store's claim is full: {message}.",
            "Enlarge the claim (storage.size can grow where the StorageClass allows it) or delete artifacts that "
            "nothing serves; then set a new value for the annotation bertops.dev/refresh.",
            ExitCode.NO_SPACE,
        )
    return BuildError(
        "ScratchFull",
        f"The build pod's scratch space (an emptyDir on its node) is full: {message}.",
        "Free disk space on the node or choose another by hardware.nodeSelector; "
        "then set a new value for the annotation bertops.dev/refresh.",
        ExitCode.NO_SPACE,
    )
