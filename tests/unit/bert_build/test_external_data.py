"""Weights that lie beside the graph: everything that reads an artifact finds them."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from bert_build import half_precision, int8, onnx_session
from support import onnx_bert, published

SHAPE = onnx_bert.Shape(layers=1, hidden=32, vocabulary=50, longest=16)
ASKED = published.tokens(2, 8, SHAPE, seed=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact of two files, seen through a link."""
    (tmp_path / "artifact").mkdir()
    onnx_bert.write(tmp_path / "artifact/model.onnx", SHAPE, external=True)
    assert (tmp_path / "artifact/model.onnx").stat().st_size < (tmp_path / "artifact/model.onnx.data").stat().st_size
    (tmp_path / "seen").symlink_to(tmp_path / "artifact")
    return tmp_path / "seen"


@pytest.fixture
def expected(tmp_path: Path) -> np.ndarray:
    onnx_bert.write(tmp_path / "whole.onnx", SHAPE)
    return published.answer(tmp_path / "whole.onnx", ASKED)["logits"]


def test_the_gate_asks_it(folder: Path, expected: np.ndarray) -> None:
    assert np.allclose(onnx_session.open_session(folder).answer(ASKED)["logits"], expected, atol=1e-5)


def test_it_is_quantised(folder: Path, expected: np.ndarray, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    int8.static(folder / "model.onnx", target, int8.ranges(folder / "model.onnx", [ASKED]))
    answer = onnx_session.open_session(tmp_path).answer(ASKED)["logits"]
    assert np.abs(answer - expected).max() < 0.1 * np.abs(expected).max()
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(target).graph.node}
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.onnx.data"]


def test_it_is_cast_for_an_engine(folder: Path, tmp_path: Path) -> None:
    half_precision.cast(folder / "model.onnx", tmp_path / "half.onnx", half_precision.Wish(half_precision.FP16))
    assert set(half_precision.products(tmp_path / "half.onnx")) == {"FP16"}
