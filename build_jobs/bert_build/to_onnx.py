"""The format `onnx`: PyTorch to ONNX for CPU runtimes. Called by convert through `formats`.

Exported without weights, which are streamed into the file afterwards: the peak is one copy of the weights, mapped from
the source's safetensors, where torch.onnx.export with weights needs about four.
"""

import io
import warnings
from typing import Any

import onnx
import torch

from bert_build import onnx_file, progress, source_model, tasks
from bert_build.job import Job
from bert_build.onnx_session import OPSET
from bert_operator.api import names
from bert_operator.api.spec import Task


def convert(job: Job) -> None:
    """Write model.onnx into the job's artifact folder."""
    task = job.request.build.task
    model = source_model.load(job.model, task)
    progress.say("convert", "source model loaded; tracing")
    graph = _traced(model, task)
    onnx.checker.check_model(graph, full_check=True)
    known = {name: _weight(name, tensor) for name, tensor in model.state_dict().items()}
    weights = onnx_file.take_out(graph, known, model.inputs)
    progress.say("convert", f"{len(graph.graph.node)} operators; writing {len(weights)} tensors")
    onnx_file.write(job.artifact / names.ONNX_FILE, graph, weights)


def _traced(model: source_model.SourceModel, task: Task) -> onnx.ModelProto:
    """The graph, its weights as inputs by the names of the state dict."""
    length = 8
    ids = torch.ones((2, length), dtype=torch.int64)
    tokens, rows = {0: "batch", 1: "sequence"}, {0: "batch"}
    axes = dict.fromkeys(model.inputs, tokens)
    axes |= {name: tokens if tasks.per_token(task, name) else rows for name in model.outputs}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Of the tracer: about branches that don't depend on the input here. Fidelity would notice if they did.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(torch.zeros_like(ids) if name == "token_type_ids" else ids for name in model.inputs),
            buffer,
            input_names=list(model.inputs),
            output_names=list(model.outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
            export_params=False,
            do_constant_folding=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def _weight(name: str, tensor: Any) -> onnx_file.Weight:  # noqa: ANN401 - a torch tensor
    return onnx_file.Weight(name, tuple(tensor.shape), lambda: tensor.detach().contiguous().numpy())
