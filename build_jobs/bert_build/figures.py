"""How far two answers are apart, and what is too far. Pure; used by fidelity."""

import dataclasses
from typing import Any, Final

import numpy as np

from bert_operator.api.spec import Fidelity, Precision

Values = np.ndarray[Any, Any]

DEFAULT_MAX_ABS: Final = {Precision.FP32: 1e-3, Precision.FP16: 2e-2}
"""For outputs of ordinary size; see Limits."""
DEFAULT_MIN_COSINE: Final = {Precision.FP32: 0.9999, Precision.FP16: 0.999}
_NOTHING: Final = 1e-6
"""Rows shorter than this have no direction to compare; the absolute difference still counts."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is too far.

    A limit from the spec is taken literally. The default absolute one is 0.001 (fp16: 0.02) times the root mean square
    of the source model's outputs, but at least that: rounding grows with the numbers, and logits may be in the tens.
    """

    max_abs: float
    min_cosine: float


@dataclasses.dataclass
class Distance:
    """Worst case over everything compared so far."""

    samples: int = 0
    max_abs: float = 0.0
    min_cosine: float = 1.0

    def add(self, reference: Values, answer: Values) -> None:
        """Compare rows [n, width] of two answers."""
        self.samples += 1
        reference = reference.astype(np.float64)
        answer = answer.astype(np.float64)
        self.max_abs = max(self.max_abs, float(np.abs(reference - answer).max(initial=0.0)))
        self.min_cosine = min(self.min_cosine, float(_cosines(reference, answer).min(initial=1.0)))

    def within(self, limits: Limits) -> bool:
        """Whether nothing is too far."""
        return self.max_abs <= limits.max_abs and self.min_cosine >= limits.min_cosine


def limits(wish: Fidelity, precision: Precision, rms: float) -> Limits:
    """The limits of a build whose reference outputs have this root mean square."""
    default = DEFAULT_MAX_ABS[precision] * max(1.0, rms)
    return Limits(
        max_abs=float(wish.max_abs_difference) if wish.max_abs_difference is not None else default,
        min_cosine=float(wish.min_cosine) if wish.min_cosine is not None else DEFAULT_MIN_COSINE[precision],
    )


def rows(values: Values, real: Values) -> Values:
    """What counts of an output: if it has one row per token, those of real tokens; else all. Padding never counts."""
    if values.ndim > 2 and values.shape[:2] == real.shape:  # noqa: PLR2004 - [batch, sequence, width]
        return np.asarray(values[real])
    return values.reshape(values.shape[0], -1)


def root_mean_square(outputs: list[Values]) -> float:
    """Typical size of outputs."""
    count = sum(values.size for values in outputs)
    return float(np.sqrt(sum(float(np.square(values, dtype=np.float64).sum()) for values in outputs) / max(1, count)))


def _cosines(reference: Values, answer: Values) -> Values:
    lengths = np.linalg.norm(reference, axis=1), np.linalg.norm(answer, axis=1)
    product = lengths[0] * lengths[1]
    # A row without direction only matches another one.
    directed = (lengths[0] > _NOTHING) | (lengths[1] > _NOTHING)
    dots = np.einsum("ij,ij->i", reference, answer)
    found = np.divide(dots, product, out=np.zeros_like(dots), where=product > 0)
    # Without a product there is a row without any direction beside one that has some: as far apart as can be.
    return np.asarray(np.where(directed, found, 1.0))
