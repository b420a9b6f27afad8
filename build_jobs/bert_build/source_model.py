"""The source model, run by PyTorch: what every artifact is measured against. Used by convert, compare and reference.

Nothing of it is ever initialised by chance: a checkpoint that lacks a tensor is refused.
"""

import os
from pathlib import Path
from typing import Any, Final

import numpy as np

from bert_build.failures import BuildError
from bert_build.samples import Arrays
from bert_operator.api.spec import Task

# Everything is on disk; a look at the hub from here would be a defect.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
import transformers
from transformers.utils import logging

INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS: Final = {Task.FEATURE_EXTRACTION: "last_hidden_state", Task.SEQUENCE_CLASSIFICATION: "logits"}


class SourceModel(torch.nn.Module):  # type: ignore[misc]  # torch has no stubs where this is checked
    """A transformers model with positional inputs and one output, as exporters and servers want it."""

    def __init__(self, model: Any, output: str) -> None:  # noqa: ANN401 - a transformers class
        super().__init__()
        self.model = model
        self.output = output
        # torch.onnx.export restores the mode of what it is given, recursively: left in training mode, this wrapper
        # would switch dropout on in the very model that serves as the reference.
        self.eval()

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:  # noqa: ANN401 - tensors
        """One output of the model. Keywords: transformers' decorators can't be traced with positional arguments."""
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return found[self.output]

    def answer(self, request: Arrays) -> Arrays:
        """Answer one request given as arrays."""
        with torch.inference_mode():
            found = self(*(torch.from_numpy(request[name]) for name in INPUTS))
        return {self.output: found.to(torch.float32).numpy()}


def load(folder: Path, task: Task) -> SourceModel:
    """Load a checkpoint in fp32 for a task.

    Raises:
        BuildError: the checkpoint can't be read or lacks a tensor.
    """
    logging.disable_progress_bar()
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "attn_implementation": "eager",
        "local_files_only": True,
        "trust_remote_code": False,
        "output_loading_info": True,
    }
    if task is Task.FEATURE_EXTRACTION:
        # No pooler: last_hidden_state doesn't need it, and many checkpoints lack one.
        found = _read(transformers.BertModel, folder, {**options, "add_pooling_layer": False})
    else:
        found = _read(transformers.BertForSequenceClassification, folder, options)
    return SourceModel(found, OUTPUTS[task])


def _read(kind: Any, folder: Path, options: dict[str, Any]) -> Any:  # noqa: ANN401 - transformers classes
    try:
        model, info = kind.from_pretrained(str(folder), **options)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise BuildError(
            "SourceCorrupt", f"transformers can't load the model: {first[0][:300]}", "Copy or upload the model again."
        ) from error
    wrong = sorted(info["missing_keys"]) + [str(entry) for entry in info["mismatched_keys"]]
    if wrong:
        raise BuildError(
            "SourceCorrupt",
            f"The checkpoint lacks {wrong[0]}{f' and {len(wrong) - 1} more tensors' if len(wrong) > 1 else ''}.",
            "config.json and weights must be of the same model: copy both again.",
        )
    return model


def finite(answer: Arrays) -> bool:
    """Whether no output holds NaN or infinity."""
    return all(bool(np.isfinite(values).all()) for values in answer.values())
