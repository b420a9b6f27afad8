import http.server
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from bert_operator.api.spec import Format, ServerType
from bert_operator.servers import SERVERS, tfserving_config, tfserving_sizing
from bert_operator.servers.base import ServedVersion, ServerContainer
from bert_operator.settings import HardwareProfile
from support import builders, tfserving
from support.tfserving_standin import flags

from .conftest import make

TF_SERVING = SERVERS[ServerType.TFSERVING]
MIB = 2**20
FOLDER = "/etc/tfserving"


def serve(*models: dict[str, Any], report: dict[str, Any] | None = None, **server: Any) -> ServerContainer:
    wish, served = make(
        *(models or [tfserving.model()]),
        server={"type": "tfserving"} | server,
        report=tfserving.LOGITS | (report or {}),
    )
    return TF_SERVING.container(served, wish, tfserving.settings())


def faults(*models: dict[str, Any], settings: Any = None, **more: Any) -> list[str]:
    server = {"type": "tfserving"} | more.pop("server", {})
    wish, _ = make(*(models or [tfserving.model()]), server=server, **more)
    return TF_SERVING.unsupported(wish, settings or tfserving.settings())


def models_of(made: ServerContainer) -> Any:
    config: Any = tfserving_config.parse(made.files[f"{FOLDER}/models.config"].text, "ModelServerConfig")
    return config.model_config_list.config


def batching_of(made: ServerContainer) -> Any:
    return tfserving_config.parse(made.files[f"{FOLDER}/batching.config"].text, "BatchingParameters")


def test_every_version_lies_where_the_config_says() -> None:
    made = serve(tfserving.model("sentiment", 1, 3), tfserving.model("toxic", 2))

    assert [(mount.name, mount.path) for mount in made.mounts] == [
        ("sentiment", "/models/sentiment/1"),
        ("sentiment", "/models/sentiment/3"),
        ("toxic", "/models/toxic/2"),
    ]
    told = {one.name: (one.base_path, list(one.model_version_policy.specific.versions)) for one in models_of(made)}
    assert told == {"sentiment": ("/models/sentiment", [1, 3]), "toxic": ("/models/toxic", [2])}


def test_labels_stand_for_their_versions() -> None:
    versions = [tfserving.version(1, "production", "stable"), tfserving.version(2, "test")]
    made = serve(tfserving.model("sentiment", 1, 2, versions=versions))

    (one,) = models_of(made)
    assert dict(one.version_labels) == {"production": 1, "stable": 1, "test": 2}
    # Without it the server refuses its own configuration: labels are read before a version is loaded.
    assert "--allow_version_labels_for_unavailable_models=true" in made.args


def test_every_flag_names_a_file_that_is_mounted() -> None:
    made = serve()

    named = {argument.partition("=")[2] for argument in made.args if "_file=" in argument}
    assert named == set(made.files) == {f"{FOLDER}/{name}.config" for name in ("models", "monitoring", "batching")}


def test_the_images_entry_point_is_not_used_and_ports_are_the_services() -> None:
    made = serve()

    assert made.command == ("/usr/bin/tensorflow_model_server",)
    assert f"--port={TF_SERVING.ports.by_name['grpc']}" in made.args
    assert f"--rest_api_port={TF_SERVING.ports.by_name['http']}" in made.args
    assert TF_SERVING.ports.by_name == {"http": 8501, "grpc": 8500}
    monitoring: Any = tfserving_config.parse(made.files[f"{FOLDER}/monitoring.config"].text, "MonitoringConfig")
    assert monitoring.prometheus_config.path == TF_SERVING.ports.metrics_path


def test_batching_is_what_the_spec_says() -> None:
    serving = {"maxBatchSize": 16, "batching": {"maxQueueDelayMicroseconds": 2500}}
    made = serve(tfserving.model(serving=serving), resources={"limits": {"cpu": "3"}})

    config = batching_of(made)
    assert (config.max_batch_size.value, config.batch_timeout_micros.value) == (16, 2500)
    assert config.num_batch_threads.value == 3
    assert config.pad_variable_length_inputs is True
    assert "--enable_batching=true" in made.args


@pytest.mark.parametrize(
    ("serving", "report"),
    [
        ({"batching": {"enabled": False}}, {}),
        # Answers of a padded batch aren't cut again: a client would get more tokens than it sent.
        ({}, {"outputs": builders.report().outputs}),
    ],
)
def test_without_batching_there_is_neither_flag_nor_file(serving: dict[str, Any], report: dict[str, Any]) -> None:
    made = serve(tfserving.model(serving=serving), report=report)

    assert not any("batching" in argument for argument in made.args)
    assert f"{FOLDER}/batching.config" not in made.files


