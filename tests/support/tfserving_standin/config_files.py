"""Reads the configuration files as the real server does: protobuf text format, unknown fields refused."""

from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from .errors import Code, ServingError

# TF Serving publishes no package of these two messages; numbers and types are those of its .proto files.
_INT64, _BOOL, _STRING, _MESSAGE = 3, 8, 9, 11
_WRAPPED: Final = {
    "max_batch_size": (1, "Int64Value"),
    "batch_timeout_micros": (2, "Int64Value"),
    "max_enqueued_batches": (3, "Int64Value"),
    "num_batch_threads": (4, "Int64Value"),
    "thread_pool_name": (5, "StringValue"),
    "enable_large_batch_splitting": (8, "BoolValue"),
    "max_execution_batch_size": (9, "Int64Value"),
}


def models(path: str) -> model_server_config_pb2.ModelServerConfig:
    """The models to serve."""
    return _read(path, model_server_config_pb2.ModelServerConfig())


def monitoring(path: str) -> Any:
    """Where the metrics are served."""
    return _read(path, _message("MonitoringConfig"))


def batching(path: str) -> Any:
    """How requests are joined."""
    return _read(path, _message("BatchingParameters"))


def refused(message: str) -> ServingError:
    """The error of files and flags that don't go together."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def _read(path: str, message: Any) -> Any:
    try:
        return text_format.Parse(Path(path).read_text(encoding="utf-8"), message)
    except (OSError, text_format.ParseError) as error:
        raise ServingError(Code.INVALID_ARGUMENT, f"{path}: {error}") from error


def _message(name: str) -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(wrappers_pb2.DESCRIPTOR.serialized_pb))
    pool.Add(_file())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"standin.{name}"))()


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="standin.proto", package="standin", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, type=_BOOL, label=1)
    prometheus.field.add(name="path", number=2, type=_STRING, label=1)
    monitoring_config = file.message_type.add(name="MonitoringConfig")
    monitoring_config.field.add(
        name="prometheus_config", number=1, type=_MESSAGE, label=1, type_name=".standin.PrometheusConfig"
    )
    parameters = file.message_type.add(name="BatchingParameters")
    for field, (number, wrapper) in _WRAPPED.items():
        type_name = f".google.protobuf.{wrapper}"
        parameters.field.add(name=field, number=number, type=_MESSAGE, label=1, type_name=type_name)
    parameters.field.add(name="allowed_batch_sizes", number=6, type=_INT64, label=3)
    parameters.field.add(name="pad_variable_length_inputs", number=7, type=_BOOL, label=1)
    return file
