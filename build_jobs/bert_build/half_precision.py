"""An FP32 ONNX graph as an FP16 one whose types TensorRT takes over as they are. Called by stage.

TensorRT 11 has no switch for FP16: what runs in which type is written in the graph. ONNX Runtime's own converter does
that, which the build image has anyway. Inputs and outputs keep their types. LayerNormalization stays in FP32: its sums
of squares leave FP16's range long before anything else does.
"""

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.transformers import float16

from bert_build import onnx_file

IN_FP32: Final = ("LayerNormalization",)
"""Operators that go on in FP32."""
LOWEST: Final = -1e4
"""What masks become: far below every attention score, and far enough from FP16's end that a score can be added."""
_HIGHEST: Final = float(np.finfo(np.float16).max)
_SMALL: Final = 16
"""An initializer of at most so many values may be a constant: tf2onnx writes masks so. Weights hold more."""


class OutOfRangeError(Exception):
    """A weight that FP16 can't hold."""


def cast(source: Path, target: Path) -> None:
    """Write the FP16 graph.

    Raises:
        OutOfRangeError: a weight is beyond FP16's range; the text names it.
    """
    model = onnx.load(source)
    graph = model.graph
    for tensor in graph.initializer:
        _clamp_small(tensor)
        _check_range(tensor.name, numpy_helper.to_array(tensor))
    for node in graph.node:
        if node.op_type == "Constant":
            _clamp(node)
    found = float16.convert_float_to_float16(
        model,
        keep_io_types=True,
        # The converter would need a file for more than 2 GiB, and the types it needs are those of the nodes.
        disable_shape_infer=onnx_file.size(graph) > onnx_file.INLINE_LIMIT,
        op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *IN_FP32],
    )
    onnx_file.save(found, target)


def types(path: Path) -> dict[str, int]:
    """How many of the graph's weights there are in each type, by ONNX's names."""
    found: dict[str, int] = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        found[name] = found.get(name, 0) + 1
    return found


def _check_range(name: str, values: "np.ndarray[Any, Any]") -> None:
    if values.dtype == np.float32 and values.size and float(np.abs(values).max()) > _HIGHEST:
        raise OutOfRangeError(f"weight {name} holds {float(np.abs(values).max()):.3g}, FP16 ends at {_HIGHEST:.0f}")


def _clamp(node: onnx.NodeProto) -> None:
    """Masks are written as the lowest FP32 number, which is minus infinity in FP16: rows of masks alone become NaN."""
    for entry in node.attribute:
        if entry.name == "value" and entry.t.data_type == onnx.TensorProto.FLOAT:
            _clamp_tensor(entry.t)


def _clamp_small(tensor: onnx.TensorProto) -> None:
    """The same for a mask's number that stands among the weights."""
    if tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) <= _SMALL:
        _clamp_tensor(tensor)


def _clamp_tensor(tensor: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(tensor)
    if values.size and float(values.min()) < -_HIGHEST:
        tensor.CopyFrom(numpy_helper.from_array(np.maximum(values, np.float32(LOWEST)), tensor.name))
