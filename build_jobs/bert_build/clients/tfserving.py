"""TF Serving, over REST in column form. Standard library only, but for the arrays."""

import http.client
import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bert_build.clients import Arrays, NotYetError, RefusedError
from bert_operator.api.report import ServedModel

_REQUEST_SECONDS: Final = 120
_SIGNATURE: Final = "serving_default"
_PASSING: Final = frozenset({408, 429, 502, 503, 504})


class TfServingClient:
    """One connection, made again whenever it breaks."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=_REQUEST_SECONDS)
        self._outputs: dict[str, list[str]] = {}
        """Path of a version -> names of its outputs: a lone one is answered without its name."""

    def ready(self, model: ServedModel) -> bool:
        """Whether this version of the model is AVAILABLE. The status itself is 200 in every state."""
        status, body = self._ask("GET", _path(model))
        if status != http.client.OK:
            return False
        return any(
            int(one["version"]) == model.version and one["state"] == "AVAILABLE"
            for one in _object(body).get("model_version_status") or ()
        )

    def infer(self, model: ServedModel, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Ask for every output."""
        names = self._output_names(model)
        columns = {name: array.tolist() for name, array in inputs.items()}
        found = self._want("POST", f"{_path(model)}:predict", {"signature_name": _SIGNATURE, "inputs": columns})
        if "outputs" not in found:
            raise RefusedError(f"the answer has no 'outputs', only {', '.join(found) or 'nothing'}")
        outputs = found["outputs"] if len(names) > 1 else {names[0]: found["outputs"]}
        return {name: np.asarray(values, np.float32) for name, values in outputs.items()}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _output_names(self, model: ServedModel) -> list[str]:
        path = _path(model)
        if path not in self._outputs:
            found = self._want("GET", f"{path}/metadata", None)
            try:
                signature = found["metadata"]["signature_def"]["signature_def"][_SIGNATURE]
                names = sorted(signature["outputs"])
            except (KeyError, TypeError) as error:
                raise RefusedError(f"its SavedModel has no signature {_SIGNATURE}") from error
            if not names:
                raise RefusedError(f"its signature {_SIGNATURE} has no outputs")
            self._outputs[path] = names
        return self._outputs[path]

    def _want(self, method: str, path: str, body: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
        status, text = self._ask(method, path, body)
        if status == http.client.OK:
            return _object(text)
        message = _error(status, text)
        raise NotYetError(message) if status in _PASSING else RefusedError(message)

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:  # noqa: ANN401 - any JSON
        content = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise NotYetError(f"{error!r}") from error


def connect(address: str) -> TfServingClient:
    """A client of the server at `host:port` of its REST API."""
    return TfServingClient(address)


def _path(model: ServedModel) -> str:
    return f"/v1/models/{model.name}/versions/{model.version}"


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise RefusedError(f"the answer is no JSON: {text[:200]!r}") from error
    if not isinstance(found, dict):
        raise RefusedError(f"the answer is no JSON object: {text[:200]!r}")
    return found


def _error(status: int, text: bytes) -> str:
    """TF Serving's own words, or what came instead."""
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}: {text[:200].decode(errors='replace')}"
