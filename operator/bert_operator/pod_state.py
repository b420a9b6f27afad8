"""What a pod tells about itself: its stage, its report, its trouble. Pure reading of live pods; `plan` calls it.

Containers of ours explain themselves by termination message (`BuildFailure`); everything else (image pulls,
scheduling, out of memory, a crashing server) is recognised by what the kubelet and the scheduler say.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from bert_operator.api import quantities
from bert_operator.api.observed import Manifest
from bert_operator.api.report import BuildFailure, BuildReport, ExitCode

_KILLED_EXIT: Final = 137
"""By SIGKILL."""
_WAITING_TROUBLE: Final[Mapping[str, tuple[str, str]]] = {
    "ImagePullBackOff": ("ImagePullFailed", "check the image's name and imagePullSecrets"),
    "ErrImagePull": ("ImagePullFailed", "check the image's name and imagePullSecrets"),
    "ErrImageNeverPull": ("ImagePullFailed", "load the image on the node or set imagePullPolicy to IfNotPresent"),
    "InvalidImageName": ("ImagePullFailed", "correct the image's name"),
    "CreateContainerConfigError": ("ContainerConfigError", "create the Secret or ConfigMap key that the pod names"),
    "CreateContainerError": ("ContainerCreateFailed", "see the pod's events"),
    "RunContainerError": ("ContainerStartFailed", "see the pod's events"),
}
_FIXED_MEMORY: Final[Mapping[str, str]] = {
    "preflight": "report this as a defect of bert-operator, with the pod's log",
    "verify": "lower build.maxSequenceLength, or write rollout.verify: false",
    "prepare": "report this as a defect of bert-operator, with the pod's log",
    "profile": "lower tuning.search.maxConcurrency, or name shorter tuning.lengths",
}
"""Containers of ours whose memory nobody can set, and what helps them instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Why a pod doesn't get on."""

    reason: str
    message: str
    container: str = ""
    passing: bool = False
    """Worth another try without a change by the user."""
    told: bool = False
    """The container of ours that stopped says so itself."""
    since: str = ""
    """When it began, RFC 3339, if the pod says so."""


def stage(pod: Manifest) -> str:
    """Name of the build step that a build pod is at; empty while it waits for a node."""
    name = ""
    for status in _statuses(pod):
        name, state = str(status["name"]), status.get("state") or {}
        if "terminated" not in state or state["terminated"].get("exitCode") != 0:
            return name
    return name


def report(pod: Manifest) -> BuildReport | None:
    """The report of a finished build pod's main container, or None if it left none that can be read."""
    try:
        return BuildReport.model_validate_json(last_words(pod))
    except ValidationError:
        return None


def over(pod: Manifest) -> bool:
    """Whether nothing of it runs any more."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def succeeded(pod: Manifest) -> bool:
    """Whether all of it ended well."""
    return bool(pod.get("status", {}).get("phase") == "Succeeded")


def last_words(pod: Manifest) -> str:
    """Termination message of a pod's main container; empty while it has none."""
    main: Mapping[str, Any] = next(iter(pod.get("status", {}).get("containerStatuses") or ()), {})
    return str(((main.get("state") or {}).get("terminated") or {}).get("message") or "")


def problem(pod: Manifest) -> Problem | None:
    """The first thing that keeps a pod from getting on, or None."""
    for status in _statuses(pod):
        found = _waiting_problem(status) or _terminated_problem(status, _memory_limit(pod, str(status["name"])))
        if found:
            return found
    return _scheduling_problem(pod) or _evicted(pod)


def held_up(pod: Manifest) -> Problem | None:
    """What keeps a pod waiting that has not failed: an image, a Secret, a node. It may mend by itself."""
    waiting = (_waiting_problem(status) for status in _statuses(pod))
    return next((found for found in waiting if found), None) or _scheduling_problem(pod)


def own_words(pod: Manifest) -> Problem | None:
    """What the main container said of itself, if it did: sidecars are stopped with it, and may end in any way."""
    found = problem({**pod, "status": {**pod.get("status", {}), "initContainerStatuses": []}})
    return found if found and found.told else None


def out_of_time(pod: Manifest | None) -> bool:
    """Whether the pod was stopped because its deadline had passed."""
    return ((pod or {}).get("status") or {}).get("reason") == "DeadlineExceeded"


