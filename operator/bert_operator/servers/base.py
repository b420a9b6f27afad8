"""What the operator asks of an inference server's file, and what it gets back.

`plan` and its parts ask these four things and never which server it is; a new server is one new file and one line in
`servers/__init__.py`. Nothing here talks to a cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bert_operator.api import spec
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.observed import Manifest
from bert_operator.settings import HardwareProfile, Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedVersion:
    """One version of a model and the artifact that it is served from."""

    model: spec.BertModel
    version: int
    artifact_name: str
    artifact: BertArtifactSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """Where a server wants one artifact, and under which name it is asked for it."""

    served: ServedVersion
    name: str
    """The model's name as the server knows it."""
    path: str
    """Where the server's pod sees the artifact, e.g. /models/minilm/1."""


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
class Ports:
    """What the Service offers; admin ports never are among them."""

    http: int
    grpc: int
    metrics: int
    """May be the HTTP port."""
    metrics_path: str = "/metrics"

    @property
    def by_name(self) -> Mapping[str, int]:
        """Name -> number of each port, as container and Service name them."""
        named = {"http": self.http, "grpc": self.grpc}
        return named if self.metrics == self.http else named | {"metrics": self.metrics}


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerContainer:
    """The server's container, its configuration, and what its pod must grant it."""

    mounts: Sequence[Mount]
    files: Mapping[str, ConfigFile]
    """Absolute path -> generated configuration file. At least one: its content names the revision."""

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
    tensorrt_version: str = ""
    """That the image brings, if the settings say: an engine for another is refused."""


class Server(Protocol):
    """One kind of inference server."""

    @property
    def ports(self) -> Ports:
        """Where it answers."""

    def formats(self, profile: HardwareProfile) -> Sequence[spec.Format]:
        """What it can serve on such nodes; the first is what `format: auto` stands for."""

    def unsupported(self, wish: spec.BertDeploymentSpec, settings: Settings) -> list[str]:
        """What this server can't do of a spec: field, what was found, what to write instead. Empty if it can."""

    def container(
        self, served: Sequence[ServedVersion], wish: spec.BertDeploymentSpec, settings: Settings
    ) -> ServerContainer:
        """The server's container and its files. Only for a spec that `unsupported` finds nothing in."""
