"""Texts with which an artifact that holds its tokenizer is compared and verified: a wrong tokenizer shows in no tensor.

Called by answer and to_mar. Needs transformers: its tokenizer of the source is the judge.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from bert_build import config_checks
from bert_build.failures import BuildError
from bert_build.samples import SENTENCES, Sample
from bert_operator.api.spec import Build, Task

TEXT: Final = "text"
PAIR: Final = "text_pair"
"""Inputs that stand for tensors: arrays of strings, one for each row, beside the tensors that the source is asked."""
_FILES: Final = ("tokenizer.json", "vocab.txt")


def tokenizer(folder: Path) -> Any | None:  # noqa: ANN401 - a transformers class
    """The source's own tokenizer; None if it has none: such a model takes tensors only.

    Raises:
        BuildError: there is one, and it can't be used. Without it the artifact would quietly refuse texts.
    """
    file = next((name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        return None
    import transformers  # noqa: PLC0415 - most of a build needs no tokenizer

    try:
        found = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except Exception as error:  # the library raises plain Exception
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _unusable(file, first[:300]) from error
    if getattr(found, "backend_tokenizer", None) is None:
        raise _unusable(file, f"{type(found).__name__} has no fast version")
    return found


def _unusable(file: str, why: str) -> BuildError:
    return BuildError(
        "TokenizerUnusable",
        f"The source's tokenizer {file} can't be loaded: {why}",
        "Write it again with save_pretrained of a fast tokenizer and tokenizer_config.json beside it; or remove "
        f"{' and '.join(_FILES)} from the source: then the model takes tensors only.",
    )


def samples(folder: Path, build: Build) -> Iterator[Sample]:
    """A text, a pair of texts and a text that must be cut: as words and as what the source's tokenizer makes of them.

    Raises:
        BuildError: the source's tokenizer can't be used.
    """
    found = tokenizer(folder)
    if found is None:
        return
    wanted = (
        ("a text", SENTENCES[3:4]),
        ("a pair of texts", SENTENCES[:2]),
        ("a text that is too long", (_long_text(build.max_sequence_length),)),
    )
    known = config_checks.read(folder, build).inputs
    masked = build.task is Task.FILL_MASK
    for name, plain in wanted:
        words = tuple(_with_mask(text, found.mask_token) for text in plain) if masked else plain
        encoded = found(*words, truncation=True, max_length=build.max_sequence_length, return_tensors="np")
        shape = encoded["input_ids"].shape
        tensors = {
            "input_ids": encoded["input_ids"].astype(np.int64),
            "attention_mask": np.ones(shape, dtype=np.int64),
            "token_type_ids": encoded.get("token_type_ids", np.zeros(shape)).astype(np.int64),
        }
        inputs = {name: tensors[name] for name in known}
        told = dict(zip((TEXT, PAIR), (np.array([word]) for word in words), strict=False))
        yield Sample(name, told | inputs)


def _with_mask(text: str, mask: str) -> str:
    """The text with its second word, and the last but one, masked: one of them is left wherever it is cut."""
    words = text.split()
    words[1] = words[-2] = mask
    return " ".join(words)


def _long_text(limit: int) -> str:
    """Words of which each is a token at least: it shows from which end the artifact cuts."""
    return " ".join(itertools.islice(itertools.cycle(" ".join(SENTENCES).split()), limit + 1))