def never_started(pod: Manifest) -> Problem | None:
    """The container of a stopped pod that no image or volume was there for; it may be there the next time.

    The kubelet forgets what a container waited for when it stops the pod: it says that it can't find the container.
    """
    held = held_up(pod)
    if held is not None:
        return replace(held, passing=True)
    for status in _statuses(pod):
        ended = (status.get("state") or {}).get("terminated") or {}
        if ended.get("reason") == "ContainerStatusUnknown" and not ended.get("startedAt"):
            message = (
                f"container {status['name']} never started: image {status.get('image')} could not be pulled, or a "
                "volume could not be mounted; next: check the image's name and imagePullSecrets, and the claim"
            )
            return Problem(reason="ContainerNotStarted", message=message, container=status["name"], passing=True)
    return None


def ready(pod: Manifest) -> bool:
    """Whether the pod gets traffic."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def _statuses(pod: Manifest) -> Iterator[Mapping[str, Any]]:
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _waiting_problem(status: Mapping[str, Any]) -> Problem | None:
    waiting = (status.get("state") or {}).get("waiting") or {}
    known = _WAITING_TROUBLE.get(waiting.get("reason", ""))
    if not known:
        return None
    reason, advice = known
    # The back-off text changes with every try; the image is what the user needs.
    detail = f"image {status.get('image')}" if reason == "ImagePullFailed" else waiting.get("message", "")
    name = status["name"]
    return Problem(reason=reason, message=f"container {name}: {detail}; next: {advice}", container=name)


def _terminated_problem(status: Mapping[str, Any], memory_limit: str) -> Problem | None:
    """A container that failed now, or that failed last and has not been ready since.

    Without the second half it would seem well in each moment between two crashes.
    """
    state = status.get("state") or {}
    last = {} if status.get("ready") else status.get("lastState") or {}
    terminated = state.get("terminated") or last.get("terminated") or {}
    code = terminated.get("exitCode", 0)
    if code == 0:
        return None
    name = status["name"]
    told = _told(terminated.get("message") or "")
    if told:
        message = f"{told.message.rstrip('.')}; next: {told.next_step}" if told.next_step else told.message
        passing = code == ExitCode.PASSING
        return Problem(reason=told.reason, message=message, container=name, passing=passing, told=True)
    if terminated.get("reason") == "OOMKilled":
        message = f"container {name} ran out of memory{_more_memory(name, memory_limit)}"
        return Problem(reason="OutOfMemory", message=message, container=name)
    if code == _KILLED_EXIT:
        message = f"container {name} was killed (SIGKILL): its node had no memory left, or it didn't stop in time"
        return Problem(reason="ContainerKilled", message=message, container=name, passing=True)
    detail = (terminated.get("message") or terminated.get("reason") or "").strip()[-600:]
    message = f"container {name} exited with code {code}: {detail}"
    return Problem(reason="ContainerFailed", message=message, container=name, passing=code == ExitCode.PASSING)


def _memory_limit(pod: Manifest, name: str) -> str:
    """Memory limit of a pod's container as it is written; empty if there is none."""
    spec = pod.get("spec") or {}
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        if container.get("name") == name:
            return str(((container.get("resources") or {}).get("limits") or {}).get("memory") or "")
    return ""


def _more_memory(name: str, limit: str) -> str:
    """How much it had, and which field to raise, and to what. Nobody knows how much it wanted: twice is a start."""
    had = f" at its limit of {limit}" if limit else ""
    if name in _FIXED_MEMORY:
        return f"{had}, which no field sets; next: {_FIXED_MEMORY[name]}"
    field = "server.resources" if name == "server" else "builds.resources"
    try:
        more = quantities.whole(quantities.parse(limit) * 2)
    except ValueError:
        return f"{had}; next: raise {field}.limits.memory"
    return f"{had}; next: write {field}.limits.memory: {more}"


def _told(message: str) -> BuildFailure | None:
    try:
        return BuildFailure.model_validate_json(message)
    except ValidationError:
        return None


def _scheduling_problem(pod: Manifest) -> Problem | None:
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = f"no node takes the pod: {condition.get('message', '')}"
            since = str(condition.get("lastTransitionTime") or "")
            return Problem(reason=condition.get("reason") or "Unschedulable", message=message, since=since)
    return None


def _evicted(pod: Manifest) -> Problem | None:
    status = pod.get("status", {})
    if status.get("phase") == "Failed":
        message = f"pod failed: {status.get('message') or status.get('reason') or 'no reason given'}"
        return Problem(reason=status.get("reason") or "PodFailed", message=message, passing=True)
    return None
