"""Who sets the Deployment's replica count, and how it passes from us to an autoscaler and back. A pure part of `plan`.

The API server knows who owns `spec.replicas` (managedFields), and a field that its last owner drops falls back to its
default: 1. So the count is handed over in steps, each of which leaves it owned:

    we own it                 a BertDeployment without `autoscaling`
    bertops-replicas too      it says the live count under a second field manager (`Plan.hold`)
    bertops-replicas alone    we apply the Deployment without the field; only then the autoscaler is made
    the autoscaler            its first write ends the second manager's ownership

The way back needs one write: the autoscaler is deleted, then the next apply takes the count, which is owned all along.
An autoscaler that isn't ours is left alone: it has the count once it has written it. An annotation tells the two
apart, since the API server calls both `kube-controller-manager`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Final

from bert_operator.api import names
from bert_operator.api.actions import Hold, Ref
from bert_operator.api.observed import Manifest
from bert_operator.case import Case, find
from bert_operator.objects import hpa
from bert_operator.pod_state import Problem

AUTOSCALER_MANAGER: Final = "kube-controller-manager"
"""How the API server calls the one who writes for every HorizontalPodAutoscaler."""
GRACE_SECONDS: Final = 300
"""An autoscaler without figures is trouble only after this long: new pods have none for their first minute."""
_NEXT: Final[Mapping[str, str]] = {
    "FailedGetResourceMetric": "see that the cluster has a metrics API (metrics-server) and that pods request CPU",
    "AmbiguousSelector": "remove the other HorizontalPodAutoscaler of these pods",
}


class Owner(Enum):
    """Who owns the replica count of a live Deployment."""

    US = "we"
    HOLDER = "our second field manager"
    AUTOSCALER = "a HorizontalPodAutoscaler, ours or not"
    OTHER = "anybody else, such as kubectl"


def owners(live: Manifest) -> frozenset[Owner]:
    """Owners of a live Deployment's `spec.replicas`; none if it was never said and so is 1 by default."""
    return frozenset(
        _owner(entry)
        for entry in live["metadata"].get("managedFields") or ()
        if "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
    )


def _owner(entry: Mapping[str, Any]) -> Owner:
    manager, applied = entry.get("manager"), entry.get("operation") == "Apply"
    if manager == names.MANAGER and applied:
        return Owner.US
    if manager == names.REPLICAS_MANAGER:
        return Owner.HOLDER
    if manager == AUTOSCALER_MANAGER and entry.get("subresource") == "scale":
        return Owner.AUTOSCALER
    return Owner.OTHER


def wished(case: Case) -> int | None:
    """The count that our Deployment asks for; None leaves it to its owner."""
    live = _deployment(case)
    if case.spec.autoscaling is not None:
        return None
    if live is not None and (case.observed.autoscalers or foreign(live)):
        return None
    return case.spec.replicas


def given(case: Case) -> bool:
    """Whether the count is our autoscaler's: until that is gone, it isn't taken back."""
    return case.spec.autoscaling is not None or bool(case.observed.autoscalers)


def foreign(live: Manifest) -> bool:
    """Whether an autoscaler that isn't ours sets the count of a live Deployment."""
    marked = names.AUTOSCALED_ANNOTATION in (live["metadata"].get("annotations") or {})
    return owners(live) == {Owner.AUTOSCALER} and not marked


def desired(case: Case, serving: Iterable[Manifest]) -> list[dict[str, Any]]:
    """The autoscaler, once we don't own the count any more: two who write it would undo each other.

    A new Deployment is made without a count. If its default, 1, is the start value too, the autoscaler comes with it.
    """
    if case.spec.autoscaling is None:
        return []
    live = _deployment(case)
    if live is not None:
        free = Owner.US not in owners(live)
    else:
        free = _start(case) == 1 and any(made["kind"] == "Deployment" for made in serving)
    return [hpa.manifest(case.identity, case.spec.autoscaling)] if free or case.observed.autoscalers else []


def hold(case: Case, wanted: Sequence[Manifest]) -> tuple[Hold, ...]:
    """What the second field manager must say before the wanted objects are applied."""
    live = _deployment(case)
    if case.spec.autoscaling is None or live is None or "deletionTimestamp" in live["metadata"]:
        return ()
    count, start, who = _count(live), _start(case), owners(live)
    applied = any(manifest["kind"] == "Deployment" for manifest in wanted)
    if count == 0:
        # An autoscaler is switched off at 0, so nobody else will raise it, or write at the same time.
        return (_hold(live, start, force=True),)
    if Owner.US in who and applied and not who & {Owner.HOLDER, Owner.AUTOSCALER}:
        return (_hold(live, count),)
    if who <= {Owner.HOLDER} and count < start and _new(case, live):
        return (_hold(live, start),)
    return ()


