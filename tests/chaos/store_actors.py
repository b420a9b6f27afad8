"""Processes that work on one store with the real code, each spoilt at one step. `store_rounds` starts them.

A step is a call that touches the disk: an audit hook sees every open, rename, link, mkdir, unlink, rmdir, utime and
listing before it happens; writes and fsyncs are wrapped. At its step a fault kills the process (SIGKILL), tears the
write in two and then kills it, fails this call or all later ones with the errno of a full, read-only or vanished disk,
freezes the process until others take it for dead, slows every call down, or lets its clocks be wrong.
"""

import errno
import hashlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from unittest import mock

from bert_build import files, lock, maintain, preflight, progress
from bert_build.failures import BuildError
from bert_build.store import Store
from bert_operator.api import names
from bert_operator.api.maintenance import StoredArtifact, StoreTask
from bert_operator.api.report import BuildReport, FidelityFigures, Manifest, ManifestFile, ServedModel, ServedModels

STALE: Final = 0.4
"""Seconds after which a lock counts as dead here, instead of two minutes: so that it happens."""
FREEZE: Final = 0.7
GRACE: Final = 0.05
AUDITED: Final = frozenset(
    {"open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.utime", "os.listdir", "os.scandir"}
)
ERRORS: Final = {"full": errno.ENOSPC, "read-only": errno.EROFS, "vanish": errno.ESTALE}
CLOCKS: Final = frozenset({"skew", "touch"})
READS: Final = frozenset({"os.listdir", "os.scandir"})


@dataclass(frozen=True)
class Fault:
    """What goes wrong in one process."""

    kind: str
    at: int
    """From which step on."""
    on: str = ""
    """Only calls of this name are steps; empty: all."""
    seed: float = 0.0


