"""Golden requests: reads them and judges a server's answers. Called by verify; pure but for reading the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bert_operator.api.report import FidelityFigures

Array = npt.NDArray[Any]
MASK = "attention_mask"
SPANS = ("start_logits", "end_logits")
"""Outputs [batch, tokens]: one number for every token, unlike logits [batch, labels]."""
_ROWS_OF_VALUES = 2


@dataclass(frozen=True)
class Request:
    """One recorded request: what was sent to the source model and what it answered."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def split(self, batch: int) -> Sequence["Request"]:
        """Parts with at most `batch` rows, as the server takes no more at once."""
        rows = len(next(iter(self.inputs.values())))
        return [
            Request(
                {name: array[start : start + batch] for name, array in self.inputs.items()},
                {name: array[start : start + batch] for name, array in self.outputs.items()},
            )
            for start in range(0, rows, batch)
        ]


@dataclass(frozen=True)
class Closeness:
    """How close answers were to the recorded ones; the worst of all that were compared."""

    max_abs_difference: float = 0.0
    min_cosine: float = 1.0

    def worst(self, other: "Closeness") -> "Closeness":
        """The worse of both figures. Not a number is the worst of all."""
        return Closeness(
            float(np.maximum(self.max_abs_difference, other.max_abs_difference)),
            float(np.minimum(self.min_cosine, other.min_cosine)),
        )


def read(path: Path) -> list[Request]:
    """The requests of a golden.npz, whose keys are `<i>/in/<tensor>` and `<i>/out/<tensor>`.

    Raises:
        ValueError: it holds none, or a request without inputs or outputs.
    """
    with np.load(path, allow_pickle=False) as archive:
        found = requests({key: archive[key] for key in archive.files})
    if not found or not all(request.inputs and request.outputs for request in found):
        raise ValueError(f"{path.name} holds no whole request")
    return found


def requests(arrays: Mapping[str, Array]) -> list[Request]:
    """The requests of arrays named `<i>/in/<tensor>` and `<i>/out/<tensor>`."""
    found: dict[int, dict[str, dict[str, Array]]] = {}
    for key, array in arrays.items():
        index, kind, name = key.split("/", 2)
        found.setdefault(int(index), {"in": {}, "out": {}})[kind][name] = array
    return [Request(found[index]["in"], found[index]["out"]) for index in sorted(found)]


def fault(expected: Array, answered: Array | None) -> str:
    """Why an answer can't even be compared, or nothing."""
    if answered is None:
        return "is missing"
    if answered.size == 0:
        return f"is empty (shape {list(answered.shape)}), expected shape {list(expected.shape)}"
    if answered.shape != expected.shape:
        return f"has shape {list(answered.shape)}, expected {list(expected.shape)}"
    return ""


def per_token(name: str, values: Array) -> bool:
    """Whether an output [batch, ...] holds something for every token."""
    return values.ndim > _ROWS_OF_VALUES or name in SPANS


def floor(name: str, allowed: float) -> float:
    """Below which size an output has no direction: a logit near 0 says no more than 0 does, a vector's element does."""
    return allowed if name.endswith("logits") else 0.0


def compare(expected: Array, answered: Array, mask: Array | None, *, name: str = "", floor: float = 0.0) -> Closeness:
    """Compare one output, row by row; of token outputs only the positions that the mask shows.

    Args:
        expected: what the source model answered, [batch, ...].
        answered: the same, by the server.
        mask: attention mask of the request [batch, tokens]; None: all counts.
        name: of the output.
        floor: rows whose expected values are all at most that large are compared by their difference alone.
    """
    worst = Closeness()
    for row in range(len(expected)):
        shown = mask[row].astype(bool) if mask is not None and _of_tokens(name, expected, mask) else slice(None)
        wanted, got = (array[row][shown].astype(np.float64).ravel() for array in (expected, answered))
        if wanted.size:
            plain = floor > 0 and np.abs(wanted).max() <= floor and np.isfinite(got).all()
            cosine = 1.0 if plain else _cosine(wanted, got)
            worst = worst.worst(Closeness(float(np.max(np.abs(wanted - got))), cosine))
    return worst


def within(closeness: Closeness, limits: FidelityFigures) -> bool:
    """Whether an answer is close enough; not a number never is."""
    return (
        closeness.max_abs_difference <= limits.limit_max_abs_difference
        and closeness.min_cosine >= limits.limit_min_cosine
    )


def _of_tokens(name: str, array: Array, mask: Array) -> bool:
    """Whether the mask says which positions of an output count."""
    return array.shape[: mask.ndim] == mask.shape and per_token(name, array)


def _cosine(wanted: Array, got: Array) -> float:
    """Cosine similarity; zeros are like zeros and unlike anything else."""
    norms = float(np.linalg.norm(wanted) * np.linalg.norm(got))
    if norms == 0:
        return float(np.all(wanted == got))
    return float(wanted @ got / norms)
