"""What build and profile Jobs have in common: several owners, no retries by Kubernetes, an end by exit code."""

from collections.abc import Mapping
from typing import Any

from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.report import ExitCode
from bert_operator.objects import identity


def labels(who: identity.Identity, component: str, request: str, attempt: int) -> dict[str, str]:
    """Labels of the Job and its pod."""
    made = who.labels(component) | {names.REQUEST_LABEL: request, names.ATTEMPT_LABEL: str(attempt)}
    del made[names.OWNER_LABEL]  # a Job is shared: its owners are in ownerReferences
    return made


def metadata(
    who: identity.Identity, name: str, made: Mapping[str, str], model: str, queue: str | None
) -> dict[str, Any]:
    """Metadata of the Job.

    Args:
        who: the first that asks.
        name: one per request, whoever asks.
        made: its labels.
        model: the model's name, for people.
        queue: Kueue's LocalQueue. Kueue suspends what names one; without Kueue nothing would wake what we suspend.
    """
    told = {f"{names.GROUP}/requested-by": who.name, f"{names.GROUP}/model": model}
    return {
        "name": name,
        "namespace": who.namespace,
        "labels": dict(made) | ({names.QUEUE_LABEL: queue} if queue else {}),
        "annotations": told | ({names.QUEUE_ANNOTATION: queue} if queue else {}),
        "ownerReferences": [who.owner_reference(controller=False)],
    }


def failure_policy() -> dict[str, Any]:
    """A drained or preempted pod is tried again; every exit of ours ends the Job, and its code says what comes next."""
    ours = sorted(code.value for code in ExitCode if code is not ExitCode.OK)
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": ours}},
    ]
    return {"rules": rules}


def template_metadata(template: api.PodTemplate, made: Mapping[str, str], claims: tuple[str, ...]) -> dict[str, Any]:
    """Metadata of the pod.

    Args:
        template: the user's additions; our labels win.
        made: the Job's labels.
        claims: names of mounted claims that only one node can mount at a time.
    """
    told: dict[str, Any] = {"labels": {**template.labels, **made, **identity.claim_labels(*claims)}}
    return told | ({"annotations": dict(template.annotations)} if template.annotations else {})
