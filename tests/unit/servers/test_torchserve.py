"""What TorchServe's pods are asked to be; tests/torchserve starts the real server with it."""

import json
import re
from typing import Any

import pytest

from bert_operator.api.report import TensorSpec
from bert_operator.api.spec import Format, ServerType
from bert_operator.servers import SERVERS, torchserve, torchserve_config, torchserve_sizing
from bert_operator.servers.base import ServerContainer
from bert_operator.settings import Settings
from support import builders

from .conftest import Make

TORCHSERVE = SERVERS[ServerType.TORCHSERVE]
SOURCE = {"pvc": {"claimName": "models"}}
LOGITS: dict[str, Any] = {"outputs": [TensorSpec(name="logits", dtype="FP32", dims=[2])]}


def installed(**changes: Any) -> Settings:
    known = {"defaultRelease": "0.12.0", "releases": {"0.12.0": {"image": "registry.example/torchserve:0.12.0"}}}
    return builders.settings(**{"torchserve": known} | changes)


def container(make: Make, *models: dict[str, Any], **more: Any) -> ServerContainer:
    wish, served = make(*models, server={"type": "torchserve"} | more.pop("server", {}), **more)
    return TORCHSERVE.container(served, wish, installed())


def properties(found: ServerContainer) -> dict[str, str]:
    (file,) = found.files.values()
    return torchserve_config.parse(file.text)


def snapshot(found: ServerContainer) -> dict[str, Any]:
    models: dict[str, Any] = json.loads(properties(found)["model_snapshot"])["models"]
    return models


def two_versions(default: int) -> dict[str, Any]:
    versions = [{"version": number, "source": SOURCE} for number in (1, 2)]
    return builders.model("sentiment", versions=versions, defaultVersion=default)


def faults(make: Make, *models: dict[str, Any], settings: Settings | None = None, **more: Any) -> list[str]:
    wish, _ = make(*models, server={"type": "torchserve"} | more.pop("server", {}), **more)
    return TORCHSERVE.unsupported(wish, settings or installed())


def test_versions_are_served_side_by_side_and_the_default_one_is_named(make: Make) -> None:
    found = container(make, two_versions(default=1), builders.model("other"))

    models = snapshot(found)

    assert {name: sorted(versions) for name, versions in models.items()} == {"sentiment": ["1", "2"], "other": ["1"]}
    assert [models["sentiment"][number]["defaultVersion"] for number in ("1", "2")] == [True, False]
    assert [(mount.name, mount.path) for mount in found.mounts] == [
        ("sentiment", "/models/sentiment/1"),
        ("sentiment", "/models/sentiment/2"),
        ("other", "/models/other/1"),
    ]


def test_every_archive_is_unpacked_where_the_configuration_looks_for_it(make: Make) -> None:
    found = container(make, two_versions(default=2))
    (store,) = (argument.partition("=")[2] for argument in found.args if argument.startswith("--store="))
    start = found.args.index("--model")

    assert found.args[start : start + 4] == ("--model", "sentiment", "1", "/models/sentiment/1")
    assert [one["marName"] for one in snapshot(found)["sentiment"].values()] == ["sentiment-1", "sentiment-2"]
    # The only writable folder is big enough for all of them.
    (scratch,) = found.volumes
    assert store.startswith(f"{scratch.mount_path}/")
    assert int(scratch.source["emptyDir"]["sizeLimit"].removesuffix("Mi")) * 2**20 > 2 * 90_000_000


def test_serving_decides_workers_batches_and_delays(make: Make) -> None:
    serving = {"maxBatchSize": 16, "instances": 3, "batching": {"maxQueueDelayMicroseconds": 2500}}
    (one,) = snapshot(container(make, builders.model(serving=serving), report=LOGITS))["minilm"].values()

    assert (one["minWorkers"], one["maxWorkers"], one["batchSize"], one["maxBatchDelay"]) == (3, 3, 16, 3)
    assert one["responseTimeout"] == 120  # seconds, and what verify waits for too


def test_without_batching_each_request_runs_alone_but_may_still_have_many_rows(make: Make) -> None:
    found = container(make, builders.model(serving={"batching": {"enabled": False}, "warmup": False}), report=LOGITS)

    assert snapshot(found)["minilm"]["1"]["batchSize"] == 1
    assert json.loads(found.env["BERTOPS_HANDLER"]) == {"minilm": {"rows": 8, "warmup": False}}


def test_requests_for_token_outputs_run_alone(make: Make) -> None:
    (tokens,) = snapshot(container(make, builders.model(serving={"maxBatchSize": 16})))["minilm"].values()
    assert tokens["batchSize"] == 1


def test_the_management_api_is_reached_from_inside_the_pod_only(make: Make) -> None:
    found = container(make)
    values = properties(found)

    assert values["management_address"] == "http://127.0.0.1:8081"
    assert values["grpc_management_address"] == "127.0.0.1"
    assert values["enable_model_api"] == "false"
    assert values["install_py_dep_per_model"] == "false"
    assert TORCHSERVE.ports.by_name == {"http": 8080, "grpc": 7070, "metrics": 8082}
    # No URL passes: a model is never loaded from anywhere else.
    assert not re.fullmatch(values["allowed_urls"], "https://example.com/x.mar")


def test_ready_means_every_version_is_loaded(make: Make) -> None:
    found = container(make, two_versions(default=1))
    for probe in (found.startup_probe, found.readiness_probe):
        assert probe["exec"]["command"][-2:] == ["sentiment/1", "sentiment/2"]
    # A busy worker must never get the pod restarted.
    assert "exec" not in found.liveness_probe


