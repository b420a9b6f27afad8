"""An FP32 ONNX graph as an INT8 one for CPUs: the products with weights, nothing else. Called by lowered.

Weights get one scale per column (per channel), activations one per tensor. `static` writes Q/DQ nodes with ranges that
were seen on real texts, so an answer doesn't depend on what else is in the batch; `dynamic` leaves the range to each
request, which fits it better and lets neighbours in a batch change an answer a little. Products of two activations
(attention), embeddings, layer norms and heads stay in FP32: they hold the outliers and cost little time.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from bert_build import onnx_file
from bert_build.samples import Arrays

Values = np.ndarray[Any, Any]

_WEIGHT_LEVELS: Final = 64
"""Seven bits, signed and symmetric. x86 without VNNI adds pairs of products u8 x s8 in 16 bits, which saturate:
2 * 255 * 64 still fits, 2 * 255 * 127 doesn't, and such a node would answer otherwise than the one of the build."""
_ACTIVATION_LEVELS: Final = 255
_SHARES: Final = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2)
"""Parts of the seen range that are tried: clipping a few outliers makes every other value finer."""
_BINS: Final = 4096
_MATRIX: Final = 2
_PARTS: Final = ("levels", "scale", "zero")
"""What a quantised tensor consists of, in the order of ONNX's operators."""


@dataclasses.dataclass(frozen=True)
class Range:
    """What an activation's 256 levels span."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        """Width of one level."""
        return max(self.high - self.low, 1e-9) / _ACTIVATION_LEVELS

    @property
    def zero(self) -> int:
        """The level that stands for 0."""
        return round(-self.low / self.scale)


def ranges(source: Path, requests: Iterable[Arrays]) -> dict[str, Range]:
    """Which range each activation gets that enters a product with weights, from what real requests make of it.

    Args:
        source: the FP32 graph.
        requests: unpadded ones: what padding makes of activations is no model for anything.
    """
    model = onnx.load(source, load_external_data=False)
    wanted = list(dict.fromkeys(node.input[0] for node in products(model.graph)))
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted if name not in known)
    probed = source.with_name(f"probed-{source.name}")
    probed.write_bytes(model.SerializeToString())
    try:
        seen = _seen(probed, wanted, requests)
    finally:
        probed.unlink()
    return {name: _best_range(np.concatenate(values)) for name, values in seen.items()}


def _seen(probed: Path, wanted: list[str], requests: Iterable[Arrays]) -> dict[str, list[Values]]:
    session = onnxruntime.InferenceSession(str(probed), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    seen: dict[str, list[Values]] = {name: [] for name in wanted}
    for request in requests:
        answers = session.run(wanted, {name: request[name] for name in names})
        for name, values in zip(wanted, answers, strict=True):
            seen[name].append(np.asarray(values, dtype=np.float32).ravel())
    return seen


def _best_range(values: Values) -> Range:
    """The part of the seen range with the smallest squared error after rounding and clipping."""
    counts, edges = np.histogram(values, bins=_BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    tried = [Range(low * below, high * above) for below in _SHARES for above in _SHARES]
    return min(tried, key=lambda one: _error(centres, counts, one))


def _error(values: Values, counts: Values, one: Range) -> float:
    levels = np.clip(np.rint(values / one.scale) + one.zero, 0, _ACTIVATION_LEVELS)
    return float((np.square((levels - one.zero) * one.scale - values) * counts).sum())


def static(source: Path, target: Path, known: Mapping[str, Range]) -> None:
    """Write the graph with Q/DQ nodes around each product with weights."""
    done: set[str] = set()

    def product(node: onnx.NodeProto, weight: str) -> list[onnx.NodeProto]:
        activation = node.input[0]
        operands = [_name(activation, "value"), _name(weight, "value")]
        made = [] if activation in done else _rounded(activation, known[activation])
        # Layers may share a weight.
        if weight not in done:
            parts = [_name(weight, part) for part in _PARTS]
            made.append(helper.make_node("DequantizeLinear", parts, operands[1:], axis=1))
        done.update((activation, weight))
        return [*made, helper.make_node("MatMul", operands, list(node.output), node.name)]

    _rewrite(source, target, product)


def _rounded(activation: str, one: Range) -> list[onnx.NodeProto]:
    """Q and DQ of an activation, with their constants."""
    names = [_name(activation, part) for part in _PARTS]
    constants = {names[1]: np.array(one.scale, np.float32), names[2]: np.array(one.zero, np.uint8)}
    return [
        *(
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
            for name, value in constants.items()
        ),
        helper.make_node("QuantizeLinear", [activation, *constants], names[:1]),
        helper.make_node("DequantizeLinear", names, [_name(activation, "value")]),
    ]


def dynamic(source: Path, target: Path) -> None:
    """Write the graph with integer products whose activations are scaled anew for each request."""
    done: set[str] = set()

    def product(node: onnx.NodeProto, weight: str) -> list[onnx.NodeProto]:
        activation, output, made = node.input[0], node.output[0], []
        parts = [_name(activation, part) for part in _PARTS]
        if activation not in done:
            done.add(activation)
            made.append(helper.make_node("DynamicQuantizeLinear", [activation], parts))
        # The output may be quantised itself, as the next product's activation: no name of _PARTS.
        exact, plain, scale = (_name(output, part) for part in ("integer", "float", "product_scale"))
        operands = [parts[0], _name(weight, "levels"), parts[2], _name(weight, "zero")]
        return [
            *made,
            helper.make_node("MatMulInteger", operands, [exact]),
            helper.make_node("Cast", [exact], [plain], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [parts[1], _name(weight, "scale")], [scale]),
            helper.make_node("Mul", [plain, scale], [output]),
        ]

    _rewrite(source, target, product)


Product = Callable[[onnx.NodeProto, str], list[onnx.NodeProto]]


def _rewrite(source: Path, target: Path, product: Product) -> None:
    """Put integer products in the place of those with weights; each weight is quantised once."""
    model = onnx.load(source)
    graph = model.graph
    taken = {node.output[0] for node in products(graph)}
    weights = {node.input[1] for node in graph.node if node.output[0] in taken}
    made: list[onnx.NodeProto] = []
    for node in graph.node:
        made += product(node, node.input[1]) if node.output[0] in taken else [node]
    del graph.node[:]
    graph.node.extend(made)
    kept = [tensor for tensor in graph.initializer if tensor.name not in weights]
    for tensor in [tensor for tensor in graph.initializer if tensor.name in weights]:
        kept += _quantised(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx_file.save(model, target)


def products(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The products of an activation with a matrix of weights, which are what is quantised."""
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == _MATRIX}
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in matrices]


def _quantised(tensor: onnx.TensorProto) -> list[onnx.TensorProto]:
    values = numpy_helper.to_array(tensor)
    scales = np.maximum(np.abs(values).max(axis=0), 1e-9).astype(np.float32) / np.float32(_WEIGHT_LEVELS)
    levels = np.rint(values / scales).astype(np.int8)
    parts = (levels, scales, np.zeros(scales.shape, np.int8))
    return [numpy_helper.from_array(part, _name(tensor.name, name)) for name, part in zip(_PARTS, parts, strict=True)]


def _name(tensor: str, part: str) -> str:
    """Of something that belongs to a tensor. Graphs have names like `norm.scale` of their own."""
    return f"{tensor}/int8_{part}"
