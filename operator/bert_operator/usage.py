"""Which artifacts are in use, and by whom. Pure: objects as the API server has them -> names.

`collector` and `bertctl artifacts` ask it.

Live is what any BertDeployment, Deployment, ReplicaSet, pod or Job refers to, whether it serves or may serve again: a
ReplicaSet within the history is the way back. When in doubt, something is in use.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from bert_operator import job_state, pod_state
from bert_operator.api import names
from bert_operator.objects import deployment, store_job

Live = Mapping[str, Any]
_DEPTH: Final = 2
"""An artifact's folder is `artifacts/<name>`."""
_KEEPERS: Final = frozenset({(names.MANAGER, "build"), (names.MANAGER, "store"), (store_job.MANAGER, "store")})
"""Who makes the pods that mount a whole store and read what they are told alone, and what these are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Everything of a namespace that may refer to an artifact."""

    berts: Sequence[Live]
    deployments: Sequence[Live]
    replica_sets: Sequence[Live]
    pods: Sequence[Live]
    jobs: Sequence[Live]


class Users:
    """Who refers to what in a world, looked up once for all artifacts."""

    def __init__(self, world: World) -> None:
        self._count = 0
        self._by_name: defaultdict[str, dict[int, str]] = defaultdict(dict)
        self._by_key: defaultdict[str, dict[int, str]] = defaultdict(dict)
        self._by_mount: defaultdict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        self._asked: list[tuple[set[str], str, str]] = []
        for live in world.berts:
            self._named(_title(live), named(live), _requested(live))
        for live in world.deployments:
            answers = deployment.answers(live)
            told = {*answers, *(answer["artifact"] for answer in answers.values())}
            self._named(_served_for(live), told, told)
        for live in (*world.deployments, *world.replica_sets):
            self._mounted(_served_for(live), live, _template(live))
        for live in world.pods:
            if not pod_state.over(live):
                self._mounted(_served_for(live), live, live.get("spec") or {})
        for live in world.jobs:
            if not job_state.over(live):
                self._worked_on(live)

    def of(self, record: Live) -> list[str]:
        """Who refers to an artifact: BertDeployments by their names, everything else by kind and name.

        Args:
            record: its BertArtifact.
        """
        spec = record["spec"]
        found = dict(self._by_name.get(record["metadata"]["name"], {}))
        for key in spec.get("requestKeys") or ():
            found |= self._by_key.get(key, {})
        path = PurePosixPath(spec["path"])
        for folder in (path, *path.parents):
            found |= self._by_mount.get((spec["claimName"], str(folder)), {})
        artifact_key = str((spec.get("report") or {}).get("artifactKey") or "")
        titles = [title for _, title in sorted(found.items())]
        titles += [
            title
            for claims, text, title in self._asked
            if artifact_key and spec["claimName"] in claims and artifact_key in text
        ]
        return list(dict.fromkeys(titles))

    def _named(self, title: str, artifacts: Iterable[str], requests: Iterable[str]) -> None:
        self._count += 1
        for name in artifacts:
            self._by_name[name][self._count] = title
        for key in requests:
            self._by_key[key][self._count] = title

    def _mounted(self, title: str, live: Live, pod_spec: Live) -> None:
        self._count += 1
        labels = live["metadata"].get("labels") or {}
        keeper = (labels.get(names.MANAGED_BY), labels.get(names.COMPONENT_LABEL)) in _KEEPERS
        for claim, folder in _mounts(pod_spec):
            if not keeper or len(folder.parts) == _DEPTH:
                self._by_mount[claim, str(folder)][self._count] = title

    def _worked_on(self, job: Live) -> None:
        """By what it mounts, by the request that it answers, or because an engine is compiled from it."""
        template, title = _template(job), _title(job)
        self._mounted(title, job, template)
        self._named(title, (), filter(None, [(job["metadata"].get("labels") or {}).get(names.REQUEST_LABEL)]))
        self._asked += [
            (_claims(template), str(entry.get("value", "")), title)
            for container in _containers(template)
            for entry in container.get("env") or ()
            if entry["name"] == names.BUILD_REQUEST_ENV
        ]


