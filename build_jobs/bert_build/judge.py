"""Judges an artifact's answers, text by text: how near they are, whether company changes them. Called by fidelity."""

import numpy as np

from bert_build import figures, golden_answers
from bert_build.arrangements import Arrangement, Kind
from bert_build.failures import BuildError
from bert_build.recorded import Recorded
from bert_build.samples import Arrays
from bert_operator.api.report import BatchSensitivity, FidelityFigures


class Judge:
    """Collects the worst of everything; what is too far is raised at once."""

    def __init__(self, texts: list[Recorded], limits: figures.Limits) -> None:
        self.max_abs = 0.0
        self.cosines = dict.fromkeys(Kind, 1.0)
        self._neighbours = 1.0
        self._texts = texts
        self._limits = limits
        self._allowed = 0.0
        self._alone: dict[tuple[int, str], figures.Values] = {}
        self._agrees: dict[tuple[int, str], figures.Values] = {}

    def hear(self, asked: Arrangement, answer: Arrays) -> None:
        """Judge the answer to one request.

        Raises:
            BuildError: it is too far from the source model's.
        """
        length = asked.sample.real.shape[1]
        for row, index in enumerate(asked.texts):
            text = self._texts[index]
            tokens = int(text.sample.real.shape[1])
            for name, reference in text.answer.items():
                wanted = (len(asked.texts), *reference.shape[1:])
                if golden_answers.per_token(name, reference):
                    wanted = (wanted[0], length, *reference.shape[2:])
                values = _of_shape(answer.get(name), wanted, name, asked)[row]
                part = values[:tokens] if golden_answers.per_token(name, reference) else values
                self._row(asked, index, name, part)

    def _row(self, asked: Arrangement, index: int, name: str, values: figures.Values) -> None:
        if not np.isfinite(values).all():
            raise exceeded(f"output {name} holds NaN or infinity", asked)
        reference = self._texts[index].answer[name][0]
        found = figures.distance(name, reference, values, self._limits)
        allowed = self._limits.max_abs(reference)
        if not found.within(self._limits, reference):
            raise exceeded(
                f"output {name} of {self._texts[index].sample.name!r} differs by up to {found.max_abs:.3g} (limit "
                f"{allowed:.3g}), its cosine is {found.cosine:.6f} (limit {self._limits.min_cosine:g})",
                asked,
            )
        self.max_abs, self._allowed = max(self.max_abs, found.max_abs), max(self._allowed, allowed)
        self.cosines[asked.kind] = min(self.cosines[asked.kind], found.cosine)
        self._decide(index, name, reference, values)
        alone = self._alone.setdefault((index, name), values)
        floor = golden_answers.floor(name, allowed)
        company = golden_answers.compare(alone[None], values[None], None, floor=floor)
        self._neighbours = min(self._neighbours, company.min_cosine)

    def _decide(self, index: int, name: str, reference: figures.Values, values: figures.Values) -> None:
        wanted, got = figures.decisions(name, reference), figures.decisions(name, values)
        if wanted is None or got is None:
            return
        counted = ~figures.ties(reference, self._limits)
        same = (wanted == got)[counted]
        # Whatever its company, a text must be decided alike.
        self._agrees[index, name] = self._agrees.get((index, name), same) & same

    def figures(self) -> FidelityFigures:
        """What was found.

        Raises:
            BuildError: too many decisions changed.
        """
        decided = np.concatenate([np.zeros(0, bool), *self._agrees.values()])
        agreement = float(decided.mean()) if decided.size else None
        if agreement is not None and agreement < self._limits.min_agreement:
            raise exceeded(
                f"{decided.size - int(decided.sum())} of {decided.size} decisions changed (agreement {agreement:.4f}, "
                f"limit {self._limits.min_agreement:g})"
            )
        return FidelityFigures(
            samples=len(self._texts),
            max_abs_difference=self.max_abs,
            min_cosine=min(self.cosines.values()),
            limit_max_abs_difference=self._allowed,
            limit_min_cosine=self._limits.min_cosine,
            agreement=agreement,
            limit_agreement=self._limits.min_agreement,
            batch_sensitivity=BatchSensitivity(
                alone=self.cosines[Kind.ALONE],
                padded=self.cosines[Kind.PADDED],
                mixed=self.cosines[Kind.MIXED],
                neighbours=self._neighbours,
            ),
        )


def _of_shape(values: figures.Values | None, wanted: tuple[int, ...], name: str, asked: Arrangement) -> figures.Values:
    if values is None or values.shape != wanted:
        found = "isn't there" if values is None else f"has shape {list(values.shape)}"
        raise exceeded(f"output {name} {found}, the source model's has {list(wanted)}", asked)
    return values


class TooFarError(BuildError):
    """An artifact that doesn't answer like its source."""

    def __init__(self, found: str) -> None:
        super().__init__(
            "FidelityExceeded",
            f"The built model doesn't answer like its source: {found}.",
            "Please report it with the model's name; if such a difference is fine for your use, set "
            "build.fidelity.maxAbsDifference, build.fidelity.minCosine or build.fidelity.minAgreement.",
        )
        self.found = found


def exceeded(found: str, asked: Arrangement | None = None) -> TooFarError:
    """What to raise, with the request that showed it."""
    return TooFarError(f"{found}, request: {asked.sample.name} ({asked.kind})" if asked else found)
