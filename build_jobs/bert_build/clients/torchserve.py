"""TorchServe, over REST: tensors in, and texts where a golden request holds one. Standard library and numpy only."""

import http.client
import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bert_build.clients import Arrays, NotYetError, RefusedError
from bert_operator.api.report import ServedModel

_REQUEST_SECONDS: Final = 125
"""A little longer than the server itself waits for an answer."""
_OK: Final = 200
_PASSING: Final = (429, 500, 502, 503, 504, 507)
"""Full queues, workers that start or were lost."""
_DEFECTS: Final = ("Prediction failed", "PredictionException")
"""Said with a passing status by a handler that would fail again."""
TEXT: Final = "text"
PAIR: Final = "text_pair"


class TorchServeClient:
    """One server; a connection for each request, as it closes idle ones without a word."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ready(self, model: ServedModel) -> bool:
        """Whether the server is there; whether this model is, only an answer can tell from outside the pod."""
        del model
        status, _ = self._ask("GET", "/ping")
        return status == _OK

    def infer(self, model: ServedModel, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Ask for the model's output, row by row for texts."""
        path = f"/predictions/{model.name}/{model.version}"
        answers = [self._answer(path, body) for body in _bodies(inputs)]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    def close(self) -> None:
        """Nothing is kept open."""

    def _answer(self, path: str, body: dict[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
        status, text = self._ask("POST", path, json.dumps(body))
        if status != _OK:
            message = _message(text) or f"HTTP {status}"
            if status in _PASSING and not any(word in text for word in _DEFECTS):
                raise NotYetError(message)
            raise RefusedError(message)
        try:
            return {name: np.asarray(values, dtype=np.float32) for name, values in json.loads(text).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise RefusedError(f"the answer is no object of tensors: {text[:200]}") from error

    def _ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._address, timeout=_REQUEST_SECONDS)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise NotYetError(str(error)) from error
        finally:
            connection.close()


def connect(address: str) -> TorchServeClient:
    """A client of the server at `host:port` of its REST API."""
    return TorchServeClient(address)


def _bodies(inputs: Arrays) -> list[dict[str, Any]]:
    """One request for all rows of tensors; TorchServe takes texts one by one."""
    if TEXT not in inputs:
        return [{name: values.tolist() for name, values in inputs.items()}]
    words = [name for name in (TEXT, PAIR) if name in inputs]
    return [{name: str(inputs[name][row]) for name in words} | {"raw": True} for row in range(len(inputs[TEXT]))]


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, LookupError, TypeError):
        return text.strip()[:200]
