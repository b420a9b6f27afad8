"""A traced graph and a checkpoint become an ONNX model, without PyTorch."""

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from safetensors.numpy import save_file

from bert_build import onnx_file, to_onnx, traced
from bert_build.job import Job
from unit.bert_build import building

RANDOM = np.random.default_rng(4)
WORDS = RANDOM.standard_normal((9, 4), dtype=np.float32)
DENSE = RANDOM.standard_normal((3, 4)).astype(np.float16)
BIAS = RANDOM.standard_normal(3).astype(ml_dtypes.bfloat16)
UNUSED = np.arange(5, dtype=np.int64)
FUSED = RANDOM.standard_normal(3, dtype=np.float32)


def graph() -> onnx.ModelProto:
    """logits = words[ids] @ dense.T + bias + fused; weights are inputs, as the exporter leaves them."""
    nodes = [
        helper.make_node("Gather", ["model.words.weight", "ids"], ["embedded"]),
        helper.make_node("Transpose", ["model.dense.weight"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["embedded", "turned"], ["product"]),
        helper.make_node("Add", ["product", "model.dense.bias"], ["sum"]),
        helper.make_node("Add", ["sum", "model.fused"], ["logits"]),
    ]
    kind = onnx.TensorProto.FLOAT
    shapes = {"model.words.weight": [9, 4], "model.dense.weight": [3, 4], "model.dense.bias": [3], "model.fused": [3]}
    inputs = [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])]
    inputs += [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("logits", kind, ["n", 3])
    made = helper.make_graph(nodes, "tiny", inputs, [output])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A Job whose answer step is over; its weights lie on the source claim."""
    made = building.job(tmp_path, building.request())
    made.model.mkdir(parents=True)
    made.artifact.mkdir()
    outside = tmp_path / "outside.safetensors"
    stored = {"words.weight": WORDS, "dense.gamma": DENSE, "dense.bias": BIAS, "unused": UNUSED}
    save_file(stored, outside)
    (made.model / "model.safetensors").symlink_to(outside)
    folder = made.work / traced.FOLDER
    folder.mkdir()
    onnx.save(graph(), folder / traced.GRAPH_FILE)
    np.save(folder / "0.npy", FUSED)
    of_source = {
        "model.words.weight": "words.weight",
        "model.dense.weight": "dense.gamma",
        "model.dense.bias": "dense.bias",
    }
    places = {
        name: traced.Place(shape=stored[other].shape, file="model.safetensors", tensor=other)
        for name, other in of_source.items()
    }
    fused = {"model.fused": traced.Place(shape=(3,), file="0.npy")}
    traced.Plan(inputs=("ids",), weights=places | fused).save(folder)
    return made


@pytest.mark.parametrize("external", [False, True])
def test_the_model_computes_with_the_checkpoints_weights_in_fp32(
    job: Job, monkeypatch: pytest.MonkeyPatch, *, external: bool
) -> None:
    monkeypatch.setattr(onnx_file, "EXTERNAL_FROM", 0 if external else 1 << 20)
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    to_onnx.convert(job)
    path = job.artifact / "model.onnx"
    assert sorted(file.name for file in job.artifact.iterdir()) == ["model.onnx", "model.onnx.data"][: 1 + external]
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ids = np.array([3, 0, 8], dtype=np.int64)
    expected = WORDS[ids] @ DENSE.astype(np.float32).T + BIAS.astype(np.float32) + FUSED
    assert np.allclose(session.run(None, {"ids": ids})[0], expected, atol=1e-6)
