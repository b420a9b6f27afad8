"""The source model, run by PyTorch: what every artifact is measured against. Used by convert, compare and reference.

Nothing of it is ever initialised by chance: a checkpoint that lacks a tensor is refused.
"""

import os
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np

from bert_build import config_checks, samples, sentence, tasks
from bert_build.failures import BuildError
from bert_build.samples import Arrays
from bert_operator.api.spec import Build, Task

# Everything is on disk; a look at the hub from here would be a defect.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# As processors.one_thread_each: each request has a thread of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
import transformers
from transformers.utils import logging

_CLASSES: Final = {
    Task.SEQUENCE_CLASSIFICATION: transformers.AutoModelForSequenceClassification,
    Task.TOKEN_CLASSIFICATION: transformers.AutoModelForTokenClassification,
    Task.QUESTION_ANSWERING: transformers.AutoModelForQuestionAnswering,
    Task.FILL_MASK: transformers.AutoModelForMaskedLM,
    Task.FEATURE_EXTRACTION: transformers.AutoModel,
}
_THEIRS: Final = {"mask_logits": "logits"}
"""Our name of an output -> transformers', where they differ."""
_NORM_FLOOR: Final = 1e-12
_COUNT_FLOOR: Final = 1e-9
"""What sentence-transformers divides by at least."""

Tensor = Any
"""A torch.Tensor; torch has no stubs where this is checked."""


class SourceModel(torch.nn.Module):  # type: ignore[misc]  # torch has no stubs where this is checked
    """A transformers model with positional inputs and a tuple of outputs, as exporters and servers want it.

    Threads may ask it side by side.
    """

    side_by_side = True

    def __init__(self, model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:  # noqa: ANN401
        super().__init__()
        self.model = model
        self.inputs = inputs
        self.outputs = outputs
        self.pooling: sentence.Pooling | None = None
        # torch.onnx.export restores the mode of what it is given, recursively: left in training mode, this wrapper
        # would switch dropout on in the very model that serves as the reference.
        self.eval()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs for tensors in the order of `inputs`. transformers' decorators are traced with keywords only."""
        given = dict(zip(self.inputs, tensors, strict=True))
        found = self._found(given)
        if self.pooling is not None:
            pooled = _pooled(found["last_hidden_state"], given["attention_mask"], self.pooling)
            return found["last_hidden_state"], pooled
        return tuple(found[_THEIRS.get(name, name)] for name in self.outputs)

    def _found(self, given: dict[str, Tensor]) -> Any:  # noqa: ANN401 - a transformers class
        return self.model(**given)

    def answer(self, request: Arrays) -> Arrays:
        """Answer one request given as arrays; tensors that the model doesn't know are left out."""
        with torch.inference_mode():
            found = self(*(torch.from_numpy(request[name]) for name in self.inputs))
        return {name: values.to(torch.float32).numpy() for name, values in zip(self.outputs, found, strict=True)}


class MaskFiller(SourceModel):
    """Logits of the vocabulary for the first mask token of each row, and for no other token."""

    def __init__(self, model: Any, inputs: tuple[str, ...], head: str, mask: int) -> None:  # noqa: ANN401
        super().__init__(model, inputs, tasks.OUTPUTS[Task.FILL_MASK])
        self.mask = mask
        self._chosen: dict[int, Tensor] = {}
        """By thread: requests are answered side by side."""
        # Hidden states of other tokens go before the head multiplies them with the vocabulary.
        getattr(model, head).register_forward_pre_hook(
            lambda _, given: (torch.matmul(self._chosen[threading.get_ident()], given[0]),)
        )

    def _found(self, given: dict[str, Tensor]) -> Any:  # noqa: ANN401 - as above
        masks = ((given["input_ids"] == self.mask) & (given["attention_mask"] == 1)).to(torch.float32)
        # [batch, 1, length]: 1 at the first mask token.
        first = (masks * (torch.cumsum(masks, dim=1) == 1).to(torch.float32)).unsqueeze(1)
        self._chosen[threading.get_ident()] = first
        logits = super()._found(given).logits
        return {"logits": logits.squeeze(1)}


def _pooled(hidden: Tensor, mask: Tensor, how: sentence.Pooling) -> Tensor:
    """One vector for each row, as sentence-transformers computes it: [batch, width]."""
    shown = mask.unsqueeze(-1).to(hidden.dtype)
    count = shown.sum(dim=1).clamp(min=_COUNT_FLOOR)
    total = (hidden * shown).sum(dim=1)
    made = {
        "cls_token": lambda: hidden[:, 0],
        "max_tokens": lambda: hidden.masked_fill(shown == 0, -1e9).max(dim=1).values,
        "mean_tokens": lambda: total / count,
        "mean_sqrt_len_tokens": lambda: total / torch.sqrt(count),
    }
    vector = torch.cat([made[mode]() for mode in how.modes], dim=1)
    if how.normalize:
        vector = vector / vector.norm(dim=1, keepdim=True).clamp(min=_NORM_FLOOR)
    return vector


def load(folder: Path, task: Task) -> SourceModel:
    """Load a checkpoint in fp32 for a task.

    Raises:
        BuildError: the checkpoint can't be read or lacks a tensor.
    """
    logging.disable_progress_bar()
    # The report of tensors that a task doesn't need looks like a fault. What is missing is refused below.
    logging.set_verbosity_error()
    config = config_checks.read(folder, Build(task=task, max_sequence_length=8))
    options: dict[str, Any] = {
        "dtype": torch.float32,
        # The others can't be exported for every family, or leave the mask out of the graph.
        "attn_implementation": "eager",
        "local_files_only": True,
        "trust_remote_code": False,
        "output_loading_info": True,
    }
    if task is Task.FEATURE_EXTRACTION and config.family.pooler:
        # last_hidden_state doesn't need it, and many checkpoints lack one.
        options["add_pooling_layer"] = False
    found = _read(_CLASSES[task], folder, options)
    if task is Task.FILL_MASK:
        return MaskFiller(found, config.inputs, config.family.mask_head, samples.mask_token(folder, config))
    pooling = sentence.pooling(folder)[0] if task is Task.FEATURE_EXTRACTION else None
    model = SourceModel(found, config.inputs, tasks.outputs(task, pooled=pooling is not None))
    model.pooling = pooling
    return model


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
