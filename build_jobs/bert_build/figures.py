"""How far an answer is from its source model's, and what is too far. Pure; used by fidelity and answer.

The thresholds are frozen in docs/adr/0010.
"""

import dataclasses
from typing import Any, Final

import numpy as np

from bert_build import golden_answers
from bert_operator.api.spec import Build, Fidelity, Precision

Values = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is too far, for one precision."""

    factor: float
    """Allowed difference of an element, as a share of the reference's largest one or of 1 if that is smaller."""
    min_cosine: float
    min_agreement: float
    """Share of decisions (label, tag, span, best token) that must stay what they were; ties don't count."""
    tie: float
    """Difference, as a share like `factor`, that decisions may feel: where the two best are nearer than twice that,
    either is right. A limit for the worst of thousands of elements would make every decision a tie."""
    literal: float | None = None
    """Allowed difference as the spec says it: taken as it is."""
    capped: bool = False
    """`literal` only narrows what `factor` allows."""

    def max_abs(self, reference: Values) -> float:
        """The allowed difference of any element of an output."""
        own = self.factor * _scale(reference)
        if self.literal is None:
            return own
        return min(self.literal, own) if self.capped else self.literal


DEFAULTS: Final = {
    Precision.FP32: Limits(1e-4, 0.99999, 1.0, tie=1e-4),
    Precision.FP16: Limits(2e-2, 0.999, 0.99, tie=2e-3),
    Precision.BF16: Limits(0.1, 0.995, 0.99, tie=1e-2),
    Precision.INT8: Limits(0.25, 0.97, 0.98, tie=2.5e-2),
}
"""Cosine alone is blind to scale, the difference alone to small outputs: all of them must hold."""


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far one output of one text is from the source model's."""

    max_abs: float
    cosine: float

    def within(self, limits: Limits, reference: Values) -> bool:
        """Whether that is near enough; not a number never is."""
        return self.max_abs <= limits.max_abs(reference) and self.cosine >= limits.min_cosine


def unquantised(build: Build) -> Build:
    """A build in INT8 as one in FP32: limits that were widened for INT8 would hide a broken conversion."""
    if build.precision is not Precision.INT8:
        return build
    own = build.fidelity.model_copy(update={"min_cosine": None, "max_abs_difference": None, "min_agreement": None})
    return build.model_copy(update={"precision": Precision.FP32, "fidelity": own})


def limits(wish: Fidelity, precision: Precision) -> Limits:
    """The limits of a build: those of its precision, but for what the spec says."""
    default = DEFAULTS[precision]
    return Limits(
        default.factor,
        float(wish.min_cosine) if wish.min_cosine is not None else default.min_cosine,
        float(wish.min_agreement) if wish.min_agreement is not None else default.min_agreement,
        default.tie,
        float(wish.max_abs_difference) if wish.max_abs_difference is not None else None,
    )


def narrower(wish: Fidelity, precision: Precision) -> Limits:
    """The limits of a precision that a build falls back to: its own, and the spec's where they are narrower."""
    own, asked = DEFAULTS[precision], limits(wish, precision)
    return dataclasses.replace(
        asked,
        min_cosine=max(own.min_cosine, asked.min_cosine),
        min_agreement=max(own.min_agreement, asked.min_agreement),
        capped=True,
    )


def distance(name: str, reference: Values, answer: Values, limits: Limits) -> Distance:
    """Compare one output of one text; both without padding and of the same shape."""
    floor = golden_answers.floor(name, limits.max_abs(reference))
    found = golden_answers.compare(reference[None], answer[None], None, floor=floor)
    return Distance(found.max_abs_difference, found.min_cosine)


def decisions(name: str, reference: Values) -> Values | None:
    """What an output decides, as indices: a label, one for each token, or the token at which a span begins or ends.

    Args:
        name: of the output.
        reference: one text's output without padding: logits [labels] or [tokens, labels], start_logits [tokens].

    Returns:
        Indices of the largest values; None if the output decides nothing.
    """
    if not name.endswith("logits") or reference.shape[-1] < 2:  # noqa: PLR2004 - one value is a number, no choice
        return None
    return np.atleast_1d(reference.argmax(axis=-1))


def ties(reference: Values, limits: Limits) -> Values:
    """Which decisions a permitted difference could turn."""
    best = np.sort(reference, axis=-1)[..., -2:]
    return np.atleast_1d(best[..., 1] - best[..., 0] < 2 * limits.tie * _scale(reference))


def _scale(reference: Values) -> float:
    return max(1.0, float(np.abs(reference).max(initial=0.0)))
