"""The inference servers. Add one: write its file, give it a line here."""

from collections.abc import Mapping
from typing import Final

from bert_operator.api.spec import ServerType
from bert_operator.servers.base import Server
from bert_operator.servers.tfserving import TfServing
from bert_operator.servers.torchserve import TorchServe
from bert_operator.servers.triton import Triton

SERVERS: Final[Mapping[ServerType, Server]] = {
    ServerType.TRITON: Triton(),
    ServerType.TFSERVING: TfServing(),
    ServerType.TORCHSERVE: TorchServe(),
}
