"""An FP32 ONNX graph as one of 16-bit types, which TensorRT takes over as they are. Called by rungs.

TensorRT 11 has no switch for FP16 or BF16: what runs in which type is written in the graph. Inputs and outputs keep
their types. What isn't known to bear fewer bits stays in FP32: LayerNormalization, Softmax with the scores and masks
before it, sums and means, and every constant that the type can't hold.

The same graph can be written "emulated": all FP32, every 16-bit tensor rounded where it is made. ONNX Runtime has no
BF16 on CPUs and computes FP16 in FP32, so only this shows there what rounding and overflow do to the answers.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from bert_build import inside, onnx_file
from bert_build.samples import Arrays

Values = np.ndarray[Any, Any]

FP16: Final = onnx.TensorProto.FLOAT16
BF16: Final = onnx.TensorProto.BFLOAT16
FP32: Final = onnx.TensorProto.FLOAT
PRODUCTS: Final = frozenset({"MatMul", "Gemm"})
ABLE: Final = PRODUCTS | {
    *("Add", "Sub", "Mul", "Div", "Neg", "Where", "Erf", "Gelu", "Tanh", "Relu", "Sigmoid"),
    *("Gather", "GatherElements", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Concat", "Split", "Expand"),
    "Identity",
}
"""Operators that bear 16 bits. Whatever isn't listed goes on in FP32."""
_SENSITIVE: Final = frozenset({"Softmax", "LogSoftmax", "ReduceMean", "ReduceSum", "ReduceL2"})
"""Of these the arithmetic before them, up to the next product, stays in FP32 too: scores, masks, squares of norms."""
_ARITHMETIC: Final = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Pow"})
_ENDS: Final = PRODUCTS | _SENSITIVE | {"LayerNormalization"}
"""What goes in may be as low as a mask's constant; what comes out isn't."""
_SMALL: Final = 16
"""An initializer of at most so many values may be a constant: tf2onnx writes masks so. Weights hold more."""
_HIGHEST: Final = {FP16: float(np.finfo(np.float16).max), BF16: 3.3895e38}
_NAMES: Final = {FP16: "FP16", BF16: "BF16"}
_ROOM: Final = 4
"""Activations of the texts that are asked must stay below this share of FP16's range: other texts may go further."""


class OutOfRangeError(Exception):
    """A weight that the type can't hold."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is to run in 16 bits."""

    low: int
    """FP16 or BF16."""
    operators: frozenset[str] = ABLE
    full: frozenset[str] = frozenset()
    """First outputs of nodes that stay in FP32."""
    spare_weights: bool = False
    """A node whose weights are beyond the type stays in FP32, instead of being refused."""


def cast(source: Path, target: Path, wish: Wish, *, emulated: bool = False) -> None:
    """Write the graph in 16 bits.

    Args:
        source: an FP32 graph.
        target: where to.
        wish: what is to run in 16 bits, and in which.
        emulated: write it in FP32 with every 16-bit tensor rounded: what a GPU would compute, for the CPU.

    Raises:
        OutOfRangeError: a weight is beyond the type's range; the text names it.
    """
    model = onnx.load(source)
    kinds = _kinds(model)
    low = _low_nodes(model.graph, kinds, wish)
    writer = _Writer(model.graph, kinds, low, wish.low, emulated=emulated)
    writer.rewrite()
    for old in target.parent.glob(f"{target.name}*"):
        old.unlink()
    if emulated:
        onnx_file.write(target, model, writer.rounded)
    else:
        onnx_file.save(model, target)


def mixed(source: Path, requests: Iterable[Arrays]) -> Wish:
    """Products in FP16, as far as their weights and what real requests make of their activations fit; the rest in FP32.

    Args:
        source: the FP32 graph.
        requests: what it is asked to see how far activations go.
    """
    graph = onnx.load(source, load_external_data=False).graph
    products = [node for node in graph.node if node.op_type in PRODUCTS]
    seen: dict[str, float] = {}
    for found in inside.values(source, [name for node in products for name in (*node.input, *node.output)], requests):
        for name, values in found.items():
            seen[name] = max(seen.get(name, 0.0), float(np.abs(values).max(initial=0.0)))
    bound = _HIGHEST[FP16] / _ROOM
    wide = [node for node in products if any(seen.get(name, 0.0) > bound for name in (*node.input, *node.output))]
    return Wish(FP16, PRODUCTS, frozenset(node.output[0] for node in wide), spare_weights=True)


