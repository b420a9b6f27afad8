"""What a server's tensors mean, in JSON and as a table. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bert_operator.cli.terminal import table
from bert_operator.cli.tokens import Labels

Array = npt.NDArray[Any]
LOGITS: Final = "logits"
HIDDEN: Final = "last_hidden_state"
_FIRST: Final = 6
_SHOWN: Final = 60
_CLASSES_AXES: Final = 2
_TOKENS_AXES: Final = 3


def meaning(
    titles: Sequence[str], inputs: Mapping[str, Array], outputs: Mapping[str, Array], labels: Labels
) -> dict[str, Any]:
    """What the answers say, as JSON.

    Args:
        titles: of the rows: the texts, or their numbers.
        inputs: what was sent, each array with the rows first; the attention mask tells real tokens from padding.
        outputs: what came back, rows first.
        labels: of a classifier.

    Returns:
        `predictions` of a classifier, `cosines` of an encoder; empty for anything else.
    """
    logits = outputs.get(LOGITS)
    if logits is not None and logits.ndim == _CLASSES_AXES and logits.shape[1] > 1:
        return {"predictions": _predictions(titles, logits, labels)}
    hidden, mask = outputs.get(HIDDEN), inputs.get("attention_mask")
    if hidden is not None and mask is not None and hidden.ndim == _TOKENS_AXES and hidden.shape[:2] == mask.shape:
        vectors = _sentences(hidden, mask)
        return {"texts": list(titles), "cosines": np.round(vectors @ vectors.T, 6).tolist()}
    return {}


def text(found: Mapping[str, Any], outputs: Mapping[str, Array]) -> str:
    """The same for a person; shapes and first values where nothing more is known."""
    if "predictions" in found:
        rows = [[_cut(each["text"]), each["label"], f"{each['score']:.4f}"] for each in found["predictions"]]
        return table(["TEXT", "LABEL", "SCORE"], rows)
    if "cosines" in found:
        return _cosines(found["texts"], found["cosines"])
    rows = [
        [name, str(list(array.shape)), " ".join(f"{value:.4g}" for value in array.reshape(-1)[:_FIRST]) + " …"]
        for name, array in outputs.items()
    ]
    return table(["OUTPUT", "SHAPE", "FIRST VALUES"], rows)


def _predictions(titles: Sequence[str], logits: Array, labels: Labels) -> list[dict[str, Any]]:
    scores = 1 / (1 + np.exp(-logits.astype(np.float64))) if labels.several else _softmax(logits)
    columns = logits.shape[1]
    known = labels.names if len(labels.names) == columns else tuple(f"class {index}" for index in range(columns))
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
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True))


def _cosines(titles: Sequence[str], cosines: Sequence[Sequence[float]]) -> str:
    head = ["", "COSINE TO", *(f"({number})" for number in range(1, len(titles) + 1))]
    rows = [
        [f"({number})", _cut(title), *(f"{value:.3f}" for value in row)]
        for number, (title, row) in enumerate(zip(titles, cosines, strict=True), 1)
    ]
    return table(head, rows)


def _cut(title: str) -> str:
    return title if len(title) <= _SHOWN else f"{title[: _SHOWN - 1]}…"
