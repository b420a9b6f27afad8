import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bert_operator.api.spec import ServerType
from bert_operator.servers import SERVERS, triton, triton_config
from support import builders

from .conftest import Make

TRITON = SERVERS[ServerType.TRITON]


def test_every_server_type_that_users_can_write_is_there() -> None:
    assert set(SERVERS) == set(ServerType)


def test_each_release_gets_its_own_backend(make: Make) -> None:
    for release, backend in (("24.10-cpu", "onnxruntime_python"), ("26.08", "onnxruntime")):
        wish, served = make(server={"release": release})
        files = TRITON.container(served, wish, builders.settings()).files
        assert triton_config.parse(files["/models/minilm/config.pbtxt"].text).backend == backend


def test_config_files_have_distinct_keys_that_a_config_map_takes(make: Make) -> None:
    versions = [{"version": number, "source": {"pvc": {"claimName": "c"}}} for number in (1, 2)]
    wish, served = make(builders.model(versions=versions, defaultVersion=2), builders.model("other"))

    files = TRITON.container(served, wish, builders.settings()).files

    assert set(files) == {f"/models/{name}/config.pbtxt" for name in ("minilm", "minilm-v1", "other")}
    assert sorted(file.key for file in files.values()) == [
        "minilm-v1.config.pbtxt",
        "minilm.config.pbtxt",
        "other.config.pbtxt",
    ]


def test_the_image_is_the_releases_unless_the_user_names_one(make: Make) -> None:
    images = []
    for server in ({}, {"release": "26.08"}, {"image": "mirror.example/triton:1"}):
        wish, served = make(server=server)
        images.append(TRITON.container(served, wish, builders.settings()).image)

    assert images == [
        "registry.example/triton-cpu:24.10",
        "registry.example/tritonserver:26.08-py3",
        "mirror.example/triton:1",
    ]


def test_the_pod_has_time_to_finish_what_runs(make: Make) -> None:
    wish, served = make(server={"triton": {"exitTimeoutSeconds": 45}})
    made = TRITON.container(served, wish, builders.settings())

    sleep = made.lifecycle["preStop"]["sleep"]["seconds"]
    assert "--exit-timeout-secs=45" in made.args
    assert 5 <= sleep <= 10
    assert made.termination_grace_seconds == sleep + 45 + 15


def test_liveness_waits_for_the_start_and_traffic_for_all_models(make: Make) -> None:
    wish, served = make(server={"release": "26.08"})
    made = TRITON.container(served, wish, builders.settings())

    probes = {"startup": made.startup_probe, "readiness": made.readiness_probe, "liveness": made.liveness_probe}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/v2/health/ready", "readiness": "/v2/health/ready", "liveness": "/v2/health/live"}
    assert all(probe["httpGet"]["port"] in TRITON.ports.by_name for probe in probes.values())
    assert made.startup_probe["periodSeconds"] * made.startup_probe["failureThreshold"] >= 120


