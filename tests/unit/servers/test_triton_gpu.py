"""Triton on a profile with GPUs: engines, and ONNX."""

from typing import Any

import pytest
from pydantic import ValidationError

from bert_operator.api.spec import ServerType
from bert_operator.servers import SERVERS, triton_config, triton_sizing
from bert_operator.servers.base import ServerContainer
from support import builders

from .conftest import Make

ON_GPU: dict[str, Any] = {"hardware": {"profile": "gpu"}}
ENGINE = {key: getattr(builders.engine_report(), key) for key in ("format", "compute_capability", "tensorrt_version")}
PROFILES = {"profiles": builders.engine_report().profiles}


def container(make: Make, *, report: dict[str, Any] | None = None, **model: Any) -> ServerContainer:
    wish, served = make(builders.model(**model), server={"release": "26.08"}, report=report, **ON_GPU)
    return SERVERS[ServerType.TRITON].container(served, wish, builders.settings())


def config(made: ServerContainer) -> Any:
    return triton_config.parse(made.files["/models/minilm/config.pbtxt"].text)


def test_an_engine_is_run_by_tensorrt_on_the_gpu(make: Make) -> None:
    found = config(container(make, report=ENGINE | PROFILES, serving={"instances": 2}))
    assert (found.backend, found.default_model_filename) == ("tensorrt", "model.plan")
    (group,) = found.instance_group
    assert (group.count, group.kind, list(group.profile)) == (2, group.KIND_GPU, ["0", "1"])
    assert dict(found.parameters) == {}


def test_one_profile_needs_no_choice(make: Make) -> None:
    found = config(container(make, report=ENGINE | {"profiles": PROFILES["profiles"][:1]}))
    assert list(found.instance_group[0].profile) == []


def test_warm_ups_are_what_the_profiles_take(make: Make) -> None:
    found = config(container(make, report=ENGINE | PROFILES, serving={"maxBatchSize": 16}))
    shapes = {(sample.batch_size, sample.inputs["input_ids"].dims[0]) for sample in found.model_warmup}
    assert shapes == {(1, 64), (16, 64), (1, 128), (16, 128)}


@pytest.mark.parametrize(("wished", "served"), [(16, 16), (32, 32), (64, 32)])
def test_never_more_than_the_engine_takes(make: Make, wished: int, served: int) -> None:
    assert config(container(make, report=ENGINE | PROFILES, serving={"maxBatchSize": wished})).max_batch_size == served


def test_onnx_runs_on_the_gpu_too(make: Make) -> None:
    found = config(container(make))
    assert found.backend == "onnxruntime"
    assert found.instance_group[0].kind == found.instance_group[0].KIND_GPU
    assert set(found.parameters) == {"intra_op_thread_count", "inter_op_thread_count"}


def test_torchscript_runs_on_the_gpu_that_it_was_traced_for(make: Make) -> None:
    made = container(make, report={"format": "torchscript"})
    found = config(made)
    assert (found.backend, found.instance_group[0].kind) == ("pytorch", found.instance_group[0].KIND_GPU)
    assert made.env["NVIDIA_TF32_OVERRIDE"] == "0"


def test_the_container_asks_for_one_gpu_and_says_nothing_else_of_it(make: Make) -> None:
    made = container(make, report=ENGINE | PROFILES)
    assert made.resources["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in made.resources["requests"]
    assert "--allow-gpu-metrics=true" in made.args
    assert f"--pinned-memory-pool-byte-size={triton_sizing.PINNED_BYTES}" in made.args


@pytest.mark.parametrize(("report", "off"), [({}, "0"), (ENGINE | PROFILES | {"precision": "fp16"}, None)])
def test_fp32_is_not_quietly_tf32(make: Make, report: dict[str, Any], off: str | None) -> None:
    assert container(make, report=report).env.get("NVIDIA_TF32_OVERRIDE") == off


def test_without_gpus_nothing_of_them_is_asked(make: Make) -> None:
    wish, served = make(server={"release": "26.08"})
    made = SERVERS[ServerType.TRITON].container(served, wish, builders.settings())
    assert set(made.resources["limits"]) == {"cpu", "memory"}
    assert "--allow-gpu-metrics=false" in made.args
    assert "NVIDIA_TF32_OVERRIDE" not in made.env


def test_an_export_profile_must_be_there() -> None:
    with pytest.raises(ValidationError, match=r"hardwareProfiles.gpu.exportProfile is 'cpu': write one of gpu"):
        builders.settings(hardwareProfiles={"gpu": builders.GPU})
