"""An artifact in the store is absent or whole, whatever happens to those who publish."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bert_build import files, lock
from bert_build.failures import BuildError, Stopped
from bert_build.store import Store
from bert_operator.api.report import ExitCode
from unit.bert_build import building

KEY = "ab" * 16


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "claim").mkdir()
    return Store(tmp_path / "claim")


def leftovers(store: Store) -> list[str]:
    return sorted(entry.name for entry in store.folder.iterdir() if entry.name != f"onnx-{KEY}")


def long_ago(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_published_artifact_is_found_with_its_manifest_and_nothing_else_is_left(store: Store, scratch: Path) -> None:
    manifest = building.staged(scratch)
    assert store.publish(scratch, manifest, "me")
    assert store.sound("onnx", KEY) == manifest
    assert leftovers(store) == []
    assert len(store.manifest_sha256("onnx", KEY)) == 64


def test_folders_of_an_artifact_are_published_with_it_and_looked_into(store: Store, scratch: Path) -> None:
    (scratch / "variables").mkdir(parents=True)
    (scratch / "variables" / "data").write_bytes(b"weights")
    (scratch / "assets" / "empty").mkdir(parents=True)
    manifest = building.staged(scratch)
    assert set(manifest.files) == {"golden.npz", "model.onnx", "variables/data"}
    assert store.publish(scratch, manifest, "me")
    found = store.path("onnx", KEY) / "variables" / "data"
    assert found.read_bytes() == b"weights"
    found.write_bytes(b"weightS")
    assert store.sound("onnx", KEY) is None
    assert store.publish(scratch, manifest, "me again")
    assert found.read_bytes() == b"weights"


def test_second_publisher_reuses_what_the_first_published(store: Store, scratch: Path) -> None:
    manifest = building.staged(scratch)
    store.publish(scratch, manifest, "me")
    inode = store.path("onnx", KEY).stat().st_ino
    assert not store.publish(scratch, manifest, "you")
    assert store.path("onnx", KEY).stat().st_ino == inode


def test_empty_folder_made_by_the_kubelet_is_replaced(store: Store, scratch: Path) -> None:
    store.path("onnx", KEY).mkdir(parents=True)
    assert store.publish(scratch, building.staged(scratch), "me")
    assert store.sound("onnx", KEY)
    assert leftovers(store) == []


@pytest.mark.parametrize("damage", ["no manifest", "flipped byte", "short file", "other key", "a file"])
def test_half_or_foreign_artifact_is_moved_away_and_replaced(store: Store, scratch: Path, damage: str) -> None:
    manifest = building.staged(scratch)
    store.publish(scratch, manifest, "me")
    target = store.path("onnx", KEY)
    model = target / "model.onnx"
    if damage == "no manifest":
        (target / "manifest.json").unlink()
    elif damage == "flipped byte":
        model.write_bytes(b"X" + model.read_bytes()[1:])
    elif damage == "short file":
        model.write_bytes(model.read_bytes()[:-1])
    elif damage == "other key":
        text = (target / "manifest.json").read_text()
        (target / "manifest.json").write_text(text.replace(KEY, "cd" * 16))
    else:
        target.rename(target.with_name("aside"))
        target.write_text("not a folder")
    assert store.sound("onnx", KEY) is None
    assert store.publish(scratch, manifest, "me")
    assert store.sound("onnx", KEY)
    assert [name for name in leftovers(store) if name.startswith(".trash-")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_named_with_figures_and_nothing_half_written_stays(
    store: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real = files.copy

    def full(source: Path, target: Path, _count: object) -> str:
        if source.name == "model.onnx":
            target.write_bytes(b"half")
            raise OSError(code, os.strerror(code), str(target))
        return real(source, target)

    monkeypatch.setattr(files, "copy", full)
    with pytest.raises(BuildError, match=r"needs 19\.5 KiB, .* are free") as caught:
        store.publish(scratch, building.staged(scratch), "me")
    assert (caught.value.reason, caught.value.code) == ("StoreFull", ExitCode.NO_SPACE)
    assert list(store.folder.iterdir()) == []


def test_lack_of_space_is_refused_before_anything_is_written(
    store: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "free", lambda _: 10_000)
    monkeypatch.setattr(files, "copy", lambda *_: pytest.fail("wrote although it can't fit"))
    with pytest.raises(BuildError, match=r"9\.8 KiB are free") as caught:
        store.publish(scratch, building.staged(scratch), "me")
    assert caught.value.code is ExitCode.NO_SPACE
    assert list(store.folder.iterdir()) == []


def test_read_only_claim_is_named(store: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    manifest = building.report()
    with pytest.raises(BuildError) as caught:
        store.publish(scratch, building.Manifest(schema_version=1, report=manifest, files={}), "me")
    assert (caught.value.reason, caught.value.code) == ("StoreReadOnly", ExitCode.NO_SPACE)


def test_stop_in_the_middle_leaves_nothing(store: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Path) -> None:
        raise Stopped

    monkeypatch.setattr(files, "sync_folder", stop)
    with pytest.raises(Stopped):
        store.publish(scratch, building.staged(scratch), "me")
    assert list(store.folder.iterdir()) == []


def test_what_grows_after_it_was_listed_is_refused_with_its_sizes(store: Store, scratch: Path) -> None:
    manifest = building.staged(scratch)
    with (scratch / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BuildError, match=r"model\.onnx had 20000 bytes when it was listed, and 20001 when"):
        store.publish(scratch, manifest, "me")
    assert list(store.folder.iterdir()) == []


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(
    store: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.folder.mkdir()
    # Trash counts from when it was moved, which no test can date back.
    now = time.time() + 90_000
    monkeypatch.setattr(lock, "server_time", lambda _: now)
    for name, idle in (
        (".tmp-dead", 130),
        (".tmp-alive", 5),
        (".trash-old", 90_000),
        (".trash-new", 3600),
        ("mine", 90_000),
    ):
        (store.folder / name).mkdir()
        (store.folder / name / "file").write_text("x")
        os.utime(store.folder / name, (now - idle,) * 2)
    store.publish(scratch, building.staged(scratch), "me")
    assert leftovers(store) == [".tmp-alive", ".trash-new", "mine"]


def test_lock_of_the_living_is_waited_for_and_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.folder.mkdir()
    path = store.folder / ".lock-x"
    monkeypatch.setattr(lock, "_POLL_SECONDS", 0.01)
    with (
        lock.held(path, "team/first (pod-1)"),
        pytest.raises(BuildError, match=r"team/first \(pod-1\)") as caught,
        lock.held(path, "second", patience=0.05),
    ):
        pytest.fail("two held the lock at once")
    assert caught.value.code is ExitCode.PASSING
    assert not path.exists()


def test_lock_of_the_dead_is_broken_by_the_claims_own_clock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.folder.mkdir()
    path = store.folder / ".lock-x"
    path.write_text('{"holder": "dead", "id": "1"}')
    long_ago(path, lock.STALE_SECONDS + 5)
    # Our own clock is an hour off: it must not matter.
    monkeypatch.setattr(time, "time", lambda: pytest.fail("asked our own clock"))
    with lock.held(path, "me", patience=0.5):
        assert '"me"' in path.read_text()
    assert list(store.folder.iterdir()) == []


def test_lock_that_was_taken_from_a_slow_holder_is_left_to_its_new_one(store: Store) -> None:
    store.folder.mkdir()
    path = store.folder / ".lock-x"
    with lock.held(path, "slow"):
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"


def test_holder_keeps_its_lock_and_its_folder_alive(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.mkdir()
    long_ago(path, 1000)
    with lock.Heartbeat(interval=0.01) as heartbeat:
        heartbeat.keep(path)
        deadline = time.monotonic() + 60
        while time.time() - path.stat().st_mtime > 500 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert time.time() - path.stat().st_mtime < 500


PUBLISHERS = """
import os, sys
from pathlib import Path
from bert_build.store import Store
from bert_operator.api.report import Manifest
scratch, claim = map(Path, sys.argv[1:3])
manifest = Manifest.model_validate_json((scratch.parent / "manifest").read_bytes())
gate, opener = os.pipe()
for _ in range(4):
    if not os.fork():
        os.close(opener)
        os.read(gate, 1)  # until it is closed, for all at once
        os._exit(10 + Store(claim).publish(scratch, manifest, "test"))
os.close(opener)
sys.exit(sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(4)) != [10, 10, 10, 11])
"""
"""Four processes, of which one may publish; to import what they need takes more than that."""


@pytest.fixture
def large(scratch: Path) -> Path:
    manifest = building.staged(scratch, content=os.urandom(8 << 20))
    (scratch.parent / "manifest").write_text(manifest.model_dump_json(by_alias=True))
    return scratch


def test_many_publishers_at_once_publish_once(large: Path, store: Store) -> None:
    command = [sys.executable, "-c", PUBLISHERS, str(large), str(store.mount)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert store.sound("onnx", KEY)
    assert leftovers(store) == []
