"""TF Serving's REST API: status, metadata, `:predict` in row and column form, metrics."""

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

from . import grpc_api
from .batching import Arrays
from .errors import HTTP, Code, ServingError
from .servables import DEFAULT_SIGNATURE, Servable, Servables

_MODEL: Final = r"(?i:/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?)"
_PREDICT: Final = re.compile(_MODEL + r"(?i::predict)")
_STATUS: Final = re.compile(_MODEL + r"(?i:/(?P<metadata>metadata))?")


def serve(servables: Servables, port: int, metrics_path: str) -> ThreadingHTTPServer:
    """Start the server; without a path there are no metrics."""

    class Handler(_Handler):
        pass

    Handler.servables, Handler.metrics_path = servables, metrics_path
    server = ThreadingHTTPServer(("0.0.0.0", port), Handler)  # noqa: S104 - as the real one
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    servables: Servables
    metrics_path: str
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.metrics_path and self.path == self.metrics_path:
            self._send(200, "text/plain", "\n".join(_metrics(self.servables)) + "\n")
        else:
            self._answer(None)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body: bytes | None) -> None:
        found = (_STATUS if body is None else _PREDICT).fullmatch(self.path)
        began, told, status = time.monotonic(), "OK", 200
        try:
            text = _ask(self.servables, found, body, asked=f"{self.command} {self.path}")
        except ServingError as error:
            told, status = error.code.value, HTTP[error.code]
            text = json.dumps({"error": str(error)})
        self.servables.counts.add(found["name"] if found else "", told, began)
        self._send(status, "application/json", text)

    def _send(self, status: int, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library's name
        """The real server logs no requests."""


def _ask(servables: Servables, found: "re.Match[str] | None", body: bytes | None, *, asked: str) -> str:
    if found is None:
        raise ServingError(Code.INVALID_ARGUMENT, f"Malformed request: {asked}")
    spec = _model_spec(found)
    if body is not None:
        return _predict(servables, spec, body)
    if found["metadata"]:
        return _metadata(grpc_api.metadata(servables, spec))
    return json_format.MessageToJson(grpc_api.status(servables, spec), always_print_fields_with_no_presence=True)


def _model_spec(found: "re.Match[str]") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=found["name"])
    if found["version"]:
        spec.version.value = int(found["version"])
    elif found["label"]:
        spec.version_label = found["label"]
    return spec


def _metadata(answer: Any) -> str:
    options: dict[str, Any] = {"always_print_fields_with_no_presence": True, "preserving_proto_field_name": True}
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)
    return json.dumps(
        {
            "model_spec": json_format.MessageToDict(answer.model_spec, **options),
            "metadata": {"signature_def": json_format.MessageToDict(signatures, **options)},
        }
    )


def _predict(servables: Servables, spec: model_pb2.ModelSpec, body: bytes) -> str:
    found = servables.find(spec)
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise ServingError(Code.INVALID_ARGUMENT, f"JSON Parse error: {error}") from error
    if not isinstance(asked, dict) or ("inputs" in asked) == ("instances" in asked):
        raise ServingError(Code.INVALID_ARGUMENT, "Missing 'inputs' or 'instances' key")
    columns = "inputs" in asked
    inputs = _columns(found, asked["inputs"]) if columns else _rows(found, asked["instances"])
    return json.dumps(_told(found.predict(inputs, asked.get("signature_name", "")), columns=columns))


def _told(outputs: Arrays, *, columns: bool) -> dict[str, Any]:
    """A lone output is told without its name, as the real server does."""
    plain = {name: array.tolist() for name, array in outputs.items()}
    if columns:
        return {"outputs": plain if len(plain) > 1 else next(iter(plain.values()))}
    if len(plain) == 1:
        return {"predictions": next(iter(plain.values()))}
    rows = len(next(iter(plain.values())))
    return {"predictions": [{name: values[row] for name, values in plain.items()} for row in range(rows)]}


def _columns(found: Servable, given: Any) -> Arrays:
    known = found.signatures[DEFAULT_SIGNATURE].inputs
    if not isinstance(given, dict):
        if len(known) > 1:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map",
            )
        given = {next(iter(known)): given}
    # Sorted: the map of a SavedModel's signature has no order of its own, and the message names one input.
    for name in sorted(known):
        if name not in given:
            raise ServingError(Code.INVALID_ARGUMENT, f"Missing named input: {name} in 'inputs' object.")
    return {name: _array(given[name], known[name].dtype) for name in known}


def _rows(found: Servable, given: Any) -> Arrays:
    known = found.signatures[DEFAULT_SIGNATURE].inputs
    if not isinstance(given, list) or not given:
        raise ServingError(Code.INVALID_ARGUMENT, "Expecting 'instances' to be an list/array")
    for number, row in enumerate(given):
        if not isinstance(row, dict) or set(row) != set(known):
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Failed to process element: {number} of 'instances' list. keys must be equal to: "
                f"{','.join(sorted(known))}",
            )
    return {name: _array([row[name] for row in given], known[name].dtype) for name in known}


def _array(value: Any, dtype: int) -> npt.NDArray[Any]:
    wanted = np.dtype(tf.as_dtype(dtype).as_numpy_dtype)
    try:
        array = np.array(value)
    except ValueError as error:
        raise ServingError(
            Code.INVALID_ARGUMENT, f"JSON Value: {value}: Encountered list at unexpected size"
        ) from error
    if wanted.kind == "i" and (array.dtype.kind not in "iu" or array.size == 0):
        raise ServingError(Code.INVALID_ARGUMENT, f"JSON Value: {value} Type: is not of expected type: {wanted}")
    return array.astype(wanted)


def _metrics(servables: Servables) -> Iterator[str]:
    counts = servables.counts
    yield "# TYPE :tensorflow:serving:request_count counter"
    for (model, status), number in sorted(counts.requests.items()):
        yield f':tensorflow:serving:request_count{{model_name="{model}",status="{status}"}} {number}'
    yield "# TYPE :tensorflow:serving:request_latency histogram"
    for model, seconds in sorted(counts.seconds.items()):
        number = sum(count for (name, _), count in counts.requests.items() if name == model)
        yield f':tensorflow:serving:request_latency_bucket{{model_name="{model}",le="+Inf"}} {number}'
        yield f':tensorflow:serving:request_latency_sum{{model_name="{model}"}} {seconds * 1e6:.0f}'
        yield f':tensorflow:serving:request_latency_count{{model_name="{model}"}} {number}'
