"""A stand-in for the Python module `tensorrt` and for the driver: no GPU is here. It is not TensorRT.

Its engines are ONNX graphs that ONNX Runtime runs on the CPU, so that the script of a compile Job can be followed from
the staged graph to published answers. Names and signatures are TensorRT's; tests/tensorrt holds the script against the
real library's. What TensorRT makes of a graph, and how fast, can't be seen here.
"""

import enum
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime

MEMORY: dict[int, bytes] = {}
"""What lies on the made-up device, by address."""
_ADDRESSES = itertools.count(4096, 4096)


class FakeCuda:
    """A made-up GPU in host memory."""

    compute_capability = "8.6"
    name = "Stand-in GPU"
    stream = 1

    def allocate(self, size: int) -> int:
        address = next(_ADDRESSES)
        MEMORY[address] = bytes(size)
        return address

    def free(self, address: int) -> None:
        del MEMORY[address]

    def upload(self, address: int, data: bytes) -> None:
        assert len(data) == len(MEMORY[address])
        MEMORY[address] = data

    def download(self, address: int, size: int) -> bytes:
        return MEMORY[address][:size]

    def wait(self) -> None:
        """Everything is done at once."""


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT32 = 2
    INT64 = 3


_TYPES = {"tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF, "tensor(int64)": DataType.INT64}
_NUMPY = {DataType.FLOAT: "<f4", DataType.HALF: "<f2", DataType.INT64: "<i8"}


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity: ClassVar = Severity


class IProgressMonitor:
    pass


class Flag(enum.IntEnum):
    STRONGLY_TYPED = 1


class LayerType(enum.Enum):
    MATRIX_MULTIPLY = 0
    OTHER = 1


class TensorIOMode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


class Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.graph = b""
        self.layers: list[Any] = []

    def get_flag(self, flag: Flag) -> bool:
        return bool(self.flags & 1 << int(flag))

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, number: int) -> Any:
        return self.layers[number]


class OnnxParser:
    def __init__(self, network: Network, _logger: ILogger) -> None:
        self.network = network
        self.num_errors = 0

    def parse_from_file(self, path: str) -> bool:
        try:
            model = onnx.load(path)
        except Exception:  # noqa: BLE001 - protobuf's own
            self.num_errors = 1
            return False
        self.network.graph = Path(path).read_bytes()
        half = any(one.data_type == onnx.TensorProto.FLOAT16 for one in model.graph.initializer)
        dtype = DataType.HALF if half else DataType.FLOAT
        for node in model.graph.node:
            kind = LayerType.MATRIX_MULTIPLY if node.op_type == "MatMul" else LayerType.OTHER
            output = SimpleNamespace(dtype=dtype)
            self.network.layers.append(SimpleNamespace(type=kind, get_output=lambda _, output=output: output))
        return True

    def get_error(self, _number: int) -> str:
        return "In node 0: not a model"


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content or b"measured"


class Config:
    def __init__(self) -> None:
        self.profiles: list[dict[str, Any]] = []
        self.cleared: list[str] = []
        self.limit = 0
        self.progress_monitor: Any = None

    def set_memory_pool_limit(self, _pool: object, limit: int) -> None:
        self.limit = limit

    def clear_flag(self, flag: str) -> None:
        self.cleared.append(flag)

    def add_optimization_profile(self, profile: "Profile") -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> TimingCache:
        return TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, *, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return cache.content in (b"", b"measured")


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, low: Any, opt: Any, high: Any) -> None:
        self.shapes[name] = [list(low), list(opt), list(high)]


class Builder:
    fails: ClassVar[str] = ""
    """What the builder says instead of building; empty: it builds."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        if self.fails:
            self.logger.log(Severity.ERROR, self.fails)
            return None
        config.progress_monitor.phase_start("Building", None, 2)
        config.progress_monitor.step_complete("Building", 0)
        config.progress_monitor.phase_finish("Building")
        head = json.dumps({"profiles": config.profiles, "types": [_name(one) for one in network.layers]}).encode()
        return len(head).to_bytes(4, "little") + head + network.graph


def _name(layer: Any) -> str:
    return "Half" if layer.get_output(0).dtype is DataType.HALF else "Float"


class Context:
    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, _stream: int) -> bool:
        self.profile = profile
        return profile < self.engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.profiles[self.profile][name]
        self.shapes[name] = shape
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        symbols = {"batch": 0, "sequence": 1}
        real = next(iter(self.shapes.values()))
        return tuple(real[symbols[dim]] if isinstance(dim, str) else dim for dim in self.engine.tensor(name).shape)

    def execute_async_v3(self, _stream: int) -> bool:
        engine, feed = self.engine, {}
        for name in engine.inputs:
            kind = _NUMPY[engine.get_tensor_dtype(name)]
            feed[name] = np.frombuffer(MEMORY[self.addresses[name]], dtype=kind).reshape(self.shapes[name])
        found = engine.session.run(engine.outputs, feed)
        for name, values in zip(engine.outputs, found, strict=True):
            assert values.shape == self.get_tensor_shape(name)
            MEMORY[self.addresses[name]] = np.ascontiguousarray(values).tobytes()
        return True


class Inspector:
    def __init__(self, types: list[str]) -> None:
        self.types = types

    def get_engine_information(self, _format: object) -> str:
        return json.dumps({"Layers": [{"Outputs": [{"Format/Datatype": kind}]} for kind in self.types]})


class Engine:
    def __init__(self, plan: bytes) -> None:
        size = int.from_bytes(plan[:4], "little")
        head = json.loads(plan[4 : 4 + size])
        self.profiles, self._types = head["profiles"], head["types"]
        self.session = onnxruntime.InferenceSession(plan[4 + size :], providers=["CPUExecutionProvider"])
        self.inputs: list[str] = [one.name for one in self.session.get_inputs()]
        self.outputs: list[str] = [one.name for one in self.session.get_outputs()]

    def tensor(self, name: str) -> Any:
        return next(one for one in (*self.session.get_inputs(), *self.session.get_outputs()) if one.name == name)

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, number: int) -> str:
        return [*self.inputs, *self.outputs][number]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _TYPES[self.tensor(name).type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(dim, str) else dim for dim in self.tensor(name).shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        return list(self.profiles[profile][name])

    def create_engine_inspector(self) -> Inspector:
        return Inspector(self._types)

    def create_execution_context(self) -> Context:
        return Context(self)


class Runtime:
    def __init__(self, _logger: ILogger) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> Engine:
        return Engine(plan)


def module(version: str = "11.2.1.2", *, fails: str = "") -> Any:
    """What `import tensorrt` gives; `fails`: what its builder says instead of building."""
    builder = type("Builder", (Builder,), {"fails": fails})
    names = {
        "BuilderFlag": SimpleNamespace(TF32="TF32"),
        "HardwareCompatibilityLevel": SimpleNamespace(NONE=0),
        "LayerInformationFormat": SimpleNamespace(JSON=1),
        "MemoryPoolType": SimpleNamespace(WORKSPACE=0),
        "ProfilingVerbosity": SimpleNamespace(DETAILED=2),
        "NetworkDefinitionCreationFlag": Flag,
    }
    plain = (ILogger, IProgressMonitor, LayerType, TensorIOMode, OnnxParser, Runtime)
    return SimpleNamespace(__version__=version, Builder=builder, **names, **{one.__name__: one for one in plain})
