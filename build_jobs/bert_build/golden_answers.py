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


def compare(expected: Array, answered: Array, mask: Array | None) -> Closeness:
    """Compare one output; of token outputs only the positions that the mask shows."""
    wanted, got = (_unmasked(array.astype(np.float64), mask) for array in (expected, answered))
    if not wanted.size:
        return Closeness()
    return Closeness(float(np.max(np.abs(wanted - got))), float(np.min(_cosines(wanted, got))))


def within(closeness: Closeness, limits: FidelityFigures) -> bool:
    """Whether an answer is close enough; not a number never is."""
    return (
        closeness.max_abs_difference <= limits.limit_max_abs_difference
        and closeness.min_cosine >= limits.limit_min_cosine
    )


def _unmasked(array: Array, mask: Array | None) -> Array:
    """Rows to compare: a token output has the mask's two axes and at least one more."""
    if mask is not None and array.ndim > mask.ndim and array.shape[: mask.ndim] == mask.shape:
        array = array[mask.astype(bool)]
    return array.reshape(-1, array.shape[-1])


def _cosines(wanted: Array, got: Array) -> Array:
    """Cosine similarity of each row; two rows of zeros are alike."""
    norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(got, axis=1)
    alike = np.where(np.all(wanted == got, axis=1), 1.0, 0.0)
    cosines: Array = np.divide(np.sum(wanted * got, axis=1), norms, out=alike, where=norms != 0)
    return cosines