def release(case: Case) -> tuple[Hold, ...]:
    """Let the second field manager go once the count has another owner who keeps it."""
    live = _deployment(case)
    if live is None:
        return ()
    who = owners(live)
    keepers = who - {Owner.HOLDER} - ({Owner.US} if wished(case) is None else set())
    return (_hold(live, None),) if Owner.HOLDER in who and keepers else ()


def orphans(case: Case) -> list[Ref]:
    """Autoscalers that the spec doesn't ask for any more."""
    name = case.identity.child_name if case.spec.autoscaling is not None else None
    return [
        Ref(kind=hpa.KIND, name=live["metadata"]["name"], uid=live["metadata"]["uid"])
        for live in case.observed.autoscalers
        if live["metadata"]["name"] != name and "deletionTimestamp" not in live["metadata"]
    ]


def live_count(case: Case, live: Manifest) -> int:
    """How many pods are wished right now: by the spec, or by whoever sets the live count."""
    count = wished(case)
    return _count(live) if count is None else count


def floor(case: Case) -> int | None:
    """Fewest pods with which everything that was asked for answers; None: all that are wished."""
    if case.spec.autoscaling is not None:
        return case.spec.autoscaling.min_replicas
    return 1 if wished(case) is None else None


def words(case: Case) -> str:
    """Who sets the count, for conditions; empty if it is the spec alone."""
    live, auto, name = _deployment(case), case.spec.autoscaling, case.identity.child_name
    if auto is not None:
        bounds = f"{auto.min_replicas} to {auto.max_replicas}"
        return f"the autoscaler sets their number ({bounds}), spec.replicas is the start value only"
    if live is not None and foreign(live):
        return (
            "an autoscaler that isn't ours sets their number, spec.replicas isn't applied; next: let it scale "
            f"bertdeployment/{case.identity.name} instead, or remove it, then run "
            f"kubectl scale deployment/{name} --replicas={case.spec.replicas}"
        )
    return ""


def problem(case: Case) -> Problem | None:
    """What keeps the autoscaler from scaling, if that lasts."""
    condition = _inactive(case)
    if condition is None or _quiet_seconds(condition, case.now) > 0:
        return None
    reason, name = str(condition.get("reason", "")), case.identity.child_name
    hint = _NEXT.get(reason, "see what it says")
    message = f"HorizontalPodAutoscaler {name} can't scale ({reason}); next: {hint}: kubectl describe hpa {name}"
    return Problem(reason="AutoscalerInactive", message=message)


def recheck_seconds(case: Case) -> float | None:
    """When an autoscaler that doesn't scale has had its time, from now."""
    condition = _inactive(case)
    seconds = _quiet_seconds(condition, case.now) if condition else 0
    return seconds if seconds > 0 else None


def _inactive(case: Case) -> Mapping[str, Any] | None:
    live = find(case.observed.autoscalers, case.identity.child_name)
    if live is None or case.spec.autoscaling is None:
        return None
    for condition in (live.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "ScalingActive" and condition.get("status") == "False":
            return None if condition.get("reason") == "ScalingDisabled" else condition
    return None


def _quiet_seconds(condition: Mapping[str, Any], now: datetime) -> float:
    since = datetime.fromisoformat(condition["lastTransitionTime"])
    return GRACE_SECONDS - (now - since).total_seconds()


def _deployment(case: Case) -> Manifest | None:
    return find(case.observed.deployments, case.identity.child_name)


def _count(live: Manifest) -> int:
    return int(live["spec"].get("replicas", 1))


def _start(case: Case) -> int:
    """The spec's replicas, within the autoscaler's bounds."""
    auto = case.spec.autoscaling
    if auto is None:
        return case.spec.replicas
    return min(max(case.spec.replicas, auto.min_replicas), auto.max_replicas)


def _new(case: Case, live: Manifest) -> bool:
    """Whether no autoscaler has seen this Deployment yet, so that the start value still counts."""
    auto = find(case.observed.autoscalers, case.identity.child_name)
    # RFC 3339 in UTC: as text they compare as times.
    return auto is None or auto["metadata"]["creationTimestamp"] < live["metadata"]["creationTimestamp"]


def _hold(live: Manifest, count: int | None, *, force: bool = False) -> Hold:
    return Hold(name=live["metadata"]["name"], uid=live["metadata"]["uid"], count=count, force=force)
