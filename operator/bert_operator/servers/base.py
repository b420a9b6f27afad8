"""What the operator asks of an inference server's file, and what it gets back.

`objects/deployment.py` and `plan` call these four questions and never ask which server it is; a new server is one new
file and one line in `servers/__init__.py`. Nothing here talks to a cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bert_operator.api import names, spec
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.observed import Manifest
from bert_operator.api.status import Endpoint
from bert_operator.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedVersion:
    """One version of a model and the artifact that it is served from."""

    model: spec.BertModel
    version: int
    artifact_name: str
    artifact: BertArtifactSpec

    @property
    def server_name(self) -> str:
        """The model's name as the server knows it: unversioned requests of `name` get the default version."""
        default = self.version == self.model.default
        return self.model.name if default else f"{self.model.name}-v{self.version}"

    @property
    def mount_path(self) -> str:
        """Where the server's pod sees the artifact."""
        return f"{names.MODELS_MOUNT}/{self.server_name}/{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigFile:
    """One generated configuration file."""

    key: str
    """Its key in the ConfigMap."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """A volume of its own that the server needs, mounted writable."""

    name: str
    mount_path: str
    source: Manifest
    """The volume's source, e.g. {"emptyDir": {...}}."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerContainer:
    """The server's container, its configuration, and what its pod must grant it."""

    files: Mapping[str, ConfigFile]
    """Path below the model repository -> generated configuration file."""

    image: str
    command: Sequence[str]
    args: Sequence[str]
    env: Mapping[str, str]
    startup_probe: Manifest
    readiness_probe: Manifest
    liveness_probe: Manifest
    lifecycle: Manifest
    resources: Manifest
    """Requests and limits: the spec's, completed by what the artifacts need."""
    termination_grace_seconds: int
    run_as_user: int
    volumes: Sequence[Volume] = field(default_factory=tuple)
    """Everything writable; the root file system is read-only."""


class Server(Protocol):
    """One kind of inference server."""

    @property
    def ports(self) -> Mapping[str, int]:
        """Name -> number of the ports that the Service offers; admin ports never are among them."""

    def unsupported(self, wish: spec.BertDeploymentSpec, settings: Settings) -> list[str]:
        """What this server can't do of a spec: field, what was found, what to write instead. Empty if it can."""

    def container(
        self, served: Sequence[ServedVersion], wish: spec.BertDeploymentSpec, settings: Settings
    ) -> ServerContainer:
        """The server's container and its files. Only for a spec that `unsupported` finds nothing in."""

    def endpoints(self, name: str, namespace: str) -> Endpoint:
        """Where clients reach the Service `name`."""
