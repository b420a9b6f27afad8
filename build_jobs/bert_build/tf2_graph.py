"""Turns a TensorFlow 2 model into an ONNX graph and weights. Called by tf2_to_onnx; writes nothing.

As in to_onnx, the graph is converted without weights, which are streamed into the file afterwards. Freezing them into
the graph, as tf2onnx does by itself, takes some ten copies of them in memory.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from tensorflow.core.framework import attr_value_pb2, node_def_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.grappler import tf_optimizer

from bert_build import formats, onnx_file, tensorflow_source
from bert_build.failures import BuildError, listing

_MATRIX: Final = 2
"""Axes of what is taken out of the graph; vectors may stay."""
_AXES: Final = ("batch", "sequence")
_FP32: Final = tf.float32.as_datatype_enum
_INT32: Final = tf.int32.as_datatype_enum

Proto = Any
"""A protobuf message of TensorFlow, which has no stubs where this is checked."""


def converted(model: tensorflow_source.TensorFlowModel) -> tuple[onnx.ModelProto, list[onnx_file.Weight]]:
    """The graph with our names and int64 inputs, and the weights that belong into it.

    Raises:
        BuildError: the graph holds an operation without an ONNX counterpart.
    """
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    traced = _traced(model)
    graph = _inlined(traced)
    known = _without_weights(graph, {inner.name.removesuffix(":0"): outer for outer, inner in traced.graph.captures})
    found = _converted(graph, known, traced.outputs[0].name)
    _rename(found, model.output)
    onnx.checker.check_model(found, full_check=True)
    return found, onnx_file.take_out(found, known, tuple(tensorflow_source.INPUTS))


def _traced(model: tensorflow_source.TensorFlowModel) -> Any:  # noqa: ANN401 - a TensorFlow function
    """The model with our names and int64 inputs: requests are the same whatever the source asks for."""
    shapes = {name: tf.TensorSpec([None, None], tf.int64, name) for name in tensorflow_source.INPUTS}
    return tf.function(model.call, autograph=False).get_concrete_function(**shapes)


def _inlined(traced: Any) -> Proto:  # noqa: ANN401 - a TensorFlow function
    """The graph without function calls, its variables still outside."""
    graph = tf.compat.v1.train.export_meta_graph(graph_def=traced.graph.as_graph_def(), graph=traced.graph)
    kept = meta_graph_pb2.CollectionDef()
    kept.node_list.value.extend(tensor.name for tensor in [*traced.inputs, *traced.outputs])
    graph.collection_def["train_op"].CopyFrom(kept)
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1
    config.graph_options.rewrite_options.optimizers.append("function")
    return tf_optimizer.OptimizeGraph(config, graph)


def _without_weights(graph: Proto, variables: Mapping[str, Any]) -> dict[str, onnx_file.Weight]:
    """Make inputs of the matrices of a graph, constants of its smaller variables.

    Args:
        graph: changed.
        variables: name of the graph's input for each variable -> its handle.

    Returns:
        What belongs into the new inputs, by their names.
    """
    taken: dict[str, onnx_file.Weight] = {}
    nodes: list[Proto] = []
    aliases = {node.name: node.input[0] for node in graph.node if node.op == "Identity" and node.input}
    for node in graph.node:
        if node.op == "ReadVariableOp":
            nodes.append(_value(node.name, _reader(node, aliases, variables), taken))
        elif node.op == "ResourceGather":
            params = _value(f"{node.name}/params", _reader(node, aliases, variables), taken)
            nodes += [params, *_gather(node, params.name)]
        elif node.op == "Const" and node.attr["value"].tensor.dtype == _FP32:
            nodes.append(_value(node.name, functools.partial(_constant, node), taken))
        else:
            # Control edges order side effects, of which a model that only answers has none.
            kept = [name for name in node.input if not name.startswith("^")]
            del node.input[:]
            node.input.extend(kept)
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return taken


def _value(name: str, read: Callable[[], Any], taken: dict[str, onnx_file.Weight]) -> Proto:
    """A node for a variable or constant: an input that is filled later if it is a matrix, else a constant."""
    found = read()
    if found.dtype == np.float32 and found.ndim >= _MATRIX:
        taken[f"{name}:0"] = onnx_file.Weight(f"{name}:0", tuple(found.shape), read)
        shape = attr_value_pb2.AttrValue(shape=tf.TensorShape(found.shape).as_proto())
        return node_def_pb2.NodeDef(name=name, op="Placeholder", attr={"dtype": _attribute(_FP32), "shape": shape})
    tensor = tf.make_tensor_proto(found)
    value = attr_value_pb2.AttrValue(tensor=tensor)
    return node_def_pb2.NodeDef(name=name, op="Const", attr={"dtype": _attribute(tensor.dtype), "value": value})


def _gather(node: Proto, params: str) -> list[Proto]:
    """The same look-up in an ordinary tensor."""
    axis = node_def_pb2.NodeDef(name=f"{node.name}/axis", op="Const")
    axis.attr["dtype"].CopyFrom(_attribute(_INT32))
    axis.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.int32(0)))
    gather = node_def_pb2.NodeDef(name=node.name, op="GatherV2", input=[params, node.input[1], axis.name])
    gather.attr["Tparams"].CopyFrom(node.attr["dtype"])
    gather.attr["Tindices"].CopyFrom(node.attr["Tindices"])
    gather.attr["Taxis"].CopyFrom(_attribute(_INT32))
    gather.attr["batch_dims"].CopyFrom(node.attr["batch_dims"])
    return [axis, gather]


def _reader(node: Proto, aliases: Mapping[str, str], variables: Mapping[str, Any]) -> Callable[[], Any]:
    """Reads the variable that a node names, anew each time: nothing is held twice."""
    name = node.input[0].removesuffix(":0")
    while name in aliases:
        name = aliases[name].removesuffix(":0")
    if name not in variables:
        raise _unsupported([f"{node.op} of {name}, which is no plain variable"])
    return functools.partial(_read, variables[name], node.attr["dtype"].type)


def _read(handle: Any, dtype: int) -> Any:  # noqa: ANN401 - no stubs
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.dtypes.as_dtype(dtype)).numpy()


def _constant(node: Proto) -> Any:  # noqa: ANN401 - no stubs
    return tf.make_ndarray(node.attr["value"].tensor)


def _attribute(dtype: int) -> Proto:
    return attr_value_pb2.AttrValue(type=dtype)


def _converted(graph: Proto, weights: Iterable[str], output: str) -> onnx.ModelProto:
    """The graph in ONNX; its weights are inputs of it.

    Raises:
        BuildError: an operation has no counterpart.
    """
    inputs = [f"{name}:0" for name in tensorflow_source.INPUTS]
    model, _ = tf2onnx.convert.from_graph_def(
        graph,
        input_names=[*inputs, *weights],
        output_names=[output],
        opset=formats.OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    strangers = {node.op_type for node in model.graph.node if not node.domain and not onnx.defs.has(node.op_type)}
    if strangers:
        raise _unsupported(sorted(strangers))
    return model


def _erfc(context: Any, node: Any, name: str, _arguments: Any) -> None:  # noqa: ANN401 - classes of tf2onnx
    """1 - erf(x): TensorFlow's exact GELU is written with Erfc, which ONNX doesn't have."""
    kind = context.get_dtype(node.output[0])
    one = context.make_const(f"{name}_one", np.array(1, onnx.helper.tensor_dtype_to_np_dtype(kind)))
    erf = context.make_node("Erf", [node.input[0]], dtypes=[kind])
    outputs, shape = list(node.output), context.get_shape(node.output[0])
    context.remove_node(node.name)
    context.make_node("Sub", [one.output[0], erf.output[0]], outputs=outputs, name=name, shapes=[shape], dtypes=[kind])


def _rename(model: onnx.ModelProto, output: str) -> None:
    """Give inputs and the output our names, and their free axes names that people understand."""
    graph = model.graph
    new = {f"{name}:0": name for name in tensorflow_source.INPUTS} | {graph.output[0].name: output}
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [new.get(name, name) for name in tensors]
    for value in (*graph.input, *graph.output):
        if value.name in new:
            value.name = new[value.name]
            axes = value.type.tensor_type.shape.dim
            for axis, title in zip(axes, _AXES, strict=False):
                if not axis.HasField("dim_value"):
                    axis.dim_param = title


def _unsupported(found: list[str]) -> BuildError:
    return BuildError(
        "UnsupportedModel",
        f"The SavedModel uses TensorFlow operations that have no counterpart in ONNX: {listing(found, 5)}.",
        "Export the plain encoder, without text processing or control flow in the graph.",
    )
