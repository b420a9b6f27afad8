"""Serves TorchScript models in Triton images that bring only the Python backend.

Triton loads this file from /opt/tritonserver/backends/pytorch_python/ for every model whose config.pbtxt says
`backend: "pytorch_python"`; the model folder itself holds nothing but the artifact. It reads the same parameters as
Triton's own PyTorch backend, and like that one finds inputs by the arguments of `forward` and outputs by their order.
Tensors pass as DLPack: the stub's way through numpy answers empty tensors where numpy is 2 or later.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

Tensors = dict[str, torch.Tensor]


class TritonPythonModel:
    """One instance of one model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model. A failure here fails the whole server, with this text as the reason."""
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"]) / args["model_version"] / (config["default_model_filename"] or "model.pt")
        try:
            _configure({key: value["string_value"] for key, value in config["parameters"].items()})
            self._module = torch.jit.load(str(path), map_location="cpu").eval()
            self._inputs = [argument.name for argument in self._module.forward.schema.arguments[1:]]
        except Exception as error:
            # Anything else would show as a table full of Python frames in the server's log.
            raise pb_utils.TritonModelException(f"{path} can't be loaded: {error}") from error
        unknown = sorted({tensor["name"] for tensor in config["input"]} ^ set(self._inputs))
        if unknown:
            raise pb_utils.TritonModelException(f"{path} and config.pbtxt differ in inputs: {', '.join(unknown)}")
        self._outputs = [output["name"] for output in config["output"]]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request: all of the same shapes in one run, one response per request in the same order."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[tuple[int, Tensors]]] = defaultdict(list)
        for index, request in enumerate(requests):
            tensors = {tensor.name(): torch.from_dlpack(tensor.to_dlpack()) for tensor in request.inputs()}
            fault = _fault(tensors, self._inputs)
            if fault:
                responses[index] = _error(fault)
            else:
                groups[tuple(tensors[self._inputs[0]].shape[1:])].append((index, tensors))
        for group in groups.values():
            for (index, _), response in zip(group, self._answer([tensors for _, tensors in group]), strict=True):
                responses[index] = response
        return responses

    def _answer(self, batch: Sequence[Tensors]) -> list[Any]:
        """Responses to requests of equal shapes. One request that can't be run must not fail the others."""
        try:
            return self._run(batch)
        except (RuntimeError, IndexError) as error:
            if len(batch) == 1:
                # The rest is the stack of TorchScript.
                return [_error(str(error).strip().splitlines()[-1])]
            return [response for one in batch for response in self._answer([one])]

    def _run(self, batch: Sequence[Tensors]) -> list[Any]:
        rows = [len(tensors[self._inputs[0]]) for tensors in batch]
        with torch.inference_mode():
            found = self._module(*(torch.cat([tensors[name] for tensors in batch]) for name in self._inputs))
        parts = zip(*(values.split(rows) for values in found), strict=True)
        return [self._response(part) for part in parts]

    def _response(self, tensors: Sequence[torch.Tensor]) -> Any:  # noqa: ANN401 - the backend's classes have no types
        named = zip(self._outputs, tensors, strict=True)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor.from_dlpack(name, torch.to_dlpack(values.contiguous())) for name, values in named]
        )


def _configure(parameters: Mapping[str, str]) -> None:
    """Threads and executor as configured; this process is the instance's own."""
    torch.set_num_threads(int(parameters.get("INTRA_OP_THREAD_COUNT", "1")))
    torch.set_num_interop_threads(int(parameters.get("INTER_OP_THREAD_COUNT", "1")))
    # There are no public switches.
    torch._C._jit_set_profiling_executor(parameters.get("ENABLE_JIT_EXECUTOR") != "false")  # noqa: SLF001
    torch._C._jit_set_profiling_mode(parameters.get("ENABLE_JIT_PROFILING") != "false")  # noqa: SLF001


def _fault(tensors: Tensors, inputs: Sequence[str]) -> str:
    """What is wrong with a request's inputs, or nothing: all have the shape [rows, tokens] of the first."""
    for name in inputs:
        if name not in tensors:
            return f"input {name!r} is missing: send all of {', '.join(inputs)}"
        first, shape = list(tensors[inputs[0]].shape), list(tensors[name].shape)
        if shape != first:
            return f"input {name!r} has shape {shape}, but {inputs[0]!r} has {first}: send the same"
    return ""


def _error(message: str) -> Any:  # noqa: ANN401 - the backend's classes have no types
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
