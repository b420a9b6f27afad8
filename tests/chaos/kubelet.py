"""A stand-in of the kubelet (and of the scheduler): no node runs here, so it says of each pod what a node would say.

The controllers are the real ones: Deployments and Jobs follow their pods as always. Builds end well at once, with a
report that fits what was asked; what is to be collected is; serving pods are ready at once. A namespace can be told
otherwise.

No container starts a second time here, so nobody judges `restartCount`: real containers are restarted on real nodes
only, in tests/e2e. That no serving pod is replaced is judged where nothing asks for it, by `made`: in R3 and R11, and
by R12's own program. The other stories change what is served, and their end says how many pods there are and of what.
"""

import asyncio
import contextlib
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp

from bert_operator.api import names
from bert_operator.api.maintenance import StoreReport, StoreTask
from bert_operator.api.report import TensorSpec
from bert_operator.objects import store_job
from chaos.api import MERGE, Api, path
from support import builders

TRIES: Final = 3
CLASSIFIES: Final = "sequence-classification"
"""A task whose answers are all of one size: only such are batched by every server."""
_LOGITS: Final = TensorSpec(name="logits", dtype="FP32", dims=[2])
_IDS: Final = {"image": "x", "imageID": "x", "ready": True, "containerID": "containerd://x"}


@dataclass(kw_only=True)
class Habits:
    """What happens to the pods of one namespace."""

    builds: bool = True
    servers: bool = True
    left: set[tuple[str, str]] = field(default_factory=set)
    """(component, instance) whose pods find no node."""


@dataclass(kw_only=True)
class Kubelet:
    """All nodes of the cluster."""

    api: Api
    habits: dict[str, Habits] = field(default_factory=lambda: defaultdict(Habits))
    pods: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: defaultdict(dict))
    """namespace -> uid -> pod, as last seen."""
    made: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    """namespace -> (component, uid) of every pod there ever was."""
    busy_at: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Play until cancelled."""
        while True:
            try:
                async for event in self.api.watch("/api/v1/pods"):
                    self._seen(event["type"], event["object"])
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.5)

    def nudge(self, namespace: str) -> None:
        """Look again at what is there: habits have changed."""
        for pod in self.pods[namespace].values():
            self._treat(pod)

    def forget(self, namespace: str) -> None:
        """A plan is over."""
        for book in (self.habits, self.pods, self.made, self.busy_at):
            book.pop(namespace, None)

    def _seen(self, event: str, pod: dict[str, Any]) -> None:
        if event not in ("ADDED", "MODIFIED", "DELETED"):
            return
        metadata = pod["metadata"]
        namespace, uid = metadata["namespace"], metadata["uid"]
        self.busy_at[namespace] = time.monotonic()
        if event == "DELETED":
            self.pods[namespace].pop(uid, None)
            return
        if uid not in self.pods[namespace]:
            self.made[namespace].append((component(pod), uid))
        self.pods[namespace][uid] = pod
        self._treat(pod)

    def _treat(self, pod: dict[str, Any]) -> None:
        habits = self.habits[pod["metadata"]["namespace"]]
        if pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") != "Pending":
            return
        which = component(pod)
        if (which, (pod["metadata"].get("labels") or {}).get(names.INSTANCE_LABEL)) in habits.left:
            return
        if which == "server" and habits.servers:
            self._patch(pod, serving(pod))
        elif which == "build" and habits.builds:
            self._patch(pod, built(pod))
        elif which == store_job.COMPONENT:
            self._patch(pod, collected(pod))

    def _patch(self, pod: Mapping[str, Any], status: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        target = path("v1", "pods", metadata["namespace"], metadata["name"], "status")
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}
        task = asyncio.ensure_future(self._send(target, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, target: str, body: dict[str, Any]) -> None:
        for _ in range(TRIES):
            with contextlib.suppress(aiohttp.ServerDisconnectedError):  # an idle connection that ends right now
                # A pod that is gone meanwhile needs no node.
                await self.api.send("PATCH", target, body, content_type=MERGE)
                return


def component(pod: Mapping[str, Any]) -> str:
    """Which of our pods it is."""
    return str((pod["metadata"].get("labels") or {}).get(names.COMPONENT_LABEL, ""))


def serving(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Status of a pod that gets traffic."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready: dict[str, str | None] = {"status": "True", "lastTransitionTime": now, "lastProbeTime": None}
    running = [builders.running(one["name"], ready=True) | _IDS for one in pod["spec"]["containers"]]
    kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    conditions = [{"type": kind, **ready} for kind in kinds]
    return {"phase": "Running", "conditions": conditions, "containerStatuses": running, "startTime": now}


def built(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Status of a build pod that ended well."""
    spec = pod["spec"]
    steps = [builders.terminated(one["name"]) | _IDS for one in spec.get("initContainers", ())]
    main = [builders.terminated(one["name"], message=report(pod)) | _IDS for one in spec["containers"]]
    return {"phase": "Succeeded", "initContainerStatuses": steps, "containerStatuses": main}


def collected(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Status of a pod that has removed all it was told to."""
    task = StoreTask.model_validate_json(_environment(pod)[names.STORE_TASK_ENV])
    said = StoreReport(removed=len(task.artifacts)).model_dump_json(by_alias=True)
    main = [builders.terminated(one["name"], message=said) | _IDS for one in pod["spec"]["containers"]]
    return {"phase": "Succeeded", "containerStatuses": main}


def _environment(pod: Mapping[str, Any]) -> dict[str, str]:
    containers = (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
    return {one["name"]: one.get("value", "") for container in containers for one in container.get("env", ())}


def report(pod: Mapping[str, Any]) -> str:
    """What such a build reports: the same artifact for the same wish, whoever asks and whenever."""
    request = json.loads(_environment(pod)[names.BUILD_REQUEST_ENV])
    wish = {key: request.get(key) for key in ("build", "huggingFace", "pvc", "s3")}
    key = hashlib.sha256(json.dumps(wish, sort_keys=True).encode()).hexdigest()
    inputs = [TensorSpec(name=name, dtype="INT64", dims=[-1]) for name in ("input_ids", "attention_mask")]
    kind = request["build"]["format"]
    made = builders.report(format=kind, artifact_key=key[:32], manifest_sha256=key, weights_digest=key, inputs=inputs)
    if request["build"]["task"] == CLASSIFIES:
        made = made.model_copy(update={"task": CLASSIFIES, "outputs": [_LOGITS]})
    return made.model_dump_json(by_alias=True)
