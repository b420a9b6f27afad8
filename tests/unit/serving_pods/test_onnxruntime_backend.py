"""The backend's own decisions, without Triton around it; tests/triton runs it inside the real server."""

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bert_build
from support import onnx_bert, published

SHAPE = onnx_bert.Shape()
FILE = Path(bert_build.__file__).parent / "handlers/onnxruntime_python/model.py"


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    """What the backend raises to refuse a model."""


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name = name
        self.array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self.array


class Request:
    def __init__(self, arrays: published.Arrays) -> None:
        self.arrays = arrays

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, array) for name, array in self.arrays.items()]


class Response:
    def __init__(self, tensors: list[Tensor] | None = None, error: Any = None) -> None:
        self.tensors = tensors or []
        self.error = error


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    triton = types.ModuleType("triton_python_backend_utils")
    words = {"Tensor": Tensor, "InferenceResponse": Response, "TritonError": str}
    triton.__dict__.update(words | {"TritonModelException": TritonModelException})
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    known = importlib.util.spec_from_file_location("onnxruntime_backend", FILE)
    assert known is not None
    assert known.loader is not None
    module = importlib.util.module_from_spec(known)
    known.loader.exec_module(module)
    return module


def arguments(folder: Path, **parameters: str) -> dict[str, str]:
    config = {
        "default_model_filename": "model.onnx",
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
        "output": [{"name": "logits"}],
    }
    return {"model_config": json.dumps(config), "model_repository": str(folder), "model_version": "1"}


@pytest.fixture
def model(backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "1").mkdir()
    onnx_bert.write(tmp_path / "1/model.onnx", SHAPE)
    # The stub of the server needs numpy 1; nothing else here depends on it.
    monkeypatch.setattr(backend.np, "__version__", "1.26.4")
    made = backend.TritonPythonModel()
    made.initialize(arguments(tmp_path, intra_op_thread_count="2"))
    made.runs = []
    session = made._session

    class Counting:
        @staticmethod
        def run(outputs: list[str], inputs: published.Arrays) -> Any:
            made.runs.append(len(inputs["input_ids"]))
            return session.run(outputs, inputs)

    made._session = Counting
    return made


def expected(tmp_path: Path, arrays: published.Arrays) -> np.ndarray:
    return published.answer(tmp_path / "1/model.onnx", arrays)["logits"]


@pytest.mark.usefixtures("model")
def test_weights_beside_the_graph_are_found_through_a_link(backend: Any, tmp_path: Path) -> None:
    """Large models are two files; Model Analyzer's variants are links to their folder."""
    (tmp_path / "large").mkdir()
    (tmp_path / "variant").mkdir()
    onnx_bert.write(tmp_path / "large/model.onnx", SHAPE, external=True)
    (tmp_path / "variant/1").symlink_to(tmp_path / "large")
    made = backend.TritonPythonModel()
    made.initialize(arguments(tmp_path / "variant"))
    arrays = published.tokens(2, 8, SHAPE, seed=1)
    [answer] = made._session.run(["logits"], {name: arrays[name] for name in onnx_bert.INPUTS})
    assert np.allclose(answer, expected(tmp_path, arrays), atol=1e-5)


def test_all_requests_are_answered_by_one_run(model: Any, tmp_path: Path) -> None:
    asked = [published.tokens(rows, 8, SHAPE, seed=rows) for rows in (1, 3, 2)]

    responses = model.execute([Request(arrays) for arrays in asked])

    assert model.runs == [6]
    for arrays, response in zip(asked, responses, strict=True):
        assert response.error is None
        np.testing.assert_allclose(response.tensors[0].array, expected(tmp_path, arrays), atol=1e-5)
        assert response.tensors[0].array.flags["C_CONTIGUOUS"]


def test_lengths_that_differ_are_run_apart_and_answered_in_order(model: Any, tmp_path: Path) -> None:
    asked = [published.tokens(1, length, SHAPE, seed=length) for length in (4, 8, 4)]

    responses = model.execute([Request(arrays) for arrays in asked])

    assert sorted(model.runs) == [1, 2]
    for arrays, response in zip(asked, responses, strict=True):
        np.testing.assert_allclose(response.tensors[0].array, expected(tmp_path, arrays), atol=1e-5)


def test_a_request_that_cannot_be_run_fails_alone(model: Any) -> None:
    asked = [published.tokens(1, 8, SHAPE, seed=seed) for seed in range(3)]
    asked[1]["input_ids"] = asked[1]["input_ids"] + 10_000

    responses = model.execute([Request(arrays) for arrays in asked])

    assert [bool(response.error) for response in responses] == [False, True, False]
    assert "out of data bounds" in responses[1].error


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("token_type_ids", None, "input 'token_type_ids' is missing: send all of input_ids, attention_mask"),
        ("attention_mask", np.ones((1, 5), np.int64), "axis 'sequence' is 8 in input 'input_ids' but 5"),
        ("attention_mask", np.ones((2, 8), np.int64), "axis 'batch' is 1 in input 'input_ids' but 2"),
        (
            "attention_mask",
            np.ones(8, np.int64),
            "has shape [8], expected ['batch', 'sequence']",
        ),
    ],
)
def test_wrong_inputs_are_refused_before_they_are_batched(model: Any, name: str, change: Any, words: str) -> None:
    bad = published.tokens(1, 8, SHAPE)
    bad.pop(name)
    if change is not None:
        bad[name] = change

    wrong, right = model.execute([Request(bad), Request(published.tokens(1, 8, SHAPE))])

    assert words in wrong.error
    assert right.error is None
    assert model.runs == [1]


def test_numpy_2_is_refused_as_answers_would_be_empty(backend: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(backend.np, "__version__", "2.4.6")

    with pytest.raises(TritonModelException, match="install numpy<2"):
        backend.TritonPythonModel().initialize(arguments(tmp_path))


def test_a_file_that_is_no_model_is_refused_in_one_line(backend: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(backend.np, "__version__", "1.26.4")
    (tmp_path / "1").mkdir()
    (tmp_path / "1/model.onnx").write_bytes(b"no model")

    with pytest.raises(TritonModelException, match=r"1/model\.onnx can't be loaded"):
        backend.TritonPythonModel().initialize(arguments(tmp_path))
