"""What a pod tells about itself: its stage, its report, its trouble. Pure reading of live pods; `plan` calls it.

Containers of ours explain themselves by termination message (`BuildFailure`); everything else (image pulls,
scheduling, out of memory, a crashing server) is recognised by what the kubelet and the scheduler say.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from bert_operator.api import names, quantities
from bert_operator.api.observed import Manifest
from bert_operator.api.report import BuildFailure, BuildReport, ExitCode

_KILLED_EXIT: Final = 137
"""By SIGKILL."""
_STOPPED_EXITS: Final = (0, 143, _KILLED_EXIT)
"""Of a server that the kubelet has stopped: in peace, by SIGTERM, by SIGKILL."""
NOT_READY: Final = "ContainerNotReady"
"""Reason of a server that was ready and no longer is."""
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
        found = _waiting_problem(status) or _terminated_problem(pod, status)
        if found:
            return found
    return _scheduling_problem(pod) or _evicted(pod) or _unresponsive(pod)


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


def _terminated_problem(pod: Manifest, status: Mapping[str, Any]) -> Problem | None:
    """A container that failed now, or that failed last and isn't up again."""
    terminated = _last_end(pod, status)
    code, name = terminated.get("exitCode", 0), str(status["name"])
    if _too_slow(pod, name, terminated):
        return _late(pod, name)
    if code == 0:
        return None
    told = _told(terminated.get("message") or "")
    if told:
        message = f"{told.message.rstrip('.')}; next: {told.next_step}" if told.next_step else told.message
        passing = code == ExitCode.PASSING
        return Problem(reason=told.reason, message=message, container=name, passing=passing, told=True)
    if terminated.get("reason") == "OOMKilled":
        message = f"container {name} ran out of memory{_more_memory(name, _memory_limit(pod, name))}"
        return Problem(reason="OutOfMemory", message=message, container=name)
    if code == _KILLED_EXIT:
        why = "it failed its liveness probe and didn't stop in time, or its node had no memory left"
        message = f"container {name} was killed (SIGKILL): {why}; {_look(pod, name)}"
        return Problem(reason="ContainerKilled", message=message, container=name, passing=True)
    detail = (terminated.get("message") or terminated.get("reason") or "").strip()[-600:]
    message = f"container {name} exited with code {code}: {detail}; {_look(pod, name)}"
    return Problem(reason="ContainerFailed", message=message, container=name, passing=code == ExitCode.PASSING)


def _last_end(pod: Manifest, status: Mapping[str, Any]) -> Mapping[str, Any]:
    """How a container ended, if it hasn't been ready since: else it would seem well in each moment between two crashes.

    One that was ready since, and isn't any more, suffers from another thing.
    """
    state = status.get("state") or {}
    terminated: Mapping[str, Any] = state.get("terminated") or {}
    up = status.get("ready") or _was_ready(pod, status)
    return terminated or ({} if up else (status.get("lastState") or {}).get("terminated") or {})


def _was_ready(pod: Manifest, status: Mapping[str, Any]) -> bool:
    """Whether a container that runs and isn't ready has been so in this run: the pod got unready after its start."""
    began = str(((status.get("state") or {}).get("running") or {}).get("startedAt") or "")
    return bool(began and _unready_since(pod) > began and not status.get("ready"))


def _too_slow(pod: Manifest, name: str, terminated: Mapping[str, Any]) -> bool:
    """Whether a container was stopped because it wasn't up in the time that its startup probe gives it."""
    allowed = _startup_seconds(pod, name)
    began, ended = str(terminated.get("startedAt") or ""), str(terminated.get("finishedAt") or "")
    stopped = terminated.get("exitCode") in _STOPPED_EXITS and terminated.get("reason") != "OOMKilled"
    if not (allowed and began and ended and stopped) or _unready_since(pod) > began:
        return False
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds() >= allowed


def _late(pod: Manifest, name: str) -> Problem:
    message = (
        f"container {name} wasn't ready {_startup_seconds(pod, name):.0f} s after its start, and was stopped: loading "
        f"or warm-up hangs, or a slow volume or too little CPU (server.resources.limits.cpu) holds it up; "
        f"{_look(pod, name)}"
    )
    return Problem(reason="StartupTimedOut", message=message, container=name)


def _unresponsive(pod: Manifest) -> Problem | None:
    """A server that runs, has been ready in this run, and isn't any more; not one that is told to end."""
    if "deletionTimestamp" in pod["metadata"]:
        return None
    for status in _statuses(pod):
        name = str(status["name"])
        if _startup_seconds(pod, name) and _was_ready(pod, status):
            message = (
                f"container {name} runs, but no longer answers its readiness probe, so it gets no requests; if it "
                f"fails its liveness probe too, it is started again; {_look(pod, name)}"
            )
            since = _unready_since(pod)
            return Problem(reason=NOT_READY, message=message, container=name, passing=True, since=since)
    return None


def _unready_since(pod: Manifest) -> str:
    """Since when not all containers are ready, RFC 3339 in UTC (as text it compares as time); empty if all are."""
    conditions = pod.get("status", {}).get("conditions", ())
    told = (c for c in conditions if c["type"] == "ContainersReady" and c["status"] == "False")
    return next((str(c.get("lastTransitionTime") or "") for c in told), "")


def _startup_seconds(pod: Manifest, name: str) -> float:
    """How long a container's startup probe waits before the kubelet stops it, at least; 0 if it has none."""
    probe = _container(pod, name).get("startupProbe") or {}
    return float(probe.get("periodSeconds", 10) * (probe.get("failureThreshold", 3) - 1)) if probe else 0.0


def _look(pod: Manifest, name: str) -> str:
    """Where to read more; the same words for each of a server's pods, or they would change with every look."""
    meta = pod["metadata"]
    where = f"-n {meta['namespace']} " if meta.get("namespace") else ""
    instance = (meta.get("labels") or {}).get(names.INSTANCE_LABEL)
    which = f"-l {names.INSTANCE_LABEL}={instance} --prefix --tail=50" if instance else meta.get("name")
    return f"next: kubectl logs {where}{which} -c {name} (--previous once it runs again)"


def _memory_limit(pod: Manifest, name: str) -> str:
    """Memory limit of a pod's container as it is written; empty if there is none."""
    return str(((_container(pod, name).get("resources") or {}).get("limits") or {}).get("memory") or "")


def _container(pod: Manifest, name: str) -> Mapping[str, Any]:
    """A container as the spec has it; empty if it has none of this name."""
    spec = pod.get("spec") or {}
    known = (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
    return next((container for container in known if container.get("name") == name), {})


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
