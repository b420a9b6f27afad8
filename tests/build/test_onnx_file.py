"""Streamed ONNX files are ordinary ones, whether the weights lie inside or beside."""

from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from bert_build import onnx_file  # noqa: E402

pytestmark = pytest.mark.build


def graph() -> "onnx.ModelProto":
    helper = onnx.helper
    floats = onnx.TensorProto.FLOAT
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["y"])],
            "tiny",
            [helper.make_tensor_value_info("x", floats, ["n", 3])],
            [helper.make_tensor_value_info("y", floats, ["n", 500])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


@pytest.mark.parametrize("inline_limit", [0, 1 << 30])
def test_what_was_written_is_read_by_onnx_and_run_by_onnx_runtime(tmp_path: Path, inline_limit: int) -> None:
    generator = np.random.default_rng(1)
    w, b = generator.standard_normal((500, 3), dtype="float32").T, generator.standard_normal(500, dtype="float32")
    weights = [onnx_file.Weight("w", (3, 500), lambda: w), onnx_file.Weight("b", (500,), lambda: b)]
    path = tmp_path / "model.onnx"
    onnx_file.write(path, graph(), weights, inline_limit)
    assert (tmp_path / onnx_file.EXTERNAL_FILE).exists() == (inline_limit == 0)
    onnx.checker.check_model(str(path), full_check=True)
    assert [entry.name for entry in onnx.load(path).graph.initializer] == ["w", "b"]
    x = generator.standard_normal((4, 3), dtype="float32")
    [y] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert np.allclose(y, x @ w + b, atol=1e-5)


def test_weight_that_is_not_what_it_said_is_never_written_as_such(tmp_path: Path) -> None:
    wrong = [onnx_file.Weight("w", (3, 500), lambda: np.zeros((3, 499), dtype="float32"))]
    with pytest.raises(ValueError, match="its shape"):
        onnx_file.write(tmp_path / "model.onnx", graph(), wrong)


def exported() -> "onnx.ModelProto":
    """As exporters leave it: two weights are inputs, one of them transposed by a node."""
    model = graph()
    floats = onnx.TensorProto.FLOAT
    model.graph.node.insert(0, onnx.helper.make_node("Transpose", ["w.t"], ["w"], perm=[1, 0]))
    for name, shape in (("w.t", [500, 3]), ("b", [500]), ("unused", [7])):
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, floats, shape))
    return model


def test_weights_leave_the_inputs_and_are_turned_beforehand(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    values = {"w.t": generator.standard_normal((500, 3), dtype="float32")}
    values["b"] = generator.standard_normal(500, dtype="float32")
    values["unused"] = np.zeros(7, dtype="float32")
    known = {name: onnx_file.Weight(name, value.shape, lambda value=value: value) for name, value in values.items()}
    model = exported()
    weights = onnx_file.take_out(model, known, ["x"])
    assert [(weight.name, weight.shape) for weight in weights] == [("w", (3, 500)), ("b", (500,))]
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add"]
    assert [value.name for value in model.graph.input] == ["x"]
    onnx_file.write(tmp_path / "model.onnx", model, weights)
    x = generator.standard_normal((4, 3), dtype="float32")
    [y] = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert np.allclose(y, x @ values["w.t"].T + values["b"], atol=1e-5)


def test_a_matrix_that_layers_share_is_turned_once() -> None:
    model = exported()
    helper = onnx.helper
    model.graph.node.extend(
        [
            helper.make_node("Transpose", ["w.t"], ["again"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "again"], ["v"]),
        ]
    )
    known = {name: onnx_file.Weight(name, (500, 3), lambda: None) for name in ("w.t", "b", "unused")}
    assert [(weight.name, weight.shape) for weight in onnx_file.take_out(model, known, ["x"])][:1] == [("w", (3, 500))]
    assert [list(node.input) for node in model.graph.node] == [["x", "w"], ["xw", "b"], ["x", "w"]]


def test_a_matrix_that_is_also_used_as_it_is_stays_as_it_is() -> None:
    model = exported()
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["w.t"], ["mean"]))
    known = {name: onnx_file.Weight(name, (500, 3), lambda: None) for name in ("w.t", "b", "unused")}
    assert onnx_file.take_out(model, known, ["x"])[0].name == "w.t"
    assert "Transpose" in [node.op_type for node in model.graph.node]


def test_an_input_that_nobody_knows_is_named() -> None:
    with pytest.raises(ValueError, match=r"asks for w\.t"):
        onnx_file.take_out(exported(), {}, ["x"])
