"""What is seen of a graph's inner values, and what that takes."""

from pathlib import Path

import numpy as np
import pytest

from bert_build import inside, processors
from support import onnx_bert, published

SHAPE = onnx_bert.Shape(layers=1, longest=16)
ASKED = published.tokens(1, 8, SHAPE)


def test_it_shows_what_each_request_makes_of_a_tensor(tmp_path: Path) -> None:
    onnx_bert.write(tmp_path / "model.onnx", SHAPE)
    (found,) = inside.values(tmp_path / "model.onnx", ["logits"], [ASKED])
    np.testing.assert_array_equal(found["logits"], published.answer(tmp_path / "model.onnx", ASKED)["logits"])


def test_it_takes_the_processors_of_its_container_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_bert.write(tmp_path / "model.onnx", SHAPE)
    monkeypatch.setattr(processors, "count", lambda: 6)
    before = set(Path("/proc/self/task").iterdir())
    seen = inside.values(tmp_path / "model.onnx", ["logits"], [ASKED, ASKED])
    next(seen)
    assert len(set(Path("/proc/self/task").iterdir()) - before) == 5, "the sixth is who asks"
