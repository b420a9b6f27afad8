"""One BertDeployment whose spec could be read, with everything decisions need. Built by `plan`, read by its parts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from bert_operator import job_state
from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.observed import Manifest, Observed
from bert_operator.api.status import TunedPlan
from bert_operator.objects import pod
from bert_operator.objects.identity import Identity
from bert_operator.pod_state import Problem
from bert_operator.settings import HardwareProfile, Settings

_TEXTS: Final = {"samples": "fidelity.samplesFrom", "calibration": "calibration.texts"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """The question of one reconcile."""

    observed: Observed
    spec: api.BertDeploymentSpec
    settings: Settings
    now: datetime
    plan: TunedPlan | None = None
    """The measured plan whose values stand in `spec` instead of the user's; None: these are the user's."""

    identity: Identity = field(init=False)
    """Who owns the children."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", Identity.of(self.observed.bert))

    @property
    def profile(self) -> HardwareProfile:
        """The kind of nodes that the spec names."""
        return self.settings.hardware_profiles[self.spec.hardware.profile]

    @property
    def refresh(self) -> str:
        """Value of the refresh annotation."""
        return str((self.observed.bert["metadata"].get("annotations") or {}).get(names.REFRESH_ANNOTATION, ""))

    @property
    def store_claim_name(self) -> str:
        """Name of the claim that holds the artifacts."""
        return self.spec.storage.claim_name or self.identity.store_claim

    @property
    def store_claim(self) -> Manifest | None:
        """That claim, if it is there."""
        return self.claim(self.store_claim_name)

    def claim(self, name: str) -> Manifest | None:
        """A live claim by name."""
        return find(self.observed.claims, name)

    def one_node_claims(self, claim_names: Iterable[str]) -> tuple[str, ...]:
        """Those of the claims that only one node can mount at a time."""
        return tuple(name for name in dict.fromkeys(claim_names) if pod.one_node_only(self.claim(name)))

    def joins(self, live: Manifest) -> bool:
        """Whether to become a co-owner of somebody's Job; not of one that we left because of its queue."""
        return not self.identity.owns(live) and not job_state.misplaced(live, self.spec.builds.queue_name)

    @property
    def plain_profiles(self) -> str:
        """Names of the profiles without GPUs, for messages."""
        profiles = self.settings.hardware_profiles
        return ", ".join(sorted(name for name, one in profiles.items() if not one.resource_name)) or "none is set"

    def more_room(self, unschedulable: Problem, field: str) -> str:
        """What helps a pod that no node takes.

        Args:
            unschedulable: with the scheduler's words.
            field: whose resources the pod has, `server` or `builds`.
        """
        accelerator = self.profile.resource_name
        # The name alone may be that of a taint, which another such node has too.
        if accelerator and f"Insufficient {accelerator}" in unschedulable.message:
            return (
                f"add a node with a free {accelerator} for hardware.profile {self.spec.hardware.profile!r}, or name a "
                f"profile without GPUs ({self.plain_profiles})"
            )
        if "Insufficient" in unschedulable.message:
            return f"free CPU or memory, lower {field}.resources.requests, or add a node"
        return "change what the scheduler names (a selector, a taint, a claim), or add a node that fits"

    def claim_problem(self) -> Problem | None:
        """The first claim that the spec names and that isn't there."""
        return next((found for name, field in self._named_claims() if (found := self._missing(name, field))), None)

    def _named_claims(self) -> Iterator[tuple[str, str]]:
        """Claims that the spec names, each with the field that does."""
        if self.spec.storage.claim_name:
            yield self.spec.storage.claim_name, "storage.claimName"
        for m, model in enumerate(self.spec.models):
            for role, texts in model.build.texts.items():
                if texts.claim_name:
                    yield texts.claim_name, f"models[{m}].build.{_TEXTS[role]}.claimName"
            for v, version in enumerate(model.versions):
                if version.source.pvc:
                    yield version.source.pvc.claim_name, f"models[{m}].versions[{v}].source.pvc.claimName"

    def _missing(self, name: str, field: str) -> Problem | None:
        live = self.claim(name)
        if live is not None and "deletionTimestamp" not in live["metadata"]:
            return None
        state = "is being deleted" if live else "doesn't exist"
        message = (
            f"spec.{field}: PersistentVolumeClaim {name!r} {state} in namespace {self.identity.namespace}; "
            f"next: create it, or name another one"
        )
        return Problem(reason="ClaimNotFound", message=message)


def find(objects: Iterable[Manifest], name: str) -> Manifest | None:
    """The object of this name, or None."""
    return next((live for live in objects if live["metadata"]["name"] == name), None)
