"""TF Serving's three configuration files, in protobuf text format. `tfserving` calls it; no I/O but its templates.

Each file is rendered, parsed back and compared with the message it stands for, so no name can smuggle syntax into it.
The messages are declared here, only the fields we write: TF Serving's own package of them asks for all of TensorFlow.
tests/tfserving compares them with the real ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_encoding, text_format, wrappers_pb2
from google.protobuf.message import Message
from jinja2.sandbox import SandboxedEnvironment

from bert_operator.servers import templating

_PACKAGE: Final = "tensorflow.serving"
_SPECIFIC: Final = "FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific"
_POLICY: Final = "FileSystemStoragePathSourceConfig.ServableVersionPolicy"
_MAX_ENQUEUED_BATCHES: Final = 100
"""Beyond that many waiting batches a model refuses requests (503) instead of answering too late."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """One model as TF Serving knows it."""

    name: str
    base_path: str
    """Parent of the numbered version folders."""
    versions: Sequence[int]
    labels: Sequence[tuple[str, int]]
    """Label and the version that it stands for."""


def models(served: Sequence[ServedModel]) -> str:
    """models.config: every model, its versions and labels.

    Raises:
        ValueError: the text doesn't read back as what it was printed from.
    """
    config = [
        {
            "name": one.name,
            "base_path": one.base_path,
            "model_platform": "tensorflow",
            "model_version_policy": {"specific": {"versions": list(one.versions)}},
            "version_labels": dict(one.labels),
        }
        for one in served
    ]
    return _checked("models.config", {"models": served}, "ModelServerConfig", {"model_config_list": {"config": config}})


def monitoring(path: str) -> str:
    """monitoring.config: Prometheus metrics at a path of the REST port.

    Raises:
        ValueError: as `models`.
    """
    wanted = {"prometheus_config": {"enable": True, "path": path}}
    return _checked("monitoring.config", {"path": path}, "MonitoringConfig", wanted)


def batching(*, max_batch_size: int, timeout_microseconds: int, threads: int) -> str:
    """batching.config, the same for all models of a server.

    Shorter requests are padded to the longest of their batch: the graph of our SavedModels masks that padding out.

    Raises:
        ValueError: as `models`.
    """
    numbers = {
        "max_batch_size": max_batch_size,
        "batch_timeout_micros": timeout_microseconds,
        "max_enqueued_batches": _MAX_ENQUEUED_BATCHES,
        "num_batch_threads": threads,
    }
    wanted = {name: {"value": number} for name, number in numbers.items()}
    wanted_all: dict[str, Any] = {**wanted, "pad_variable_length_inputs": True}
    return _checked("batching.config", numbers, "BatchingParameters", wanted_all)


@lru_cache(maxsize=4096)
def parse(text: str, message: str) -> Message:
    """The message that a text stands for; unknown fields are errors.

    Args:
        text: protobuf text format.
        message: ModelServerConfig, MonitoringConfig or BatchingParameters.

    Raises:
        google.protobuf.text_format.ParseError: it isn't one.
    """
    found: Message = text_format.Parse(text, _messages()[message]())
    return found


def _checked(template: str, values: Mapping[str, Any], message: str, wanted: Mapping[str, Any]) -> str:
    text = _templates().get_template(f"{template}.j2").render(values)
    if parse(text, message) != _messages()[message](**wanted):
        raise ValueError(f"{template} doesn't read back as written: report this as a defect")
    return text


def _quote(text: str) -> str:
    return f'"{text_encoding.CEscape(text.encode(), as_utf8=False)}"'


def _templates() -> SandboxedEnvironment:
    return templating.environment("text", _quote, numbers=True)


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message."""

    name: str
    number: int
    kind: str
    """string, int64, bool, or a message of this file (a leading dot: of another one)."""
    repeated: bool = False


_SCHEMA: Final[Mapping[str, Sequence[_Field]]] = {
    "ModelServerConfig": (_Field("model_config_list", 1, "ModelConfigList"),),
    "ModelConfigList": (_Field("config", 1, "ModelConfig", repeated=True),),
    "ModelConfig": (
        _Field("name", 1, "string"),
        _Field("base_path", 2, "string"),
        _Field("model_platform", 4, "string"),
        _Field("model_version_policy", 7, _POLICY),
        _Field("version_labels", 8, "ModelConfig.VersionLabelsEntry", repeated=True),
    ),
    "ModelConfig.VersionLabelsEntry": (_Field("key", 1, "string"), _Field("value", 2, "int64")),
    "FileSystemStoragePathSourceConfig": (),
    _POLICY: (_Field("specific", 102, _SPECIFIC),),
    _SPECIFIC: (_Field("versions", 1, "int64", repeated=True),),
    "MonitoringConfig": (_Field("prometheus_config", 1, "PrometheusConfig"),),
    "PrometheusConfig": (_Field("enable", 1, "bool"), _Field("path", 2, "string")),
    "BatchingParameters": (
        _Field("max_batch_size", 1, ".google.protobuf.Int64Value"),
        _Field("batch_timeout_micros", 2, ".google.protobuf.Int64Value"),
        _Field("max_enqueued_batches", 3, ".google.protobuf.Int64Value"),
        _Field("num_batch_threads", 4, ".google.protobuf.Int64Value"),
        _Field("pad_variable_length_inputs", 7, "bool"),
    ),
}
"""Names and numbers are TF Serving's; an outer message stands before those inside it."""


@cache
def _messages() -> Mapping[str, Any]:
    """Message classes by name, in a pool of their own: TF Serving's package declares the same names."""
    pool = descriptor_pool.DescriptorPool()
    for file in (descriptor_pb2.FileDescriptorProto.FromString(wrappers_pb2.DESCRIPTOR.serialized_pb), _file()):
        pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in ("ModelServerConfig", "MonitoringConfig", "BatchingParameters")
    }


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="bert_operator/tfserving.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for path, fields in _SCHEMA.items():
        outer, _, name = path.rpartition(".")
        made[path] = made[outer].nested_type.add(name=name) if outer else file.message_type.add(name=name)
        made[path].options.map_entry = name.endswith("Entry")
        for field in fields:
            made[path].field.append(_field(field))
    return file


def _field(field: _Field) -> descriptor_pb2.FieldDescriptorProto:
    plain = descriptor_pb2.FieldDescriptorProto
    kinds = {"string": plain.TYPE_STRING, "int64": plain.TYPE_INT64, "bool": plain.TYPE_BOOL}
    kind = kinds.get(field.kind)
    found = plain(name=field.name, number=field.number, type=kind or plain.TYPE_MESSAGE)
    found.label = plain.LABEL_REPEATED if field.repeated else plain.LABEL_OPTIONAL
    if kind is None:
        found.type_name = field.kind if field.kind.startswith(".") else f".{_PACKAGE}.{field.kind}"
    return found
