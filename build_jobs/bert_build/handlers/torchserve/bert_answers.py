"""Words for what a BERT puts out: labels, entities, spans, tokens by name. Nothing of TorchServe in it.

It travels inside each .mar beside served_bert.py, which runs the model. One function for each task, in ANSWERS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

QUESTIONS: Final = "question-answering"
MASKS: Final = "fill-mask"
VECTORS: Final = "feature-extraction"
EMBEDDING: Final = "sentence_embedding"
_LONGEST_ANSWER: Final = 30
"""Tokens."""
_BEST: Final = 5
"""How many tokens are offered for a masked one."""


@dataclass(frozen=True)
class Words:
    """A text as it was asked."""

    text: str
    pair: str | None
    encoding: Any
    """Of the tokenizer: says which token came from where."""


@dataclass(frozen=True)
class How:
    """What the answers need besides the model."""

    labels: Sequence[str]
    activation: str
    """What turns logits into scores: `softmax`, `sigmoid` or `none`."""
    mask: int | None
    tokenizer: Any


Outputs = Mapping[str, torch.Tensor]
"""Of one row, by name, without padding."""


def _label(outputs: Outputs, words: Words, how: How) -> dict[str, Any]:
    """The best label, and the scores of all."""
    del words
    scores = _activated(outputs["logits"], how.activation).tolist()
    best = max(range(len(scores)), key=scores.__getitem__)
    names = _names(how.labels, len(scores))
    return {"label": names[best], "score": scores[best], "scores": dict(zip(names, scores, strict=True))}


def _entities(outputs: Outputs, words: Words, how: How) -> dict[str, Any]:
    """The label of each word of the text: that of its first token, as such models are trained."""
    scores = torch.softmax(outputs["logits"], dim=-1)
    names = _names(how.labels, scores.shape[-1])
    found: list[dict[str, Any]] = []
    last: tuple[Any, Any] = (None, None)
    parts = zip(words.encoding.word_ids, words.encoding.sequence_ids, words.encoding.offsets, scores, strict=True)
    for word, part, (start, end), row in parts:
        text = words.pair if part == 1 else words.text
        if word is None or text is None:
            continue
        if (part, word) == last:
            found[-1] |= {"end": end, "word": text[found[-1]["start"] : end]}
            continue
        last = (part, word)
        best = int(row.argmax())
        entry = {"word": text[start:end], "label": names[best], "score": float(row[best]), "start": start, "end": end}
        found.append(entry)
    return {"tokens": found}


def _span(outputs: Outputs, words: Words, how: How) -> dict[str, Any]:
    """The part of the context that answers the question best."""
    del how
    inside = torch.tensor([part == 1 for part in words.encoding.sequence_ids])
    starts, ends = (
        torch.softmax(outputs[name].masked_fill(~inside, -torch.inf), dim=-1) for name in ("start_logits", "end_logits")
    )
    # [start, end]; an answer ends where it begins or behind, and isn't too long.
    scores = torch.outer(starts, ends).triu().tril(_LONGEST_ANSWER - 1)
    place = int(scores.argmax()) if inside.any() else -1
    if place < 0 or not torch.isfinite(scores).all():
        return {"answer": "", "score": 0.0, "start": 0, "end": 0}
    first, last = divmod(place, len(inside))
    start, end = words.encoding.offsets[first][0], words.encoding.offsets[last][1]
    return {"answer": (words.pair or "")[start:end], "score": float(scores[first, last]), "start": start, "end": end}


def _filled(outputs: Outputs, words: Words, how: How) -> dict[str, Any]:
    """The tokens that fit best where the mask token stands."""
    del words
    scores, ids = torch.softmax(outputs["mask_logits"], dim=-1).topk(min(_BEST, outputs["mask_logits"].shape[-1]))
    names = [how.tokenizer.decode([int(number)]).strip() for number in ids]
    return {"predictions": [{"token": name, "score": float(score)} for name, score in zip(names, scores, strict=True)]}


def _vector(outputs: Outputs, words: Words, how: How) -> dict[str, Any]:
    """The vector of the whole text."""
    del words, how
    return {EMBEDDING: outputs[EMBEDDING].tolist()}


ANSWERS: Final[dict[str, Callable[[Outputs, Words, How], dict[str, Any]]]] = {
    "sequence-classification": _label,
    "token-classification": _entities,
    QUESTIONS: _span,
    MASKS: _filled,
    VECTORS: _vector,
}
"""By task."""


def _names(labels: Sequence[str], count: int) -> Sequence[str]:
    return labels if len(labels) == count else [f"LABEL_{index}" for index in range(count)]


def _activated(logits: torch.Tensor, activation: str) -> torch.Tensor:
    if activation == "softmax":
        return torch.softmax(logits, dim=-1)
    return torch.sigmoid(logits) if activation == "sigmoid" else logits
