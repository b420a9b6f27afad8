"""How `bertctl status` looks on a terminal. Pure: what was gathered -> text."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from bert_operator.cli.terminal import table

_ENDPOINTS: Final = ("http", "grpc", "metrics")
_NEXT: Final = "next: "


def text(view: Mapping[str, Any]) -> str:
    """The screen."""
    return "\n\n".join(part for part in _parts(view) if part)


def _parts(view: Mapping[str, Any]) -> Iterator[str]:
    yield _head(view)
    yield _next(view)
    yield _conditions(view)
    yield _models(view)
    yield _pods(view)
    yield "\n\n".join(_job(job) for job in view["jobs"])
    yield _tuning(view)


def _head(view: Mapping[str, Any]) -> str:
    lines = [f"{view['namespace']}/{view['name']}: {view['stage']}, {view['server']}, {view['ready']} pods ready"]
    if not view["current"]:
        lines.append("the operator has not seen the newest spec yet: what follows is about the one before")
    lines += [f"{kind + ':':<9}{view['endpoint'][kind]}" for kind in _ENDPOINTS if view["endpoint"].get(kind)]
    return "\n".join(lines)


def _next(view: Mapping[str, Any]) -> str:
    """The one thing to do, where there is one."""
    for condition in view["conditions"]:
        if not _good(condition) and _NEXT in condition.get("message", ""):
            return _NEXT + str(condition["message"]).split(_NEXT, 1)[1]
    return ""


def _conditions(view: Mapping[str, Any]) -> str:
    rows = [
        ["✓" if _good(each) else "·", each["type"], each["status"], each["reason"], each.get("message", "")]
        for each in view["conditions"]
    ]
    return table(["", "CONDITION", "STATUS", "REASON", "MESSAGE"], rows) if rows else "no condition yet"


def _good(condition: Mapping[str, Any]) -> bool:
    """Whether nothing is left to wish for; Degraded is the only one whose good state is False."""
    if condition["type"] == "Progressing":
        return bool(condition["reason"] == "Complete")
    return bool(condition["status"] == ("False" if condition["type"] == "Degraded" else "True"))


def _models(view: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{model['name']}/{version['version']}",
            version.get("stage", ""),
            _precision(version),
            version.get("minCosine", "") or "-",
            version.get("maxAbsDifference", "") or "-",
            _short(version.get("revision", "")) or "-",
            version.get("artifact", "") or "-",
        ]
        for model in view["models"]
        for version in model.get("versions") or ()
    ]
    head = ["MODEL", "STAGE", "PRECISION", "MIN COSINE", "MAX |Δ|", "REVISION", "ARTIFACT"]
    return table(head, rows) if rows else ""


def _precision(version: Mapping[str, Any]) -> str:
    """The achieved one; with a star where it isn't what was asked for: the condition Built says why."""
    return f"{version.get('precision') or '-'}{'*' if version.get('precisionReason') else ''}"


def _short(revision: str) -> str:
    """As much of a digest as people compare."""
    kind, colon, value = revision.rpartition(":")
    return f"{kind}{colon}{value[:12]}"


def _pods(view: Mapping[str, Any]) -> str:
    rows = [
        [pod["name"], pod["phase"], "ready" if pod["ready"] else "not ready", pod["verify"], pod["problem"]]
        for pod in view["pods"]
    ]
    return table(["POD", "PHASE", "TRAFFIC", "VERIFY", "PROBLEM"], rows) if rows else "no serving pod"


def _job(job: Mapping[str, Any]) -> str:
    done, step = job["steps"], job["step"]
    place = f"step {step} ({done.index(step) + 1} of {len(done)})" if step in done else "no step has started"
    lines = [f"Job {job['job']} (model {job['model']}, attempt {job['attempt']}): {job['state']}, {place}"]
    lines += [f"  last log line: {job['log']}"] if job["log"] else []
    lines += [f"  {job['problem']}"] if job["problem"] else []
    return "\n".join(lines)


def _tuning(view: Mapping[str, Any]) -> str:
    tuning = view["tuning"] or {}
    if tuning.get("mode", "Off") == "Off":
        return ""
    head = f"tuning ({tuning['mode']}) of model {tuning.get('model', '')}: "
    if not tuning.get("measuredAt"):
        return head + "not measured yet"
    lines = [head + (_plan(tuning["plan"]) if tuning.get("plan") else "nothing measured meets the objective")]
    lines += [f"  why: {tuning['plan']['why']}"] if (tuning.get("plan") or {}).get("why") else []
    lines += [f"  served: {_plan(tuning['served'])}"] if tuning.get("served") else []
    lines += [f"  {tuning.get('points', 0)} points, measured {tuning['measuredAt']}; plot: bertctl tuning report"]
    return "\n".join(lines)


def _plan(plan: Mapping[str, Any]) -> str:
    batching = f"batches up to {plan['maxBatchSize']}" if plan.get("batching") else "no batching"
    replicas = f", {plan['replicas']} replicas" if plan.get("replicas") else ""
    speed = f"{plan['requestsPerSecond']} requests/s a pod at {plan['latencyMilliseconds']} ms (p{plan['percentile']})"
    return f"{plan['instances']} instances, {batching}{replicas}: {speed}"
