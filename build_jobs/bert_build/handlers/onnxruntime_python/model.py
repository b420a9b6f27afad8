"""Serves ONNX models in Triton images that bring only the Python backend.

Triton loads this file from /opt/tritonserver/backends/onnxruntime_python/ for every model whose config.pbtxt says
`backend: "onnxruntime_python"`; the model folder itself holds nothing but the artifact. It reads the same parameters as
Triton's own ONNX Runtime backend. It never looks at what the tensors mean.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

Arrays = dict[str, np.ndarray]


class TritonPythonModel:
    """One instance of one model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model. A failure here fails the whole server, with this text as the reason."""
        if int(np.__version__.partition(".")[0]) > 1:
            raise pb_utils.TritonModelException(
                f"numpy {np.__version__} found, but with this Python backend numpy 2 and later return empty outputs: "
                "install numpy<2 in the server's image"
            )
        config = json.loads(args["model_config"])
        file = config["default_model_filename"] or "model.onnx"
        path = Path(args["model_repository"]) / args["model_version"] / file
        try:
            options = _options(config["parameters"])
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # Anything else would show as a table full of Python frames in the server's log.
            raise pb_utils.TritonModelException(f"{path} can't be loaded: {error}") from error
        self._outputs = [output["name"] for output in config["output"]]
        self._axes = {tensor.name: tuple(tensor.shape) for tensor in self._session.get_inputs()}

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request: all of the same shapes in one run, one response per request in the same order."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[tuple[int, Arrays]]] = defaultdict(list)
        for index, request in enumerate(requests):
            arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            fault = _fault(arrays, self._axes)
            if fault:
                responses[index] = _error(fault)
            else:
                groups[_signature(arrays)].append((index, arrays))
        for group in groups.values():
            for (index, _), response in zip(group, self._answer([arrays for _, arrays in group]), strict=True):
                responses[index] = response
        return responses

    def _answer(self, batch: Sequence[Arrays]) -> list[Any]:
        """Responses to requests of equal shapes. One request that can't be run must not fail the others."""
        try:
            return self._run(batch)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base class but this
            if len(batch) == 1:
                return [_error(str(error))]
            return [response for one in batch for response in self._answer([one])]

    def _run(self, batch: Sequence[Arrays]) -> list[Any]:
        joined = {name: np.concatenate([arrays[name] for arrays in batch]) for name in self._axes}
        results = self._session.run(self._outputs, joined)
        ends = np.cumsum([len(next(iter(arrays.values()))) for arrays in batch])[:-1]
        parts = zip(*(np.split(result, ends) for result in results), strict=True)
        return [self._response(part) for part in parts]

    def _response(self, arrays: Sequence[np.ndarray]) -> Any:  # noqa: ANN401 - the backend's classes have no types
        named = zip(self._outputs, arrays, strict=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in named])


def _options(parameters: Mapping[str, Mapping[str, str]]) -> onnxruntime.SessionOptions:
    """Threads as configured; they sleep while they wait, as spinning would burn the container's CPU quota."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", {}).get("string_value", "1"))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", {}).get("string_value", "1"))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _fault(arrays: Arrays, axes: Mapping[str, tuple[Any, ...]]) -> str:
    """What is wrong with a request's inputs, or nothing: axes of one name must have one length."""
    lengths: dict[str, tuple[str, int]] = {}
    for name, expected in axes.items():
        if name not in arrays:
            return f"input {name!r} is missing: send all of {', '.join(axes)}"
        if arrays[name].ndim != len(expected):
            return f"input {name!r} has shape {list(arrays[name].shape)}, expected {list(expected)}"
        for axis, length in zip(expected, arrays[name].shape, strict=True):
            if not isinstance(axis, str):
                continue
            first, other = lengths.setdefault(axis, (name, length))
            if other != length:
                return f"axis {axis!r} is {other} in input {first!r} but {length} in {name!r}: send the same length"
    return ""


def _signature(arrays: Arrays) -> tuple[Any, ...]:
    return tuple((name, arrays[name].dtype.str, arrays[name].shape[1:]) for name in sorted(arrays))


def _error(message: str) -> Any:  # noqa: ANN401 - the backend's classes have no types
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
