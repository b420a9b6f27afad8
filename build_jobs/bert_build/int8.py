"""An FP32 ONNX graph as an INT8 one: the products with weights, nothing else. Called by lowered and rungs.

Weights get one scale per column (per channel), activations one per tensor. CPUs get activations in unsigned levels and
weights of seven bits; TensorRT gets eight bits, signed and symmetric, as it asks for. `static` writes Q/DQ nodes with
ranges that were seen on real texts, so an answer doesn't depend on what else is in the batch; `dynamic` leaves the
range to each request, which fits it better and lets neighbours in a batch change an answer a little. Products of two
activations (attention), embeddings, layer norms and heads stay in FP32: they hold the outliers and cost little time.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bert_build import inside, onnx_file
from bert_build.samples import Arrays

Values = np.ndarray[Any, Any]

_ALL: Final = 255
_HALF: Final = 127
"""The highest level of eight bits, without and with a sign."""
_SHARES: Final = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2)
"""Parts of the seen range that are tried: clipping a few outliers makes every other value finer."""
_BINS: Final = 4096
_MATRIX: Final = 2
_PARTS: Final = ("levels", "scale", "zero")
"""What a quantised tensor consists of, in the order of ONNX's operators."""


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How numbers become levels."""

    weight_levels: int
    """Of either sign; weights are symmetric."""
    symmetric: bool
    """Activations too: signed, and 0 is level 0. Else they have 256 levels from their lowest to their highest."""
    most_error: float = float("inf")
    """Share of an activation's energy that rounding and clipping may take; products of one that loses more stay."""


CPU: Final = Scheme(weight_levels=64, symmetric=False)
"""Seven bits. x86 without VNNI adds pairs of products u8 x s8 in 16 bits, which saturate: 2 * 255 * 64 still fits,
2 * 255 * 127 doesn't, and such a node would answer otherwise than the one of the build."""
TENSORRT: Final = Scheme(weight_levels=127, symmetric=True, most_error=1e-2)
"""TensorRT takes no other zero than 0, and adds in 32 bits. What GELU makes of outliers bears that badly: without the
last limit all-MiniLM-L6-v2 falls from a cosine of 0.982 to 0.948, for four products of 36."""


@dataclasses.dataclass(frozen=True)
class Range:
    """What an activation's levels span."""

    low: float
    high: float
    symmetric: bool = False

    @property
    def scale(self) -> float:
        """Width of one level."""
        if self.symmetric:
            return max(-self.low, self.high, 1e-9) / _HALF
        return max(self.high - self.low, 1e-9) / _ALL

    @property
    def zero(self) -> int:
        """The level that stands for 0."""
        return 0 if self.symmetric else round(-self.low / self.scale)

    @property
    def levels(self) -> tuple[int, int]:
        """The lowest and the highest."""
        return (-_HALF, _HALF) if self.symmetric else (0, _ALL)

    @property
    def kind(self) -> type[np.integer[Any]]:
        """Type of a level."""
        return np.int8 if self.symmetric else np.uint8


def ranges(source: Path, requests: Sequence[Arrays], scheme: Scheme = CPU) -> dict[str, Range]:
    """Which range each activation gets that enters a product with weights, from what real requests make of it.

    Args:
        source: the FP32 graph.
        requests: unpadded ones: what padding makes of activations is no model for anything. They are asked twice: for
            the ends of each activation, then for how its values lie between them.
        scheme: how numbers become levels.

    Returns:
        Activation -> range, of those whose products bear it.
    """
    graph = onnx.load(source, load_external_data=False).graph
    wanted = [node.input[0] for node in products(graph)]
    ends: dict[str, tuple[float, float]] = {}
    for found in inside.values(source, wanted, requests):
        for name, values in found.items():
            low, high = ends.get(name, (float("inf"), float("-inf")))
            ends[name] = min(low, float(values.min())), max(high, float(values.max()))
    counts: dict[str, Values] = {}
    edges: dict[str, Values] = {}
    for found in inside.values(source, wanted, requests):
        for name, values in found.items():
            counted, edges[name] = np.histogram(values, bins=_BINS, range=ends[name])
            counts[name] = counts.get(name, 0) + counted
    best = {name: _best_range(counts[name], edges[name], scheme) for name in ends}
    return {name: one for name, one in best.items() if _loss(counts[name], edges[name], one) <= scheme.most_error}


