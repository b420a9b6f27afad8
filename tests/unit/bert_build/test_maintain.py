"""What the Jobs of `bertctl artifacts` do to a store: they read every byte, and never remove what somebody wants."""

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from bert_build import lock, maintain
from bert_build.failures import BuildError
from bert_build.store import Store
from bert_operator.api import names
from bert_operator.api.maintenance import MAX_COLLECTED, StoredArtifact, StoreReport, StoreTask
from bert_operator.api.report import MAX_REPORT_BYTES
from unit.bert_build import building

KEY, OTHER = "ab" * 16, "cd" * 16
NAME = f"onnx-{KEY}"


class Claim:
    """A claim with two published artifacts, which nobody has wanted for a while."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.store = Store(folder / "claim")
        self.store.mount.mkdir()
        self.termination = folder / "termination-log"
        self.patch = patch
        self.recorded = []
        for key in (KEY, OTHER):
            self.store.publish(folder / key, building.staged(folder / key, key=key), "me")
            digest = self.store.manifest_sha256("onnx", key)
            self.recorded.append(StoredArtifact(folder=f"onnx-{key}", manifest_sha256=digest))
            long_ago(self.store.path("onnx", key))
        patch.setenv("BERTOPS_TERMINATION_LOG", str(self.termination))

    def run(self, action: str, *recorded: StoredArtifact, listed_at: float = 0.0, whole: bool = True) -> int:
        task = StoreTask(
            action=action,  # type: ignore[arg-type]  # one of both
            claim="store",
            artifacts=list(recorded or self.recorded),
            whole=whole,
            listed_at=listed_at or time.time(),
        )
        self.patch.setenv(names.STORE_TASK_ENV, task.model_dump_json(by_alias=True))
        return maintain.main([], self.store.mount)

    def collect(self, *recorded: StoredArtifact, during: Callable[[], None] = lambda: None, **task: Any) -> int:
        """Run a Job of the operator's; `during` happens in its grace, instead of the wait."""
        wish = {"claim": "store", "artifacts": list(recorded), "listedAt": time.time(), "graceSeconds": 120} | task
        asked = StoreTask.model_validate({"action": "collect"} | wish)
        self.patch.setenv(names.STORE_TASK_ENV, asked.model_dump_json(by_alias=True))
        self.patch.setattr(maintain.time, "sleep", lambda _: during())
        return maintain.main([], self.store.mount)

    def report(self) -> StoreReport:
        return StoreReport.model_validate_json(self.termination.read_text())

    def there(self) -> list[str]:
        return sorted(entry.name for entry in self.store.folder.iterdir())


def long_ago(path: Path, seconds: float = 900) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def just_now() -> float:
    """How long ago the users were looked for."""
    return 0.0


