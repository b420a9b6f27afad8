"""PredictionService.Predict, .GetModelMetadata and ModelService.GetModelStatus on gRPC."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from .errors import ServingError
from .servables import Servables


def serve(servables: Servables, port: int) -> grpc.Server:
    """Start the server."""
    server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", -1)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Prediction(servables), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(servables), server)
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    return server


def metadata(servables: Servables, spec: Any) -> Any:
    """GetModelMetadataResponse of a version that can be asked."""
    found = servables.find(spec)
    answer = get_model_metadata_pb2.GetModelMetadataResponse()
    answer.model_spec.name = found.name
    answer.model_spec.version.value = found.version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in found.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    answer.metadata["signature_def"].Pack(signatures)
    return answer


def status(servables: Servables, spec: Any) -> Any:
    """GetModelStatusResponse."""
    answer = get_model_status_pb2.GetModelStatusResponse()
    for one in servables.statuses(spec):
        about = answer.model_version_status.add(version=one.version, state=one.state)
        about.status.error_code = 2 if one.error else 0  # UNKNOWN or OK
        about.status.error_message = one.error
    return answer


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    def __init__(self, servables: Servables) -> None:
        self._servables = servables

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        return _guarded(self._servables, request.model_spec.name, context, lambda: self._predict(request))

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        return _guarded(
            self._servables, request.model_spec.name, context, lambda: metadata(self._servables, request.model_spec)
        )

    def _predict(self, request: Any) -> Any:
        found = self._servables.find(request.model_spec)
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        outputs = found.predict(inputs, request.model_spec.signature_name)
        answer = predict_pb2.PredictResponse()
        answer.model_spec.name = found.name
        answer.model_spec.version.value = found.version
        answer.model_spec.signature_name = request.model_spec.signature_name or "serving_default"
        for name, array in outputs.items():
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return answer


class _Models(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    def __init__(self, servables: Servables) -> None:
        self._servables = servables

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        return _guarded(None, "", context, lambda: status(self._servables, request.model_spec))


def _guarded(servables: Servables | None, model: str, context: Any, do: Callable[[], Any]) -> Any:
    began, told = time.monotonic(), "OK"
    try:
        return do()
    except ServingError as error:
        told = error.code.value
        return context.abort(grpc.StatusCode[told], str(error))
    finally:
        if servables:
            servables.counts.add(model, told, began)
