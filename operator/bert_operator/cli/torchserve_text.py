"""Texts for TorchServe, whose handler has the tokenizer and the labels itself. Called by `predict`; plain HTTP."""

import http.client
import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bert_operator.cli.answers import EMBEDDING, HIDDEN
from bert_operator.cli.target import Target
from bert_operator.cli.terminal import FailureError

Arrays = dict[str, npt.NDArray[Any]]
_SECONDS: Final = 120
_OK: Final = 200
_BAD_REQUEST: Final = 400


def answers(asked: Target, texts: Sequence[str], context: str | None) -> list[dict[str, Any]] | None:
    """What the handler says of each text in words; None if the model makes vectors.

    Raises:
        FailureError: the server can't be reached or refused a text.
    """
    if asked.report and any(tensor.name == HIDDEN for tensor in asked.report.outputs):
        return None
    found = []
    for text in texts:
        status, body = _post(asked, {"text": text} | ({} if context is None else {"text_pair": context}))
        if status == _BAD_REQUEST and asked.report is None and "no labels" in body:
            return None
        answer = _answered(status, body)
        if EMBEDDING in answer:
            return None
        found.append({"text": text, **answer})
    return found


def vectors(asked: Target, texts: Sequence[str]) -> tuple[Arrays, Arrays]:
    """The vectors of each text.

    Returns:
        An attention mask [text, token], and `last_hidden_state` [text, token, hidden] padded to the longest text or,
        where the model gives one, `sentence_embedding` [text, hidden].

    Raises:
        FailureError: the server can't be reached or refused a text.
    """
    answered = [_answered(*_post(asked, {"text": text, "raw": True})) for text in texts]
    rows = [np.array(answer[HIDDEN][0], dtype=np.float32) for answer in answered]
    mask = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    hidden = np.zeros((*mask.shape, rows[0].shape[1]), dtype=np.float32)
    for number, row in enumerate(rows):
        mask[number, : len(row)] = 1
        hidden[number, : len(row)] = row
    if all(EMBEDDING in answer for answer in answered):
        pooled = np.array([answer[EMBEDDING][0] for answer in answered], dtype=np.float32)
        return {"attention_mask": mask}, {EMBEDDING: pooled}
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
