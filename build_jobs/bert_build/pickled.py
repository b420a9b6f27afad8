"""Reads what a pytorch_model.bin holds, with weights_only: code in it is refused, not run. Called by inspect."""

import zipfile
from pathlib import Path
from typing import Final

import torch

from bert_build import archives
from bert_build.failures import BuildError
from bert_build.safetensors_header import Tensor

_NAMES: Final = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}


def read(path: Path, name: str) -> dict[str, Tensor]:
    """Type and shape of every tensor of a file.

    Raises:
        BuildError: it is no checkpoint, or more than weights.
    """
    archives.refuse_bombs(path, name)
    try:
        # Mapped into memory where the format allows it (PyTorch 1.6 and later write zip files).
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        # torch and pickle raise a dozen types here, all of which mean the same to the user.
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BuildError(
            "SourceCorrupt",
            f"{name} can't be read as weights only: {first}",
            "Save the model again with `save_pretrained`, which writes safetensors.",
        ) from error
    if not isinstance(found, dict):
        raise BuildError(
            "SourceCorrupt", f"{name} holds no state dict.", "Save the model again with `save_pretrained`."
        )
    return {
        str(key): Tensor(_NAMES.get(value.dtype, str(value.dtype)), tuple(value.shape))
        for key, value in found.items()
        if isinstance(value, torch.Tensor)
    }
