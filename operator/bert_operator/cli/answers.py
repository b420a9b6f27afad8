"""What a server's tensors mean, in JSON and as a table. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bert_operator.cli.terminal import table
from bert_operator.cli.tokens import Labels, TokenName

Array = npt.NDArray[Any]
LOGITS: Final = "logits"
HIDDEN: Final = "last_hidden_state"
EMBEDDING: Final = "sentence_embedding"
SPANS: Final = ("start_logits", "end_logits")
MASKED: Final = "mask_logits"
_FIRST: Final = 6
_SHOWN: Final = 60
_CLASSES_AXES: Final = 2
_TOKENS_AXES: Final = 3
_OFFERED: Final = 5
"""Tokens shown for a masked one."""
_LONGEST_ANSWER: Final = 30
"""Tokens."""


def meaning(
    titles: Sequence[str],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    labels: Labels,
    name: TokenName = str,
) -> dict[str, Any]:
    """What the answers say, as JSON.

    Args:
        titles: of the rows: the texts, or their numbers.
        inputs: what was sent, each array with the rows first; the attention mask tells real tokens from padding.
        outputs: what came back, rows first.
        labels: of a classifier.
        name: the text of a token id.

    Returns:
        `predictions` of a classifier, `tags` of one of tokens, `spans` that answer questions, `fills` of masked
        tokens, `cosines` of an encoder; empty for anything else.
    """
    mask = inputs.get("attention_mask")
    if mask is not None and "input_ids" in inputs:
        words = [[name(int(number)) for number in row] for row in inputs["input_ids"]]
        found = _of_tokens(titles, inputs, outputs, labels, words)
        if found:
            return found
    if MASKED in outputs:
        return {"fills": _fills(titles, outputs[MASKED], name)}
    logits = outputs.get(LOGITS)
    if logits is not None and logits.ndim == _CLASSES_AXES and logits.shape[1] > 1:
        return {"predictions": _predictions(titles, logits, labels)}
    if EMBEDDING in outputs:
        return _alike(titles, _unit(outputs[EMBEDDING].astype(np.float64)))
    hidden = outputs.get(HIDDEN)
    if hidden is not None and mask is not None and hidden.ndim == _TOKENS_AXES and hidden.shape[:2] == mask.shape:
        return _alike(titles, _sentences(hidden, mask))
    return {}


def text(found: Mapping[str, Any], outputs: Mapping[str, Array]) -> str:
    """The same for a person; shapes and first values where nothing more is known."""
    if "predictions" in found:
        rows = [[_cut(each["text"]), each["label"], f"{each['score']:.4f}"] for each in found["predictions"]]
        return table(["TEXT", "LABEL", "SCORE"], rows)
    if "answers" in found:
        return table(["TEXT", "ANSWER"], [[_cut(each["text"]), _plain(each)] for each in found["answers"]])
    if "tags" in found:
        return table(["TEXT", "TOKEN", "LABEL", "SCORE"], _tag_rows(found["tags"]))
    if "spans" in found:
        rows = [[_cut(each["text"]), each["answer"], f"{each['score']:.4f}"] for each in found["spans"]]
        return table(["TEXT", "ANSWER", "SCORE"], rows)
    if "fills" in found:
        told = [[_cut(each["text"]), each["tokens"]] for each in found["fills"]]
        rows = [[text, one["token"], f"{one['score']:.4f}"] for text, offered in told for one in offered]
        return table(["TEXT", "TOKEN", "SCORE"], rows)
    if "cosines" in found:
        return _cosines(found["texts"], found["cosines"])
    rows = [
        [name, str(list(array.shape)), " ".join(f"{value:.4g}" for value in array.reshape(-1)[:_FIRST]) + " …"]
        for name, array in outputs.items()
    ]
    return table(["OUTPUT", "SHAPE", "FIRST VALUES"], rows)


def _of_tokens(
    titles: Sequence[str],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    labels: Labels,
    words: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """What outputs with one row for each token say; empty if there are none."""
    mask = inputs["attention_mask"]
    logits = outputs.get(LOGITS)
    if logits is not None and logits.ndim == _TOKENS_AXES and logits.shape[:2] == mask.shape:
        rows = zip(titles, words, logits, mask, strict=True)
        return {
            "tags": [{"text": title, "tokens": _tags(names, row, shown, labels)} for title, names, row, shown in rows]
        }
    if all(name in outputs and outputs[name].shape == mask.shape for name in SPANS):
        second = inputs.get("token_type_ids", np.zeros_like(mask)) * mask
        places = [types if types.any() else shown for types, shown in zip(second, mask, strict=True)]
        found = zip(titles, words, *(outputs[name] for name in SPANS), places, strict=True)
        return {
            "spans": [{"text": title, **_span(names, start, end, place)} for title, names, start, end, place in found]
        }
    return {}


def _tags(names: Sequence[str], logits: Array, mask: Array, labels: Labels) -> list[dict[str, Any]]:
    """Label and score of each real token."""
    scores = _softmax(logits)
    known = _known(labels, logits.shape[1])
    return [
        {
            "token": names[int(place)],
            "label": known[int(scores[place].argmax())],
            "score": round(float(scores[place].max()), 6),
        }
        for place in np.flatnonzero(mask)
    ]


def _span(names: Sequence[str], start: Array, end: Array, place: Array) -> dict[str, Any]:
    """The tokens from the best start to the best end, where an answer may stand."""
    inside = place.astype(bool)
    starts, ends = (_softmax(np.where(inside, values, -np.inf)[None].astype(np.float64))[0] for values in (start, end))
    scores = np.tril(np.triu(np.outer(starts, ends)), _LONGEST_ANSWER - 1)
    first, last = (int(axis) for axis in np.unravel_index(scores.argmax(), scores.shape))
    answer = " ".join(names[first : last + 1])
    return {"answer": answer, "score": round(float(scores[first, last]), 6), "first_token": first, "last_token": last}


def _fills(titles: Sequence[str], logits: Array, name: TokenName) -> list[dict[str, Any]]:
    """The tokens that fit best where each text's mask token stands."""
    found = []
    for title, row in zip(titles, _softmax(logits), strict=True):
        best = np.argsort(-row)[:_OFFERED]
        offered = [{"token": name(int(number)), "score": round(float(row[number]), 6)} for number in best]
        found.append({"text": title, "tokens": offered})
    return found


