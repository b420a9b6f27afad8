"""What the source model answered: written by `answer`, read by `compare` in another container and perhaps image."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bert_build import golden_answers
from bert_build.samples import Arrays, Sample

FILE: Final = "answers.npz"
_NAMES: Final = "names"
_PAD: Final = "pad"
_TEXT: Final = "text"
_CALIBRATION: Final = "calibration"


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One text, alone and unpadded, and what the source model answered."""

    sample: Sample
    answer: Arrays


@dataclasses.dataclass(frozen=True)
class Recording:
    """Everything that an artifact is built and judged by."""

    texts: list[Recorded]
    pad: int = 0
    """Id that fills unused positions."""
    calibration: list[Sample] = dataclasses.field(default_factory=list)
    """Other texts, without answers: what ranges of activations are taken from."""


def save(path: Path, texts: Sequence[Recorded], pad: int = 0, calibration: Sequence[Sample] = ()) -> None:
    """Write all, in the layout of golden requests and with their names."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for number, one in enumerate(texts):
        arrays |= entry(number, one)
    for number, sample in enumerate(calibration):
        arrays |= {f"{_CALIBRATION}/{number}/{name}": values for name, values in sample.inputs.items()}
    about = {_NAMES: np.array([one.sample.name for one in texts]), _PAD: np.array(pad)}
    np.savez(path, allow_pickle=False, **about, **arrays)


def load(path: Path) -> Recording:
    """Read all.

    Raises:
        OSError: there is no such file.
        ValueError: it is not ours.
    """
    with np.load(path, allow_pickle=False) as archive:
        titles = [str(title) for title in archive[_NAMES]]
        kept = {key: archive[key] for key in archive.files if key not in (_NAMES, _PAD)}
        pad = int(archive[_PAD])
    requests = golden_answers.requests({key: kept[key] for key in kept if not key.startswith(_CALIBRATION)})
    texts = [
        Recorded(Sample(title, dict(request.inputs)), dict(request.outputs))
        for title, request in zip(titles, requests, strict=True)
    ]
    calibration: dict[int, Arrays] = {}
    for key in (key for key in kept if key.startswith(_CALIBRATION)):
        _, number, name = key.split("/", 2)
        calibration.setdefault(int(number), {})[name] = kept[key]
    return Recording(texts, pad, [Sample(f"calibration {number}", calibration[number]) for number in calibration])


def save_ids(path: Path, recording: Recording) -> None:
    """Write token ids alone, for who compiles the artifact later: those of texts, and those to calibrate with."""
    kinds = {_TEXT: [one.sample for one in recording.texts], _CALIBRATION: recording.calibration}
    arrays = {
        f"{kind}/{number}/{name}": values.astype(np.int32)
        for kind, samples in kinds.items()
        for number, sample in enumerate(samples)
        for name, values in sample.inputs.items()
    }
    np.savez_compressed(path, allow_pickle=False, **{_PAD: np.array(recording.pad)}, **arrays)


def load_ids(path: Path) -> tuple[list[Sample], list[Sample], int]:
    """What `save_ids` wrote: texts, those to calibrate with, and the id that fills unused positions.

    Raises:
        OSError: there is no such file.
        ValueError: it is not ours.
    """
    found: dict[str, dict[int, Arrays]] = {_TEXT: {}, _CALIBRATION: {}}
    with np.load(path, allow_pickle=False) as archive:
        pad = int(archive[_PAD])
        for key in (key for key in archive.files if key != _PAD):
            kind, number, name = key.split("/", 2)
            found[kind].setdefault(int(number), {})[name] = archive[key].astype(np.int64)
    texts, calibration = (
        [Sample(f"{kind} {number}", inputs) for number, inputs in sorted(listed.items())]
        for kind, listed in found.items()
    )
    return texts, calibration, pad


def unpadded(name: str, golden: golden_answers.Request) -> Recorded:
    """A golden request of one row without its padding."""
    real = golden.inputs[golden_answers.MASK][0] == 1
    inputs = {tensor: np.ascontiguousarray(values[:1, real]) for tensor, values in golden.inputs.items()}
    outputs = {
        tensor: values[:1, real] if golden_answers.per_token(tensor, values) else values[:1]
        for tensor, values in golden.outputs.items()
    }
    return Recorded(Sample(name, inputs), outputs)


def entry(number: int, one: Recorded) -> dict[str, "np.ndarray[Any, Any]"]:
    """One request as arrays of a file: `<number>/in/<tensor>` and `<number>/out/<tensor>`."""
    inputs = {f"{number}/in/{name}": values for name, values in one.sample.inputs.items()}
    return inputs | {f"{number}/out/{name}": values for name, values in one.answer.items()}
