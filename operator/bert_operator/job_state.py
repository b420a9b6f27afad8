"""What a Job of ours tells about itself: its request, its end, its newest pod. Pure; `builds` and `tuning` call it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from bert_operator import pod_state
from bert_operator.api import names
from bert_operator.api.actions import Departure, Ref
from bert_operator.api.observed import Manifest
from bert_operator.pod_state import Problem

RETRY_DELAYS: Final = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30))
"""After a passing fault; then the Job waits for a person."""
AWAITED: Final = frozenset({"SecretNotFound"})
"""Faults that end when somebody makes what we can't watch: tried again for good, at the last interval."""
MAX_ATTEMPTS_WITHOUT_REPORT: Final = 3
SEEN_WITHIN: Final = timedelta(seconds=75)
"""A watch that died without a word is noticed and begun anew within 70 s: until then a pod may be there unseen."""
_REFUSED_PODS: Final = (
    ("exceeded quota", "QuotaExceeded", "lower {field}, or have the namespace's ResourceQuota raised"),
    ("must specify", "QuotaExceeded", "write what it misses into {field}, or give the namespace a LimitRange"),
    ("usage per ", "LimitRangeExceeded", "write {field} within the namespace's LimitRange"),
    ("ratio per ", "LimitRangeExceeded", "write {field} within the namespace's LimitRange"),
)
"""Words of the API server, reason and advice."""


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


def over(live: Manifest) -> bool:
    """Whether it has ended, one way or the other."""
    return bool(ended(live, "Complete") or ended(live, "Failed"))


def seconds_to_retry(
    live: Manifest, failed: Mapping[str, Any], pods: Iterable[Manifest], problem: Problem, now: datetime
) -> float | None:
    """When a failed Job is tried again, from now; not above 0 is due, None is never.

    Args:
        live: the Job.
        failed: its condition Failed.
        pods: all pods of Jobs.
        problem: why it failed.
        now: timezone-aware time.
    """
    tried = attempt(live)
    if not problem.passing or (tried > len(RETRY_DELAYS) and problem.reason not in AWAITED):
        return None
    delay = RETRY_DELAYS[min(tried, len(RETRY_DELAYS)) - 1]
    if newest_pod(live, pods) is None:  # it may come, and say that trying again is of no use
        delay = max(delay, SEEN_WITHIN)
    due = datetime.fromisoformat(failed["lastTransitionTime"]) + delay
    return (due - now).total_seconds()