def unsettled(claim: str, world: World) -> list[str]:
    """What may be about to want any artifact of a claim: which one can't be seen from outside.

    A build Job that runs, and a BertDeployment whose newest spec the operator has not looked at.
    """
    jobs = [
        _title(live)
        for live in world.jobs
        if not job_state.over(live) and job_state.component(live) == "build" and claim in _claims(_template(live))
    ]
    unseen = [_title(live) for live in world.berts if claim_of(live) == claim and not _seen(live)]
    return jobs + unseen


def claim_of(bert: Live) -> str:
    """Name of the claim that holds a BertDeployment's artifacts."""
    storage = (bert.get("spec") or {}).get("storage") or {}
    return str(storage.get("claimName") or f"{bert['metadata']['name']}-store")


def _seen(bert: Live) -> bool:
    return bool((bert.get("status") or {}).get("observedGeneration") == bert["metadata"].get("generation"))


def named(bert: Live) -> set[str]:
    """The artifacts that a BertDeployment names, in its spec or its status."""
    status = bert.get("status") or {}
    found = {str(version.get("artifact") or "") for version in _versions(bert)}
    return (found | {str((status.get("tuning") or {}).get("artifact") or "")} | _sources(bert)) - {""}


def _requested(bert: Live) -> set[str]:
    """The requests that its status says it made.

    It doesn't name what an engine is compiled from, nor what a version that isn't served yet asks for.
    """
    return {str(version["requestKey"]) for version in _versions(bert) if version.get("requestKey")}


def _versions(bert: Live) -> Iterator[Live]:
    models = (bert.get("status") or {}).get("models") or ()
    return (version for model in models for version in model.get("versions") or ())


def _sources(bert: Live) -> set[str]:
    """The artifacts that the spec names in `source.artifact`."""
    models = (bert.get("spec") or {}).get("models") or ()
    sources = (version.get("source") or {} for model in models for version in model.get("versions") or ())
    return {str((source.get("artifact") or {}).get("name") or "") for source in sources}


def _mounts(pod_spec: Live) -> Iterator[tuple[str, PurePosixPath]]:
    """(claim, folder) of all that a pod mounts; of what is inside an artifact, the artifact's."""
    volumes = {
        volume["name"]: (volume.get("persistentVolumeClaim") or {}).get("claimName")
        for volume in pod_spec.get("volumes") or ()
    }
    for container in _containers(pod_spec):
        for mount in container.get("volumeMounts") or ():
            if claim := volumes.get(mount["name"]):
                # Where a subPathExpr leads, the pod's environment tells alone: taken for the whole claim.
                folder = PurePosixPath(str(mount.get("subPath") or "").strip("/"))
                yield str(claim), PurePosixPath(*folder.parts[:_DEPTH])


def _template(live: Live) -> Live:
    """Pod spec of what makes pods."""
    return ((live.get("spec") or {}).get("template") or {}).get("spec") or {}


def _claims(pod_spec: Live) -> set[str]:
    volumes = pod_spec.get("volumes") or ()
    return {str((volume.get("persistentVolumeClaim") or {}).get("claimName") or "") for volume in volumes}


def _containers(pod_spec: Live) -> Iterator[Live]:
    yield from pod_spec.get("initContainers") or ()
    yield from pod_spec.get("containers") or ()


def _title(live: Live) -> str:
    name = str(live["metadata"]["name"])
    return name if live.get("kind", names.KIND) == names.KIND else f"{live['kind']}/{name}"


def _served_for(live: Live) -> str:
    """The BertDeployment that a child serves for, or the child's own name."""
    instance = (live["metadata"].get("labels") or {}).get(names.INSTANCE_LABEL)
    return str(instance) if instance else _title(live)
