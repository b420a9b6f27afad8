"""What a plan asks `cluster` to do. Plain values: made by `plan`, carried by `reconcile`, done by `cluster`."""

from dataclasses import dataclass
from typing import Literal

from bert_operator.api.observed import Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Ref:
    """One live object, so that a same-named successor is never hit."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Adoption:
    """Add our non-controller owner reference to a shared Job, removing nobody else's."""

    kind: str
    name: str
    uid: str
    owner_reference: Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Departure:
    """Take our owner reference, and nobody else's, off a Job that others still want."""

    kind: str
    name: str
    uid: str
    owner_uid: str
    """Ours."""
    resource_version: str
    """That was judged: if others leave too, one of us is the last and must see it, for nobody collects an object
    without owners."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """What our second field manager says of a Deployment's replica count, so that it never goes unowned."""

    name: str
    uid: str
    count: int | None
    """None lets go of it."""
    force: bool = False
    """Whether to say it even against somebody else's count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """One Kubernetes Event about the BertDeployment."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything one reconcile does, in the order of the fields. An empty plan sends no request."""

    hold: tuple[Hold, ...] = ()
    """First of all; without it nothing else is written: dropping a count that nobody holds sets it to 1."""
    apply: tuple[Manifest, ...] = ()
    """Server-side applied under our field manager. A manifest with metadata.uid updates that very object;
    one without is new."""
    create: tuple[Manifest, ...] = ()
    """POSTed; "already exists" is fine (somebody asked for the same build)."""
    adopt: tuple[Adoption, ...] = ()
    leave: tuple[Departure, ...] = ()
    release: tuple[Hold, ...] = ()
    """Counts that somebody else owns by now."""
    delete: tuple[Ref, ...] = ()
    status: Manifest | None = None
    """The whole new status, or None if it says already what is true."""
    notes: tuple[Note, ...] = ()
    """Posted after the status was written."""
    recheck_after_seconds: float | None = None
    """Look again then, even if nothing stirs."""
