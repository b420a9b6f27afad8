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
