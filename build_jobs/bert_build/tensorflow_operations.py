"""Refuses a SavedModel whose graph could do more than calculate, before TensorFlow has loaded anything of it.

A SavedModel is a program: some operations read and write files, open connections or call Python. Only the kinds of
operations that BERT models are made of are let through; whatever isn't known is refused by name. The lists come from
what transformers, Keras and plain TensorFlow export for the BERT family, and from what tf2onnx converts, less all that
touches strings, files, tables, queues or sparse and ragged data. Pure; called by tensorflow_source.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from bert_build.failures import BuildError, listing

Proto = Any
"""A protobuf message of TensorFlow, which has no stubs where this is checked."""

_FLOW: Final = """
    Case Const EnsureShape Identity IdentityN If NoOp PartitionedCall Placeholder PlaceholderWithDefault
    PreventGradient Snapshot StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile StopGradient While
    Assert
"""
_VARIABLES: Final = """
    AssignAddVariableOp AssignSubVariableOp AssignVariableOp DisableCopyOnRead ReadVariableOp ResourceGather
    ResourceGatherNd VarHandleOp VarIsInitializedOp VariableShape
"""
_SHAPES: Final = """
    BatchToSpaceND BroadcastArgs BroadcastTo Concat ConcatOffset ConcatV2 DynamicPartition DynamicStitch ExpandDims
    Fill Gather GatherNd GatherV2 InvertPermutation MatrixBandPart MatrixDiag MatrixDiagPartV2 MatrixDiagPartV3
    MatrixDiagV2 MatrixDiagV3 MatrixSetDiagV3 MirrorPad OneHot OnesLike Pack Pad PadV2 ParallelConcat
    ParallelDynamicStitch Range Rank Reshape ReverseSequence ReverseV2 Roll ScatterNd Shape ShapeN Size Slice
    SpaceToBatchND Split SplitV Squeeze StridedSlice TensorScatterAdd TensorScatterMax TensorScatterMin
    TensorScatterSub TensorScatterUpdate Tile TopKV2 Transpose Unique UniqueV2 Unpack Where ZerosLike
"""
_MATH: Final = """
    Abs Acos Acosh Add AddN AddV2 All Any ApproximateEqual ArgMax ArgMin Asin Asinh Atan Atan2 Atanh BatchMatMul
    BatchMatMulV2 BatchMatMulV3 BiasAdd BiasAddV1 Bincount BitwiseAnd BitwiseOr BitwiseXor Bucketize Cast Ceil
    CheckNumerics ClipByValue Cos Cosh Cumprod Cumsum DenseBincount Digamma Div DivNoNan Einsum Equal Erf Erfc
    Erfinv Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Invert IsFinite IsInf IsNan L2Loss LeftShift Less
    LessEqual Lgamma LinSpace Log Log1p LogicalAnd LogicalNot LogicalOr MatMul Max Maximum Mean Min Minimum Mod Mul
    MulNoNan Ndtri Neg NextAfter NotEqual Pow Prod RealDiv Reciprocal RightShift Rint Round Rsqrt SegmentMax
    SegmentMean SegmentMin SegmentProd SegmentSum Select SelectV2 Sigmoid Sign Sin Sinh Sqrt Square
    SquaredDifference Sub Sum Tan Tanh TruncateDiv TruncateMod UnsortedSegmentMax UnsortedSegmentMin
    UnsortedSegmentProd UnsortedSegmentSum Xdivy Xlog1py Xlogy BesselI0 BesselI1 BesselI0e BesselI1e
"""
_LAYERS: Final = """
    AvgPool Conv2D DepthwiseConv2dNative Elu FusedBatchNormV3 InTopKV2 LeakyRelu LogSoftmax MaxPool Relu Relu6 Selu
    Softmax SoftmaxCrossEntropyWithLogits Softplus Softsign SparseSoftmaxCrossEntropyWithLogits
"""
_RANDOM: Final = """
    Multinomial RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt StatelessRandomGetAlg
    StatelessRandomGetKeyCounter StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomUniform
    StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessTruncatedNormal
    StatelessTruncatedNormalV2 TruncatedNormal
"""
_LISTS: Final = """
    EmptyTensorList TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGetItem
    TensorListLength TensorListPopBack TensorListPushBack TensorListReserve TensorListResize TensorListSetItem
    TensorListStack
"""
_GROUPS: Final = (_FLOW, _VARIABLES, _SHAPES, _MATH, _LAYERS, _RANDOM, _LISTS)
ANSWERING: Final = frozenset(name for group in _GROUPS for name in group.split())
"""What may be in any function that can be called."""
SAVING: Final = ANSWERING | {
    *("MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename", "StaticRegexFullMatch", "StringJoin")
}
"""What may be in the functions that write and read variables/. They read and write files of any name, so nothing else
may call them; we never do."""


def check(model: Proto) -> None:
    """Refuse what BERT models have no use for.

    Args:
        model: a parsed SavedModel message.

    Raises:
        BuildError: it isn't in the layout of TensorFlow 2, or holds an operation that isn't known.
    """
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise BuildError(
            "UnsupportedModel",
            "The SavedModel was written by TensorFlow 1: loading it would run its graph.",
            "Save it again with TensorFlow 2: `tf.saved_model.save(model, folder)`.",
        )
    graph = model.meta_graphs[0]
    library = {function.signature.name: function.node_def for function in graph.graph_def.library.function}
    saving = _saving(library, graph)
    others = [graph.graph_def.node, *(nodes for name, nodes in library.items() if name not in saving)]
    found = _unknown(others, library, ANSWERING) | _unknown((library[name] for name in saving), library, SAVING)
    if found:
        what = "the operations" if len(found) > 1 else "the operation"
        raise BuildError(
            "UnsafeModel",
            f"The SavedModel's graph holds {what} {listing(sorted(found), 8)}, which no BERT needs to calculate its "
            "answers; some operations read or write files or run code, so unknown ones are never loaded.",
            "Export the plain encoder, without tokenizing, look-up tables, logging or Python functions in the graph.",
        )


def _saving(library: dict[str, Iterable[Proto]], graph: Proto) -> set[str]:
    """Functions that write and read variables/ and that nothing else can call. Loading calls none of them."""
    nodes = graph.graph_def.node
    of_saver = [node for node in nodes if _of_saver(node, graph.saver_def)]
    offered = [*graph.object_graph_def.concrete_functions, *_called(node for node in nodes if node not in of_saver)]
    # TensorFlow may put one of these into the place of another function that is called.
    offered += [made.signature.name for made in graph.graph_def.library.function if "api_implements" in made.attr]
    return _reached(library, _called(of_saver)) - _reached(library, offered)


def _reached(library: dict[str, Iterable[Proto]], called: Iterable[str]) -> set[str]:
    """These functions, with all that they call."""
    waiting = list(called)
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in library and name not in found:
            found.add(name)
            waiting += _called(library[name])
    return found


def _of_saver(node: Proto, saver: Proto) -> bool:
    return node.name in {name.partition(":")[0] for name in (saver.save_tensor_name, saver.restore_op_name) if name}


def _called(nodes: Iterable[Proto]) -> Iterator[str]:
    """Names of functions that nodes call: as an operation of that name, or given to one."""
    for node in nodes:
        yield node.op
        for value in node.attr.values():
            yield value.func.name
            for function in value.list.func:
                yield function.name


def _unknown(bodies: Iterable[Iterable[Proto]], library: dict[str, Iterable[Proto]], known: frozenset[str]) -> set[str]:
    return {node.op for nodes in bodies for node in nodes if node.op not in known and node.op not in library}