@dataclass
class Actor:
    """One process."""

    kind: str
    key: str
    name: str
    fault: Fault | None
    mount: Path
    scratch: Path = Path()
    manifest: Manifest | None = None
    pid: int = 0
    _pipe: int = -1
    _status: int | None = None
    _said: dict[str, Any] = field(default_factory=dict)

    def start(self, gate: int) -> None:
        """Fork; the child waits until the gate is closed, so that all begin at once."""
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reading)
            os.read(gate, 1)
            _child(self, writing)
        os.close(writing)
        self._pipe = reading

    def ended(self) -> bool:
        """Whether it is over, one way or the other."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
                with os.fdopen(self._pipe, "rb") as words:
                    lines = [json.loads(line) for line in words.read().splitlines()]
                for line in lines:
                    self._said |= line
        return self._status is not None

    def result(self) -> dict[str, Any]:
        """What it said, and `outcome`."""
        return {"outcome": "died"} | self._said

    def do(self) -> dict[str, Any]:
        """The work, with the real code."""
        store = Store(self.mount)
        match self.kind:
            case "build":
                assert self.manifest is not None
                store.publish(self.scratch, self.manifest, self.name)
                return self._report(store, found=store.reuse("onnx", self.key))
            case "find":
                return self._report(store, found=store.found("onnx", self.key) and store.reuse("onnx", self.key))
            case "reuse":
                return self._report(store, found=store.reuse("onnx", self.key))
            case _:
                listed = [StoredArtifact(folder=f"onnx-{self.key}", manifest_sha256="")]
                task = StoreTask(action="collect", claim="c", artifacts=listed, listed_at=time.time() - 1)
                task = task.model_copy(update={"grace_seconds": GRACE})
                done = maintain._collect(task, store)
                return {"outcome": "removed" if done.removed else "kept" if done.kept else "nothing to remove"}

    def _report(self, store: Store, *, found: Manifest | None) -> dict[str, Any]:
        """What a build tells the operator, which records it: from then on it must be there."""
        if found is None:
            return {"outcome": "not there"}
        return {"outcome": "reported", "manifest": store.manifest_sha256("onnx", self.key)}


@contextmanager
def running(crowd: Sequence[Actor]) -> Iterator[None]:
    """Start them all at once; none outlives the block."""
    reading, gate = os.pipe()
    os.set_inheritable(gate, False)
    for actor in crowd:
        actor.start(reading)
    os.write(gate, b"g" * len(crowd))
    try:
        yield
    finally:
        for actor in crowd:
            if not actor.ended():
                os.kill(actor.pid, signal.SIGKILL)
                os.waitpid(actor.pid, 0)
        os.close(gate)
        os.close(reading)


def _child(actor: Actor, words: int) -> None:
    """Work as the fault lets it, say how it ended, end."""
    said: dict[str, Any]
    try:
        _hasten()
        spoiler = Spoiler(actor.fault, str(actor.mount), words)
        spoiler.begin()
        try:
            said = actor.do()
        except BuildError as error:
            said = {"outcome": error.reason}
        except OSError as error:
            said = {"outcome": f"OSError {errno.errorcode.get(error.errno or 0, '?')}"}
    except BaseException as error:  # noqa: BLE001 - nothing else may ever come out of the store
        said = {"outcome": "unexpected", "error": repr(error)}
    os.write(words, json.dumps(said).encode() + b"\n")
    os._exit(0)


def _hasten() -> None:
    """Let two minutes pass in less than a second."""
    lock.STALE_SECONDS = STALE  # type: ignore[misc]
    lock._HEARTBEAT_SECONDS = STALE / 8  # type: ignore[misc]
    lock.Heartbeat.__init__.__defaults__ = (STALE / 8,)
    lock._POLL_SECONDS = 0.01  # type: ignore[misc]
    lock.held.__wrapped__.__defaults__ = (20.0,)  # type: ignore[attr-defined]
    files.BLOCK = 16 << 10  # type: ignore[misc]


def hushed() -> AbstractContextManager[object]:
    """Nobody reads our progress: none is told in this block, nor by what is forked in it."""
    return mock.patch.object(progress, "say")


class Spoiler:
    """Counts the steps of this process and spoils the one it was told."""

    def __init__(self, fault: Fault | None, mount: str, words: int) -> None:
        self._fault, self._mount, self._words = fault, mount, words
        self._steps = 0
        self._busy = False
        self.reached = ""

    def begin(self) -> None:
        """From now on."""
        sys.addaudithook(self._audit)
        real_open, real_sync, real_utime, real_time = io.open, os.fsync, os.utime, time.time

        def opened(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            found = real_open(file, mode, *rest, **more)
            return Torn(found, self) if set(mode) & set("wxa") else found

        def synced(fd: Any) -> None:
            self.step("os.fsync")
            real_sync(fd)

        io.open = opened
        os.fsync = synced
        if self._fault and self._fault.kind in CLOCKS:
            off = (self._fault.seed - 0.5) * 4 * 3600

            def touched(path: Any, times: Any = None, **more: Any) -> None:
                # A client that sends its own time instead of asking the server for its.
                real_utime(path, times or (real_time() + off,) * 2, **more)

            if self._fault.kind == "touch":
                os.utime = touched
            time.time = lambda: real_time() + off
            self._tell("a wrong clock")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in AUDITED and not self._busy and self._ours(arguments):
            self.step(event)

    def _ours(self, arguments: tuple[Any, ...]) -> bool:
        path = arguments[0] if arguments else None
        return isinstance(path, int) or str(path).startswith(self._mount) or not str(path).startswith("/")

    def step(self, what: str) -> bool:
        """One step is about to happen; True if a write is to be torn."""
        fault = self._fault
        if fault is None or fault.kind in CLOCKS or (fault.on and what != fault.on):
            return False
        self._steps += 1
        if self._steps < fault.at:
            return False
        if fault.kind in ERRORS:
            self._fail(fault.kind, what)
        elif fault.kind == "slow":
            self._tell(what)
            time.sleep(0.004)
        elif self._steps == fault.at or (fault.kind == "torn" and what == "write"):
            return self._end(fault.kind, what)
        return False

    def _fail(self, kind: str, what: str) -> None:
        """This call and all later ones; what is only full or read-only can still be read."""
        if kind == "vanish" or what not in READS:
            self._tell(what)
            raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]))

    def _end(self, kind: str, what: str) -> bool:
        """Kill or freeze this process; a write that is to be torn is done by halves first."""
        if kind == "torn" and what != "write":
            return False
        self._tell(what)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "freeze":
            time.sleep(FREEZE)
        return kind == "torn"

    def _tell(self, what: str) -> None:
        """Say that the fault has come, once: a killed process says nothing more."""
        if not self.reached and self._fault is not None:
            self.reached = what
            os.write(self._words, json.dumps({"fault": f"{self._fault.kind} at {what}"}).encode() + b"\n")


class Torn:
    """A file that is being written."""

    def __init__(self, file: Any, spoiler: Spoiler) -> None:
        self._file, self._spoiler = file, spoiler

    def write(self, content: Any) -> int:
        if self._spoiler.step("write"):
            self._file.write(content[: len(content) // 2])
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return int(self._file.write(content))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def staged(folder: Path, key: str, name: str) -> Manifest:
    """A finished artifact in a scratch folder; nobody else's has the same bytes."""
    (folder / "variables").mkdir(parents=True)
    for file, size in (("model.onnx", 90_000), ("golden.npz", 500), ("variables/data", 40_000)):
        (folder / file).write_bytes((name.encode() * (size // len(name) + 1))[:size])
    made = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    listed = {file: ManifestFile(size=path.stat().st_size, sha256=files.sha256_of(path)) for file, path in made.items()}
    return Manifest(schema_version=1, report=_report(key, name), files=listed)


def digest(manifest: Manifest) -> str:
    """What its file will have as sha256."""
    return hashlib.sha256(manifest.model_dump_json(by_alias=True, indent=1).encode()).hexdigest()


def torn(target: Path, known: set[str]) -> str:
    """What is wrong with what is in an artifact's place, as a pod sees it that mounts it now; empty if nothing is.

    Whatever has no manifest is no artifact: preflight refuses it. A pod holds on to the folder it has mounted, so this
    reads through one descriptor; if the folder was moved away meanwhile, it is another pod's business.
    """
    try:
        folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return ""
    try:
        found = _read(folder, names.MANIFEST_FILE)
        if found is None:
            return ""
        wrong = _wrong(folder, found, known)
        in_place = os.path.lexists(target) and os.fstat(folder).st_ino == target.stat().st_ino
        return f"{target.name[:13]}: {wrong}" if wrong and in_place else ""
    except FileNotFoundError:
        return ""
    finally:
        os.close(folder)


def accepted(target: Path, digest: str) -> bool:
    """Whether a pod's preflight would let a server start on it: the artifact that was recorded, to the last byte."""
    model = ServedModel(name="m", version=1, path=str(target), artifact="a", manifest_sha256=digest, max_batch_size=1)
    try:
        preflight._check(model, ServedModels(server="triton", models=[model]), "")
    except BuildError:
        return False
    return True


def _wrong(folder: int, found: bytes, known: set[str]) -> str:
    if hashlib.sha256(found).hexdigest() not in known:
        return "a manifest that nobody has written"
    for name, file in Manifest.model_validate_json(found).files.items():
        content = _read(folder, name)
        if content is None or hashlib.sha256(content).hexdigest() != file.sha256:
            return f"{name} is {'not there' if content is None else 'not what the manifest says'}"
    return ""


def _read(folder: int, name: str) -> bytes | None:
    try:
        with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _report(key: str, name: str) -> BuildReport:
    figures = FidelityFigures(
        samples=1, max_abs_difference=0, min_cosine=1, limit_max_abs_difference=1, limit_min_cosine=0
    )
    return BuildReport(
        format="onnx",
        artifact_key=key,
        manifest_sha256="",
        weights_digest="cd" * 32,
        revision=name,
        task="feature-extraction",
        precision="fp32",
        architecture="BertModel",
        inputs=[],
        outputs=[],
        max_sequence_length=16,
        size_bytes=1,
        parameters=1,
        fidelity=figures,
        toolchain={},
        durations_seconds={},
        peak_memory_bytes=1,
    )
