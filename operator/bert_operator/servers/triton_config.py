"""config.pbtxt of one served version, made as a protobuf message. `triton` calls it.

Tensor names, types and shapes come from the artifact, never from the spec. Text is printed from the message and parsed
back, so no name can smuggle syntax into it.
"""

import importlib.util
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format

from bert_operator.api import names, spec
from bert_operator.api.report import TensorSpec
from bert_operator.servers import triton_sizing
from bert_operator.servers.base import Mount, ServedVersion
from bert_operator.settings import TritonRelease


def render(one: Mount, wish: spec.BertDeploymentSpec, release: TritonRelease, *, gpu: bool = False) -> str:
    """The text of config.pbtxt.

    Args:
        one: what is served.
        wish: the spec.
        release: says which of the image's backends runs what.
        gpu: the pod has a GPU.

    Raises:
        ValueError: the text doesn't read back as the message it was printed from.
    """
    return _printed(_config(one, wish, release, gpu=gpu).SerializeToString(deterministic=True))


TENSORRT_BACKEND: Final = "tensorrt"
TORCHSCRIPT_PLATFORM: Final = "pytorch_libtorch"
"""From 26.03 on the PyTorch backend runs two kinds of files; this names the one."""


def backend(artifact_format: str, release: TritonRelease) -> str:
    """Which backend of a release's image runs a format; empty if none does."""
    known = {
        spec.Format.TENSORRT.value: TENSORRT_BACKEND,
        spec.Format.TORCHSCRIPT.value: release.torch_backend,
        spec.Format.ONNX.value: release.onnx_backend,
    }
    return known.get(artifact_format, "")


@lru_cache(maxsize=4096)
def _printed(message: bytes) -> str:
    """The text of a ModelConfig, once for each: printing and parsing back would take most of a plan's time."""
    config = _messages().ModelConfig.FromString(message)
    text: str = text_format.MessageToString(config)
    if parse(text) != config:
        raise ValueError(f"config.pbtxt of {config.name} doesn't read back as written: report this as a defect")
    return text


def parse(text: str) -> Any:  # noqa: ANN401 - protobuf messages made at run time have no static type
    """The ModelConfig message that a config.pbtxt stands for."""
    return text_format.Parse(text, _messages().ModelConfig())


@cache
def _messages() -> Any:  # noqa: ANN401 - as above
    """The module model_config_pb2 alone: its package imports gRPC and numpy (27 MB, 0.4 s), this costs 0.7 MB."""
    package: Final = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("tritonclient is not installed: pip install 'tritonclient[grpc]'")
    file = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    module_spec = importlib.util.spec_from_file_location("bert_operator.servers._model_config_pb2", file)
    if module_spec is None or module_spec.loader is None:
        raise ModuleNotFoundError(f"{file} is not there: this tritonclient is not one we know")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def _config(mount: Mount, wish: spec.BertDeploymentSpec, release: TritonRelease, *, gpu: bool) -> Any:  # noqa: ANN401 - as above
    messages, one = _messages(), mount.served
    serving, report = one.model.serving, one.artifact.report
    config = messages.ModelConfig(
        name=mount.name,
        backend=backend(report.format, release),
        platform=TORCHSCRIPT_PLATFORM if report.format == spec.Format.TORCHSCRIPT else "",
        # Never more than the engine takes: the model would not load.
        max_batch_size=min([serving.max_batch_size, *(profile.max[0] for profile in report.profiles)]),
        default_model_filename=names.TRITON_FILES.get(report.format, ""),
        input=[_tensor(messages.ModelInput, tensor) for tensor in report.inputs],
        output=[_tensor(messages.ModelOutput, tensor) for tensor in report.outputs],
    )
    config.version_policy.specific.versions.append(one.version)
    group = messages.ModelInstanceGroup
    # The one GPU that the pod asks for; each instance may use every profile, and Triton takes the nearest.
    profiles = [str(number) for number, _ in enumerate(report.profiles)] if len(report.profiles) > 1 else []
    config.instance_group.add(count=serving.instances, kind=group.KIND_GPU if gpu else group.KIND_CPU, profile=profiles)
    if serving.batching.enabled:
        config.dynamic_batching.max_queue_delay_microseconds = serving.batching.max_queue_delay_microseconds
        config.dynamic_batching.preferred_batch_size.extend(serving.batching.preferred_batch_sizes or ())
    for key, value in _parameters(report.format, triton_sizing.threads(wish, one.model)).items():
        config.parameters[key].string_value = value
    if serving.warmup:
        _add_warmups(config, one)
    return config


def _parameters(artifact_format: str, threads: int) -> dict[str, str]:
    """What the backend is told beside shapes. BERT is one chain of operators: threads across operators would only wait.

    The PyTorch backend sets its threads once for all of its models.
    """
    if artifact_format == spec.Format.ONNX:
        return {"intra_op_thread_count": str(threads), "inter_op_thread_count": "1"}
    if artifact_format == spec.Format.TORCHSCRIPT:
        return {
            "INTRA_OP_THREAD_COUNT": str(threads),
            "INTER_OP_THREAD_COUNT": "1",
            # It would compile anew for each new shape, slowly and twice, and stop requests for that long.
            "ENABLE_JIT_EXECUTOR": "false",
            "ENABLE_JIT_PROFILING": "false",
            # Instances on one device share the weights.
            "ENABLE_WEIGHT_SHARING": "true",
        }
    return {}


def _tensor(kind: Any, tensor: TensorSpec) -> Any:  # noqa: ANN401 - as above
    return kind(name=tensor.name, data_type=_data_type(tensor), dims=tensor.dims)


def _data_type(tensor: TensorSpec) -> int:
    value: int = _messages().DataType.Value(f"TYPE_{tensor.dtype}")
    return value


def _add_warmups(config: Any, one: ServedVersion) -> None:  # noqa: ANN401 - as above
    """Zeros only: random numbers would be token ids beyond the vocabulary."""
    # Where the executor can't be switched off, it optimises at the second run of a shape.
    runs = 2 if one.artifact.report.format == spec.Format.TORCHSCRIPT else 1
    for length in triton_sizing.warmup_lengths(one.model, one.artifact.report):
        for batch in triton_sizing.warmup_batches(one.model):
            sample = config.model_warmup.add(name=f"batch-{batch}-length-{length}", batch_size=batch, count=runs)
            for tensor in one.artifact.report.inputs:
                sample.inputs[tensor.name].data_type = _data_type(tensor)
                sample.inputs[tensor.name].dims.extend(dim if dim > 0 else length for dim in tensor.dims)
                sample.inputs[tensor.name].zero_data = True