def _best_range(counts: Values, edges: Values, scheme: Scheme = CPU) -> Range:
    """The part of the seen range with the smallest squared error after rounding and clipping.

    Args:
        counts: how many values were seen in each bin, [bins].
        edges: where the bins begin and end, [bins + 1].
        scheme: how numbers become levels.
    """
    centres = _centres(edges)
    low, high = min(float(edges[0]), 0.0), max(float(edges[-1]), 0.0)
    if scheme.symmetric:
        bound = max(-low, high)
        tried = [Range(-bound * share, bound * share, symmetric=True) for share in _SHARES]
    else:
        tried = [Range(low * below, high * above) for below in _SHARES for above in _SHARES]
    return min(tried, key=lambda one: _error(centres, counts, one))


def _centres(edges: Values) -> Values:
    return np.asarray((edges[:-1] + edges[1:]) / 2)


def _loss(counts: Values, edges: Values, one: Range) -> float:
    """Squared error of rounding and clipping, as a share of the values' squares."""
    centres = _centres(edges)
    return _error(centres, counts, one) / max(float((np.square(centres) * counts).sum()), 1e-30)


def _error(values: Values, counts: Values, one: Range) -> float:
    levels = np.clip(np.rint(values / one.scale) + one.zero, *one.levels)
    return float((np.square((levels - one.zero) * one.scale - values) * counts).sum())


def static(source: Path, target: Path, known: Mapping[str, Range], scheme: Scheme = CPU) -> None:
    """Write the graph with Q/DQ nodes around each product with weights whose activation's range is known."""
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

    _rewrite(source, target, product, scheme, known)


def _rounded(activation: str, one: Range) -> list[onnx.NodeProto]:
    """Q and DQ of an activation, with their constants."""
    names = [_name(activation, part) for part in _PARTS]
    constants = {names[1]: np.array(one.scale, np.float32), names[2]: np.array(one.zero, one.kind)}
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

    _rewrite(source, target, product, CPU)


Product = Callable[[onnx.NodeProto, str], list[onnx.NodeProto]]


def _rewrite(
    source: Path, target: Path, product: Product, scheme: Scheme, known: Mapping[str, Range] | None = None
) -> None:
    """Put integer products in the place of those with weights (of known ranges if any are), each weight once."""
    model = onnx.load(source)
    graph = model.graph
    taken = {node.output[0] for node in products(graph) if known is None or node.input[0] in known}
    weights = {node.input[1] for node in graph.node if node.output[0] in taken}
    # Layers may share one, of which some stay as they are.
    plain = {name for node in graph.node if node.output[0] not in taken for name in node.input}
    made: list[onnx.NodeProto] = []
    for node in graph.node:
        made += product(node, node.input[1]) if node.output[0] in taken else [node]
    del graph.node[:]
    graph.node.extend(made)
    kept = [tensor for tensor in graph.initializer if tensor.name not in weights or tensor.name in plain]
    for tensor in [tensor for tensor in graph.initializer if tensor.name in weights]:
        kept += _quantised(tensor, scheme)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx_file.save(model, target)


def products(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The products of an activation with a matrix of weights, which are what is quantised."""
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == _MATRIX}
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in matrices]


def _quantised(tensor: onnx.TensorProto, scheme: Scheme) -> list[onnx.TensorProto]:
    values = numpy_helper.to_array(tensor)
    scales = np.maximum(np.abs(values).max(axis=0), 1e-9).astype(np.float32) / np.float32(scheme.weight_levels)
    levels = np.rint(values / scales).astype(np.int8)
    parts = (levels, scales, np.zeros(scales.shape, np.int8))
    return [numpy_helper.from_array(part, _name(tensor.name, name)) for name, part in zip(_PARTS, parts, strict=True)]


def _name(tensor: str, part: str) -> str:
    """Of something that belongs to a tensor. Graphs have names like `norm.scale` of their own."""
    return f"{tensor}/int8_{part}"