def products(path: Path) -> dict[str, int]:
    """How many matrix products of a graph there are in each type, by Triton's names; quantised ones are INT8."""
    model = onnx.load(path, load_external_data=False)
    kinds = _kinds(model)
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in PRODUCTS:
            quantised = made_by.get(node.input[1]) == "DequantizeLinear"
            name = "INT8" if quantised else {FP32: "FP32", **_NAMES}.get(kinds.get(node.output[0], 0), "unknown")
            found[name] = found.get(name, 0) + 1
    return found


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Type of every tensor, by name. Weights are left out of what is looked at: there may be gigabytes."""
    graph = shape_inference.infer_shapes(_without_weights(model)).graph
    typed = {one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.input, *graph.output)}
    return typed | {one.name: one.data_type for one in model.graph.initializer}


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with inputs in the place of its large initializers."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = bare.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT64:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return bare


def _low_nodes(graph: onnx.GraphProto, kinds: Mapping[str, int], wish: Wish) -> set[int]:
    """Places of the nodes that are to run in 16 bits.

    Raises:
        OutOfRangeError: a weight is beyond the type's range.
    """
    beyond = _beyond(graph, wish.low)
    kept = _before_sensitive(graph) | _after_sums(graph) | _after_constants(graph, beyond)
    # Products of these run in INT8: their inputs are FP32 by name only.
    quantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    found = set()
    for place, node in enumerate(graph.node):
        if node.op_type not in wish.operators or place in kept or node.output[0] in wish.full:
            continue
        if not any(kinds.get(name) == FP32 for name in node.output) or quantised.intersection(node.input):
            continue
        weights = [name for name in node.input if name in beyond]
        if weights and not wish.spare_weights:
            end = f"{_NAMES[wish.low]} ends at {_HIGHEST[wish.low]:.5g}"
            raise OutOfRangeError(f"weight {weights[0]} holds {beyond[weights[0]]:.3g}, {end}")
        if not weights:
            found.add(place)
    return found


def _beyond(graph: onnx.GraphProto, low: int) -> dict[str, float]:
    """Constants and weights beyond the type's range: name -> largest absolute value."""
    constants = [
        (node.output[0], entry.t)
        for node in graph.node
        if node.op_type == "Constant"
        for entry in node.attribute
        if entry.name == "value"
    ]
    found = {}
    for name, tensor in (*constants, *((one.name, one) for one in graph.initializer)):
        if tensor.data_type == FP32:
            highest = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
            if highest > _HIGHEST[low]:
                found[name] = highest
    return found


def _before_sensitive(graph: onnx.GraphProto) -> set[int]:
    """The arithmetic that leads from products to what must stay in FP32."""
    maker = {name: place for place, node in enumerate(graph.node) for name in node.output}
    waiting = [name for node in graph.node if node.op_type in _SENSITIVE for name in node.input]
    found: set[int] = set()
    while waiting:
        place = maker.get(waiting.pop())
        if place is not None and place not in found and graph.node[place].op_type in _ARITHMETIC:
            found.add(place)
            waiting.extend(graph.node[place].input)
    return found


def _after_sums(graph: onnx.GraphProto) -> set[int]:
    """The arithmetic on sums: that of thousands of tokens may be beyond FP16, their mean isn't."""
    sums = {node.output[0] for node in graph.node if node.op_type == "ReduceSum"}
    return {
        place for place, node in enumerate(graph.node) if node.op_type in _ARITHMETIC and sums.intersection(node.input)
    }


def _after_constants(graph: onnx.GraphProto, beyond: Mapping[str, float]) -> set[int]:
    """What a mask's constant passes through: there it must not become infinite. Nodes come in the order they run."""
    sizes = {one.name: math.prod(one.dims) for one in graph.initializer}
    tainted = {name for name in beyond if sizes.get(name, 0) <= _SMALL}
    found = set()
    for place, node in enumerate(graph.node):
        if tainted.intersection(node.input):
            found.add(place)
            if node.op_type not in _ENDS:
                tainted.update(node.output)
    return found


