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
from onnx import shape_inference

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
    BF16 = 4


_TYPES = {"tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF, "tensor(int64)": DataType.INT64}
_OF_ONNX = {onnx.TensorProto.FLOAT16: DataType.HALF, onnx.TensorProto.BFLOAT16: DataType.BF16}
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
    QUANTIZE = 2


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


_LAYERS = {
    "MatMul": LayerType.MATRIX_MULTIPLY,
    "Gemm": LayerType.MATRIX_MULTIPLY,
    "QuantizeLinear": LayerType.QUANTIZE,
}


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
        kinds = {
            one.name: one.type.tensor_type.elem_type for one in shape_inference.infer_shapes(model).graph.value_info
        }
        made_by = {name: node.op_type for node in model.graph.node for name in node.output}
        for node in model.graph.node:
            kind = _LAYERS.get(node.op_type, LayerType.OTHER)
            output = SimpleNamespace(dtype=_OF_ONNX.get(kinds.get(node.output[0], 0), DataType.FLOAT))
            layer = SimpleNamespace(type=kind, get_output=lambda _, output=output: output)
            layer.takes = "Int8" if made_by.get(node.input[0] if node.input else "") == "DequantizeLinear" else ""
            self.network.layers.append(layer)
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
    fails_in: ClassVar[tuple[str, ...]] = ()
    """Types of whose matrix products that is said; without any of every graph."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        kinds = {_described(one)["Outputs"][0]["Format/Datatype"] for one in network.layers}
        if self.fails and (not self.fails_in or kinds & set(self.fails_in)):
            self.logger.log(Severity.ERROR, self.fails)
            return None
        config.progress_monitor.phase_start("Building", None, 2)
        config.progress_monitor.step_complete("Building", 0)
        config.progress_monitor.phase_finish("Building")
        layers = [_described(one) for one in network.layers]
        head = json.dumps({"profiles": config.profiles, "layers": layers}).encode()
        return len(head).to_bytes(4, "little") + head + network.graph


def _described(layer: Any) -> dict[str, Any]:
    """A layer in the inspector's words."""
    made = {DataType.HALF: "Half", DataType.BF16: "BFloat16"}.get(layer.get_output(0).dtype, "Float")
    kind = "gemm" if layer.type is LayerType.MATRIX_MULTIPLY else "kgen"
    inputs = [{"Format/Datatype": layer.takes or made}]
    return {"LayerType": kind, "Inputs": inputs, "Outputs": [{"Format/Datatype": made}]}


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
    def __init__(self, layers: list[dict[str, Any]]) -> None:
        self.layers = layers

    def get_engine_information(self, _format: object) -> str:
        return json.dumps({"Layers": self.layers})


def _without_bf16(graph: bytes) -> bytes:
    """The same graph with FP32 in the place of BF16."""
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.BFLOAT16:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for node in model.graph.node:
        for entry in node.attribute:
            if node.op_type == "Cast" and entry.name == "to" and entry.i == onnx.TensorProto.BFLOAT16:
                entry.i = onnx.TensorProto.FLOAT
    return bytes(model.SerializeToString())


class Engine:
    def __init__(self, plan: bytes) -> None:
        size = int.from_bytes(plan[:4], "little")
        head = json.loads(plan[4 : 4 + size])
        self.profiles, self._layers = head["profiles"], head["layers"]
        # ONNX Runtime has no kernels for BF16 on CPUs: the graph is computed in FP32.
        self.session = onnxruntime.InferenceSession(_without_bf16(plan[4 + size :]), providers=["CPUExecutionProvider"])
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
        return Inspector(self._layers)

    def create_execution_context(self) -> Context:
        return Context(self)


class Runtime:
    def __init__(self, _logger: ILogger) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> Engine:
        return Engine(plan)


def module(version: str = "11.2.1.2", *, fails: str = "", fails_in: tuple[str, ...] = ()) -> Any:
    """What `import tensorrt` gives; `fails`: what its builder says instead of building, `fails_in`: for which types."""
    builder = type("Builder", (Builder,), {"fails": fails, "fails_in": fails_in})
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
