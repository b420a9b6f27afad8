"""What `answer` leaves of a traced source model, and how `convert` reads its weights without PyTorch.

`answer` has the source model in memory, which takes longer to load than anything else: it traces it as well, without
weights, and notes which tensor of the checkpoint each weight is. `convert` reads one tensor at a time.
"""

from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from bert_build.safetensors_header import Tensor
from bert_operator.api.base import Model

FOLDER: Final = "traced"
"""Below the scratch folder."""
GRAPH_FILE: Final = "graph.onnx"
_PLAN_FILE: Final = "plan.json"
_TYPES: Final = {
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}

Values = np.ndarray[Any, Any]


class Place(Model):
    """Where the values of one weight are."""

    shape: tuple[int, ...]
    file: str
    """A safetensors file of the source; or one of FOLDER that holds this weight alone, as its values aren't there."""
    tensor: str = ""
    """Its name in the source's file."""


class Plan(Model):
    """A traced model."""

    inputs: tuple[str, ...]
    """What clients send; whatever else the graph asks for is a weight."""
    weights: dict[str, Place]

    def save(self, folder: Path) -> None:
        """Leave it for `convert`."""
        (folder / _PLAN_FILE).write_text(self.model_dump_json(), encoding="utf-8")


def load(folder: Path) -> Plan:
    """The plan that `answer` left.

    Raises:
        OSError: there is none.
        pydantic.ValidationError: it isn't ours.
    """
    return Plan.model_validate_json((folder / _PLAN_FILE).read_bytes())


def readable(tensor: Tensor) -> bool:
    """Whether `values` understands its type."""
    return tensor.dtype in _TYPES


def values(path: Path, tensor: Tensor) -> Values:
    """The values of one tensor of a safetensors file, in fp32."""
    kind = _TYPES[tensor.dtype]
    found = np.fromfile(path, kind, tensor.elements, offset=tensor.begin)
    return found.reshape(tensor.shape).astype(np.float32, copy=False)