def later(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on it is so much later, for this node and for the claim."""
    now = time.time() + seconds
    patch.setattr(time, "time", lambda: now)
    patch.setattr(lock, "server_time", lambda _: now)


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Claim:
    return Claim(tmp_path, monkeypatch)


def test_whole_artifacts_are_named_with_what_was_read(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in claim.store.mount.rglob("*")}
    assert claim.run("verify") == 0
    said = capsys.readouterr().out
    assert f"[verify] {NAME}: intact, 19.5 KiB read" in said
    assert f"[2/2] 100 % 0.0/0.0 MiB of onnx-{OTHER}" in said
    # It needs no write access, and leaves no trace.
    assert {path: path.stat().st_mtime_ns for path in claim.store.mount.rglob("*")} == before


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[3] ^= 1
    (folder / "model.onnx").write_bytes(bytes(content))


def short(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"x")


def linked(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere")
    (folder / "model.onnx").symlink_to("../elsewhere")


def relinked(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to("elsewhere")


def gone(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (flip, "model.onnx: published with sha256"),
        (short, "model.onnx: published with 20000 bytes, found 1"),
        (linked, "model.onnx is no regular file"),
        (lambda folder: (folder / "golden.npz").unlink(), "golden.npz: No such file or directory"),
        (lambda folder: (folder / "saved_model.cpb").touch(), "saved_model.cpb was not published with it"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json: published with sha256"),
        (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
        (relinked, "it is a link"),
        (gone, "its folder isn't there"),
    ],
)
def test_every_damage_is_named_and_the_others_are_read_all_the_same(
    claim: Claim, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], what: str
) -> None:
    damage(claim.store.path("onnx", KEY))
    assert claim.run("verify") == 65
    said = capsys.readouterr().out
    assert f"{NAME}: DAMAGED: {what}" in said
    assert f"onnx-{OTHER}: intact" in said
    assert "1 of 2 artifacts on claim store damaged" in claim.termination.read_text()


def test_foreign_things_on_a_claim_do_no_harm(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    (claim.store.mount / "lost+found").mkdir(mode=0o000)
    (claim.store.mount / "somebody's model.bin").write_text("x")
    for name in ("lost+found", "notes", "onnx-short", f"ONNX-{KEY}"):
        (claim.store.folder / name).mkdir()
    (claim.store.folder / "README").write_text("x")
    (claim.store.folder / "nowhere").symlink_to("nothing")
    unknown = "onnx-" + "ef" * 16
    (claim.store.folder / unknown).mkdir()
    assert claim.run("verify") == 0
    said = capsys.readouterr().out
    assert f"{unknown}: in the store, but no BertArtifact records it" in said
    assert all(name not in said for name in ("notes", "README", "onnx-short", "lost+found"))
    scratch = claim.store.mount.parent / "new"
    assert claim.store.publish(scratch, building.staged(scratch, key="12" * 16), "me")
    assert claim.run("rm", claim.recorded[0]) == 0
    assert {"lost+found", "notes", "README", "nowhere", unknown} <= set(claim.there())
    assert (claim.store.mount / "somebody's model.bin").exists()
    (claim.store.mount / "lost+found").chmod(0o700)


def test_what_nothing_uses_is_removed_with_everything_in_it(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    assert claim.run("rm", claim.recorded[0]) == 0
    assert claim.there() == [f"onnx-{OTHER}"]
    assert capsys.readouterr().out.endswith(f"[rm] {NAME}: removed\n")
    assert claim.run("rm", claim.recorded[0]) == 0
    assert capsys.readouterr().out.endswith(f"[rm] {NAME}: was gone already\n")


def test_on_a_claim_without_a_store_everything_is_gone_already(
    claim: Claim, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(claim.store.folder)
    assert claim.run("rm", claim.recorded[0]) == 0
    assert capsys.readouterr().out.endswith(f"[rm] {NAME}: was gone already\n")
    assert list(claim.store.mount.iterdir()) == []


@pytest.mark.parametrize("wanted", ["published", "found again"])
def test_what_was_wanted_since_the_list_stays(claim: Claim, capsys: pytest.CaptureFixture[str], wanted: str) -> None:
    target = claim.store.path("onnx", KEY)
    if wanted == "published":
        long_ago(target, 100)
    else:
        assert claim.store.reuse("onnx", KEY) is not None
    assert claim.run("rm") == 65
    assert claim.there() == [NAME]
    assert f"[rm] {NAME}: KEPT: {NAME} was published, or found again by a build" in capsys.readouterr().out


@pytest.mark.parametrize("ago", [700, -700])
def test_an_old_list_removes_nothing(claim: Claim, ago: float) -> None:
    assert claim.run("rm", listed_at=time.time() - ago) == 65
    assert "Nothing is removed" in claim.termination.read_text()
    assert claim.there() == [NAME, f"onnx-{OTHER}"]


def test_who_is_publishing_it_is_waited_for(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_POLL_SECONDS", 0.01)
    ended = threading.Event()

    def remove() -> None:
        claim.store.remove(NAME, "rm", just_now)
        ended.set()

    with lock.held(claim.store.folder / f".lock-{NAME}", "a build"):
        thread = threading.Thread(target=remove)
        thread.start()
        assert not ended.wait(0.1)
        assert NAME in claim.there()
    thread.join(10)
    assert ended.is_set()
    assert NAME not in claim.there()


def test_a_build_that_finds_it_between_the_look_and_the_move_gets_it_back(
    claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def slow(path: Path, target: Path) -> Path:
        if path.name == NAME:
            assert claim.store.reuse("onnx", KEY) is not None
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", slow)
    with pytest.raises(BuildError, match="found again by a build"):
        claim.store.remove(NAME, "rm", just_now)
    assert claim.store.sound("onnx", KEY) is not None
    assert claim.there() == [NAME, f"onnx-{OTHER}"]


def test_whoever_was_told_that_it_is_there_still_finds_it_after_every_race(claim: Claim) -> None:
    """Reuse needs no lock: either it comes first and the removal sees it, or it sees that nothing is left."""
    told, outcomes = [0], set()
    for number in range(60):
        target = claim.store.path("onnx", KEY)
        if not target.exists():
            scratch = claim.store.mount.parent / KEY
            claim.store.publish(scratch, building.staged(scratch), "me")
        long_ago(target)
        found: list[bool] = []
        begin = threading.Barrier(2)

        def reuse(begin: threading.Barrier = begin, found: list[bool] = found, wait: float = number / 30000) -> None:
            begin.wait()
            time.sleep(wait)
            found.append(claim.store.reuse("onnx", KEY) is not None)

        thread = threading.Thread(target=reuse)
        thread.start()
        begin.wait()
        try:
            removed = claim.store.remove(NAME, "rm", just_now)
        except BuildError:
            removed = False
        thread.join()
        if found == [True]:
            told[0] += 1
            assert claim.store.sound("onnx", KEY) is not None, f"round {number}"
        outcomes.add((removed, found[0]))
    assert len(outcomes) > 1, "one of both always won: the test raced nobody"


def test_what_the_operator_collects_is_put_aside_and_then_deleted(claim: Claim) -> None:
    def look() -> None:
        (aside,) = [name for name in claim.there() if name.startswith(f".trash-{NAME}.")]
        assert claim.there() == [aside, f"onnx-{OTHER}"]

    assert claim.collect(claim.recorded[0], during=look) == 0
    assert claim.there() == [f"onnx-{OTHER}"]
    report = claim.report()
    assert (report.removed, report.kept, report.freed_bytes) == (1, [], 20006)


def test_a_build_brings_back_what_was_put_aside(claim: Claim) -> None:
    target = claim.store.path("onnx", KEY)
    inode = target.stat().st_ino
    assert claim.collect(claim.recorded[0], during=lambda: bool(claim.store.found("onnx", KEY)) and None) == 0
    assert target.stat().st_ino == inode
    assert claim.report().kept == [NAME]
    # And it counts as wanted: the next Job, with a list from before, leaves it.
    assert claim.collect(claim.recorded[0]) == 0
    assert claim.report().kept == [NAME]


def test_a_build_that_publishes_brings_back_instead_of_writing(claim: Claim) -> None:
    inode = claim.store.path("onnx", KEY).stat().st_ino
    scratch = claim.store.mount.parent / KEY

    def publish() -> None:
        # The kubelet makes a folder where a pod mounts what isn't there any more.
        claim.store.path("onnx", KEY).mkdir()
        assert not claim.store.publish(scratch, building.staged(scratch), "me")

    assert claim.collect(claim.recorded[0], during=publish) == 0
    assert claim.store.path("onnx", KEY).stat().st_ino == inode
    assert claim.there() == [NAME, f"onnx-{OTHER}"]


def test_a_job_killed_in_its_grace_leaves_it_to_be_brought_back_for_a_day(claim: Claim) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        claim.collect(*claim.recorded, during=die)
    assert claim.store.found("onnx", KEY) is not None
    assert claim.store.put_aside(f"onnx-{OTHER}")
    later(claim.patch, 90_000)
    # Whoever works on the store next deletes what nobody wanted.
    scratch = claim.store.mount.parent / "new"
    assert claim.store.publish(scratch, building.staged(scratch, key="12" * 16), "me")
    assert claim.there() == ["onnx-" + "12" * 16, NAME]


def test_two_jobs_that_collect_the_same_delete_it_once(claim: Claim) -> None:
    def second() -> None:
        assert claim.collect(claim.recorded[0]) == 0
        assert claim.report() == StoreReport()

    assert claim.collect(claim.recorded[0], during=second) == 0
    assert claim.there() == [f"onnx-{OTHER}"]


def test_who_cleans_up_leaves_what_was_moved_aside_this_moment(claim: Claim) -> None:
    """It has the age of the artifact until it is touched."""
    long_ago(claim.store.path("onnx", KEY), 40 * 86_400)
    touch, scratch = lock.touch, claim.store.mount.parent / "new"

    def slow(path: Path) -> None:
        if path.name.startswith(".trash-"):
            claim.patch.setattr(lock, "touch", touch)
            assert claim.store.publish(scratch, building.staged(scratch, key="12" * 16), "me")
        touch(path)

    claim.patch.setattr(lock, "touch", slow)
    assert claim.collect(claim.recorded[0], during=lambda: bool(claim.store.found("onnx", KEY)) and None) == 0
    assert NAME in claim.there()
    assert claim.report().kept == [NAME]


def test_what_somebody_else_has_deleted_is_not_called_kept(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    """Its record would come back, and pods would be served from nothing."""

    def delete() -> None:
        (aside,) = claim.store.put_aside(NAME)
        assert claim.store.delete(aside)

    assert claim.collect(claim.recorded[0], during=delete) == 0
    assert claim.report() == StoreReport()
    assert f"{NAME}: was gone already" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["collect", "rm"])
@pytest.mark.parametrize("broken", ["server_time", "touch"])
@pytest.mark.parametrize("stays", [True, False])
def test_what_fails_after_the_move_is_kept_only_if_it_is_in_its_place_again(
    claim: Claim,
    capsys: pytest.CaptureFixture[str],
    action: str,
    broken: str,
    stays: bool,  # noqa: FBT001
) -> None:
    rename, real = Path.rename, getattr(lock, broken)

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def moved(path: Path, target: Path) -> Path:
        done = rename(path, target)
        if path.name == NAME:
            claim.patch.setattr(lock, broken, fail)
            if not stays:
                claim.patch.setattr(Path, "rename", fail)
        return done

    claim.patch.setattr(Path, "rename", moved)
    if action == "collect":
        assert claim.collect(claim.recorded[0]) == 0
        assert claim.report().kept == [NAME] * stays
    else:
        assert claim.run("rm", claim.recorded[0]) == 65
        assert f"{NAME}: {'KEPT: ' if stays else 'was gone already'}" in capsys.readouterr().out
    assert (NAME in claim.there()) is stays
    claim.patch.setattr(lock, broken, real)
    claim.patch.setattr(Path, "rename", rename)
    assert claim.store.found("onnx", KEY) is not None


@pytest.mark.parametrize(
    ("meanwhile", "said"),
    [
        (
            lambda claim: claim.store.path("onnx", OTHER).rename(claim.store.path("onnx", KEY)),
            "published anew meanwhile",
        ),
        (lambda claim: claim.store.delete(*claim.store.put_aside(NAME)), "somebody else has moved it on"),
        (lambda claim: claim.store.path("onnx", KEY).write_text("x"), "can't be put back (Not a directory)"),
    ],
)
def test_why_it_is_not_put_back_is_told_as_it_is(
    claim: Claim, capsys: pytest.CaptureFixture[str], meanwhile: Callable[[Claim], object], said: str
) -> None:
    def wanted(_store: Store, folder: Path, *_: object) -> None:
        if folder.name.startswith(".trash-"):
            meanwhile(claim)
            raise BuildError("ArtifactWanted", "somebody wants it")

    claim.patch.setattr(Store, "_refuse_wanted", wanted)
    with pytest.raises(BuildError, match="somebody wants it"):
        claim.store.remove(NAME, "rm", just_now)
    assert f"{NAME}" in (out := capsys.readouterr().out)
    assert said in out


def test_what_no_record_names_goes_when_it_was_idle_for_long(claim: Claim) -> None:
    long_ago(claim.store.path("onnx", KEY), 5000)
    long_ago(claim.store.path("onnx", OTHER), 3000)
    assert claim.collect() == 0
    assert claim.there() == [NAME, f"onnx-{OTHER}"], "whoever isn't told what lives removes nothing by himself"
    assert claim.collect(recorded=[NAME], idleSeconds=0) == 0
    assert claim.there() == [NAME]
    assert claim.collect(recorded=[], idleSeconds=6000) == 0
    assert claim.there() == [NAME]
    assert claim.collect(recorded=[], idleSeconds=4000) == 0
    assert claim.there() == []
    assert claim.report().removed == 1


def test_an_old_list_collects_nothing(claim: Claim) -> None:
    assert claim.collect(*claim.recorded, listedAt=time.time() - 700) == 65
    assert claim.there() == [NAME, f"onnx-{OTHER}"]
    assert '"reason":"ListTooOld"' in claim.termination.read_text()


def test_a_list_that_grows_old_while_it_works_ends_with_what_is_left_kept(claim: Claim) -> None:
    """ListTooOld would say that nothing was touched: every record would come back."""
    put_away = Store.put_away

    def slow(store: Store, name: str, *rest: Any) -> Path | None:
        done = put_away(store, name, *rest)
        later(claim.patch, 700)
        return done

    claim.patch.setattr(Store, "put_away", slow)
    assert claim.collect(*claim.recorded, recorded=[], idleSeconds=0) == 0
    assert claim.there() == [f"onnx-{OTHER}"]
    assert (claim.report().removed, claim.report().kept) == (1, [f"onnx-{OTHER}"])


def test_a_list_that_grows_old_in_the_last_moment_puts_it_back(claim: Claim) -> None:
    rename = Path.rename

    def slow(path: Path, target: Path) -> Path:
        done = rename(path, target)
        later(claim.patch, 700)
        return done

    claim.patch.setattr(Path, "rename", slow)
    assert claim.collect(claim.recorded[0]) == 0
    assert claim.report().kept == [NAME]
    assert NAME in claim.there()


@pytest.mark.parametrize("action", ["rm", "collect"])
def test_what_was_wanted_while_it_waited_for_the_lock_stays(claim: Claim, action: str) -> None:
    """Four minutes before its turn came, when the users had been looked for long ago."""
    held, now = lock.held, time.time()

    @contextlib.contextmanager
    def busy(*arguments: Any) -> Iterator[lock.Heartbeat]:
        with held(*arguments) as heartbeat:
            os.utime(claim.store.path("onnx", KEY), (now + 150,) * 2)
            later(claim.patch, 400)
            yield heartbeat

    claim.patch.setattr(lock, "held", busy)
    code = claim.collect(claim.recorded[0]) if action == "collect" else claim.run("rm", claim.recorded[0])
    assert code == (0 if action == "collect" else 65)
    assert NAME in claim.there()


def test_the_longest_report_still_fits_into_a_termination_message() -> None:
    report = StoreReport(removed=9999, kept=["t" * 32 + "-" + "f" * 32] * MAX_COLLECTED, freed_bytes=1 << 60)
    assert len(report.model_dump_json(by_alias=True)) <= MAX_REPORT_BYTES


def test_on_a_full_claim_what_nothing_uses_can_still_go(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a full claim could never be emptied: a name still finds its place, but not one byte."""
    real = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fileno(self) -> int:
            return int(self.file.fileno())

    def full(path: Path, mode: str = "r", **more: Any) -> Any:
        found = real(path, mode, **more)
        return Full(found) if "x" in mode and path.is_relative_to(claim.store.mount) else found

    monkeypatch.setattr(Path, "open", full)
    assert claim.collect(claim.recorded[0]) == 0
    assert claim.there() == [f"onnx-{OTHER}"]


def test_a_read_only_claim_is_named_with_what_still_works(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(os, "utime", read_only)
    assert claim.store.reuse("onnx", KEY) is not None
    assert claim.run("verify") == 0
    monkeypatch.setattr(Path, "rename", read_only)
    with pytest.raises(BuildError, match="serves what is in it already") as refused:
        claim.store.remove(NAME, "rm", just_now)
    assert "ReadWriteOnce or ReadWriteMany" in refused.value.next_step


def test_a_task_it_cannot_read_is_told_plainly(claim: Claim) -> None:
    claim.patch.setenv(names.STORE_TASK_ENV, '{"action": "burn"}')
    assert maintain.main([], claim.store.mount) == 70
    assert "same release" in claim.termination.read_text()
