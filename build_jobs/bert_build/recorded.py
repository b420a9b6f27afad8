"""What the source model answered: written by `answer`, read by `compare` in another container and perhaps image."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bert_build import figures, golden_answers
from bert_build.samples import Arrays, Sample
from bert_operator.api.spec import Build

FILE: Final = "answers.npz"
_NAMES: Final = "names"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One request and what the source model answered."""

    sample: Sample
    answer: Arrays


def save(path: Path, recorded: Sequence[Recorded]) -> None:
    """Write all, in the layout of golden requests and with their names."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for number, one in enumerate(recorded):
        arrays |= entry(number, one)
    np.savez(path, allow_pickle=False, **{_NAMES: np.array([one.sample.name for one in recorded])}, **arrays)


def load(path: Path) -> list[Recorded]:
    """Read all.

    Raises:
        OSError: there is no such file.
        ValueError: it is not ours.
    """
    with np.load(path, allow_pickle=False) as archive:
        titles = [str(title) for title in archive[_NAMES]]
        requests = golden_answers.requests({key: archive[key] for key in archive.files if key != _NAMES})
    return [
        Recorded(Sample(title, dict(request.inputs)), dict(request.outputs))
        for title, request in zip(titles, requests, strict=True)
    ]


def entry(number: int, one: Recorded) -> dict[str, "np.ndarray[Any, Any]"]:
    """One request as arrays of a file: `<number>/in/<tensor>` and `<number>/out/<tensor>`."""
    inputs = {f"{number}/in/{name}": values for name, values in one.sample.inputs.items()}
    return inputs | {f"{number}/out/{name}": values for name, values in one.answer.items()}


def limits(build: Build, recorded: Iterable[Recorded]) -> figures.Limits:
    """How far an artifact may be from these answers."""
    rows = [figures.rows(values, one.sample.real) for one in recorded for values in one.answer.values()]
    return figures.limits(build.fidelity, build.precision, figures.root_mean_square(rows))
