import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_operator.api.report import TensorSpec
from bert_operator.servers import triton_config
from bert_operator.servers.triton import mount
from bert_operator.settings import TritonRelease
from support import builders

from .conftest import Make, make

RELEASE = TritonRelease(image="registry.example/tritonserver", torch_backend="pytorch")
DTYPES = ("INT64", "INT32", "FP32", "FP16", "BF16")

tensors = st.lists(
    st.builds(
        TensorSpec,
        name=st.text(min_size=1, max_size=63),
        dtype=st.sampled_from(DTYPES),
        dims=st.lists(st.integers(-1, 4096).filter(bool), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda tensor: tensor.name,
)


@st.composite
def servings(draw: st.DrawFn) -> dict[str, Any]:
    largest = draw(st.integers(1, 1024))
    sizes = draw(st.none() | st.lists(st.integers(1, largest), min_size=1, max_size=8, unique=True))
    batching = {"enabled": draw(st.booleans()), "maxQueueDelayMicroseconds": draw(st.integers(0, 1_000_000))}
    return {
        "maxBatchSize": largest,
        "instances": draw(st.integers(1, 16)),
        "warmup": draw(st.booleans()),
        "batching": batching | ({"preferredBatchSizes": sizes} if sizes else {}),
    }


def build(serving: dict[str, Any], inputs: list[TensorSpec], outputs: list[TensorSpec]) -> tuple[Any, Any]:
    wish, served = make(builders.model(serving=serving), report={"inputs": inputs, "outputs": outputs})
    return served[0], triton_config.parse(triton_config.render(mount(served[0]), wish, RELEASE))


@given(servings(), tensors, tensors)
def test_any_tensor_name_stays_a_name(
    serving: dict[str, Any], inputs: list[TensorSpec], outputs: list[TensorSpec]
) -> None:
    _, config = build(serving, inputs, outputs)

    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [(t.name, t.dims) for t in inputs]
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [(t.name, t.dims) for t in outputs]
    assert config.name == "minilm"
    assert list(config.version_policy.specific.versions) == [1]
    assert config.max_batch_size == serving["maxBatchSize"]
    assert [(group.count, group.kind) for group in config.instance_group] == [(serving["instances"], 2)]  # KIND_CPU
    assert set(config.parameters) == {"intra_op_thread_count", "inter_op_thread_count"}
    assert config.HasField("dynamic_batching") is serving["batching"]["enabled"]
    assert bool(config.model_warmup) is serving["warmup"]


def test_a_tensor_name_that_looks_like_configuration_is_only_a_name(make: Make) -> None:
    hostile = 'x" }] backend: "python" parameters { key: "a'
    wish, served = make(report={"inputs": [TensorSpec(name=hostile, dtype="INT64", dims=[-1])]})

    config = triton_config.parse(triton_config.render(mount(served[0]), wish, RELEASE))

    assert config.backend == "onnxruntime"
    assert config.input[0].name == hostile


def test_warm_ups_cover_every_bucket_with_the_smallest_and_the_largest_batch(make: Make) -> None:
    model = builders.model(
        build={"task": "feature-extraction", "sequenceBuckets": [64, 32]}, serving={"maxBatchSize": 16}
    )
    wish, served = make(model)

    config = triton_config.parse(triton_config.render(mount(served[0]), wish, RELEASE))

    shapes = [(sample.batch_size, dict(sample.inputs)["input_ids"].dims[0]) for sample in config.model_warmup]
    assert shapes == [(1, 32), (16, 32), (1, 64), (16, 64)]
    assert all(given.zero_data for sample in config.model_warmup for given in sample.inputs.values())
    assert all(len(sample.inputs) == 3 for sample in config.model_warmup)


def test_torchscript_is_run_by_the_pytorch_backend_without_its_profiling_executor(make: Make) -> None:
    """Against its documentation (r26.05): what it finds inputs by, and what each new shape would cost otherwise."""
    model = builders.model(build={"task": "feature-extraction", "sequenceBuckets": [32, 64]})
    wish, served = make(model, report={"format": "torchscript"})

    config = triton_config.parse(triton_config.render(mount(served[0]), wish, RELEASE))

    assert (config.backend, config.platform, config.default_model_filename) == (
        *("pytorch", "pytorch_libtorch", "model.pt"),
    )
    assert [tensor.name for tensor in config.input] == ["input_ids", "attention_mask", "token_type_ids"]
    # Two underscores would make a name an index.
    assert not [tensor for tensor in (*config.input, *config.output) if "__" in tensor.name]
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "INTRA_OP_THREAD_COUNT": "2",
        "INTER_OP_THREAD_COUNT": "1",
        "ENABLE_JIT_EXECUTOR": "false",
        "ENABLE_JIT_PROFILING": "false",
        "ENABLE_WEIGHT_SHARING": "true",
    }
    assert {sample.count for sample in config.model_warmup} == {2}
    assert {(sample.batch_size, sample.inputs["input_ids"].dims[0]) for sample in config.model_warmup} == {
        *((1, 32), (8, 32), (1, 64), (8, 64)),
    }


def test_other_versions_have_names_of_their_own(make: Make) -> None:
    versions = [{"version": number, "source": {"pvc": {"claimName": "c"}}} for number in (3, 7)]
    wish, served = make(builders.model(versions=versions, defaultVersion=7))

    configs = [triton_config.parse(triton_config.render(mount(one), wish, RELEASE)) for one in served]

    assert [config.name for config in configs] == ["minilm-v3", "minilm"]
    assert [list(config.version_policy.specific.versions) for config in configs] == [[3], [7]]
    assert [mount(one).path for one in served] == ["/models/minilm-v3/3", "/models/minilm/7"]


@pytest.mark.parametrize(
    ("limits", "instances", "threads"),
    [({"cpu": "4"}, 2, "2"), ({"cpu": "500m"}, 1, "1"), ({"cpu": "7500m"}, 2, "3"), ({}, 1, "2")],
)
def test_threads_share_the_cpu_limit(make: Make, limits: dict[str, str], instances: int, threads: str) -> None:
    wish, served = make(builders.model(serving={"instances": instances}), server={"resources": {"limits": limits}})

    config = triton_config.parse(triton_config.render(mount(served[0]), wish, RELEASE))

    assert config.parameters["intra_op_thread_count"].string_value == threads


def test_rendering_pulls_in_neither_grpc_nor_numpy() -> None:
    program = """
import sys
from bert_operator.servers import triton_config
from bert_operator.servers.triton import mount
triton_config.parse('name: "m"')
print(sorted({"grpc", "numpy", "tritonclient"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=240)

    assert done.stdout.strip() == "[]"


def test_it_lives_beside_the_whole_client_in_one_process(make: Make) -> None:
    from tritonclient.grpc import model_config_pb2  # noqa: PLC0415 - after ours, on purpose

    wish, served = make()
    theirs = model_config_pb2.ModelConfig.FromString(
        triton_config.parse(triton_config.render(mount(served[0]), wish, RELEASE)).SerializeToString()
    )

    assert theirs.name == "minilm"
