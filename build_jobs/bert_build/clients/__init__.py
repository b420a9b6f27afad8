"""Asks a running server, whatever its kind: used by `verify` beside it and by `bertctl predict` from afar.

A new server is one module here and one line in CLIENTS. Each holds a class called with `host:port` that behaves as a
`Client`; modules are imported by name, because verify must stay small.
"""

import importlib
from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from bert_operator.api.report import ServedModel

Arrays = Mapping[str, npt.NDArray[Any]]
"""Tensors of one request or answer by name, batch axis included."""


class NotYetError(Exception):
    """The server isn't there or is too busy: asked again, for it says nothing about the answers."""


class RefusedError(Exception):
    """The server refused a request; the text says why."""


class Client(Protocol):
    """One connection to a server."""

    def ready(self, model: ServedModel, /) -> bool:
        """Whether the model says that it can be asked.

        Raises:
            NotYetError: the server can't be reached yet.
        """

    def infer(self, model: ServedModel, inputs: Arrays, /) -> dict[str, npt.NDArray[np.float32]]:
        """Ask one request.

        Raises:
            NotYetError: worth asking again.
            RefusedError: the server refused it.
        """

    def close(self) -> None:
        """Give the connection back."""


CLIENTS: Final = {
    "triton": ("bert_build.clients.triton", "localhost:8001"),
    "tfserving": ("bert_build.clients.tfserving", "localhost:8501"),
    "torchserve": ("bert_build.clients.torchserve", "localhost:8080"),
}
"""Kind of server -> module and where it answers inside its pod."""


def connect(kind: str, address: str = "") -> Client:
    """A client of such a server; without an address, of the one in the same pod."""
    module, beside = CLIENTS[kind]
    client: Client = importlib.import_module(module).connect(address or beside)
    return client
