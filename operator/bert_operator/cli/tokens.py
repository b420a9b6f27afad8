"""Texts -> token ids, and what a model's folder says about its labels. The only module that imports `tokenizers`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bert_operator.api.report import BuildReport
from bert_operator.cli.terminal import FailureError, note

_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_DTYPES: Final = {"INT32": np.int32, "INT64": np.int64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """What a classifier's outputs stand for."""

    names: tuple[str, ...] = ()
    """By index; empty if nobody says."""
    several: bool = False
    """Each label is true or false by itself (multi-label), instead of one of all."""


TokenName = Callable[[int], str]
"""The text of a token id."""


def encode(
    path: str, texts: Sequence[str], report: BuildReport | None, context: str | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Token ids of texts, padded to the longest, or to what the artifact asks for.

    Args:
        path: tokenizer.json or the folder that holds it.
        texts: one or more.
        context: second text of each of them, e.g. the passage that holds the answers.
        report: says which inputs there are, how long and of which type; without it the three of BERT, int64.

    Returns:
        One array [text, token] for each input of the model.

    Raises:
        FailureError: there is no tokenizer, or it can't be read.
    """
    encoded = _tokenizer(path, report).encode_batch([text if context is None else (text, context) for text in texts])
    if any(each.overflowing for each in encoded):
        note(f"note: cut to the model's {report.max_sequence_length if report else 0} tokens")
    columns: dict[str, Any] = {
        "input_ids": [each.ids for each in encoded],
        "attention_mask": [each.attention_mask for each in encoded],
        "token_type_ids": [each.type_ids for each in encoded],
    }
    wanted = {tensor.name: tensor.dtype for tensor in report.inputs} if report else dict.fromkeys(_INPUTS, "INT64")
    unknown = sorted(wanted.keys() - columns.keys())
    if unknown:
        raise FailureError(f"the model wants {', '.join(unknown)}, which a tokenizer doesn't give: use --json")
    return {name: np.array(columns[name], dtype=_DTYPES.get(dtype, np.int64)) for name, dtype in wanted.items()}


def names(path: str | None) -> TokenName:
    """The texts of a model's token ids; without a tokenizer the ids themselves."""
    if path is None:
        return str
    tokenizer = _tokenizer(path, None)
    return lambda number: str(tokenizer.id_to_token(number) or number)


def labels(path: str | None) -> Labels:
    """The labels that config.json beside the tokenizer names; none if it isn't there."""
    folder = _folder(path)
    try:
        config: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return Labels()
    by_index = {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    return Labels(
        names=tuple(by_index[index] for index in sorted(by_index)),
        several=config.get("problem_type") == "multi_label_classification",
    )


def _tokenizer(path: str, report: BuildReport | None) -> Any:  # noqa: ANN401 - tokenizers has no types
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - optional, and only --text needs it
    except ImportError as error:
        raise FailureError(
            "--text needs the package tokenizers: pip install 'bert-operator[cli]', or give token ids by --json"
        ) from error
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise FailureError(
            f"--tokenizer {path}: there is no {file.name}; give the model's tokenizer.json or its folder"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises a bare Exception for a file it can't read
        raise FailureError(f"--tokenizer {path}: isn't a tokenizer.json: {error}") from error
    side = _cut_side(file, tokenizer.truncation)
    tokenizer.no_truncation()
    if report:
        tokenizer.enable_truncation(report.max_sequence_length, direction=side)
    kept = {key: value for key, value in (tokenizer.padding or {}).items() if key in {"pad_id", "pad_token"}}
    tokenizer.enable_padding(length=_fixed_length(report), **kept)
    return tokenizer


def _cut_side(file: Path, truncation: Mapping[str, Any] | None) -> str:
    """Which end of a long text goes, `left` or `right`: tokenizer_config.json wins, as it does for transformers."""
    try:
        config = json.loads((file.parent / "tokenizer_config.json").read_text(encoding="utf-8"))
        told = config.get("truncation_side")
    except (OSError, ValueError, AttributeError):
        told = None
    side = str(told or (truncation or {}).get("direction") or "right").lower()
    return side if side in ("left", "right") else "right"


def _fixed_length(report: BuildReport | None) -> int | None:
    """The one length that the artifact takes; None if it takes any."""
    for tensor in report.inputs if report else ():
        if len(tensor.dims) == 1 and tensor.dims[0] > 0:
            return tensor.dims[0]
    return None


def _folder(path: str | None) -> Path | None:
    if path is None:
        return None
    return Path(path) if Path(path).is_dir() else Path(path).parent