def _tag_rows(tags: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [_cut(each["text"]) if number == 0 else "", one["token"], one["label"], f"{one['score']:.4f}"]
        for each in tags
        for number, one in enumerate(each["tokens"])
    ]


def _plain(answer: Mapping[str, Any]) -> str:
    """What a server said in its own words, on one line."""
    return json.dumps({key: value for key, value in answer.items() if key != "text"}, ensure_ascii=False)


def _known(labels: Labels, count: int) -> tuple[str, ...]:
    return labels.names if len(labels.names) == count else tuple(f"class {index}" for index in range(count))


def _predictions(titles: Sequence[str], logits: Array, labels: Labels) -> list[dict[str, Any]]:
    scores = 1 / (1 + np.exp(-logits.astype(np.float64))) if labels.several else _softmax(logits)
    columns = logits.shape[1]
    known = _known(labels, columns)
    return [
        {
            "text": title,
            "label": known[int(row.argmax())],
            "score": round(float(row.max()), 6),
            "scores": {name: round(float(score), 6) for name, score in zip(known, row, strict=True)},
        }
        for title, row in zip(titles, scores, strict=True)
    ]


def _softmax(logits: Array) -> Array:
    grown = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True))


def _sentences(hidden: Array, mask: Array) -> Array:
    """Mean of the real tokens' vectors, of length 1: [text, hidden]."""
    weights = mask[:, :, None].astype(np.float64)
    means = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return _unit(means)


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _alike(titles: Sequence[str], vectors: Array) -> dict[str, Any]:
    return {"texts": list(titles), "cosines": np.round(vectors @ vectors.T, 6).tolist()}


def _cosines(titles: Sequence[str], cosines: Sequence[Sequence[float]]) -> str:
    head = ["", "COSINE TO", *(f"({number})" for number in range(1, len(titles) + 1))]
    rows = [
        [f"({number})", _cut(title), *(f"{value:.3f}" for value in row)]
        for number, (title, row) in enumerate(zip(titles, cosines, strict=True), 1)
    ]
    return table(head, rows)


def _cut(title: str) -> str:
    return title if len(title) <= _SHOWN else f"{title[: _SHOWN - 1]}…"
