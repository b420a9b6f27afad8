"""Runs a store Job for `bertctl artifacts`: makes it, shows its log, tells how it ended, removes it."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bert_operator import pod_state
from bert_operator.api.maintenance import StoreTask
from bert_operator.cli.cluster import Editor
from bert_operator.cli.terminal import FailureError, note, out
from bert_operator.objects import pod, store_job
from bert_operator.usage import World

_POLL_SECONDS: Final = 0.5
_START_SECONDS: Final = 300.0
"""For its image to be pulled and its claim to be mounted."""


class UnknownEndError(FailureError):
    """A Job began, and how far it came isn't known."""


class _NeverBeganError(FailureError):
    """A Job was made, and its container never ran."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """What the pods of a namespace run on, taken from one that serves."""

    image: str
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    tolerations: tuple[dict[str, Any], ...] = ()


def ground(world: World, image: str | None) -> Ground:
    """Where a store Job's image comes from: what was given, or what the serving pods' preflight runs in.

    Raises:
        FailureError: nothing serves here, so nothing tells.
    """
    for live in world.deployments:
        spec = live["spec"]["template"]["spec"]
        for container in spec.get("initContainers") or ():
            if container["name"] == "preflight":
                return Ground(
                    image=image or container["image"],
                    pull_policy=container.get("imagePullPolicy", "IfNotPresent"),
                    pull_secrets=tuple(each["name"] for each in spec.get("imagePullSecrets") or ()),
                    tolerations=tuple(spec.get("tolerations") or ()),
                )
    if image:
        return Ground(image=image)
    raise FailureError(
        "nothing serves in this namespace that would tell which image the operator has: give --image, e.g. "
        '--image "$(kubectl get deployment -n bert-system bert-operator -o '
        "jsonpath='{.spec.template.spec.containers[0].image}')\""
    )


def run(editor: Editor, task: StoreTask, where: Ground, said: list[str]) -> bool:
    """Run one Job to its end, its log on standard output; whether it did everything.

    Args:
        editor: of the namespace.
        task: what to do.
        where: what to run it in.
        said: gets the lines of the log as they come; when this returns, all of a Job that failed.

    Raises:
        UnknownEndError: it began, and its end or its log can't be read.
        FailureError: it may not be made, or its pod can't start. Nothing was done.
    """
    claim = editor.get("PersistentVolumeClaim", task.claim)
    if claim is None:
        raise FailureError(f"claim {task.claim!r} was deleted meanwhile, and its artifacts with it")
    _refuse_read_only(claim, task)
    wish = store_job.StoreJob(
        namespace=editor.namespace,
        name=f"bert-store-{task.action}-{uuid.uuid4().hex[:8]}",
        task=task,
        image=where.image,
        image_pull_policy=where.pull_policy,
        image_pull_secrets=where.pull_secrets,
        tolerations=where.tolerations,
        one_node_claim=pod.one_node_only(claim),
    )
    made = editor.create(store_job.manifest(wish))
    try:
        return _watched(editor, made, said)
    except _NeverBeganError:
        raise
    except FailureError as error:
        raise UnknownEndError(str(error)) from error


def _refuse_read_only(claim: Mapping[str, Any], task: StoreTask) -> None:
    if task.action == "rm" and pod.read_only(claim):
        raise FailureError(
            f"claim {task.claim!r} is ReadOnlyMany: nothing can be removed through it; do it through a claim of the "
            "same volume that can be written"
        )


def _watched(editor: Editor, job: Mapping[str, Any], said: list[str]) -> bool:
    try:
        return _followed(editor, str(_started(editor, job)["metadata"]["name"]), said)
    finally:
        # Also after Ctrl-C: its container is told to stop.
        editor.delete(job, "Job")


def _followed(editor: Editor, name: str, said: list[str]) -> bool:
    """Show a pod's log until it ends; whether it did everything.

    Raises:
        FailureError: its end can't be seen, or the log of one that failed can't be read whole.
    """
    for line in editor.follow(name, store_job.CONTAINER):
        out(line)
        said.append(line)
    found = _ended(editor, name)
    done = bool(found["status"]["phase"] == "Succeeded")
    read = _read_again(editor, name, said)
    problem = pod_state.problem(found)
    # What our own container has to say is in its log already.
    if problem and not any(line.startswith(problem.reason) for line in said):
        note(f"{problem.reason}: {problem.message}")
    if not (done or read):
        raise FailureError(f"pod {name} failed, and its log can't be read")
    return done


def _read_again(editor: Editor, name: str, said: list[str]) -> bool:
    """Complete what was followed, whose connection may have broken long before the pod ended; False if it can't."""
    try:
        whole = editor.whole_log(name, store_job.CONTAINER)
    except FailureError:
        whole = None
    if whole is None:
        return False
    # The last line that was followed may be half a one.
    shown = len(said) if said == whole[: len(said)] else max(0, len(said) - 1)
    for line in whole[shown:]:
        out(line)
    said[:] = whole
    return True


def _ended(editor: Editor, name: str) -> dict[str, Any]:
    """The pod, once it has ended.

    Raises:
        FailureError: it is gone, or takes too long.
    """
    deadline = time.monotonic() + store_job.DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found = editor.get("Pod", name)
        if found is None:
            raise FailureError(f"pod {name} was deleted before it had ended: try again")
        if (found.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return found
        time.sleep(_POLL_SECONDS)
    raise FailureError(f"pod {name} has not ended after {store_job.DEADLINE_SECONDS} s")


def _started(editor: Editor, job: Mapping[str, Any]) -> dict[str, Any]:
    """The Job's pod, once its container has begun.

    Raises:
        _NeverBeganError: it can't, or takes too long; the text says what holds it up.
    """
    name, deadline, said = job["metadata"]["name"], time.monotonic() + _START_SECONDS, ""
    while True:
        pods = editor.list("Pod", f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}")
        for live in pods:
            if (live.get("status") or {}).get("phase") in ("Running", "Succeeded", "Failed"):
                return live
        problem = next((found for live in pods if (found := pod_state.held_up(live))), None)
        if problem and problem.message != said:
            note(f"waiting: {problem.reason}: {problem.message}")
            said = problem.message
        if time.monotonic() > deadline:
            why = said or _refusal(editor, name) or "nobody says why"
            raise _NeverBeganError(f"Job {name} has no running pod after {_START_SECONDS:.0f} s: {why}")
        if not pods and (why := _refusal(editor, name)):
            raise _NeverBeganError(f"Job {name} gets no pod: {why}")
        time.sleep(_POLL_SECONDS)


def _refusal(editor: Editor, name: str) -> str:
    """Why the Job controller can't make its pod: a quota, Pod Security, a LimitRange."""
    events = editor.list("Event")
    ours = [each for each in events if (each.get("regarding") or {}).get("name") == name]
    return next((str(each.get("note", "")) for each in ours if each.get("reason") == "FailedCreate"), "")
