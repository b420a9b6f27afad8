"""What the operator saw of the world for one BertDeployment: the only input of `plan` beside settings and the clock.

Objects are plain JSON as the API server gives them, slimmed by `observe` (no managedFields, but those of a
Deployment that own its replica count). Frozen: nobody edits the past.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Manifest = Mapping[str, Any]
"""One Kubernetes object as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """One write that the API server refused, in its own words."""

    what: str
    """What was asked, e.g. `apply Deployment minilm-0b5f3c`."""
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Everything known about one BertDeployment at one moment."""

    bert: Manifest
    """The BertDeployment itself, status included."""
    deployments: tuple[Manifest, ...] = ()
    """Owned Deployments."""
    replica_sets: tuple[Manifest, ...] = ()
    """ReplicaSets of those Deployments: metadata, spec.replicas and status.replicas."""
    autoscalers: tuple[Manifest, ...] = ()
    """Owned HorizontalPodAutoscalers: metadata, spec and what their conditions say."""
    budgets: tuple[Manifest, ...] = ()
    """Owned PodDisruptionBudgets: metadata and spec."""
    network_policies: tuple[Manifest, ...] = ()
    services: tuple[Manifest, ...] = ()
    config_maps: tuple[Manifest, ...] = ()
    """Owned ConfigMaps: metadata only (they are immutable and named by their content)."""
    pods: tuple[Manifest, ...] = ()
    """Serving pods: metadata and status."""
    claims: tuple[Manifest, ...] = ()
    """PersistentVolumeClaims that the spec names, or `<name>-store`."""
    jobs: tuple[Manifest, ...] = ()
    """Build Jobs of this namespace whose request key this BertDeployment asks for, or which it co-owns."""
    job_pods: tuple[Manifest, ...] = ()
    """Pods of those Jobs: metadata and status."""
    artifacts: tuple[Manifest, ...] = ()
    """All BertArtifacts of the namespace that answer a wanted request key or live on a named claim."""
    asked: frozenset[str] = frozenset()
    """Keys of those artifacts' measurements that some BertDeployment asks for."""
    refused_pods: Mapping[str, str] = field(default_factory=dict)
    """UID of a Job without a pod -> why the Job controller can't make one, in its words."""
    refused: tuple[Refusal, ...] = ()
    """Writes that the API server refused for good at the last try (quota, admission, a field that can't change)."""
    foreign: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of objects that exist, carry a name we need, and aren't ours."""
