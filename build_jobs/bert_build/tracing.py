"""A PyTorch model as a TorchScript trace. Used by to_mar and to_torchscript."""

import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch

_SHAPE: Final = (2, 8)
"""Rows and tokens of what is traced: short, because a trace fits every shape or none. `compare` asks many others."""


def traced(module: Any, inputs: Sequence[str], device: str = "cpu") -> Any:  # noqa: ANN401 - torch has no stubs
    """The model as TorchScript, its weights as constants, for any batch and length.

    Frozen, so that what depends on weights alone is computed once and dropout is gone. Not `optimize_for_inference`:
    that packs weights for the CPU of the build, which no other process could load.

    Args:
        module: takes int64 tensors [batch, length] in the order of `inputs`, and is on `device`.
        inputs: names of what it takes.
        device: `cpu` or `cuda`; tensors that the model makes on the way stay on it for ever.
    """
    ids = torch.ones(_SHAPE, dtype=torch.int64, device=device)
    mask = ids.clone()
    # A mask of ones alone might be skipped, and the branch with it.
    mask[1, 5:] = 0
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    with warnings.catch_warnings(), torch.no_grad():
        # Of the tracer: about branches that don't depend on the input here. Fidelity would notice if they did.
        warnings.simplefilter("ignore")
        example = tuple(given[name] for name in inputs)
        return torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))


def without_profiling() -> None:
    """Run TorchScript of this process without the profiling executor.

    It would run every new shape slowly twice to specialise on it; lengths change with each request.
    """
    torch._C._jit_set_profiling_executor(False)  # noqa: SLF001 - there is no public switch