def test_threads_follow_the_cpu_limit_not_the_node() -> None:
    made = serve(resources={"limits": {"cpu": "1500m"}}, env=[{"name": "TZ", "value": "UTC"}, {"name": "HOME"}])

    assert "--tensorflow_intra_op_parallelism=1" in made.args
    assert "--tensorflow_inter_op_parallelism=1" in made.args
    assert made.env == {"TZ": "UTC", "HOME": "/tmp", "OMP_NUM_THREADS": "1"}  # noqa: S108


@pytest.mark.parametrize(("batches", "threads"), [((8, 1), 64), ((1, 32), 128)])
def test_probes_find_a_rest_thread_while_batches_are_gathered(batches: tuple[int, ...], threads: int) -> None:
    off = {"batching": {"enabled": False}}
    made = serve(*(tfserving.model(f"m{size}", serving=off | {"maxBatchSize": size}) for size in batches))

    assert f"--rest_api_num_threads={threads}" in made.args
    assert flags.parse(made.args).numbers["rest_api_num_threads"] == threads


def test_warm_up_can_be_switched_off() -> None:
    assert "--enable_model_warmup=true" in serve().args
    assert "--enable_model_warmup=false" in serve(tfserving.model(serving={"warmup": False})).args


def test_extra_flags_come_last() -> None:
    assert serve(extraArgs=["--grpc_max_threads=8"]).args[-1] == "--grpc_max_threads=8"


def test_a_pod_that_goes_answers_until_everybody_knows() -> None:
    made = serve()

    sleep = made.lifecycle["preStop"]["sleep"]["seconds"]
    assert 5 <= sleep <= 10
    assert 5 <= made.termination_grace_seconds - sleep <= 20  # SIGTERM is ignored: all of it is always waited for


def test_the_root_file_system_can_be_read_only() -> None:
    made = serve()

    assert made.run_as_user == 1000
    assert {volume.mount_path: set(volume.source) for volume in made.volumes} == {"/tmp": {"emptyDir"}}  # noqa: S108


def test_the_image_is_the_releases_unless_the_user_names_one() -> None:
    assert serve().image == "registry.example/serving:2.20.0"
    assert serve(release="2.19.1").image == "registry.example/serving:2.19.1"
    assert serve(image="mirror.example/serving:2.20.0").image == "mirror.example/serving:2.20.0"


class TestProbes:
    """The commands that kubelet runs, run here against a small server."""

    @pytest.fixture
    def statuses(self) -> dict[str, int]:
        return {}

    @pytest.fixture
    def port(self, statuses: dict[str, int]) -> Any:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(statuses.get(self.path, 404))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield server.server_address[1]
            server.shutdown()

    def ask(self, probe: Any, port: int) -> "subprocess.CompletedProcess[str]":
        command = [str(port) if word in ("8500", "8501") else word for word in probe["exec"]["command"]]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def test_ready_means_every_version_of_every_model(self, statuses: dict[str, int], port: int) -> None:
        made = serve(tfserving.model("sentiment", 1, 2), tfserving.model("toxic"))
        paths = [f"/v1/models/{path}/metadata" for path in ("sentiment/versions/1", "sentiment/versions/2")]
        statuses.update(dict.fromkeys(paths, 200))

        for probe in (made.startup_probe, made.readiness_probe):
            done = self.ask(probe, port)
            assert done.returncode == 1
            assert done.stdout.strip() == "/v1/models/toxic/versions/1/metadata: HTTP/1.0 404 Not Found"
        statuses["/v1/models/toxic/versions/1/metadata"] = 200
        for probe in (made.startup_probe, made.readiness_probe):
            assert self.ask(probe, port).returncode == 0

    def test_closed_ports_are_not_ready(self) -> None:
        assert self.ask(serve().readiness_probe, 1).returncode != 0

    def test_liveness_waits_for_the_start_and_for_no_thread_that_predictions_hold(self) -> None:
        made = serve()
        assert str(TF_SERVING.ports.grpc) in made.liveness_probe["exec"]["command"]
        assert made.startup_probe["periodSeconds"] * made.startup_probe["failureThreshold"] >= 120

    def test_a_grpc_server_is_alive_and_a_frozen_one_is_not_though_its_port_is_open(self) -> None:
        alive = serve().liveness_probe
        server = grpc.server(ThreadPoolExecutor(1))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        assert self.ask(alive, port).returncode == 0
        server.stop(0).wait()
        # Connections are let in by the kernel, and nobody says a word: what a stopped process looks like.
        with socket.create_server(("127.0.0.1", 0)) as frozen:
            done = self.ask(alive, frozen.getsockname()[1])
        assert done.returncode == 1
        assert done.stdout.strip() == "nobody greets on the gRPC port"


