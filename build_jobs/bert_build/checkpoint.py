"""The weights of a transformers checkpoint as numpy arrays, read without PyTorch. Called by to_savedmodel."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from bert_build import bert_layout, selection
from bert_build.failures import BuildError
from bert_build.families import Family

assert ml_dtypes.bfloat16  # noqa: S101 - imported for what it does to numpy, which then knows bfloat16 by name


def weights(folder: Path, names: list[str], family: Family) -> Iterator[tuple[str, "np.ndarray[Any, Any]"]]:
    """The tensors of these names (bert_layout's) in fp32, one at a time: two copies of all would be too much.

    Args:
        folder: holds model.safetensors, or its index and shards.
        names: as in bert_layout.expected; the checkpoint may use its prefix and old names.
        family: whose names they are.

    Raises:
        BuildError: the checkpoint lacks one.
    """
    wanted = dict.fromkeys(names)
    for path in _files(folder):
        with safetensors.safe_open(str(path), framework="numpy") as file:
            stored = set(file.keys())
            for name in list(wanted):
                found = bert_layout.stored_name(stored, name, family)
                if found is not None:
                    del wanted[name]
                    yield name, file.get_tensor(found).astype(np.float32)
    if wanted:
        raise BuildError(
            "SourceCorrupt",
            f"The checkpoint lacks {next(iter(wanted))}.",
            "config.json and weights must be of the same model: copy both again.",
        )


def _files(folder: Path) -> list[Path]:
    index = folder / (selection.SAFETENSORS + selection.INDEX)
    if (folder / selection.SAFETENSORS).exists() or not index.exists():
        return [folder / selection.SAFETENSORS]
    return [folder / shard for shard in selection.shards(index.read_bytes(), index.name)]
