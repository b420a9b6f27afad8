"""The format `torchscript`: PyTorch to a traced module for Triton's PyTorch backend. Called by convert and compare.

The plan B beside ONNX: the model's own code runs in the server, operator by operator. Weights go from the source's
file into the archive of `torch.jit.save`, which holds code and tensors and no pickle of ours.
"""

import contextlib
import json
import zipfile
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch

from bert_build import progress, source_model, tracing
from bert_build.failures import REPORT_IT, BuildError
from bert_build.job import Job
from bert_build.samples import Arrays
from bert_operator.api import names
from bert_operator.api.report import ExitCode, TensorSpec
from bert_operator.api.spec import Precision

FACTS: Final = "bert-operator.json"
"""Beside the module in its archive: what TorchScript doesn't say of itself. Servers don't read it."""
TYPES: Final = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}

Tensor = Any
"""A torch.Tensor; torch has no stubs where this is checked."""


def convert(job: Job) -> None:
    """Write model.pt into the job's artifact folder.

    Raises:
        BuildError: there is no such device here, or the trace isn't what was asked for.
    """
    build, device = job.request.build, job.request.trace_device or "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BuildError(
            "NoAccelerator",
            "TorchScript is traced on the GPU that serves it, and PyTorch finds none in this container.",
            "Let images.buildGpu in the operator's chart name an image whose PyTorch has CUDA, and look at the node's "
            "driver.",
        )
    model = source_model.load(job.model, build.task)
    progress.say("convert", f"source model loaded; tracing on {device} in {build.precision}")
    module = script(model, device, build.precision)
    facts = {"inputs": list(model.inputs), "outputs": list(model.outputs), "device": device}
    path = job.artifact / names.TORCHSCRIPT_FILE
    torch.jit.save(module, str(path), _extra_files={FACTS: json.dumps(facts)})
    progress.say("convert", f"wrote {path.name}, {progress.size(path.stat().st_size)}")


def script(model: source_model.SourceModel, device: str, precision: Precision) -> Any:  # noqa: ANN401 - TorchScript
    """The model as TorchScript that takes its inputs by name and answers a tuple in the order of its outputs.

    Fewer bits by autocast while it is traced: matrix products in FP16 or BF16, LayerNorm, softmax and masks in FP32,
    the weights of products cast once for all. Answers are FP32.

    Raises:
        BuildError: a matrix product isn't in the precision that was asked for.
    """
    named: _Named = (_Two if len(model.inputs) == len(_Two.INPUTS) else _Three)(model)
    if tuple(model.inputs) != named.INPUTS:
        raise BuildError("InternalError", f"Nothing takes {model.inputs}", REPORT_IT, ExitCode.INTERNAL)
    named.eval().to(device)
    fewer = (
        torch.autocast(device, dtype=TYPES[precision], cache_enabled=False)
        if precision in TYPES
        else contextlib.nullcontext()
    )
    with fewer:
        module = tracing.traced(named, model.inputs, device)
    wanted = TYPES.get(precision, torch.float32)
    found = {str(kind) for kind in product_types(module)}
    if found != {str(wanted)}:
        raise BuildError(
            "PrecisionNotAsAsked",
            f"The trace's matrix products have weights in {', '.join(sorted(found)) or 'nothing'}, {precision} was "
            "asked for.",
            REPORT_IT,
            ExitCode.INTERNAL,
        )
    return module


def product_types(module: Any) -> set[Any]:  # noqa: ANN401 - TorchScript
    """The types of the weights of all linear layers of a frozen module; None for one that isn't a constant."""
    weights = [list(node.inputs())[1].node() for node in module.graph.findAllNodes("aten::linear", recurse=True)]
    return {node.t("value").dtype if node.kind() == "prim::Constant" else None for node in weights}


def read_facts(path: Path) -> dict[str, Any]:
    """What `convert` wrote beside the module: names of inputs and outputs in order, and the device of the trace."""
    with zipfile.ZipFile(path) as archive:
        (entry,) = (name for name in archive.namelist() if name.endswith(f"/extra/{FACTS}"))
        facts: dict[str, Any] = json.loads(archive.read(entry))
    return facts


class _Named(torch.nn.Module):  # type: ignore[misc]  # torch has no stubs where this is checked
    """Arguments by name: Triton's PyTorch backend finds a module's inputs by the arguments of `forward`."""

    INPUTS: ClassVar[tuple[str, ...]]

    def __init__(self, source: source_model.SourceModel) -> None:
        super().__init__()
        self.source = source


class _Three(_Named):
    INPUTS = ("input_ids", "attention_mask", "token_type_ids")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, ...]:
        return tuple(values.to(torch.float32) for values in self.source(input_ids, attention_mask, token_type_ids))


class _Two(_Named):
    """Of models that know no segments."""

    INPUTS = ("input_ids", "attention_mask")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(values.to(torch.float32) for values in self.source(input_ids, attention_mask))


class Session:
    """A published or staged artifact, run by PyTorch as the server runs it: no profiling executor, int64 ids."""

    def __init__(self, folder: Path) -> None:
        tracing.without_profiling()
        path = folder / names.TORCHSCRIPT_FILE
        facts = read_facts(path)
        self._device = facts["device"]
        self._module = torch.jit.load(str(path), map_location=self._device).eval()
        self._names: list[str] = facts["outputs"]
        self.inputs = [TensorSpec(name=name, dtype="INT64", dims=[-1]) for name in facts["inputs"]]
        self._check_arguments()
        self.outputs = self._described()

    def answer(self, request: Arrays) -> Arrays:
        """Answer one request."""
        given = (torch.from_numpy(request[tensor.name]).to(self._device) for tensor in self.inputs)
        with torch.inference_mode():
            found = self._module(*given)
        return {name: values.cpu().numpy() for name, values in zip(self._names, found, strict=True)}

    def _check_arguments(self) -> None:
        taken = [argument.name for argument in self._module.forward.schema.arguments[1:]]
        asked = [tensor.name for tensor in self.inputs]
        if taken != asked:
            message = f"The module takes {taken}; the server will look for {asked}"
            raise BuildError("InternalError", message, REPORT_IT, ExitCode.INTERNAL)

    def _described(self) -> list[TensorSpec]:
        """The outputs as two requests of different lengths show them; all are float32 [batch, ...]."""
        short, long = (
            self.answer({tensor.name: np.ones((1, length), dtype=np.int64) for tensor in self.inputs})
            for length in (3, 4)
        )
        return [
            TensorSpec(
                name=name,
                dtype="FP32",
                dims=[
                    size if size == other else -1
                    for size, other in zip(short[name].shape[1:], long[name].shape[1:], strict=True)
                ],
            )
            for name in self._names
        ]


def open_session(folder: Path) -> Session:
    """Load the artifact of a folder as a server would."""
    return Session(folder)
