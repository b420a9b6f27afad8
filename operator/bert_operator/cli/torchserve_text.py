"""Texts for TorchServe, whose handler has the tokenizer and the labels itself. Called by `predict`; plain HTTP."""

import http.client
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bert_operator.cli.answers import HIDDEN, LOGITS
from bert_operator.cli.target import Target
from bert_operator.cli.terminal import FailureError

Arrays = dict[str, npt.NDArray[Any]]
_SECONDS: Final = 120
_OK: Final = 200
_BAD_REQUEST: Final = 400


def predictions(asked: Target, texts: Sequence[str]) -> list[dict[str, Any]] | None:
    """Label and scores of each text, as the handler words them; None if the model is no classifier.

    Raises:
        FailureError: the server can't be reached or refused a text.
    """
    if asked.report and all(tensor.name != LOGITS for tensor in asked.report.outputs):
        return None
    found = []
    for text in texts:
        status, body = _post(asked, {"text": text})
        if status == _BAD_REQUEST and asked.report is None and "no labels" in body:
            return None
        found.append({"text": text, **_answered(status, body)})
    return found


def vectors(asked: Target, texts: Sequence[str]) -> tuple[Arrays, Arrays]:
    """The vectors of every token of each text.

    Returns:
        An attention mask [text, token] and `last_hidden_state` [text, token, hidden], padded to the longest text.

    Raises:
        FailureError: the server can't be reached or refused a text.
    """
    rows = [
        np.array(_answered(*_post(asked, {"text": text, "raw": True}))[HIDDEN][0], dtype=np.float32) for text in texts
    ]
    mask = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    hidden = np.zeros((*mask.shape, rows[0].shape[1]), dtype=np.float32)
    for number, row in enumerate(rows):
        mask[number, : len(row)] = 1
        hidden[number, : len(row)] = row
    return {"attention_mask": mask}, {HIDDEN: hidden}


def _post(asked: Target, body: dict[str, Any]) -> tuple[int, str]:
    host, _, port = asked.address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=_SECONDS)
    try:
        target = f"/predictions/{asked.served.name}/{asked.served.version}"
        connection.request("POST", target, json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise FailureError(f"torchserve at {asked.address} doesn't answer: {error}") from error
    finally:
        connection.close()


def _answered(status: int, body: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    if status != _OK or not isinstance(answer, dict):
        said = answer.get("message") if isinstance(answer, dict) else ""
        raise FailureError(f"torchserve refused the request: {said or body[:200] or f'HTTP {status}'}")
    return answer