def test_threads_are_shared_among_instances(make: Make) -> None:
    server = {"resources": {"limits": {"cpu": "4"}}}
    for instances, threads in ((1, "4"), (2, "2"), (8, "1")):
        env = container(make, builders.model(serving={"instances": instances}), server=server).env
        assert (env["OMP_NUM_THREADS"], env["OPENBLAS_NUM_THREADS"]) == (threads, threads)


def test_memory_grows_with_instances_and_versions_and_users_have_the_last_word(make: Make) -> None:
    def limit(*models: dict[str, Any], **server: Any) -> str:
        return str(container(make, *models, server=server).resources["limits"]["memory"])

    def mebibytes(text: str) -> int:
        return int(text.removesuffix("Mi"))

    one = mebibytes(limit())
    assert mebibytes(limit(builders.model(serving={"instances": 2}))) > one + 250
    assert mebibytes(limit(two_versions(default=1))) > one + 250
    assert limit(resources={"limits": {"memory": "4Gi"}}) == "4Gi"


def test_an_answer_of_a_full_batch_fits(make: Make) -> None:
    _, served = make(builders.model(serving={"maxBatchSize": 8}), server={"type": "torchserve"})
    assert torchserve_sizing.response_bytes(served) >= 8 * 128 * 384 * len(json.dumps(-0.12345678901234567))


def test_heap_is_bounded_by_the_memory_limit_that_is_derived(make: Make) -> None:
    large = builders.model(serving={"maxBatchSize": 512, "instances": 4})
    wish, served = make(large, server={"type": "torchserve"})
    assert torchserve_sizing.heap_bytes(served) < torchserve_sizing.memory_bytes(served)
    assert int(properties(TORCHSERVE.container(served, wish, installed()))["max_response_size"]) == 64 << 20


def test_memory_holds_buffers_outside_the_heap_and_the_answers_of_every_instance(make: Make) -> None:
    wish, served = make(builders.model(serving={"instances": 2}), server={"type": "torchserve"})
    made = TORCHSERVE.container(served, wish, installed())
    (direct,) = (re.fullmatch(r"--java=-XX:MaxDirectMemorySize=(\d+)m", one) for one in made.args if "Direct" in one)
    assert direct

    _, quiet = make(builders.model(serving={"instances": 2}), server={"type": "torchserve"}, report=LOGITS)
    rest = [torchserve_sizing.memory_bytes(one) - 2 * torchserve_sizing.heap_bytes(one) for one in (served, quiet)]

    limit = int(made.resources["limits"]["memory"].removesuffix("Mi"))
    assert limit > 2 * int(direct[1]) + 2 * 224
    answers = [torchserve_sizing.response_bytes(one) for one in (served, quiet)]
    assert answers[0] > answers[1]
    assert rest[0] - rest[1] >= 2 * 3 * (answers[0] - answers[1])


def test_only_archives_are_served() -> None:
    assert list(TORCHSERVE.formats(installed().hardware_profiles["cpu"])) == [Format.MAR]


def test_the_image_is_the_releases_unless_the_user_names_one(make: Make) -> None:
    assert container(make).image == "registry.example/torchserve:0.12.0"
    assert container(make, server={"image": "mine/torchserve:1"}).image == "mine/torchserve:1"


def test_a_plain_wish_is_supported(make: Make) -> None:
    assert faults(make, two_versions(default=1)) == []


def test_an_installation_without_torchserve_says_what_to_set(make: Make) -> None:
    (fault,) = faults(make, settings=builders.settings())
    assert "torchserve.releases" in fault


def test_an_unknown_release_names_the_known_ones(make: Make) -> None:
    (fault,) = faults(make, server={"release": "0.11.1"})
    assert fault == "spec.server.release is '0.11.1', which the operator's settings don't have: write one of 0.12.0"


@pytest.mark.parametrize("name", ["TS_CONFIG_FILE", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "ENABLE_TORCH_PROFILER"])
def test_env_that_could_open_the_management_api_is_refused(make: Make, name: str) -> None:
    (fault,) = faults(make, server={"env": [{"name": "GOOD", "value": "1"}, {"name": name, "value": "x"}]})
    assert fault.startswith(f"spec.server.env[1] is '{name}'")


def test_what_torchserve_does_not_know_is_refused_with_the_way_out(make: Make) -> None:
    model = builders.model(
        build={"task": "sequence-classification", "framework": "tensorflow"},
        serving={"batching": {"preferredBatchSizes": [4]}},
    )
    framework, sizes = faults(make, model)
    assert "spec.models[0].build.framework is 'tensorflow'" in framework
    assert "spec.models[0].serving.batching.preferredBatchSizes is [4]" in sizes


def test_gpu_profiles_are_refused_until_they_are_tried(make: Make) -> None:
    settings = installed(hardwareProfiles={"cpu": {}, "a10": {"resourceName": "nvidia.com/gpu"}})
    (fault,) = faults(make, settings=settings, hardware={"profile": "a10"})
    assert "write one of cpu" in fault


def test_our_variables_win_over_the_users(make: Make) -> None:
    env = container(make, server={"env": [{"name": "HF_HUB_OFFLINE", "value": "0"}, {"name": "A", "value": "b"}]}).env
    assert (env["HF_HUB_OFFLINE"], env["A"]) == ("1", "b")


def test_an_answer_has_time_to_arrive_before_the_pod_goes(make: Make) -> None:
    found = container(make)
    assert found.lifecycle == {"preStop": {"sleep": {"seconds": torchserve.PRE_STOP_SECONDS}}}
    assert found.termination_grace_seconds > torchserve.PRE_STOP_SECONDS
