"""What serves: ConfigMap, Deployment and Service, and how far they are. A pure part of `plan`.

Until every version has its artifact nothing here is asked for anew: what serves goes on serving.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from bert_operator import checks, pod_state, scaling
from bert_operator.api import names
from bert_operator.api.actions import Ref
from bert_operator.api.observed import Manifest
from bert_operator.api.status import ConditionType, Endpoint
from bert_operator.case import Case, find
from bert_operator.objects import config_map, deployment, drift, service
from bert_operator.pod_state import Problem
from bert_operator.servers import SERVERS
from bert_operator.servers.base import ServedVersion, Server, ServerContainer

LATE_SECONDS: Final = 4.0
"""A server that was ready may be unready for so long before that is trouble."""
NODE_SECONDS: Final = 300.0
"""A pod more than answer already may wait this long for a node before that is trouble: nodes are added meanwhile."""


def server(case: Case) -> Server:
    """The server that the spec names."""
    return SERVERS[case.spec.server.type]


def desired(case: Case, versions: Sequence[checks.VersionFacts]) -> list[dict[str, Any]]:
    """ConfigMap, Deployment and Service; while an artifact is missing only the Service, if there is none yet.

    A live Service leads to what serves: another server's ports come with its Deployment, not before.
    """
    svc = service.manifest(case.identity, server(case).ports.by_name)
    if not _built(versions):
        return [] if find(case.observed.services, case.identity.name) else [svc]
    served = list(_served(case, versions))
    container = server(case).container(served, case.spec, case.settings)
    made = _deployment(case, container, versions)
    return [config_map.manifest(case.identity, container.files), _keeping_images(case, made), svc]


def _built(versions: Sequence[checks.VersionFacts]) -> bool:
    return all(version.artifact is not None for version in versions)


def endpoint(case: Case, versions: Sequence[checks.VersionFacts]) -> Endpoint:
    """Where clients reach the Service inside the cluster; what was told stays until another server is there."""
    told = (case.observed.bert.get("status") or {}).get("endpoint") or {}
    if told.get("http") and not (versions and _built(versions)):
        return Endpoint.model_validate(told)
    ports, host = server(case).ports, f"{case.identity.name}.{case.identity.namespace}.svc"
    return Endpoint(
        http=f"http://{host}:{ports.http}",
        grpc=f"{host}:{ports.grpc}",
        metrics=f"http://{host}:{ports.metrics}{ports.metrics_path}",
    )


def facts(case: Case, wanted: Sequence[Manifest]) -> checks.ServingFacts | None:
    """How far the live Deployment is; None while there is none."""
    live = find(case.observed.deployments, case.identity.child_name)
    if live is None:
        return None
    want = next((manifest for manifest in wanted if manifest["kind"] == "Deployment"), None)
    status = live.get("status") or {}
    return checks.ServingFacts(
        wished=scaling.live_count(case, live),
        floor=scaling.floor(case),
        counted_by=scaling.words(case),
        current=_seen(case, live) and want is not None and not drift.differs(want, live),
        replicas=int(status.get("replicas") or 0),
        updated=int(status.get("updatedReplicas") or 0),
        ready=int(status.get("readyReplicas") or 0),
        available=int(status.get("availableReplicas") or 0),
        stuck=_stuck(status),
    )


def _seen(case: Case, live: Manifest) -> bool:
    """Whether the live Deployment's controller has looked at what it says now."""
    observed = (live.get("status") or {}).get("observedGeneration")
    # A new one that its controller hasn't met yet has no counts of an earlier revision.
    if observed is None or int(observed) >= int(live["metadata"].get("generation") or 0):
        return True
    # What an autoscaler writes is no rollout: it doesn't unmake what was ready for this very spec.
    metadata, status = case.observed.bert["metadata"], case.observed.bert.get("status") or {}
    was_ready = any(
        condition["type"] == ConditionType.READY
        and condition["status"] == "True"
        and condition.get("observedGeneration") == metadata.get("generation")
        for condition in status.get("conditions") or ()
    )
    return was_ready and scaling.wished(case) is None


def problem(case: Case, wanted: Sequence[Manifest]) -> Problem | None:
    """What keeps the newest serving pods from becoming ready."""
    found = next((one for one in _problems(case, wanted) if _patience(case, wanted, one) <= 0), None)
    if found is None or found.reason != "Unschedulable":
        return found
    return replace(found, message=f"{found.message}; next: {case.more_room(found, 'server')}")