def newest_pod(live: Manifest, pods: Iterable[Manifest]) -> Manifest | None:
    """The newest of the pods that are its own."""
    own = [
        pod
        for pod in pods
        if any(ref.get("uid") == live["metadata"]["uid"] for ref in pod["metadata"].get("ownerReferences", ()))
    ]
    return max(own, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def awaited_seconds(pod: Manifest | None, ended: Mapping[str, Any], now: datetime) -> float | None:
    """For how long the report of a finished Job may be on its way: kinds are watched apart.

    0 is until there is news of its pod; None: it won't come.

    Args:
        pod: its newest one, if one was seen.
        ended: the Job's condition Complete.
        now: timezone-aware time.
    """
    if pod is not None and pod_state.succeeded(pod):
        return None
    left = (datetime.fromisoformat(ended["lastTransitionTime"]) + SEEN_WITHIN - now).total_seconds()
    if pod is not None and not pod_state.over(pod):
        return max(left, 0.0)
    # A pod that failed wasn't the last one: another was disrupted and replaced.
    return left if left > 0 else None


def queued(live: Manifest) -> str:
    """What a suspended Job waits for, in words; empty if it isn't suspended. Kueue suspends the Jobs of its queues."""
    if not (live.get("spec") or {}).get("suspend"):
        return ""
    name, queue = live["metadata"]["name"], (live["metadata"].get("labels") or {}).get(names.QUEUE_LABEL)
    if queue:
        return f"Job {name} waits in queue {queue!r}; to see for what: kubectl describe localqueue {queue}"
    return f'Job {name} is suspended; to let it go on: kubectl patch job {name} -p \'{{"spec":{{"suspend":false}}}}\''


def misplaced(live: Manifest, queue: str | None) -> bool:
    """Whether a waiting Job was asked for in another queue: no queue takes it over, so it has to be made anew.

    Args:
        live: the Job.
        queue: LocalQueue that is asked for, if one is.
    """
    asked = (live["metadata"].get("annotations") or {}).get(names.QUEUE_ANNOTATION)
    return bool(queued(live)) and not over(live) and asked != queue


def without_pod(live: Manifest, pods: Iterable[Manifest]) -> bool:
    """Whether a Job that may run has no pod yet."""
    return alive(live) and not over(live) and not queued(live) and newest_pod(live, pods) is None


def held_up(live: Manifest, pods: Iterable[Manifest], refused_pods: Mapping[str, str]) -> Problem | None:
    """What keeps a Job that has not failed from getting on. It may mend by itself.

    Args:
        live: the Job.
        pods: all pods of Jobs.
        refused_pods: UID of a Job -> why it gets no pod.
    """
    if queued(live):
        return None
    pod = newest_pod(live, pods)
    if pod is not None:
        return pod_state.held_up(pod)
    why = refused_pods.get(live["metadata"]["uid"])
    return _refused_pod(live, why) if why else None


def _refused_pod(live: Manifest, why: str) -> Problem:
    # Each try is for a pod of another name, and after some minutes the Job controller's recorder combines them.
    why = re.sub(r'^(\(combined from similar events\): )?Error creating: (pods "[^"]*" is forbidden: )?', "", why)
    field = "server.resources" if component(live) == "profile" else "builds.resources"
    reason, advice = next(
        ((reason, advice) for words, reason, advice in _REFUSED_PODS if words in why),
        ("PodRefused", "change what it names, or ask whoever looks after the namespace"),
    )
    message = f"Job {live['metadata']['name']} gets no pod: {why}; next: {advice.format(field=field)}"
    return Problem(reason=reason, message=message)


def failure(live: Manifest, pods: Iterable[Manifest], failed: Mapping[str, Any], out_of_time: Problem) -> Problem:
    """Why a Job failed: what its pod says, else what the Job controller says.

    Args:
        live: the Job.
        pods: all pods of Jobs.
        failed: its condition Failed.
        out_of_time: what to say if its pod ran, and longer than it may.
    """
    pod = newest_pod(live, pods)
    if pod_state.out_of_time(pod) or failed.get("reason") == "DeadlineExceeded":
        step = pod_state.stage(pod) if pod else ""
        told = replace(out_of_time, message=out_of_time.message.replace("; next:", f" (it was at {step}); next:"))
        return (pod_state.never_started(pod) if pod else None) or (told if step else out_of_time)
    problem = pod_state.own_words(pod) or pod_state.problem(pod) if pod else None
    if problem is not None:
        return problem
    # No pod is left to tell: somebody deleted it, or its node is gone. That passes.
    message = f"Job {live['metadata']['name']}: {failed.get('message', '')}"
    return Problem(reason=failed.get("reason") or "JobFailed", message=message, passing=True)


def done_with(
    jobs: Sequence[Manifest], *, recorded: Iterable[str], wanted: Iterable[str], queue: str | None, uid: str
) -> list[Ref | Departure]:
    """Jobs that have done their duty or that we don't want any more: the last one to ask for it ends a Job.

    Args:
        jobs: of one component.
        recorded: keys whose answer is written down.
        wanted: keys that we ask for.
        queue: LocalQueue in which our Jobs wait, if they do.
        uid: ours.
    """
    recorded, wanted = set(recorded), set(wanted)
    latest: dict[str, int] = {}
    for live in jobs:
        latest[key(live)] = max(latest.get(key(live), 0), attempt(live))
    going: list[Ref | Departure] = []
    for live in filter(alive, jobs):
        done = (ended(live, "Complete") and key(live) in recorded) or attempt(live) < latest[key(live)]
        owners = [ref.get("uid") for ref in live["metadata"].get("ownerReferences") or ()]
        unwanted = (key(live) not in wanted or misplaced(live, queue)) and uid in owners
        if done or (unwanted and owners == [uid]):
            going.append(Ref(kind="Job", name=live["metadata"]["name"], uid=live["metadata"]["uid"]))
        elif unwanted:
            going.append(_departure(live, uid))
    return going


def _departure(live: Manifest, uid: str) -> Departure:
    meta = live["metadata"]
    version = str(meta.get("resourceVersion", ""))
    return Departure(kind="Job", name=meta["name"], uid=meta["uid"], owner_uid=uid, resource_version=version)
