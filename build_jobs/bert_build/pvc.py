"""A model folder on a PersistentVolumeClaim. Called by fetch; never writes to the claim.

Small files are copied. Weights stay where they are: their digest is taken now, and `convert`, the last step that reads
them, looks whether they are still the same (`unchanged`), so what was built is what was named even if somebody writes
to the claim meanwhile.
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bert_build import files, progress, selection
from bert_build.failures import BuildError, Stopped, listing
from bert_build.job import Job
from bert_build.state import Kind, SourceFile, State
from bert_operator.api.report import ExitCode

_OF_THE_FILE_SYSTEM: Final = frozenset({"lost+found"})
_SETTLED_SECONDS: Final = 60.0
"""How old a file's last write must be for its times to be believed: more than clocks of nodes and servers differ."""


class PvcModel:
    """The folder that the request names."""

    def __init__(self, job: Job) -> None:
        if job.request.pvc is None:
            raise TypeError("the request has no pvc source")
        self._claim = job.request.pvc.claim_name
        self._path = job.request.pvc.path or ""
        self._root = Path(os.path.realpath(job.source))
        self._target = job.model
        self._build = job.request.build

    def collect(self) -> tuple[str, dict[str, SourceFile]]:
        """Copy the small files, take the digest of the weights. A claim has no revision of its own."""
        folder = self._folder()
        present = _names(folder)
        if selection.CONFIG not in present:
            raise self._no_config(folder, present)
        small = {name: self._file(folder, name) for name in selection.small_files(present)}
        entry = selection.weights_entry(present, self._where, self._build)
        weights = {name: self._file(folder, name) for name in selection.weights_files(present, entry)}
        if entry.endswith(selection.INDEX):
            index = _bounded(weights[entry], entry).read_bytes()
            weights |= {shard: self._file(folder, shard) for shard in selection.shards(index, entry)}
        return "", self._copied(small, selection.small_files(present)) | self._digested(weights)

    def weights(self, found: dict[str, SourceFile]) -> dict[str, SourceFile]:
        """Put the weights beside the copied files by links: nothing large is copied."""
        for name, file in found.items():
            if file.outside:
                link = self._target / name
                link.parent.mkdir(exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(file.outside)
        return found

    @property
    def _where(self) -> str:
        return f"Folder {self._path!r} of claim {self._claim!r}" if self._path else f"Claim {self._claim!r}"

    def _folder(self) -> Path:
        """The folder asked for.

        Raises:
            BuildError: it isn't there, is no folder or lies outside the claim.
        """
        if not self._root.is_dir():
            raise BuildError(
                "InternalError", f"Claim {self._claim!r} isn't mounted at {self._root}.", code=ExitCode.INTERNAL
            )
        if not _names(self._root):
            raise BuildError(
                "SourceEmpty",
                f"Claim {self._claim!r} is empty.",
                "Copy the model into it (config.json, model.safetensors, tokenizer files), then set a new value for "
                "the annotation bertops.dev/refresh; or check source.pvc.claimName.",
            )
        folder = self._root
        for part in Path(self._path).parts:
            if not (folder / part).exists():
                raise self._missing(folder, part)
            folder /= part
            if not folder.is_dir():
                raise BuildError(
                    "SourceNotFound",
                    f"{str(folder.relative_to(self._root))!r} in claim {self._claim!r} is a file, not a folder.",
                    "Set source.pvc.path to the folder that holds config.json.",
                )
        return self._inside(folder)

    def _missing(self, folder: Path, part: str) -> BuildError:
        inside = f"folder {str(folder.relative_to(self._root))!r}" if folder != self._root else "its root"
        return BuildError(
            "SourceNotFound",
            f"Folder {self._path!r} doesn't exist in claim {self._claim!r}: {inside} has no {part!r}; "
            f"it holds {listing(_shown(folder))}.",
            f"Set source.pvc.path to a folder that holds {selection.CONFIG}{_suggestion(self._root)}.",
        )

    def _no_config(self, folder: Path, present: list[str]) -> BuildError:
        return BuildError(
            "SourceNotFound",
            f"{self._where} holds no {selection.CONFIG}; it holds {listing(_shown(folder))}."
            if present
            else f"{self._where} is empty.",
            f"Set source.pvc.path to a folder that holds {selection.CONFIG}{_suggestion(self._root)}.",
        )

    def _inside(self, path: Path) -> Path:
        """The real path behind links, which may lead anywhere inside the claim (as in the hub's cache)."""
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(self._root):
            raise BuildError(
                "SourceUnsafe",
                f"{str(path.relative_to(self._root))!r} in claim {self._claim!r} is a link out of the claim.",
                "Replace the link by a copy of what it points to.",
            )
        return real

    def _file(self, folder: Path, name: str) -> Path:
        """The regular, readable file behind a name."""
        path = folder / name
        real = self._inside(path)
        try:
            found = real.stat()
        except OSError as error:
            kind = "leads nowhere" if path.is_symlink() else "doesn't exist"
            raise BuildError("SourceNotFound", f"{self._where}: {name} {kind}.", "Copy the model again.") from error
        if not stat.S_ISREG(found.st_mode):
            raise BuildError("SourceUnsafe", f"{self._where}: {name} is no regular file.", "Replace it by a file.")
        if not os.access(real, os.R_OK):
            raise BuildError(
                "SourceUnreadable",
                f"{self._where}: {name} can't be read by user {os.getuid()} (its mode is {found.st_mode & 0o777:o}, "
                f"its owner {found.st_uid}:{found.st_gid}).",
                "Make it readable, e.g. `chmod -R a+rX` on the folder.",
            )
        return real

    def _copied(self, small: dict[str, Path], kinds: dict[str, Kind]) -> dict[str, SourceFile]:
        copied: dict[str, SourceFile] = {}
        for name, path in small.items():
            target = self._target / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            digest = files.copy(_bounded(path, name), target)
            copied[name] = SourceFile(kind=kinds[name], size=target.stat().st_size, sha256=digest)
        return copied

    def _digested(self, weights: dict[str, Path]) -> dict[str, SourceFile]:
        counter = progress.Bytes("fetch", sum(path.stat().st_size for path in weights.values()), "read")
        return {name: self._named(path, counter) for name, path in weights.items()}

    @staticmethod
    def _named(path: Path, counter: progress.Bytes) -> SourceFile:
        """A large file, which stays where it is."""
        stamp = _stamp(path)
        digest = files.sha256_of(path, counter.add)
        size = path.stat().st_size
        return SourceFile(kind="weights", size=size, sha256=digest, outside=str(path), stamp=_trusted(path, stamp))


@contextlib.contextmanager
def watched(state: State) -> Iterator[None]:
    """Say of whatever fails in this block that somebody changed the weights meanwhile, if so."""
    try:
        yield
    except (Stopped, MemoryError):
        raise
    except Exception:
        unchanged(state)
        raise


def unchanged(state: State) -> None:
    """Make sure that the weights which stayed outside are still those that fetch named.

    Their digest is taken again only if the file system doesn't tell.

    Raises:
        BuildError: somebody wrote to them during the build; the next try sees the new ones.
    """
    for name, file in state.files.items():
        if not file.outside:
            continue
        path = Path(file.outside)
        if file.stamp and path.is_file() and _stamp(path) == file.stamp:
            continue
        if not path.is_file() or path.stat().st_size != file.size or files.sha256_of(path) != file.sha256:
            raise BuildError(
                "SourceChanged",
                f"{name} on the source claim was changed while the model was being built.",
                "It is tried again; finish copying before you apply the BertDeployment.",
                ExitCode.PASSING,
            )


def _stamp(path: Path) -> str:
    """What changes with each write to a file, as its file system tells whoever opens it."""
    with path.open("rb") as file:  # so that a network file system asks its server
        found = os.fstat(file.fileno())
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"


def _trusted(path: Path, stamp: str) -> str:
    """A stamp, once the file has been read; empty if a write may not show in it.

    File systems count time in steps: a second write within one leaves no trace.
    """
    newest = max(path.stat().st_mtime, path.stat().st_ctime)
    return stamp if _stamp(path) == stamp and time.time() - newest > _SETTLED_SECONDS else ""


def _bounded(path: Path, name: str) -> Path:
    found = path.stat().st_size
    if found > selection.SMALL:
        limit = progress.size(selection.SMALL)
        raise BuildError(
            "SourceCorrupt", f"{name} has {progress.size(found)}; at most {limit} make sense.", "Check it."
        )
    return path


def _names(folder: Path) -> list[str]:
    """Names of the files that matter: those at the top, and those below that we know."""
    top = [entry.name for entry in folder.iterdir() if entry.name not in _OF_THE_FILE_SYSTEM]
    known = [name for name in selection.POOLING if "/" in name and (folder / name).is_file()]
    below = [folder / name for name in selection.SAVED_MODEL_FOLDERS if selection.SAVED_MODEL in top]
    return top + known + [f"{part.name}/{file.name}" for part in below if part.is_dir() for file in part.iterdir()]


def _shown(folder: Path) -> list[str]:
    return [f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir()]


def _suggestion(root: Path) -> str:
    """Folders of the claim that do hold a model, looked for two levels deep."""
    found = [
        str(file.parent.relative_to(root))
        for pattern in ("*/config.json", "*/*/config.json")
        for file in sorted(root.glob(pattern))[:8]
    ]
    if (root / selection.CONFIG).is_file():
        found.insert(0, "the claim's root (leave path out)")
    return f"; found: {listing(found, 8)}" if found else ""
