"""Which texts the source model is asked: the user's, else built-in ones at several lengths. Called by answer.

Each is one request, alone and without padding. Real sentences of several languages if the source has a tokenizer, else
ids drawn from its vocabulary; always the same for the same source.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bert_build import samples, user_texts
from bert_build.failures import BuildError
from bert_build.samples import Sample, Tokens
from bert_build.user_texts import Words
from bert_operator.api.spec import Build

CALIBRATION: Final = (
    "Our offices are closed on public holidays; urgent questions are answered by phone.",
    "Why did the train stop twice between Lyon and Geneva last night?",
    "Der Vertrag verlängert sich um ein Jahr, wenn er nicht bis zum 30. September gekündigt wird.",
    "She loved the acting, but the second half of the film was far too long.",
    "La factura llegó dos veces y nadie del servicio de atención supo explicarme por qué.",
    "Mix flour, two eggs and a pinch of salt, then bake at 180 °C for 25 minutes.",
    "Новый мост через реку откроют для движения уже весной.",
    "The patient was given 5 mg of the drug twice a day for three weeks.",
    "会議は来週の火曜日、午前十時に始まります。",
    "def area(radius): return 3.14159 * radius ** 2  # of a circle",
    "BREAKING: shares of ACME Corp. fell 7.3 % after the quarterly report!!!",
    "La bibliothèque prête aussi des instruments de musique aux étudiants.",
)
"""What ranges of activations are taken from. None of these is among the texts that judge."""
_JOINED: Final = 4
"""Sentences that make one longer calibration text."""


def texts(folder: Path, supply: Tokens, build: Build, own: Sequence[Words] = ()) -> list[Sample]:
    """What judges an artifact.

    Args:
        folder: of the source model.
        supply: of token ids.
        build: holds samples of the user's, if they are written there.
        own: those of a file.

    Raises:
        BuildError: the user's texts can't be tokenised.
    """
    words = [*((one.text, one.text_pair) for one in build.fidelity.samples), *own]
    if not words:
        return [_of_length(supply, length) for length in _lengths(samples.compared(build))]
    field = user_texts.FIELDS[user_texts.SAMPLES] if own else "build.fidelity.samples"
    return _required(_encoded(folder, words, supply, build, "sample"), field, supply)


def calibration(folder: Path, supply: Tokens, build: Build, own: Sequence[Words] = ()) -> list[Sample]:
    """What ranges of activations are taken from: the user's texts, else sentences alone and joined.

    Raises:
        BuildError: the user's texts can't be tokenised.
    """
    if own:
        found = _encoded(folder, own, supply, build, "calibration")
        return _required(found, user_texts.FIELDS[user_texts.CALIBRATION], supply)
    joined = [" ".join(CALIBRATION[start : start + _JOINED]) for start in range(0, len(CALIBRATION), _JOINED)]
    words: list[Words] = [(text, None) for text in (*CALIBRATION, *joined)]
    lengths = (min(length, build.max_sequence_length) for length in (8, 16, 24, 32, 48, 64))
    return _encoded(folder, words, supply, build, "calibration") or [_of_length(supply, length) for length in lengths]


def _required(found: list[Sample], field: str, supply: Tokens) -> list[Sample]:
    if not found:
        raise BuildError(
            "TokenizerMissing",
            f"{field} are texts, and the source has no tokenizer that fits its vocabulary of {supply.vocabulary} ids.",
            f"Add the model's tokenizer.json to the source, or remove {field}.",
        )
    return found


def _lengths(buckets: Sequence[int]) -> list[int]:
    """One token, every bucket, and a length that is no bucket's: what is only right at round numbers shows."""
    odd = {bucket - 3 for bucket in buckets if 4 < bucket <= 32}  # noqa: PLR2004 - longer ones cost more than they show
    return sorted({1, *buckets, *odd})


def _of_length(supply: Tokens, length: int) -> Sample:
    ids = np.array([supply.take(length)], dtype=np.int64)
    types = np.zeros_like(ids)
    if supply.types > 1:
        types[0, length - length // 2 :] = 1
    return Sample(f"{length} tokens", supply.request(ids, np.ones_like(ids), types))


def _encoded(folder: Path, words: Sequence[Words], supply: Tokens, build: Build, name: str) -> list[Sample]:
    """Texts as the source's tokenizer reads them; none if it has none or one of another model."""
    tokenizer = samples.tokenizer(folder)
    if tokenizer is None:
        return []
    tokenizer.enable_truncation(build.max_sequence_length)
    found = [_sample(f"{name} {number}", tokenizer.encode(*pair), supply) for number, pair in enumerate(words, start=1)]
    known = all(0 <= int(one.inputs["input_ids"].max()) < supply.vocabulary for one in found)
    return found if known else []


def _sample(name: str, encoding: Any, supply: Tokens) -> Sample:  # noqa: ANN401 - tokenizers has no stubs
    ids = np.array([encoding.ids], dtype=np.int64)
    types = np.array([encoding.type_ids], dtype=np.int64) if supply.types > 1 else np.zeros_like(ids)
    return Sample(name, supply.request(ids, np.ones_like(ids), types))