class _Writer:
    """Rewrites a graph: a tensor keeps its name in FP32; its 16-bit version, where one is needed, has its own."""

    def __init__(
        self, graph: onnx.GraphProto, kinds: Mapping[str, int], low: set[int], kind: int, *, emulated: bool
    ) -> None:
        self._graph, self._kinds, self._low, self._kind, self._emulated = graph, kinds, low, kind, emulated
        taken = {name for place in low for name in graph.node[place].input}
        self._taken_low = {name for name in taken if kinds.get(name) == FP32}
        self._taken_full = {name for place, node in enumerate(graph.node) if place not in low for name in _inputs(node)}
        self._taken_full.update(entry.name for entry in graph.output)
        self._nodes: list[onnx.NodeProto] = []
        self.rounded: list[onnx_file.Weight] = []
        """Weights of an emulated graph: FP32 ones, rounded where they are written. They aren't in the graph."""

    def rewrite(self) -> None:
        """Put the nodes and weights in the place of the graph's."""
        graph = self._graph
        for entry in graph.input:
            self._lower(entry.name)
        for place, node in enumerate(graph.node):
            if place in self._low:
                self._add_low(node)
                continue
            self._nodes.append(node)
            for name in node.output:
                self._lower(name)
        del graph.node[:]
        del graph.value_info[:]
        graph.node.extend(self._nodes)
        weights = list(graph.initializer)
        del graph.initializer[:]
        for one in weights:
            if one.name not in self._taken_low or one.name in self._taken_full:
                graph.initializer.append(one)
            if one.name in self._taken_low:
                self._lower_weight(one)

    def _add_low(self, node: onnx.NodeProto) -> None:
        outputs = [name for name in node.output if self._kinds.get(name) == FP32]
        made = onnx.NodeProto()
        made.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in self._taken_low:
                made.input[place] = _low(name)
        for place, name in enumerate(node.output):
            if name in outputs:
                made.output[place] = _exact(name) if self._emulated else _low(name)
        self._nodes.append(made)
        for name in outputs:
            if self._emulated:
                self._round(_exact(name), name)
            if name in self._taken_full:
                back = helper.make_node("Cast", [_low(name)], [name], to=FP32)
                self._nodes.append(helper.make_node("Identity", [_low(name)], [name]) if self._emulated else back)

    def _lower(self, name: str) -> None:
        """Make the 16-bit version of an FP32 tensor, if it is asked for."""
        if name not in self._taken_low:
            return
        if self._emulated:
            self._round(name, name)
        else:
            self._nodes.append(helper.make_node("Cast", [name], [_low(name)], to=self._kind))

    def _round(self, tensor: str, name: str) -> None:
        """Round a tensor where `_low(name)` is to hold FP32 values."""
        self._nodes.append(helper.make_node("Cast", [tensor], [f"{name}/rounded"], to=self._kind))
        self._nodes.append(helper.make_node("Cast", [f"{name}/rounded"], [_low(name)], to=FP32))

    def _lower_weight(self, tensor: onnx.TensorProto) -> None:
        name, kind = _low(tensor.name), self._kind
        if self._emulated:
            self.rounded.append(onnx_file.Weight(name, tuple(tensor.dims), lambda: _rounded(tensor, kind)))
        elif kind == FP16:
            halves = numpy_helper.to_array(tensor).astype(np.float16)
            self._graph.initializer.append(numpy_helper.from_array(halves, name))
        else:
            halves = _to_bf16(numpy_helper.to_array(tensor))
            self._graph.initializer.append(helper.make_tensor(name, BF16, tensor.dims, halves.tobytes(), raw=True))


def _rounded(tensor: onnx.TensorProto, kind: int) -> Values:
    """A weight as the type holds it, in FP32."""
    values: Values = numpy_helper.to_array(tensor)
    if kind == FP16:
        return values.astype(np.float16).astype(np.float32)
    return (_to_bf16(values).astype(np.uint32) << 16).view(np.float32)


def _to_bf16(values: Values) -> Values:
    """The upper halves of FP32 numbers, rounded to nearest, ties to even; [*shape] uint16. Weights hold no NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _low(name: str) -> str:
    return f"{name}/low"


def _exact(name: str) -> str:
    return f"{name}/exact"


def _inputs(node: onnx.NodeProto) -> Iterator[str]:
    """What a node takes, inside its branches too."""
    yield from node.input
    for entry in node.attribute:
        for graph in (entry.g, *entry.graphs):
            for inner in graph.node:
                yield from _inputs(inner)
