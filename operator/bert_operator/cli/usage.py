"""Which artifacts are in use, and by whom. Pure: objects as the API server has them -> names.

Live is what any BertDeployment, Deployment, ReplicaSet, pod or Job refers to, whether it serves or may serve again: a
ReplicaSet within the history is the way back. When in doubt, something is in use.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bert_operator import job_state
from bert_operator.api import names
from bert_operator.objects import deployment

Live = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Everything of a namespace that may refer to an artifact."""

    berts: list[dict[str, Any]]
    deployments: list[dict[str, Any]]
    replica_sets: list[dict[str, Any]]
    pods: list[dict[str, Any]]
    jobs: list[dict[str, Any]]


def users(record: Live, world: World) -> list[str]:
    """Who refers to an artifact: BertDeployments by their names, everything else by kind and name.

    Args:
        record: its BertArtifact.
        world: what may refer to it.
    """
    named = [_title(live) for live in world.berts if _named_by_bert(record, live)]
    named += [_served_for(live) for live in world.deployments if _told(record, live)]
    makers = (*world.deployments, *world.replica_sets)
    named += [_served_for(live) for live in makers if _mounts(record, _template(live))]
    named += [_served_for(live) for live in world.pods if not _over(live) and _mounts(record, live.get("spec") or {})]
    named += [_title(live) for live in world.jobs if not job_state.over(live) and _needed_by_job(record, live)]
    return list(dict.fromkeys(named))


def unsettled(claim: str, world: World) -> list[str]:
    """What may be about to want any artifact of a claim: which one can't be seen from outside.

    A build Job that runs, and a BertDeployment whose newest spec the operator has not looked at.
    """
    jobs = [
        _title(live)
        for live in world.jobs
        if not job_state.over(live) and job_state.component(live) == "build" and claim in _claims(_template(live))
    ]
    unseen = [_title(live) for live in world.berts if _claim_of(live) == claim and not _seen(live)]
    return jobs + unseen


def _claim_of(bert: Live) -> str:
    storage = (bert.get("spec") or {}).get("storage") or {}
    return str(storage.get("claimName") or f"{bert['metadata']['name']}-store")


def _seen(bert: Live) -> bool:
    return bool((bert.get("status") or {}).get("observedGeneration") == bert["metadata"].get("generation"))


def _named_by_bert(record: Live, bert: Live) -> bool:
    """By its spec, by its status, or by the request that its status says it made.

    The status doesn't name what an engine is compiled from, nor what a version that isn't served yet asks for.
    """
    status = bert.get("status") or {}
    name, keys = record["metadata"]["name"], set(record["spec"].get("requestKeys") or ())
    if (status.get("tuning") or {}).get("artifact") == name or name in _sources(bert):
        return True
    versions = (version for model in status.get("models") or () for version in model.get("versions") or ())
    return any(version.get("artifact") == name or version.get("requestKey") in keys for version in versions)


def _sources(bert: Live) -> set[str]:
    """The artifacts that the spec names in `source.artifact`."""
    models = (bert.get("spec") or {}).get("models") or ()
    sources = (version.get("source") or {} for model in models for version in model.get("versions") or ())
    return {str((source.get("artifact") or {}).get("name") or "") for source in sources}


def _told(record: Live, live: Live) -> bool:
    """By the annotation in which the operator keeps what it serves, so that a lost status loses nothing."""
    answers = deployment.answers(live)
    told = set(answers) | {answer["artifact"] for answer in answers.values()}
    return bool(told & {record["metadata"]["name"], *(record["spec"].get("requestKeys") or ())})


def _mounts(record: Live, pod_spec: Live) -> bool:
    """Whether a pod mounts the artifact's folder of its claim."""
    spec = record["spec"]
    volumes = {
        volume["name"]
        for volume in pod_spec.get("volumes") or ()
        if (volume.get("persistentVolumeClaim") or {}).get("claimName") == spec["claimName"]
    }
    return any(
        mount["name"] in volumes and mount.get("subPath", "").strip("/") == spec["path"]
        for container in _containers(pod_spec)
        for mount in container.get("volumeMounts") or ()
    )


def _needed_by_job(record: Live, job: Live) -> bool:
    """By what it mounts, by the request that it answers, or because an engine is compiled from it."""
    spec, template = record["spec"], _template(job)
    request = (job["metadata"].get("labels") or {}).get(names.REQUEST_LABEL)
    if _mounts(record, template) or request in (spec.get("requestKeys") or ()):
        return True
    if spec["claimName"] not in _claims(template):
        return False
    key = str((spec.get("report") or {}).get("artifactKey") or "")
    asked = (
        str(entry.get("value", ""))
        for container in _containers(template)
        for entry in container.get("env") or ()
        if entry["name"] == names.BUILD_REQUEST_ENV
    )
    return bool(key) and any(key in text for text in asked)


def _template(live: Live) -> Live:
    """Pod spec of what makes pods."""
    return ((live.get("spec") or {}).get("template") or {}).get("spec") or {}


def _claims(pod_spec: Live) -> set[str]:
    volumes = pod_spec.get("volumes") or ()
    return {str((volume.get("persistentVolumeClaim") or {}).get("claimName") or "") for volume in volumes}


def _containers(pod_spec: Live) -> Iterator[Live]:
    yield from pod_spec.get("initContainers") or ()
    yield from pod_spec.get("containers") or ()


def _over(pod: Live) -> bool:
    """Whether its containers have stopped for good."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _title(live: Live) -> str:
    name = str(live["metadata"]["name"])
    return name if live.get("kind", names.KIND) == names.KIND else f"{live['kind']}/{name}"


def _served_for(live: Live) -> str:
    """The BertDeployment that a child serves for, or the child's own name."""
    instance = (live["metadata"].get("labels") or {}).get(names.INSTANCE_LABEL)
    return str(instance) if instance else _title(live)