class TestAModelServedByAnotherProcess:
    """Triton calls itself healthy when one of these has died, and answers with errors for ever."""

    NAME = f"stub-{os.getpid()}"

    @pytest.fixture
    def port(self) -> Iterator[int]:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path.startswith("/v2/health/") else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server.server_port
            server.shutdown()

    def ask(self, probe: Any, port: int) -> "subprocess.CompletedProcess[str]":
        # A name of our own: the real ones of other tests run on this machine, too.
        ours = {"8000": str(port), "triton_python_b": self.NAME}
        command = [ours.get(word, word) for word in probe["exec"]["command"]]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def test_each_instance_has_one_and_all_must_be_alive(self, make: Make, port: int, tmp_path: Path) -> None:
        wish, served = make(builders.model(serving={"instances": 2}), server={"release": "24.10-cpu"})
        made = TRITON.container(served, wish, builders.settings())
        program = tmp_path / self.NAME
        shutil.copy("/bin/sleep", program)
        stubs = [subprocess.Popen([program, "600"]) for _ in range(2)]
        try:
            for probe in (made.readiness_probe, made.liveness_probe):
                assert self.ask(probe, port).returncode == 0
            stubs[0].kill()
            os.waitid(os.P_PID, stubs[0].pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has reaped it
            for probe in (made.readiness_probe, made.liveness_probe):
                done = self.ask(probe, port)
                assert done.returncode == 1
                assert done.stdout.strip() == f"1 of 2 processes {self.NAME} are alive"
        finally:
            for stub in stubs:
                stub.kill()
                stub.wait()

    def test_what_is_counted_is_the_kernels_name_of_the_stub(self, make: Make) -> None:
        wish, served = make(server={"release": "24.10-cpu"})
        command = TRITON.container(served, wish, builders.settings()).liveness_probe["exec"]["command"]
        assert "triton_python_backend_stub"[:15] in command

    def test_none_is_counted_where_triton_serves_itself(self, make: Make) -> None:
        wish, served = make(server={"release": "26.08"})
        assert "exec" not in TRITON.container(served, wish, builders.settings()).liveness_probe


def test_everything_writable_is_a_volume_and_shared_memory_counts(make: Make) -> None:
    wish, served = make()
    made = TRITON.container(served, wish, builders.settings())

    volumes = {volume.mount_path: volume.source["emptyDir"] for volume in made.volumes}
    assert volumes == {"/dev/shm": {"medium": "Memory", "sizeLimit": "64Mi"}, "/tmp": {"sizeLimit": "256Mi"}}  # noqa: S108
    assert made.run_as_user == 1000


def test_users_environment_is_kept_but_never_replaces_ours(make: Make) -> None:
    variables = [{"name": "TZ", "value": "UTC"}, {"name": "HOME", "value": "/root"}]
    wish, served = make(server={"env": variables, "resources": {"limits": {"cpu": "3"}}})

    made = TRITON.container(served, wish, builders.settings())

    assert made.env["TZ"] == "UTC"
    assert made.env["HOME"] == "/tmp"  # noqa: S108
    assert made.env["OMP_NUM_THREADS"] == "3"
    assert "PATH" not in made.env  # the image's PATH leads the Python backend to its packages


def test_arguments_reach_the_server_untouched_by_the_shell(make: Make, tmp_path: Any) -> None:
    hostile = ["--log-format=$(touch pwned)", "--metrics-config=a b;'\"`id`"]
    wish, served = make(server={"extraArgs": hostile})
    made = TRITON.container(served, wish, builders.settings())
    echo = tmp_path / "tritonserver"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    echo.chmod(0o755)
    command = [text.replace("/opt/tritonserver/bin/tritonserver", str(echo)) for text in made.command]

    done = subprocess.run([*command, *made.args], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=240)

    lines = done.stdout.splitlines()
    assert lines[2:] == list(made.args)
    assert lines[-2:] == hostile
    assert lines[0].startswith("--http-restricted-api=model-repository,shared-memory,trace,logging:bertops-key=")
    assert len(lines[0].rpartition("=")[2]) == 36
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tritonserver"]


def test_what_the_settings_have_is_supported(make: Make) -> None:
    wish, _ = make()

    assert TRITON.unsupported(wish, builders.settings()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"server": {"release": "23.01"}}, ["server.release is '23.01'", "write one of 24.10-cpu, 26.08"]),
        (
            {"server": {"extraArgs": ["--log-info=true", "--http-max-input-size=1"]}},
            ["server.extraArgs[1] is '--http-max-input-size=1'", "since 25.06", "remove it"],
        ),
    ],
)
def test_what_cannot_be_done_is_named_with_what_to_write_instead(
    make: Make, changes: dict[str, Any], expected: list[str]
) -> None:
    wish, _ = make(**changes)

    faults = TRITON.unsupported(wish, builders.settings())

    assert len(faults) == 1
    assert all(part in faults[0] for part in expected)


def test_a_newer_release_knows_the_newer_flag(make: Make) -> None:
    wish, _ = make(server={"release": "26.08", "extraArgs": ["--http-max-input-size=1"]})

    assert TRITON.unsupported(wish, builders.settings()) == []


@pytest.mark.parametrize(
    ("name", "part"), [("newest", "doesn't start with a Triton release"), ("22.05", "before 24.10")]
)
def test_releases_that_settings_name_wrongly_are_said_so(make: Make, name: str, part: str) -> None:
    settings = builders.settings(triton={"defaultRelease": name, "releases": {name: {"image": "x"}}})
    wish, _ = make()

    faults = TRITON.unsupported(wish, settings)

    assert len(faults) == 1
    assert part in faults[0]
    assert triton.Triton().unsupported(wish, settings) == faults
