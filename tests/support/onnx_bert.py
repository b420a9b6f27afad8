"""A BERT encoder in ONNX, made with numpy alone: random weights, real structure, any size. No PyTorch needed.

Used where a real inference server must serve something; its answers are ONNX Runtime's own, so nothing here proves the
export of real models (tests/build does).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_MASKED: Final = -1e4


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Size of an encoder and what it puts out: logits of `labels` classes, or every token's vector."""

    layers: int = 1
    hidden: int = 32
    heads: int = 2
    vocabulary: int = 100
    longest: int = 64
    labels: int | None = 2
    seed: int = 0


def write(path: Path, shape: Shape, *, external: bool = False) -> int:
    """Write the model, its weights beside it if they are `external`; returns its number of parameters."""
    graph = _Graph(shape)
    output = graph.build()
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in INPUTS]
    made = helper.make_graph(graph.nodes, "bert", inputs, [output], graph.weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    beside = {"location": f"{path.name}.data", "size_threshold": 128} if external else {}
    onnx.save(model, str(path), save_as_external_data=external, **beside)
    return sum(int(np.prod(weight.dims)) for weight in graph.weights)


class _Graph:
    """Collects nodes and weights; each method adds a part and returns its output's name."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(shape.seed)

    def build(self) -> onnx.ValueInfoProto:
        size = self.shape
        x = self.embed()
        bias = self.mask_bias()
        for layer in range(size.layers):
            x = self.layer(f"layer{layer}", x, bias)
        if size.labels is None:
            self.add("Identity", [x], "last_hidden_state")
            return helper.make_tensor_value_info(
                "last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", size.hidden]
            )
        first = self.add("Gather", [x, self.constant("first", 0)], "first_token", axis=1)
        self.add("MatMul", [first, self.weight("classifier", size.hidden, size.labels)], "logits")
        return helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", size.labels])

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Any, kind: type = np.int64) -> str:
        return self.store(name, np.asarray(value, kind))

    def weight(self, name: str, *dims: int) -> str:
        return self.store(name, self._random.standard_normal(dims, np.float32) * np.float32(0.2))

    def store(self, name: str, array: npt.NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def embed(self) -> str:
        size = self.shape
        words = self.add("Gather", [self.weight("words", size.vocabulary, size.hidden), "input_ids"], "word_vectors")
        kinds = self.add("Gather", [self.weight("kinds", 2, size.hidden), "token_type_ids"], "kind_vectors")
        shape = self.add("Shape", ["input_ids"], "shape")
        length = self.add("Gather", [shape, self.constant("axis1", 1)], "length")
        places = self.add("Range", [self.constant("zero", 0), length, self.constant("one", 1)], "places")
        where = self.add("Gather", [self.weight("positions", size.longest, size.hidden), places], "position_vectors")
        both = self.add("Add", [words, kinds], "words_and_kinds")
        return self.norm("embeddings", self.add("Add", [both, where], "embedded"))

    def mask_bias(self) -> str:
        seen = self.add("Cast", ["attention_mask"], "seen", to=TensorProto.FLOAT)
        hidden = self.add("Sub", [self.constant("one_float", 1, np.float32), seen], "hidden")
        bias = self.add("Mul", [hidden, self.constant("masked", _MASKED, np.float32)], "bias")
        return self.add("Unsqueeze", [bias, self.constant("axes12", [1, 2])], "mask_bias")

    def layer(self, name: str, x: str, bias: str) -> str:
        hidden = self.shape.hidden
        attended = self.linear(f"{name}.out", self.attention(name, x, bias), hidden, hidden)
        x = self.norm(f"{name}.norm1", self.add("Add", [x, attended], f"{name}.sum1"))
        wide = self.gelu(name, self.linear(f"{name}.wide", x, hidden, 4 * hidden))
        narrow = self.linear(f"{name}.narrow", wide, 4 * hidden, hidden)
        return self.norm(f"{name}.norm2", self.add("Add", [x, narrow], f"{name}.sum2"))

    def attention(self, name: str, x: str, bias: str) -> str:
        query, key, value = (self.heads(f"{name}.{part}", x, part == "key") for part in ("query", "key", "value"))
        scores = self.add("MatMul", [query, key], f"{name}.scores")
        scale = self.constant(f"{name}.scale", (self.shape.hidden // self.shape.heads) ** -0.5, np.float32)
        scaled = self.add("Mul", [scores, scale], f"{name}.scaled")
        shares = self.add("Softmax", [self.add("Add", [scaled, bias], f"{name}.biased")], f"{name}.shares", axis=-1)
        mixed = self.add("MatMul", [shares, value], f"{name}.mixed")
        turned = self.add("Transpose", [mixed], f"{name}.turned", perm=[0, 2, 1, 3])
        return self.add("Reshape", [turned, self.constant(f"{name}.flat", [0, 0, self.shape.hidden])], f"{name}.joined")

    def heads(self, name: str, x: str, transposed: bool) -> str:  # noqa: FBT001 - keys are, that is all there is to say
        size = self.shape
        projected = self.linear(name, x, size.hidden, size.hidden)
        each = self.constant(f"{name}.each", [0, 0, size.heads, size.hidden // size.heads])
        split = self.add("Reshape", [projected, each], f"{name}.split")
        return self.add("Transpose", [split], f"{name}.heads", perm=[0, 2, 3, 1] if transposed else [0, 2, 1, 3])

    def linear(self, name: str, x: str, inner: int, outer: int) -> str:
        product = self.add("MatMul", [x, self.weight(f"{name}.weight", inner, outer)], f"{name}.product")
        return self.add("Add", [product, self.weight(f"{name}.bias", outer)], f"{name}.linear")

    def gelu(self, name: str, x: str) -> str:
        scaled = self.add("Div", [x, self.constant(f"{name}.root2", 2**0.5, np.float32)], f"{name}.erf_in")
        one = self.constant(f"{name}.one", 1, np.float32)
        grown = self.add("Add", [self.add("Erf", [scaled], f"{name}.erf"), one], f"{name}.erf1")
        half = self.add("Mul", [x, self.constant(f"{name}.half", 0.5, np.float32)], f"{name}.halved")
        return self.add("Mul", [half, grown], f"{name}.gelu")

    def norm(self, name: str, x: str) -> str:
        scale = self.store(f"{name}.scale", np.ones(self.shape.hidden, np.float32))
        return self.add("LayerNormalization", [x, scale], name, axis=-1, epsilon=1e-12)
