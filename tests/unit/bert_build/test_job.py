"""Whatever happens in a step: one short message, the right exit code, and no traceback in what the user reads."""

import errno
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bert_build import job, processors, report_io
from bert_build.__main__ import main
from bert_build.failures import BuildError, Stopped
from bert_operator.api import names
from bert_operator.api.report import MAX_REPORT_BYTES, BuildFailure, ExitCode
from unit.bert_build import building


@pytest.fixture
def termination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setenv(report_io.LOG_ENV, str(path))
    return path


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (BuildError("HeadMissing", "no head"), "HeadMissing", ExitCode.USER_ERROR),
        (Stopped(), "BuildStopped", ExitCode.PASSING),
        (OSError(errno.ENOSPC, "No space left on device"), "NoSpace", ExitCode.NO_SPACE),
        (OSError(errno.EIO, "Input/output error"), "StorageFault", ExitCode.PASSING),
        (OSError(errno.EPERM, "Not permitted"), "InternalError", ExitCode.INTERNAL),
        (MemoryError(), "OutOfMemory", ExitCode.USER_ERROR),
        (KeyError("x"), "InternalError", ExitCode.INTERNAL),
        (ValueError(""), "InternalError", ExitCode.INTERNAL),
    ],
)
def test_every_end_has_a_reason_and_an_exit_code(
    termination: Path, error: BaseException, reason: str, code: ExitCode
) -> None:
    def fail() -> None:
        raise error

    assert job.guarded("convert", fail) == code
    failure = BuildFailure.model_validate_json(termination.read_text())
    assert failure.reason == reason
    assert "Traceback" not in failure.message
    assert "\n" not in failure.message


@pytest.mark.parametrize("letter", ["x", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{PILE OF POO}", '"', "\\", "\x01"])
@pytest.mark.parametrize("length", [10, 1500, 100_000])
def test_failure_always_fits_into_a_termination_message(termination: Path, letter: str, length: int) -> None:
    report_io.write_failure(report_io.make_failure("SourceCorrupt", letter * length, letter * length))
    content = termination.read_bytes()
    assert len(content) <= MAX_REPORT_BYTES
    assert BuildFailure.model_validate_json(content).message.startswith(letter)


def test_unwritable_termination_log_is_not_fatal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(report_io.LOG_ENV, str(tmp_path / "no" / "folder"))
    report_io.write_report(building.report())
    assert "artifactKey" in capsys.readouterr().err


def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, request: str | None) -> int:
    """What `python -m bert_build` does, but in this process, which has imported everything already."""
    for module, name in ((gc, "set_threshold"), (processors, "one_thread_each"), (signal, "signal")):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.delenv(names.BUILD_REQUEST_ENV, raising=False)
    if request is not None:
        monkeypatch.setenv(names.BUILD_REQUEST_ENV, request)
    return main([step, f"--work={tmp_path}"])


def start(tmp_path: Path, step: str, request: str | None) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), report_io.LOG_ENV: str(tmp_path / "log")}
    environment |= {"BERTOPS_BUILD_REQUEST": request} if request is not None else {}
    command = [sys.executable, "-X", "importtime", "-m", "bert_build", step, f"--work={tmp_path}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.parametrize("request_text", [None, "{", '{"unknown": 1}'])
def test_unreadable_request_is_our_defect(
    tmp_path: Path, termination: Path, monkeypatch: pytest.MonkeyPatch, request_text: str | None
) -> None:
    assert here(tmp_path, monkeypatch, "inspect", request_text) == ExitCode.INTERNAL
    failure = BuildFailure.model_validate_json(termination.read_text())
    assert failure.reason == "InternalError"
    assert "BERTOPS_BUILD_REQUEST" in failure.message


@pytest.mark.parametrize("key", [None, "other"])
def test_step_without_the_state_of_its_own_request_refuses(
    tmp_path: Path, termination: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    if key:
        (tmp_path / "state.json").write_text(json.dumps({"requestKey": key, "reused": True}))
    request = building.request().model_dump_json(by_alias=True)
    assert here(tmp_path, monkeypatch, "convert", request) == ExitCode.INTERNAL
    assert "found" in BuildFailure.model_validate_json(termination.read_text()).message


def test_a_step_ends_as_its_work_does(tmp_path: Path) -> None:
    """As the kubelet starts it: a process, its exit code, its termination message."""
    assert start(tmp_path, "inspect", None).returncode == ExitCode.INTERNAL
    assert BuildFailure.model_validate_json((tmp_path / "log").read_text()).reason == "InternalError"


@pytest.mark.parametrize("step", ["inspect", "convert", "compare"])
def test_reused_build_passes_each_step_without_loading_anything(tmp_path: Path, step: str) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"requestKey": "k1", "reused": True}))
    done = start(tmp_path, step, building.request().model_dump_json(by_alias=True))
    assert done.returncode == 0
    assert "nothing to do" in done.stdout
    assert "pydantic" not in done.stderr
    assert "bert_build.job" not in done.stderr


@pytest.mark.parametrize("command", ["preflight", "verify"])
def test_commands_of_the_small_image_load_nothing_of_the_large_one(command: str) -> None:
    code = (
        f"import sys, importlib, bert_build.__main__ as m; importlib.import_module(m.COMMANDS[{command!r}]); "
        "print([n for n in ('torch', 'transformers', 'onnx', 'onnxruntime', 'huggingface_hub') if n in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
