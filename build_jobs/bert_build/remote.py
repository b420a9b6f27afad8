"""A model folder behind a network: the part that the hub and S3 share. Called by fetch.

Small files come first: with the digests that the service publishes they tell whether the artifact exists already, and
whether the model is one that can be built, before anything large is downloaded. No archive is ever opened.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

from bert_build import config_checks, download, failures, files, progress, selection
from bert_build.failures import BuildError, listing
from bert_build.job import Job
from bert_build.state import Kind, SourceFile
from bert_operator.api.report import ExitCode

T = TypeVar("T")


class Shelf(Protocol):
    """A folder of a service, as far as its files are concerned."""

    faults: tuple[type[Exception], ...]
    """What its calls may raise and `named` explains."""
    field: str
    """Where users name it: source.huggingFace.repo, ..."""

    @property
    def title(self) -> str:
        """What messages call it."""

    def listed(self) -> tuple[str, dict[str, SourceFile]]:
        """Its revision (empty if it has none) and its files, each with its size and the digest that is published."""

    def published(self, name: str, file: SourceFile, /) -> SourceFile:
        """The file with its size and published digest, if the listing lacked one and another question brings it."""

    def open(self, name: str, start: int, /) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of a file from `start` on."""

    def named(self, error: Exception, /) -> BuildError:
        """What a failed call means to the user."""


class RemoteModel:
    """The model on a shelf."""

    def __init__(self, job: Job, shelf: Shelf) -> None:
        self._shelf = shelf
        self._build = job.request.build
        self._target = job.model
        self._store = job.store

    def collect(self) -> tuple[str, dict[str, SourceFile]]:
        """List the folder and get its small files; weights carry the digest that the service publishes."""
        revision, present = self._tried(self._shelf.listed)
        if selection.CONFIG not in present:
            raise BuildError(
                "SourceNotFound",
                f"{self._shelf.title} holds no {selection.CONFIG}; it holds {listing(list(present))}.",
                f"Set {self._shelf.field} to where {selection.CONFIG}, the weights and the tokenizer's files lie. "
                "Archives are not unpacked.",
            )
        kinds = selection.small_files(present)
        small = {
            name: self._downloaded(name, self._published(name, present[name]), kind) for name, kind in kinds.items()
        }
        # Before the weights: refusing a model that can't be built must not cost gigabytes.
        config_checks.check((self._target / selection.CONFIG).read_bytes(), self._build)
        weights = self._weights(present)
        return revision, small | {name: self._published(name, file) for name, file in weights.items()}

    def weights(self, found: dict[str, SourceFile]) -> dict[str, SourceFile]:
        """Download the weights and prove them by the digests that are published."""
        missing = {
            name: file for name, file in found.items() if file.kind == "weights" and not (self._target / name).exists()
        }
        total = sum(file.size for file in missing.values())
        # The artifact is about as large as the weights; it grows in the scratch space and is copied to the store.
        files.require_space(self._target, 2 * total, f"Downloading and converting {self._shelf.title}", store=False)
        files.require_space(self._store, total, f"The artifact of {self._shelf.title}", store=True)
        counter = progress.Bytes("fetch", total)
        return found | {name: self._downloaded(name, file, "weights", counter.add) for name, file in missing.items()}

    def _published(self, name: str, file: SourceFile) -> SourceFile:
        return file if file.sha256 and file.size else self._tried(lambda: self._shelf.published(name, file))

    def _weights(self, present: Mapping[str, SourceFile]) -> dict[str, SourceFile]:
        title = self._shelf.title
        entry = selection.weights_entry(present, title, self._build)
        if not entry.endswith(selection.INDEX):
            return {name: present[name] for name in selection.weights_files(present, entry)}
        index = self._downloaded(entry, self._published(entry, present[entry]), "weights")
        wanted = selection.shards((self._target / entry).read_bytes(), entry)
        absent = [name for name in wanted if name not in present]
        if absent:
            raise BuildError("WeightsMissing", f"{title}: {entry} names {absent[0]}, which isn't there.", "Upload it.")
        return {entry: index} | {name: present[name] for name in wanted}

    def _downloaded(
        self, name: str, file: SourceFile, kind: Kind, count: Callable[[int], None] = lambda _: None
    ) -> SourceFile:
        """One file, its digest taken while it arrives and compared with the published one."""
        small = kind != "weights" or name.endswith(selection.INDEX)
        if small and file.size > selection.SMALL:
            raise BuildError(
                "SourceCorrupt",
                f"{self._shelf.title}: {name} has {progress.size(file.size)}; at most "
                f"{progress.size(selection.SMALL)} make sense.",
                "Check the file.",
            )
        target = self._target / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        with download.Download(target, file.size, count) as one:
            self._tried(lambda: one.go_on(lambda start: self._shelf.open(name, start)), lambda: one.done)
        self._prove(name, file, one.sha256, target)
        return SourceFile(kind=kind, size=file.size, sha256=one.sha256)

    def _prove(self, name: str, file: SourceFile, digest: str, target: Path) -> None:
        if file.sha256 not in ("", digest):
            target.unlink()
            raise BuildError(
                "DownloadCorrupt",
                f"{self._shelf.title}: {name} arrived with sha256 {digest[:12]}…, published is {file.sha256[:12]}….",
                "It is tried again; if it persists, check the service or its mirror.",
                ExitCode.PASSING,
            )

    def _tried(self, call: Callable[[], T], done: Callable[[], int] = int) -> T:
        return download.tried(call, self._shelf.faults, self._named, done)

    def _named(self, error: Exception) -> BuildError:
        if isinstance(error, OSError) and error.errno in failures.FULL:
            free = progress.size(files.free(self._target))
            what = f"{error.strerror} while downloading {self._shelf.title}, {free} are free"
            return files.no_space(what, store=False)
        return self._shelf.named(error)
