"""An ONNX artifact run by ONNX Runtime, as servers run it. Used by to_onnx and tf2_to_onnx; needs neither framework."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from bert_build import processors
from bert_build.samples import Arrays
from bert_operator.api import names
from bert_operator.api.report import TensorSpec

_TYPES: Final = {"tensor(int64)": "INT64", "tensor(int32)": "INT32", "tensor(float)": "FP32", "tensor(float16)": "FP16"}


class Session:
    """A published or staged artifact, run by ONNX Runtime."""

    def __init__(self, folder: Path, *, literal: bool = False) -> None:
        wished = options()
        if literal:
            wished.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            str(folder / names.ONNX_FILE), wished, providers=["CPUExecutionProvider"]
        )
        self.inputs = [_spec(entry) for entry in self._session.get_inputs()]
        self.outputs = [_spec(entry) for entry in self._session.get_outputs()]

    def answer(self, request: Arrays) -> Arrays:
        """Answer one request."""
        wanted = {entry.name: request[entry.name] for entry in self.inputs}
        found = self._session.run([entry.name for entry in self.outputs], wanted)
        return {entry.name: np.asarray(values) for entry, values in zip(self.outputs, found, strict=True)}


def open_session(folder: Path, *, literal: bool = False) -> Session:
    """Load the artifact of a folder as a server would, or such that every node computes what it says."""
    return Session(folder, literal=literal)


def options() -> Any:  # noqa: ANN401 - a class of onnxruntime, which has no stubs
    """How a build runs any graph: with the processors of its container, and memory that is given back."""
    found = onnxruntime.SessionOptions()
    found.log_severity_level = 3
    # By itself it takes as many as the node has, and lets them spin.
    found.intra_op_num_threads = processors.count()
    found.add_session_config_entry("session.intra_op.allow_spinning", "0")
    found.enable_cpu_mem_arena = False
    return found


def _spec(entry: Any) -> TensorSpec:  # noqa: ANN401 - a class of onnxruntime, which has no stubs
    # Variable axes read back as their names; the batch axis comes first and is the server's business.
    dims = [size if isinstance(size, int) else -1 for size in entry.shape[1:]]
    return TensorSpec(name=entry.name, dtype=_TYPES[entry.type], dims=dims)
