"""Writes large ONNX files with little memory. Called by to_onnx and tf2_to_onnx.

An ONNX file is one protobuf message, which the libraries build in memory before they write it: several copies of the
weights. Here the graph (small) is encoded by protobuf and the weights are streamed behind it, one at a time; the result
is an ordinary ONNX file. Weights of large models go to a file beside it ("external data"); protobuf can't hold 2 GiB.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import onnx
from onnx import TensorProto

EXTERNAL_FILE: Final = "model.onnx.data"
INLINE_LIMIT: Final = (1 << 31) - (64 << 20)
"""Protobuf refuses messages of 2 GiB; the graph itself is far smaller than the difference."""
EXTERNAL_FROM: Final = 256 << 20
"""From here on weights lie beside the graph: runtimes map them, where they would hold one message twice to read it.
Small models stay one file, which is easier to carry about."""
_ALIGNMENT: Final = 4096
"""External tensors start on a page, so that runtimes can map them into memory."""
_GRAPH_FIELD: Final = 7
_INITIALIZER_FIELD: Final = 5
_RAW_DATA_FIELD: Final = 9
_LENGTH_DELIMITED: Final = 2

Values = Callable[[], "np.ndarray[Any, Any]"]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One fp32 initializer; its values are made when they are written and dropped at once."""

    name: str
    shape: tuple[int, ...]
    values: Values
    order: tuple[str, int] = ("", 0)
    """Whoever makes the values may want them asked for in this order."""

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return 4 * math.prod(self.shape)


def write(path: Path, graph: onnx.ModelProto, weights: list[Weight], inline_limit: int | None = None) -> None:
    """Write `graph`, which must hold no large initializers itself, together with its weights.

    Args:
        path: of the graph; EXTERNAL_FILE stands beside it where the weights are many.
        graph: changed.
        weights: in the order in which they are written.
        inline_limit: bytes of weights that the graph's own file may hold; None: EXTERNAL_FROM.
    """
    if sum(weight.size for weight in weights) > (EXTERNAL_FROM if inline_limit is None else inline_limit):
        _write_external(path, graph, weights)
    else:
        _write_inline(path, graph, weights)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph that holds its weights; they go to a file beside it if protobuf can't hold them."""
    large = size(model.graph) > INLINE_LIMIT
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)


def size(graph: onnx.GraphProto) -> int:
    """Bytes of the weights that are in the graph itself."""
    return sum(len(tensor.raw_data) for tensor in graph.initializer)


def take_out(model: onnx.ModelProto, known: Mapping[str, Weight], inputs: Collection[str]) -> list[Weight]:
    """Make weights of a graph's inputs that are none of its own `inputs`, transposed where the graph does so.

    Args:
        model: its graph is changed: such inputs go, and so do the nodes that only transpose one.
        known: what may be asked for, by name.
        inputs: what clients send.

    Raises:
        ValueError: the graph asks for something else.
    """
    graph = model.graph
    loose = [value.name for value in graph.input if value.name not in inputs]
    unknown = [name for name in loose if name not in known]
    if unknown:
        raise ValueError(f"the exported graph asks for {unknown[0]}, which the model doesn't have")
    kept = [value for value in graph.input if value.name in inputs]
    del graph.input[:]
    graph.input.extend(kept)
    weights: list[Weight] = []
    for name in loose:
        weight = known[name]
        users = [node for node in graph.node if name in node.input]
        if users and all(map(_is_transpose, users)) and len(weight.shape) == 2:  # noqa: PLR2004 - a matrix
            # Runtimes would do this at every start, holding both versions in memory.
            weights.append(_transposed(weight, _one_output(graph, users)))
        elif users:
            weights.append(weight)
    return weights


def _one_output(graph: onnx.GraphProto, users: list[onnx.NodeProto]) -> str:
    """Drop nodes that all make the same tensor; its name, which every node that took one of theirs takes now.

    Layers that share a weight turn it once each.
    """
    for node in users:
        graph.node.remove(node)
    made: list[str] = [node.output[0] for node in users]
    kept, *others = made
    for node in graph.node if others else ():
        for place, name in enumerate(node.input):
            if name in others:
                node.input[place] = kept
    return kept


def _is_transpose(node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and [list(entry.ints) for entry in node.attribute] == [[1, 0]]


def _transposed(weight: Weight, name: str) -> Weight:
    return Weight(name, weight.shape[::-1], lambda: weight.values().T, weight.order)


def _write_inline(path: Path, model: onnx.ModelProto, weights: list[Weight]) -> None:
    graph = model.graph.SerializeToString()
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    frames = [_frame(weight) for weight in weights]
    total = len(graph) + sum(len(frame) + weight.size for frame, weight in zip(frames, weights, strict=True))
    with path.open("xb") as file:
        file.write(rest.SerializeToString() + _tag(_GRAPH_FIELD, total) + graph)
        for frame, weight in zip(frames, weights, strict=True):
            file.write(frame)
            _write_values(file, weight)
        _sync(file)


def _write_external(path: Path, model: onnx.ModelProto, weights: list[Weight]) -> None:
    with path.with_name(EXTERNAL_FILE).open("xb") as file:
        for weight in weights:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            model.graph.initializer.append(_external(weight, file.tell()))
            _write_values(file, weight)
        _sync(file)
    with path.open("xb") as file:
        file.write(model.SerializeToString())
        _sync(file)


def _external(weight: Weight, offset: int) -> TensorProto:
    tensor = _described(weight)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", EXTERNAL_FILE), ("offset", str(offset)), ("length", str(weight.size))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _described(weight: Weight) -> TensorProto:
    return TensorProto(name=weight.name, dims=weight.shape, data_type=TensorProto.FLOAT)


def _frame(weight: Weight) -> bytes:
    """Everything of an initializer that stands before its values."""
    inner: bytes = _described(weight).SerializeToString() + _tag(_RAW_DATA_FIELD, weight.size)
    return _tag(_INITIALIZER_FIELD, len(inner) + weight.size) + inner


def _write_values(file: BinaryIO, weight: Weight) -> None:
    values = np.ascontiguousarray(weight.values(), dtype="<f4")
    if values.nbytes != weight.size:
        raise ValueError(f"{weight.name} has {values.nbytes} bytes, its shape {weight.shape} asks for {weight.size}")
    file.write(values.data.cast("B") if values.size else b"")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _tag(field: int, length: int) -> bytes:
    return bytes(_varint(field << 3 | _LENGTH_DELIMITED)) + bytes(_varint(length))


def _varint(value: int) -> Iterator[int]:
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte, the highest says that more follow
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
