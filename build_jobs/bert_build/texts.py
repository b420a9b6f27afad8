"""Texts with which an artifact that holds its tokenizer is compared and verified: a wrong tokenizer shows in no tensor.

Called by answer and to_mar. Needs transformers: its tokenizer of the source is the judge.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from bert_build import progress
from bert_build.samples import SENTENCES, Sample
from bert_operator.api.spec import Build

TEXT: Final = "text"
PAIR: Final = "text_pair"
"""Inputs that stand for tensors: arrays of strings, one for each row, beside the tensors that the source is asked."""
_FILES: Final = ("tokenizer.json", "vocab.txt")


def tokenizer(folder: Path) -> Any | None:  # noqa: ANN401 - a transformers class
    """The source's own tokenizer; None if it has none that works: such a model takes tensors only."""
    if not any((folder / name).is_file() for name in _FILES):
        return None
    import transformers  # noqa: PLC0415 - most of a build needs no tokenizer

    try:
        found = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        progress.say("answer", f"the tokenizer can't be used: {str(error).strip().splitlines()[0]}")
        return None
    return found if getattr(found, "backend_tokenizer", None) is not None else None


def samples(folder: Path, build: Build) -> Iterator[Sample]:
    """A text and a pair of texts, as their words and as what the source's tokenizer makes of them."""
    found = tokenizer(folder)
    if found is None:
        return
    for name, words in (("a text", SENTENCES[3:4]), ("a pair of texts", SENTENCES[:2])):
        encoded = found(*words, truncation=True, max_length=build.max_sequence_length, return_tensors="np")
        shape = encoded["input_ids"].shape
        inputs = {
            "input_ids": encoded["input_ids"].astype(np.int64),
            "attention_mask": np.ones(shape, dtype=np.int64),
            "token_type_ids": encoded.get("token_type_ids", np.zeros(shape)).astype(np.int64),
        }
        told = dict(zip((TEXT, PAIR), (np.array([word]) for word in words), strict=False))
        yield Sample(name, told | inputs)