def recheck_seconds(case: Case, wanted: Sequence[Manifest]) -> float | None:
    """When a pod that waits for a node has had its time, from now."""
    waits = (_patience(case, wanted, one) for one in _problems(case, wanted))
    return min((seconds for seconds in waits if seconds > 0), default=None)


def _problems(case: Case, wanted: Sequence[Manifest]) -> Iterator[Problem]:
    """Trouble of each wanted pod that isn't ready, the newest pod first."""
    content = next((config_hash(manifest) for manifest in wanted if manifest["kind"] == "ConfigMap"), None)
    for pod in sorted(case.observed.pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True):
        alike = content is None or config_hash(pod) == content
        if alike and not pod_state.ready(pod) and "deletionTimestamp" not in pod["metadata"]:
            found = pod_state.problem(pod)
            if found:
                yield found


def _patience(case: Case, wanted: Sequence[Manifest], found: Problem) -> float:
    """How long a trouble is none yet, in seconds: a busy server may be late for a moment.

    Pods added to those that answer may wait for a node to be added.
    """
    if found.reason == pod_state.NOT_READY:
        return LATE_SECONDS - _age(case, found)
    live = facts(case, wanted)
    grows = live is not None and live.current and live.updated == live.replicas and live.available > 0
    if not grows or found.reason != "Unschedulable" or not found.since:
        return 0.0
    return NODE_SECONDS - _age(case, found)


def _age(case: Case, found: Problem) -> float:
    return (case.now - datetime.fromisoformat(found.since)).total_seconds()


def orphans(case: Case, wanted: Sequence[Manifest]) -> list[Ref]:
    """ConfigMaps that neither the wanted Deployment nor any of its kept revisions mounts."""
    kept = {config_hash(manifest) for manifest in wanted if manifest["kind"] == "ConfigMap"}
    if not kept:
        return []
    kept |= {config_hash(live) for live in (*case.observed.replica_sets, *case.observed.pods)}
    return [
        Ref(kind="ConfigMap", name=live["metadata"]["name"], uid=live["metadata"]["uid"])
        for live in case.observed.config_maps
        if config_hash(live) not in kept and "deletionTimestamp" not in live["metadata"]
    ]


def config_hash(manifest: Manifest) -> str:
    """Content hash of the generated configuration that an object is or mounts."""
    return str((manifest["metadata"].get("labels") or {}).get(names.CONFIG_LABEL, ""))


def _keeping_images(case: Case, made: dict[str, Any]) -> dict[str, Any]:
    """An operator upgrade brings new default images; they alone must not restart what serves (if it does)."""
    live = find(case.observed.deployments, case.identity.child_name)
    if live is None or not deployment.keeps_images(live, case.spec, case.now):
        return made
    kept = deployment.with_images_of(made, live)
    # The pods alone decide: another count or annotation is no rollout, so it must not become one.
    return kept if drift.covers(live["spec"]["template"], kept["spec"]["template"]) else made


def _served(case: Case, versions: Sequence[checks.VersionFacts]) -> Iterator[ServedVersion]:
    built = {(version.model, version.version): version for version in versions}
    for model in case.spec.models:
        for version in model.versions:
            found = built[model.name, version.version]
            if found.artifact is not None:
                yield ServedVersion(
                    model=model, version=version.version, artifact_name=found.artifact_name, artifact=found.artifact
                )


def _deployment(case: Case, container: ServerContainer, versions: Sequence[checks.VersionFacts]) -> dict[str, Any]:
    return deployment.manifest(
        deployment.ServerDeployment(
            identity=case.identity,
            spec=case.spec,
            settings=case.settings,
            ports=server(case).ports.by_name,
            container=container,
            claim_name=case.store_claim_name,
            one_node_claims=case.one_node_claims([case.store_claim_name]),
            tuning=case.plan.model_dump_json(by_alias=True, exclude_none=True) if case.plan else "",
            answers={
                version.request_key: {
                    "artifact": version.artifact_name,
                    "revision": version.artifact.report.revision,
                }
                for version in versions
                if version.artifact
            },
            replicas=scaling.wished(case),
            autoscaled=scaling.given(case),
        )
    )


def _stuck(status: Mapping[str, Any]) -> str:
    """Why the Deployment's controller can't get on, in its own words."""
    for condition in status.get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"Kubernetes can't create the pods: {condition.get('message', '')}"
        if condition["type"] == "Progressing" and condition["status"] == "False":
            return f"the rollout made no progress: {condition.get('message', '')}"
    return ""
