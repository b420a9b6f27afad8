"""`bertctl status`: one screen about a BertDeployment. Gathers, then shows; never writes."""

import argparse
import time
from collections.abc import Mapping
from typing import Any, Final

from bert_operator import pod_state
from bert_operator.api import names, steps
from bert_operator.api.digests import digest
from bert_operator.cli import screen
from bert_operator.cli.cluster import Reader
from bert_operator.cli.terminal import Exit, out, out_json
from bert_operator.objects.identity import Identity

_WATCH_SECONDS: Final = 2.0


def run(options: argparse.Namespace) -> Exit:
    """Show it once, or again whenever it changes."""
    reader = Reader(namespace=options.namespace, context=options.context, kubeconfig=options.kubeconfig)
    shown = ""
    while True:
        view = gather(reader, options.name)
        if digest(view) != shown:
            _show(view, options.output, again=bool(shown))
        shown = digest(view)
        if not options.watch:
            return Exit.OK
        time.sleep(_WATCH_SECONDS)


def _show(view: Mapping[str, Any], output: str, *, again: bool) -> None:
    if output == "json":
        out_json(view)
    else:
        out(("\n" + "─" * 60 + "\n" if again else "") + screen.text(view))


def gather(reader: Reader, name: str) -> dict[str, Any]:
    """Everything there is to say, as JSON.

    Raises:
        FailureError: there is no such BertDeployment, or something may not be read.
    """
    bert = reader.bert(name)
    status = bert.get("status") or {}
    who = Identity.of(bert)
    pods = reader.list("Pod", ",".join(f"{key}={value}" for key, value in who.selector().items()))
    summary = status.get("summary") or {}
    return {
        "name": name,
        "namespace": reader.namespace,
        "server": str(((bert.get("spec") or {}).get("server") or {}).get("type", "")),
        "stage": str(summary.get("stage") or "Unseen"),
        "ready": f"{status.get('readyReplicas') or 0}/{_wished(reader, bert, who.child_name)}",
        "current": status.get("observedGeneration") == bert["metadata"].get("generation"),
        "endpoint": status.get("endpoint") or {},
        "conditions": status.get("conditions") or [],
        "models": status.get("models") or [],
        "pods": [_pod(pod) for pod in pods],
        "jobs": [_job(reader, job) for job in _jobs(reader, who)],
        "tuning": status.get("tuning"),
    }


def _wished(reader: Reader, bert: Mapping[str, Any], deployment: str) -> int:
    """Pods there should be: what the Deployment says, as autoscalers and measured plans set that; else the spec."""
    asked = (reader.get("Deployment", deployment) or bert).get("spec") or {}
    return int(asked.get("replicas", 1))


def _pod(pod: Mapping[str, Any]) -> dict[str, Any]:
    problem = pod_state.problem(pod)
    return {
        "name": pod["metadata"]["name"],
        "phase": "Terminating"
        if pod["metadata"].get("deletionTimestamp")
        else (pod.get("status") or {}).get("phase", ""),
        "ready": pod_state.ready(pod),
        "verify": _verify(pod),
        "node": (pod.get("spec") or {}).get("nodeName", ""),
        "problem": f"{problem.reason}: {problem.message}" if problem else "",
    }


def _verify(pod: Mapping[str, Any]) -> str:
    """What the sidecar says of the server's answers: it is ready once they match."""
    wished = [container["name"] for container in (pod.get("spec") or {}).get("initContainers") or ()]
    if "verify" not in wished:
        return "off"
    statuses = (pod.get("status") or {}).get("initContainerStatuses") or ()
    found: Mapping[str, Any] = next((each for each in statuses if each["name"] == "verify"), {})
    if found.get("ready"):
        return "matched"
    state = found.get("state") or {}
    last = (found.get("lastState") or {}).get("terminated") or state.get("terminated")
    if last and last.get("exitCode"):
        return "failed"
    return "asking" if "running" in state else "waiting"


def _jobs(reader: Reader, who: Identity) -> list[dict[str, Any]]:
    """Jobs that it waits for, or that failed and stay as evidence: builds, compilations, measurements."""
    ours = [job for job in reader.list("Job", f"{names.MANAGED_BY}={names.MANAGER}") if who.owns(job)]
    return [job for job in ours if _ended(job) != "Complete"]


def _ended(job: Mapping[str, Any]) -> str:
    conditions = (job.get("status") or {}).get("conditions") or ()
    ended = (each["type"] for each in conditions if each["status"] == "True")
    return next((kind for kind in ended if kind in {"Complete", "Failed"}), "")


def _job(reader: Reader, job: Mapping[str, Any]) -> dict[str, Any]:
    labels = job["metadata"].get("labels") or {}
    selector = f"batch.kubernetes.io/controller-uid={job['metadata']['uid']}"
    pods = reader.list("Pod", selector)
    pod = max(pods, key=lambda each: str(each["metadata"].get("creationTimestamp")), default=None)
    step = pod_state.stage(pod) if pod else ""
    problem = pod_state.problem(pod) if pod else None
    return {
        "job": job["metadata"]["name"],
        "model": (job["metadata"].get("annotations") or {}).get(f"{names.GROUP}/model", ""),
        "attempt": int(labels.get(names.ATTEMPT_LABEL) or 1),
        "state": _ended(job) or ("Running" if pod else "Waiting"),
        "step": step,
        "steps": _steps(pod) if pod else [],
        "log": reader.last_line(pod["metadata"]["name"], step) if pod and step else "",
        "problem": f"{problem.reason}: {problem.message}" if problem else "",
    }


def _steps(pod: Mapping[str, Any]) -> list[str]:
    spec = pod.get("spec") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    return [str(container["name"]) for container in containers] or list(steps.EXPORT_STEPS)
