"""Traces a source model for the format `onnx`, in the process that has just asked it. Called by answer.

Without weights, which are inputs of the graph by their names: torch.onnx.export with weights needs four copies of them.
"""

import contextlib
import io
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bert_build import formats, progress, safetensors_header, source_model, tasks, traced
from bert_build.job import Job
from bert_build.safetensors_header import Tensor
from bert_operator.api.spec import Task

_TRIED: Final = 2
"""Tensors of the checkpoint whose values are looked at, the best named first."""
_OLD_NAMES: Final = {"gamma": "weight", "beta": "bias"}
"""Last parts of names in old checkpoints."""


def prepare(job: Job, model: source_model.SourceModel) -> None:
    """Leave the graph, and where its weights are."""
    folder = job.work / traced.FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / traced.GRAPH_FILE).write_bytes(_graph(model, job.request.build.task))
    weights = _places(job.model, folder, model.state_dict())
    traced.Plan(inputs=model.inputs, weights=weights).save(folder)
    own = sum(not place.tensor for place in weights.values())
    progress.say("answer", f"traced for onnx: {len(weights)} weights, {len(weights) - own} as the checkpoint has them")


def _graph(model: source_model.SourceModel, task: Task) -> bytes:
    """The graph as a file would hold it, its weights as inputs by the names of the state dict."""
    length = 8
    ids = torch.ones((2, length), dtype=torch.int64)
    tokens, rows = {0: "batch", 1: "sequence"}, {0: "batch"}
    axes = dict.fromkeys(model.inputs, tokens)
    axes |= {name: tokens if tasks.per_token(task, name) else rows for name in model.outputs}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), _shapes_without_values():
        # Of the tracer: about branches that don't depend on the input here. Fidelity would notice if they did.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(torch.zeros_like(ids) if name == "token_type_ids" else ids for name in model.inputs),
            buffer,
            input_names=list(model.inputs),
            output_names=list(model.outputs),
            dynamic_axes=axes,
            opset_version=formats.OPSET,
            dynamo=False,
            export_params=False,
            do_constant_folding=False,
        )
    return buffer.getvalue()


@contextlib.contextmanager
def _shapes_without_values() -> Iterator[None]:
    """Let the exporter infer shapes from the weights' shapes.

    It would copy their values into a message of ONNX's twice, which takes longer than all the rest of it.
    """
    whole = torch._C._jit_pass_onnx_graph_shape_type_inference  # noqa: SLF001 - there is no public switch
    torch._C._jit_pass_onnx_graph_shape_type_inference = lambda graph, _, opset: whole(graph, {}, opset)  # noqa: SLF001
    try:
        yield
    finally:
        torch._C._jit_pass_onnx_graph_shape_type_inference = whole  # noqa: SLF001


def _places(source: Path, folder: Path, weights: dict[str, Any]) -> dict[str, traced.Place]:
    """Where to read each weight. What isn't in the checkpoint value by value is written beside the graph."""
    stored = _Stored(source)
    found: dict[str, traced.Place] = {}
    shared: dict[tuple[int, tuple[int, ...]], traced.Place] = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        place = shared.get(key) or stored.place(name, tensor)
        if place is None:
            place = traced.Place(shape=tuple(tensor.shape), file=f"{len(found)}.npy")
            np.save(folder / place.file, tensor.detach().contiguous().numpy(), allow_pickle=False)
        found[name] = shared[key] = place
    return found


class _Stored:
    """The tensors of a source's safetensors files."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._tensors: dict[tuple[int, ...], list[tuple[str, str, Tensor]]] = {}
        for path in sorted(source.glob("*.safetensors")):
            for name, tensor in safetensors_header.read(path, path.name).items():
                if traced.readable(tensor):
                    self._tensors.setdefault(tensor.shape, []).append((path.name, name, tensor))

    def place(self, name: str, weight: Any) -> traced.Place | None:  # noqa: ANN401 - a torch tensor
        """The tensor that has a weight's values, if one of like name does."""
        for file, other, tensor in self._likely(name, tuple(weight.shape)):
            values = torch.from_numpy(traced.values(self._source / file, tensor))
            if weight.dtype == torch.float32 and torch.equal(values, weight):
                return traced.Place(shape=tensor.shape, file=file, tensor=other)
        return None

    def _likely(self, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, str, Tensor]]:
        """Tensors of this shape, those first whose names end most alike."""
        listed = sorted(self._tensors.get(shape, ()), key=lambda one: _alike(name, one[1]), reverse=True)
        yield from listed[:_TRIED]


def _alike(name: str, other: str) -> int:
    """How many of the last parts of two names are the same. The first parts are the class's and differ."""
    first, second = (text.split(".")[::-1] for text in (name, other))
    second[0] = _OLD_NAMES.get(second[0], second[0])
    parts = 0
    for one, two in zip(first, second, strict=False):
        if one != two:
            break
        parts += 1
    return parts
