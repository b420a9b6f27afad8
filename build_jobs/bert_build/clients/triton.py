"""Triton, over gRPC. The only module that imports tritonclient's gRPC client."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton

from bert_build.clients import Arrays, NotYetError, RefusedError
from bert_operator.api.report import ServedModel

_REQUEST_SECONDS: Final = 120
_PASSING: Final = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")


class TritonClient:
    """One gRPC channel."""

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address)

    def ready(self, model: ServedModel) -> bool:
        """Whether this version of the model is loaded."""
        return bool(self._ask(lambda: self._client.is_model_ready(model.name, str(model.version))))

    def infer(self, model: ServedModel, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """Ask for every output."""
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), triton.np_to_triton_dtype(array.dtype))
            tensors.append(tensor.set_data_from_numpy(array))
        version = str(model.version)
        found = self._ask(lambda: self._client.infer(model.name, tensors, version, client_timeout=_REQUEST_SECONDS))
        return {output.name: found.as_numpy(output.name) for output in found.get_response().outputs}

    def close(self) -> None:
        """Close the channel."""
        self._client.close()

    @staticmethod
    def _ask(call: Any) -> Any:  # noqa: ANN401 - tritonclient has no types
        try:
            return call()
        except triton.InferenceServerException as error:
            if error.status() in _PASSING:
                raise NotYetError(error.message()) from error
            raise RefusedError(error.message()) from error


def connect(address: str) -> TritonClient:
    """A client of the server at `host:port` of its gRPC API."""
    return TritonClient(address)
