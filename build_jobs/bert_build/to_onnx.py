"""The format `onnx`: PyTorch to ONNX for CPU runtimes. Called by convert and fidelity through `formats`.

Exported without weights, which are streamed into the file afterwards: the peak is one copy of the weights, mapped from
the source's safetensors, where torch.onnx.export with weights needs about four.
"""

import io
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch

from bert_build import onnx_file, progress, source_model
from bert_build.job import Job
from bert_build.samples import Arrays
from bert_operator.api import names
from bert_operator.api.report import TensorSpec

OPSET: Final = 17
"""The newest opset with LayerNormalization that every supported ONNX Runtime and TensorRT release reads."""
_TYPES: Final = {"tensor(int64)": "INT64", "tensor(int32)": "INT32", "tensor(float)": "FP32", "tensor(float16)": "FP16"}


def convert(job: Job) -> None:
    """Write model.onnx into the job's artifact folder."""
    model = source_model.load(job.model, job.request.build.task)
    progress.say("convert", "source model loaded; tracing")
    graph = _traced(model)
    onnx.checker.check_model(graph, full_check=True)
    weights = _weights(graph, model.state_dict())
    progress.say("convert", f"{len(graph.graph.node)} operators; writing {len(weights)} tensors")
    onnx_file.write(job.artifact / names.ONNX_FILE, graph, weights)


def _traced(model: source_model.SourceModel) -> onnx.ModelProto:
    """The graph, its weights as inputs by the names of the state dict."""
    length = 8
    ids = torch.ones((2, length), dtype=torch.int64)
    axes = {name: {0: "batch", 1: "sequence"} for name in source_model.INPUTS}
    output = {0: "batch", 1: "sequence"} if model.output == "last_hidden_state" else {0: "batch"}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Of the tracer: about branches that don't depend on the input here. Fidelity would notice if they did.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (ids, ids, torch.zeros_like(ids)),
            buffer,
            input_names=list(source_model.INPUTS),
            output_names=[model.output],
            dynamic_axes={**axes, model.output: output},
            opset_version=OPSET,
            dynamo=False,
            export_params=False,
            do_constant_folding=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def _weights(model: onnx.ModelProto, state: dict[str, Any]) -> list[onnx_file.Weight]:
    """Turn the weights among the graph's inputs into initializers to be written, transposed where the graph does so."""
    graph = model.graph
    loose = [value.name for value in graph.input if value.name not in source_model.INPUTS]
    unknown = [name for name in loose if name not in state]
    if unknown:
        raise ValueError(f"the exported graph asks for {unknown[0]}, which the model doesn't have")
    kept = [value for value in graph.input if value.name in source_model.INPUTS]
    del graph.input[:]
    graph.input.extend(kept)
    weights: list[onnx_file.Weight] = []
    for name in loose:
        tensor = state[name]
        users = [node for node in graph.node if name in node.input]
        if len(users) == 1 and _is_transpose(users[0]) and tensor.dim() == 2:  # noqa: PLR2004 - a matrix
            graph.node.remove(users[0])
            # Runtimes would do this at every start, holding both versions in memory.
            weights.append(_weight(users[0].output[0], tensor.t()))
        elif users:
            weights.append(_weight(name, tensor))
    return weights


def _is_transpose(node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and [list(entry.ints) for entry in node.attribute] == [[1, 0]]


def _weight(name: str, tensor: Any) -> onnx_file.Weight:  # noqa: ANN401 - a torch tensor
    return onnx_file.Weight(name, tuple(tensor.shape), lambda: tensor.detach().contiguous().numpy())


class Session:
    """A published or staged artifact, run by ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Packed copies of all weights would double the memory; they only matter for speed.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False
        self._session = onnxruntime.InferenceSession(
            str(folder / names.ONNX_FILE), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [_spec(entry) for entry in self._session.get_inputs()]
        self.outputs = [_spec(entry) for entry in self._session.get_outputs()]

    def answer(self, request: Arrays) -> Arrays:
        """Answer one request."""
        wanted = {entry.name: request[entry.name] for entry in self.inputs}
        found = self._session.run([entry.name for entry in self.outputs], wanted)
        return {entry.name: np.asarray(values) for entry, values in zip(self.outputs, found, strict=True)}


def open_session(folder: Path) -> Session:
    """Load the artifact of a folder as a server would."""
    return Session(folder)


def _spec(entry: Any) -> TensorSpec:  # noqa: ANN401 - a class of onnxruntime, which has no stubs
    # Variable axes read back as their names; the batch axis comes first and is the server's business.
    dims = [size if isinstance(size, int) else -1 for size in entry.shape[1:]]
    return TensorSpec(name=entry.name, dtype=_TYPES[entry.type], dims=dims)
