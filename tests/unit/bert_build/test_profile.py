"""A profile run beside a server of our own making, with a program in place of Model Analyzer."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_build import analyzer_config, failures, profile, report_io, triton_admin
from bert_build.profile import Folders
from bert_operator.api import names
from bert_operator.api.measurement import AskedVariant, ProfileReport, ProfileRequest
from bert_operator.api.report import ExitCode
from support.operator_process import eventually

MEASURES = """
import pathlib, sys, yaml
config = yaml.safe_load(pathlib.Path(sys.argv[3]).read_text())
folder = pathlib.Path(config["export_path"]) / "results"
folder.mkdir(parents=True)
(name, model), = config["profile_models"].items()
rows = "".join(f"{name},{load},{load * 10.0},{load * 2.0}\\n" for load in model["parameters"]["concurrency"])
(folder / "metrics-model-inference.csv").write_text(
    "Model,Concurrency,Throughput (infer/sec),p95 Latency (ms)\\n" + rows
)
"""
HANGS = """#!/bin/sh
setsid sleep 600 &
echo $! > child
mv child pid
sleep 600
"""
"""Writes the pid of a child in a session of its own; quickly, since budgets are short."""


class FakeTriton(BaseHTTPRequestHandler):
    """Triton's repository API, as far as a profile run asks it."""

    broken: frozenset[str] = frozenset()
    deadly: frozenset[str] = frozenset()
    """Loading one of these kills the server."""
    absence: int = 3
    """How often a dead server doesn't answer until it was started again."""
    away: int = 0
    calls: tuple[str, ...] = ()

    def do_GET(self) -> None:
        if self.away:
            type(self).away -= 1
            self.close_connection = True
            return
        self._answer(200, b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).calls = (*self.calls, self.path)
        *_, model, action = self.path.split("/")
        if action == "load" and model in self.deadly:
            type(self).away = self.absence
        if self.away:
            self.close_connection = True
            return
        if action == "load" and model in self.broken:
            self._answer(400, json.dumps({"error": f"failed to load '{model}', out of memory"}).encode())
            return
        self._answer(200, b"[]")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeTriton]]:
    handler = type("Handler", (FakeTriton,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    monkeypatch.setattr(analyzer_config, "HTTP", f"127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """An artifact and the pod's other volumes."""
    found = Folders(*(tmp_path / name for name in ("artifact", "profile", "work", "store", "analyzer")))
    for folder in (found.artifact, found.repository, found.work, found.store):
        folder.mkdir()
    for name in (names.MANIFEST_FILE, names.ONNX_FILE):
        (found.artifact / name).write_text("{}")
    ids = np.arange(1, 9, dtype=np.int64)[None]
    arrays = {"0/in/input_ids": ids, "0/in/attention_mask": np.ones_like(ids), "0/out/logits": np.zeros((1, 2))}
    np.savez(found.artifact / names.GOLDEN_FILE, **arrays)  # type: ignore[arg-type]  # its stub takes them for options
    return put_analyzer(found, MEASURES)


@pytest.fixture(autouse=True)
def last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(report_io.LOG_ENV, str(tmp_path / "termination-log"))
    return tmp_path / "termination-log"


def put_analyzer(folders: Folders, text: str) -> Folders:
    folders.program.write_text(text if text.startswith("#!") else f"#!{sys.executable}\n{text}")
    folders.program.chmod(0o755)
    return folders


def request(folders: Folders, **changes: Any) -> ProfileRequest:
    plain: dict[str, Any] = {
        "key": "ab" * 16,
        "model": "minilm",
        "version": 3,
        "artifact": "onnx-1-2",
        "manifest_sha256": hashlib.sha256((folders.artifact / names.MANIFEST_FILE).read_bytes()).hexdigest(),
        "variants": [
            AskedVariant(name=f"i{count}-b1", instances=count, max_batch_size=1, config=f"name: 'i{count}-b1'")
            for count in (1, 2)
        ],
        "concurrency": [1, 4],
        "lengths": [8],
        "budget_seconds": 600,
        "model_file": names.ONNX_FILE,
    }
    return ProfileRequest(**plain | changes)


def measured(folders: Folders, last_words: Path, **changes: Any) -> ProfileReport:
    """Prepare and measure; what is reported."""
    asked = request(folders, **changes)
    profile.prepare(asked, folders)
    profile.measure(asked, folders)
    return ProfileReport.model_validate_json(last_words.read_text())


class TestPrepare:
    def test_each_variant_is_a_config_and_a_link_to_the_artifact(self, folders: Folders) -> None:
        profile.prepare(request(folders), folders)
        assert sorted(one.name for one in folders.repository.iterdir()) == ["i1-b1", "i2-b1"]
        assert (folders.repository / "i2-b1" / "config.pbtxt").read_text() == "name: 'i2-b1'"
        assert (folders.repository / "i2-b1" / "3").resolve() == folders.artifact

    @pytest.mark.parametrize("name", [names.MANIFEST_FILE, names.ONNX_FILE, names.GOLDEN_FILE])
    def test_an_artifact_that_is_not_whole_is_not_measured(self, folders: Folders, name: str) -> None:
        asked = request(folders)
        (folders.artifact / name).unlink()
        with pytest.raises(failures.BuildError, match=f"{name} is missing"):
            profile.prepare(asked, folders)

    def test_another_artifact_than_the_built_one_is_not_measured(self, folders: Folders) -> None:
        asked = request(folders)
        (folders.artifact / names.MANIFEST_FILE).write_text("{ }")
        with pytest.raises(failures.BuildError, match="was changed"):
            profile.prepare(asked, folders)


class TestMeasure:
    def test_every_variant_is_loaded_measured_and_unloaded_alone(
        self, folders: Folders, triton: type[FakeTriton], last_words: Path
    ) -> None:
        report = measured(folders, last_words)
        assert [(one.instances, [point.concurrency for point in one.points]) for one in report.variants] == [
            (1, [1, 4]),
            (2, [1, 4]),
        ]
        assert report.skipped == 0
        changes = [call for call in triton.calls if call.endswith("load")]
        assert changes == [f"/v2/repository/models/i{n}-b1/{do}" for n in (1, 2) for do in ("load", "unload")]

    @pytest.mark.usefixtures("triton")
    def test_what_the_analyzer_wrote_is_kept_on_the_claim(self, folders: Folders, last_words: Path) -> None:
        report = measured(folders, last_words)
        kept = folders.store / names.TUNING_FOLDER / report.key
        assert (kept / "i1-b1/results/metrics-model-inference.csv").is_file()
        assert (kept / "i2-b1/config.pbtxt").read_text() == "name: 'i2-b1'"
        assert [one.name for one in kept.parent.iterdir()] == [report.key]

    @pytest.mark.usefixtures("triton")
    def test_a_claim_that_cant_be_written_loses_no_measurement(self, folders: Folders, last_words: Path) -> None:
        (folders.store / names.TUNING_FOLDER).write_text("a file where the folder should be")
        assert len(measured(folders, last_words).variants) == 2

    def test_a_variant_that_the_server_cant_load_is_left_out(
        self, folders: Folders, triton: type[FakeTriton], last_words: Path
    ) -> None:
        triton.broken = frozenset({"i1-b1"})
        report = measured(folders, last_words)
        assert [one.instances for one in report.variants] == [2]
        assert report.skipped == 1

    def test_after_a_variant_that_kills_the_server_the_next_waits_for_it(
        self, folders: Folders, triton: type[FakeTriton], last_words: Path
    ) -> None:
        triton.deadly = frozenset({"i1-b1"})
        report = measured(folders, last_words)
        assert [one.instances for one in report.variants] == [2]
        assert report.skipped == 1

    def test_a_server_that_stays_away_leaves_no_half_result(
        self, folders: Folders, triton: type[FakeTriton], last_words: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(triton_admin, "_BACK_SECONDS", 0.5, raising=False)
        triton.deadly, triton.absence = frozenset({"i2-b1"}), 1000
        with pytest.raises(failures.BuildError) as caught:
            measured(folders, last_words)
        assert (caught.value.reason, caught.value.code) == ("ServerGone", ExitCode.PASSING)
        assert not last_words.exists()

    @pytest.mark.usefixtures("triton")
    def test_stopped_while_it_keeps_the_files_it_leaves_no_draft(
        self, folders: Folders, last_words: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: Any, **__: Any) -> None:
            raise failures.Stopped

        monkeypatch.setattr(profile.shutil, "copytree", stop)
        with pytest.raises(failures.Stopped):
            measured(folders, last_words)
        assert list((folders.store / names.TUNING_FOLDER).iterdir()) == []

    @pytest.mark.usefixtures("triton")
    def test_drafts_of_killed_runs_go_and_those_of_others_stay(self, folders: Folders, last_words: Path) -> None:
        tuning = folders.store / names.TUNING_FOLDER
        for name, hours in (("old", 25), ("young", 1)):
            (tuning / f".tmp-{name}" / "i1-b1").mkdir(parents=True)
            then = time.time() - hours * 3600
            os.utime(tuning / f".tmp-{name}", (then, then))
        report = measured(folders, last_words)
        assert sorted(one.name for one in tuning.iterdir()) == [".tmp-young", report.key]

    @pytest.mark.usefixtures("triton")
    def test_files_of_measurements_that_nobody_keeps_go_after_a_day(self, folders: Folders, last_words: Path) -> None:
        tuning, mine = folders.store / names.TUNING_FOLDER, "artifacts/onnx-1"
        (folders.store / mine).mkdir(parents=True)
        (folders.store / mine / names.MANIFEST_FILE).write_text("{}")
        runs = {
            "aa": (25, {"artifact_path": mine}),
            "bb": (25, {"artifact_path": mine}),
            "cc": (1, {"artifact_path": mine}),
            "dd": (25, {"artifact": "onnx-of-others", "artifact_path": mine}),
            "ee": (25, {"artifact": "onnx-of-others", "artifact_path": "artifacts/onnx-gone"}),
        }
        for key, (hours, changes) in runs.items():
            (tuning / key).mkdir(parents=True)
            file = tuning / key / "request.json"
            file.write_text(request(folders, key=key, **changes).model_dump_json(by_alias=True))
            then = time.time() - hours * 3600
            os.utime(file, (then, then))
        (tuning / "theirs").mkdir()
        report = measured(folders, last_words, kept=["bb"], artifact_path=mine)
        assert sorted(one.name for one in tuning.iterdir()) == sorted(["bb", "cc", "dd", "theirs", report.key])

    def test_if_nothing_can_be_measured_the_servers_words_are_told(
        self, folders: Folders, triton: type[FakeTriton]
    ) -> None:
        triton.broken = frozenset({"i1-b1", "i2-b1"})
        asked = request(folders)
        profile.prepare(asked, folders)
        with pytest.raises(failures.BuildError, match=r"i1-b1: .*out of memory.*i2-b1") as caught:
            profile.measure(asked, folders)
        assert caught.value.reason == "NothingMeasured"

    @pytest.mark.usefixtures("triton")
    def test_an_analyzer_that_fails_is_quoted(self, folders: Folders) -> None:
        put_analyzer(folders, "import sys; print('perf_analyzer: bad thing'); sys.exit(1)")
        asked = request(folders)
        profile.prepare(asked, folders)
        with pytest.raises(failures.BuildError, match="ended with 1: perf_analyzer: bad thing"):
            profile.measure(asked, folders)


@pytest.mark.usefixtures("triton")
class TestBudget:
    def test_when_it_is_spent_what_was_measured_counts(
        self, folders: Folders, last_words: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = MEASURES.replace("import pathlib", "import pathlib, time", 1)
        hangs_later = (
            first + "\nif name != 'i1-b1':\n    (folder / 'metrics-model-inference.csv').unlink()\n    time.sleep(600)"
        )
        put_analyzer(folders, hangs_later)
        monkeypatch.setattr(profile, "_GRACE_SECONDS", 0)
        report = measured(folders, last_words, budget_seconds=10)
        assert [one.instances for one in report.variants] == [1]
        assert report.skipped == 1

    def test_a_budget_for_not_even_one_variant_is_said_and_nothing_runs_on(
        self, folders: Folders, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put_analyzer(folders, HANGS)
        monkeypatch.setattr(profile, "_GRACE_SECONDS", 0)
        asked = request(folders, budget_seconds=4)
        profile.prepare(asked, folders)
        with pytest.raises(failures.BuildError) as caught:
            profile.measure(asked, folders)
        assert caught.value.reason == "BudgetTooSmall"
        assert "Raise tuning.search.budgetMinutes" in caught.value.next_step
        assert_gone(int((folders.work / "i1-b1" / "pid").read_text()))


def assert_gone(pid: int) -> None:
    """Neither running nor left as somebody's child; a zombie has ended, too."""
    status = Path(f"/proc/{pid}/stat")

    def gone() -> bool:
        # A process that was killed ends when it next gets a processor.
        try:
            return status.read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    eventually(f"process {pid} has ended", gone)


def test_sigterm_ends_everything_and_is_worth_another_try(
    folders: Folders, triton: type[FakeTriton], last_words: Path
) -> None:
    """As the kubelet does it: the whole program, told to stop while it measures."""
    del triton
    put_analyzer(folders, HANGS)
    asked = request(folders)
    profile.prepare(asked, folders)
    parts = [folders.artifact, folders.repository, folders.work, folders.store, folders.program]
    script = (
        "import sys; from pathlib import Path; from bert_build import analyzer_config, profile\n"
        f"analyzer_config.HTTP = {analyzer_config.HTTP!r}\n"
        f"profile.Folders = lambda found=profile.Folders(*map(Path, {[str(part) for part in parts]!r})): found\n"
        "sys.exit(profile.main([]))"
    )
    env = {
        **os.environ,
        names.PROFILE_REQUEST_ENV: asked.model_dump_json(by_alias=True),
        report_io.LOG_ENV: str(last_words),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with subprocess.Popen([sys.executable, "-c", script], env=env) as process:
        marker = folders.work / "i1-b1" / "pid"
        eventually("the analyzer runs", marker.exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
    assert "BuildStopped" in last_words.read_text()
    assert_gone(int(marker.read_text()))
