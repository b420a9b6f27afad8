"""What a Job of ours tells about itself: its request, its end, its newest pod. Pure; `builds` and `tuning` call it."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from bert_operator.api import names
from bert_operator.api.observed import Manifest

RETRY_DELAYS: Final = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30))
"""After a passing fault; then the Job waits for a person."""
MAX_ATTEMPTS_WITHOUT_REPORT: Final = 3


def key(live: Manifest) -> str:
    """What was asked."""
    return str((live["metadata"].get("labels") or {}).get(names.REQUEST_LABEL, ""))


def attempt(live: Manifest) -> int:
    """Which try of its request it is, from 1."""
    text = str((live["metadata"].get("labels") or {}).get(names.ATTEMPT_LABEL, ""))
    return int(text) if text.isdecimal() else 1


def component(live: Manifest) -> str:
    """What kind of Job: build or profile."""
    return str((live["metadata"].get("labels") or {}).get(names.COMPONENT_LABEL, ""))


def alive(live: Manifest) -> bool:
    """Whether it isn't being deleted."""
    return "deletionTimestamp" not in live["metadata"]


def ended(live: Manifest, how: str) -> Mapping[str, Any] | None:
    """Its condition Complete or Failed, if that is true."""
    for condition in live.get("status", {}).get("conditions") or ():
        if condition["type"] == how and condition["status"] == "True":
            found: Mapping[str, Any] = condition
            return found
    return None


def seconds_to_retry(live: Manifest, failed: Mapping[str, Any], now: datetime) -> float | None:
    """When a Job that a passing fault ended is tried again, from now; not above 0 is due, None is never.

    Args:
        live: the Job.
        failed: its condition Failed.
        now: timezone-aware time.
    """
    tried = attempt(live)
    if tried > len(RETRY_DELAYS):
        return None
    due = datetime.fromisoformat(failed["lastTransitionTime"]) + RETRY_DELAYS[tried - 1]
    return (due - now).total_seconds()


def newest_pod(live: Manifest, pods: Iterable[Manifest]) -> Manifest | None:
    """The newest of the pods that are its own."""
    own = [
        pod
        for pod in pods
        if any(ref.get("uid") == live["metadata"]["uid"] for ref in pod["metadata"].get("ownerReferences", ()))
    ]
    return max(own, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def owned_by_alone(live: Manifest, uid: str) -> bool:
    """Whether nobody else asked for it."""
    return [ref.get("uid") for ref in live["metadata"].get("ownerReferences") or ()] == [uid]
