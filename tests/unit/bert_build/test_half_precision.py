"""Graphs in FP16, BF16 and partly in FP16: their types, and what rounding and overflow do to answers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from bert_build import half_precision, onnx_session
from bert_build.half_precision import BF16, FP16, Wish
from bert_operator.api import names
from support import onnx_bert, published

SHAPE = onnx_bert.Shape(layers=1, longest=16)
REQUEST = published.tokens(3, 12, SHAPE)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp32") / names.ONNX_FILE
    onnx_bert.write(path, SHAPE)
    return path


def kinds(path: Path) -> dict[str, int]:
    """Type of every tensor that a node makes."""
    graph = shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    return {one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.output)}


def inputs_of(path: Path, operator: str) -> set[int]:
    """Types of what operators of this kind take."""
    model = onnx.load(path)
    known = kinds(path) | {one.name: one.data_type for one in model.graph.initializer}
    return {known[name] for node in model.graph.node if node.op_type == operator for name in node.input}


def emulated(source: Path, folder: Path, wish: Wish, request: published.Arrays = REQUEST) -> Any:
    half_precision.cast(source, folder / names.ONNX_FILE, wish, emulated=True)
    return onnx_session.open_session(folder, literal=True).answer(request)


@pytest.mark.parametrize("kind", [FP16, BF16])
def test_products_run_in_it_and_what_is_sensitive_doesnt(source: Path, tmp_path: Path, kind: int) -> None:
    target = tmp_path / "half.onnx"
    half_precision.cast(source, target, Wish(kind))
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    assert inputs_of(target, "MatMul") == {kind}
    assert inputs_of(target, "LayerNormalization") == inputs_of(target, "Softmax") == {TensorProto.FLOAT}
    biased = next(node for node in model.graph.node if node.output[0].endswith(".biased"))
    assert {kinds(target)[name] for name in biased.input} == {TensorProto.FLOAT}
    assert {one.type.tensor_type.elem_type for one in model.graph.input} == {TensorProto.INT64}
    assert {one.type.tensor_type.elem_type for one in model.graph.output} == {TensorProto.FLOAT}
    assert target.stat().st_size < 0.65 * source.stat().st_size
    assert set(half_precision.products(target)) == {"FP16" if kind == FP16 else "BF16"}


def test_answers_move_as_far_as_the_bits_are_coarse(source: Path, tmp_path: Path) -> None:
    exact = onnx_session.open_session(source.parent).answer(REQUEST)["logits"]
    moved = [np.abs(emulated(source, tmp_path, Wish(kind))["logits"] - exact).max() for kind in (FP16, BF16)]
    assert 0 < moved[0] < 5e-3
    assert 2 * moved[0] < moved[1] < 0.1


def test_what_is_emulated_is_what_the_graph_says(source: Path, tmp_path: Path) -> None:
    """ONNX Runtime does compute FP16 on a CPU, though in FP32 and perhaps rounded less often."""
    (tmp_path / "real").mkdir()
    half_precision.cast(source, tmp_path / "real" / names.ONNX_FILE, Wish(FP16))
    real = onnx_session.open_session(tmp_path / "real").answer(REQUEST)["logits"]
    assert np.abs(emulated(source, tmp_path, Wish(FP16))["logits"] - real).max() < 5e-3


def model_of(nodes: list[Any], ends: list[Any], weights: list[Any]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", ends[:-1], ends[-1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def value(name: str, kind: int, *dims: Any) -> Any:
    return helper.make_tensor_value_info(name, kind, list(dims))


@pytest.mark.parametrize("number", [float(np.finfo(np.float32).min), -1e9])
@pytest.mark.parametrize("way", ["Constant", "initializer", "product"])
def test_a_mask_of_the_lowest_number_hides_and_makes_no_nan(tmp_path: Path, number: float, way: str) -> None:
    """As minus infinity it would turn rows of masks alone into NaN."""
    low = helper.make_tensor("low", TensorProto.FLOAT, [], [number])
    nodes = [helper.make_node("Constant", [], ["low"], value=low)] if way == "Constant" else []
    if way == "product":
        nodes += [
            helper.make_node("Not", ["seen"], ["hidden"]),
            helper.make_node("Cast", ["hidden"], ["share"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["share", "low"], ["bias"]),
            helper.make_node("Reshape", ["bias", "shape"], ["mask"]),
            helper.make_node("Add", ["x", "mask"], ["y"]),
        ]
    else:
        nodes.append(helper.make_node("Where", ["seen", "x", "low"], ["y"]))
    nodes.append(helper.make_node("Softmax", ["y"], ["z"], axis=-1))
    ends = [value("seen", TensorProto.BOOL, 2, 3), value("x", TensorProto.FLOAT, 2, 3)]
    weights = [numpy_helper.from_array(np.array([2, 3]), "shape"), *([low] if way != "Constant" else [])]
    onnx.save(model_of(nodes, [*ends, value("z", TensorProto.FLOAT, 2, 3)], weights), tmp_path / "plain.onnx")
    half_precision.cast(tmp_path / "plain.onnx", tmp_path / "half.onnx", Wish(FP16))
    mask = np.array([[True, True, False], [False, False, False]])
    found = published.answer(tmp_path / "half.onnx", {"seen": mask, "x": np.zeros((2, 3), np.float32)})["z"]
    assert found[0].tolist() == [0.5, 0.5, 0.0]
    assert found[1] == pytest.approx([1 / 3] * 3, abs=1e-3)


def test_the_sum_of_many_tokens_doesnt_overflow_before_it_is_a_mean(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.array([0]), "axis"), numpy_helper.from_array(np.float32(4096), "count")]
    ends = [value("x", TensorProto.FLOAT, "n", 2), value("y", TensorProto.FLOAT, 1, 2)]
    onnx.save(model_of(nodes, ends, weights), tmp_path / "plain.onnx")
    found = emulated(tmp_path / "plain.onnx", tmp_path, Wish(FP16), {"x": np.full((4096, 2), 30, np.float32)})
    assert found["y"].tolist() == [[30.0, 30.0]]


def overflowing(path: Path) -> None:
    """A product beyond FP16 of weights that it holds, between two that are small."""
    random = np.random.default_rng(0)
    scales = {"small": 0.1, "wide": 4e4, "narrow": 1e-5}
    weights = [
        numpy_helper.from_array((random.standard_normal((8, 8)) * scale).clip(-6e4, 6e4).astype(np.float32), name)
        for name, scale in scales.items()
    ]
    names_of = ["x", "a", "b", "y"]
    nodes = [
        helper.make_node("MatMul", [one, weight], [other])
        for one, weight, other in zip(names_of, scales, names_of[1:], strict=False)
    ]
    ends = [value("x", TensorProto.FLOAT, "n", 8), value("y", TensorProto.FLOAT, "n", 8)]
    onnx.save(model_of(nodes, ends, weights), path)


def test_overflow_shows_on_a_cpu_and_mixed_leaves_such_products_in_fp32(tmp_path: Path) -> None:
    source = tmp_path / "plain.onnx"
    overflowing(source)
    request = {"x": np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32) * 8}
    assert not np.isfinite(emulated(source, tmp_path, Wish(FP16), request)["y"]).all()
    wish = half_precision.mixed(source, [request])
    exact, found = published.answer(source, request)["y"], emulated(source, tmp_path, wish, request)["y"]
    assert np.abs(found - exact).max() < 5e-3 * np.abs(exact).max()
    half_precision.cast(source, tmp_path / "mixed.onnx", wish)
    assert half_precision.products(tmp_path / "mixed.onnx") == {"FP16": 1, "FP32": 2}


def test_a_weight_beyond_its_range_is_refused_by_name_or_spared(tmp_path: Path) -> None:
    source = tmp_path / "plain.onnx"
    overflowing(source)
    model = onnx.load(source)
    wide = np.full((8, 8), 7e4, np.float32)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(wide, "wide"))
    onnx.save(model, source)
    with pytest.raises(half_precision.OutOfRangeError, match=r"weight wide holds 7e\+04, FP16 ends at 65504"):
        half_precision.cast(source, tmp_path / "half.onnx", Wish(FP16))
    half_precision.cast(source, tmp_path / "half.onnx", Wish(FP16, spare_weights=True))
    assert half_precision.products(tmp_path / "half.onnx") == {"FP16": 2, "FP32": 1}
    half_precision.cast(source, tmp_path / "bf16.onnx", Wish(BF16))
    assert half_precision.products(tmp_path / "bf16.onnx") == {"BF16": 3}


def test_bf16_is_rounded_to_the_nearest_and_ties_to_even() -> None:
    numbers = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-9), 3e38], np.float32)
    found = (half_precision._to_bf16(numbers).astype(np.uint32) << 16).view(np.float32)
    assert found[:4].tolist() == [1.0, 1.0, 1 + 2**-6, -1.0]
    assert abs(found[4] / 3e38 - 1) < 2**-8


def test_a_branch_that_takes_a_tensor_from_outside_still_finds_it(tmp_path: Path) -> None:
    inner = helper.make_graph([helper.make_node("Neg", ["a"], ["m"])], "t", [], [value("m", TensorProto.FLOAT, None)])
    other = helper.make_graph([helper.make_node("Abs", ["a"], ["n"])], "e", [], [value("n", TensorProto.FLOAT, None)])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("If", ["which"], ["y"], then_branch=inner, else_branch=other),
    ]
    ends = [
        value("x", TensorProto.FLOAT, "n", 2),
        value("which", TensorProto.BOOL),
        value("y", TensorProto.FLOAT, "n", 2),
    ]
    model = model_of(nodes, ends, [numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")])
    onnx.save(model, tmp_path / "plain.onnx")
    half_precision.cast(tmp_path / "plain.onnx", tmp_path / "half.onnx", Wish(FP16))
    asked = {"x": np.array([[1.0, -2.0]], np.float32), "which": np.array(True)}
    assert published.answer(tmp_path / "half.onnx", asked)["y"].tolist() == [[-1.0, 2.0]]