def test_memory_grows_with_weights_batches_and_threads() -> None:
    def memory(size: int, batch: int, cpu: str) -> int:
        model = tfserving.model(serving={"maxBatchSize": batch})
        server = {"type": "tfserving", "resources": {"limits": {"cpu": cpu}}}
        wish, served = make(model, server=server, report=tfserving.LOGITS | {"size_bytes": size})
        return tfserving_sizing.memory_bytes(wish, served)

    base = memory(100 * MIB, 8, "2")
    assert memory(200 * MIB, 8, "2") - base >= 200 * MIB
    assert memory(100 * MIB, 16, "2") > base
    assert memory(100 * MIB, 8, "4") > base
    assert base > 800 * MIB


def test_the_users_resources_win() -> None:
    wished = {"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "3Gi"}}
    assert serve(resources=wished).resources == wished


def test_a_start_takes_longer_with_more_to_load() -> None:
    def seconds(served: list[ServedVersion], wish: Any) -> int:
        return tfserving_sizing.startup_seconds(wish, served)

    wish, small = make(tfserving.model(), report={"size_bytes": 10 * MIB})
    _, large = make(tfserving.model(), report={"size_bytes": 2000 * MIB})
    assert 120 <= seconds(small, wish) < seconds(large, wish) <= 3600


def test_only_saved_models_are_served() -> None:
    assert TF_SERVING.formats(HardwareProfile()) == (Format.SAVEDMODEL,)


def test_what_the_settings_have_is_supported() -> None:
    assert faults() == []
    assert faults(tfserving.model("a", 1, 2), tfserving.model("b")) == []


@pytest.mark.parametrize(
    ("models", "more", "expected"),
    [
        ([], {"server": {"release": "1.0"}}, ["server.release is '1.0'", "write one of 2.19.1, 2.20.0"]),
        (
            [tfserving.model("a", 1, 2, defaultVersion=1)],
            {},
            ["models[0].defaultVersion is 1", "write 2", "give version 1 a label"],
        ),
        ([tfserving.model(serving={"instances": 2})], {}, ["serving.instances is 2", "write 1", "limits.cpu"]),
        (
            [tfserving.model(serving={"batching": {"preferredBatchSizes": [4, 8]}})],
            {},
            ["preferredBatchSizes is [4, 8]", "remove it"],
        ),
        (
            [tfserving.model("a"), tfserving.model("b", serving={"maxBatchSize": 16})],
            {},
            ["models[1].serving.maxBatchSize is 16 and that of models[0] is 8", "write the same for each"],
        ),
        (
            [tfserving.model("a"), tfserving.model("b", serving={"batching": {"enabled": False}})],
            {},
            ["models[1].serving.batching.enabled is false and that of models[0] is true"],
        ),
        (
            [tfserving.model("a"), tfserving.model("b", serving={"warmup": False})],
            {},
            ["models[1].serving.warmup is false"],
        ),
        (
            [tfserving.model("a"), tfserving.model("b", serving={"batching": {"maxQueueDelayMicroseconds": 5}})],
            {},
            ["models[1].serving.batching.maxQueueDelayMicroseconds is 5 and that of models[0] is 1000"],
        ),
    ],
)
def test_what_cannot_be_done_is_named_with_what_to_write_instead(
    models: list[dict[str, Any]], more: dict[str, Any], expected: list[str]
) -> None:
    (fault,) = faults(*models, **more)

    assert all(part in fault for part in expected), fault


def test_gpus_are_for_other_servers() -> None:
    settings = tfserving.settings(hardwareProfiles={"cpu": {}, "a100": {"resourceName": "nvidia.com/gpu"}})

    (fault,) = faults(settings=settings, hardware={"profile": "a100"})

    assert "spec.hardware.profile is 'a100', which has nvidia.com/gpu" in fault
    assert "write one of cpu" in fault
    assert faults(settings=settings, hardware={"profile": "unheard-of"}) == []  # the plan itself says that


def test_an_installation_without_it_says_so() -> None:
    (fault,) = faults(settings=tfserving.settings(tfserving=None))

    assert "set tfserving.releases in the operator's chart" in fault
