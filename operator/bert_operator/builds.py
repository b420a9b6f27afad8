"""Which artifacts are there, which builds run, which are to be asked for. A pure part of `plan`.

A version has an artifact once a BertArtifact answers its wish on the store's claim. Until then a Job is asked for,
shared with whoever asks the same. What a Job reported is recorded before the Job may go.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from bert_operator import checks, pod_state
from bert_operator.api import names, steps
from bert_operator.api import spec as api
from bert_operator.api.actions import Adoption, Ref
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.observed import Manifest
from bert_operator.api.report import BuildReport, BuildRequest
from bert_operator.case import Case
from bert_operator.objects import artifact, job
from bert_operator.pod_state import Problem
from bert_operator.request_key import request_key, same_wish
from bert_operator.servers import SERVERS

RETRY_DELAYS: Final = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30))
"""After a passing fault; then the build waits for a person."""
MAX_ATTEMPTS_WITHOUT_REPORT: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """What is true and what is to be done for one version."""

    facts: checks.VersionFacts
    record: dict[str, Any] | None = None
    """BertArtifact to write."""
    create: dict[str, Any] | None = None
    """Job to ask for."""
    adopt: Manifest | None = None
    """Live Job to co-own."""


def of_case(case: Case) -> list[Build]:
    """Look at every version of every model. Without the store's claim there is nothing to ask for yet."""
    return [
        _build(case, model, version)
        for model in case.spec.models
        for version in model.versions
        if case.store_claim is not None
    ] or [
        Build(facts=checks.VersionFacts(model=model.name, version=version.version, request_key=""))
        for model in case.spec.models
        for version in model.versions
    ]


def unsupported(case: Case) -> list[str]:
    """What can't be built as written, here or for this server: field, what was found, what to write instead."""
    faults = []
    formats = SERVERS[case.spec.server.type].formats(case.profile)
    for index, model in enumerate(case.spec.models):
        build = recipe(case, model)
        if build.format not in formats:
            able = ", ".join(dict.fromkeys(("auto", *(known.value for known in formats))))
            faults.append(
                f"spec.models[{index}].build.format is {build.format.value!r}, which {case.spec.server.type.value} "
                f"doesn't serve on hardware profile {case.spec.hardware.profile!r}: write one of {able}"
            )
        elif not all(job.image(build, step, case.settings) for step in steps.EXPORT_STEPS):
            faults.append(
                f"spec.models[{index}].build needs TensorFlow ({build.framework.value} to {build.format.value}), and "
                "this installation has no image with it: set images.tensorflow in the operator's chart"
            )
    return faults


def orphans(case: Case, builds: Iterable[Build]) -> list[Ref]:
    """Jobs that have done their duty: recorded, superseded by a later attempt, or no longer wanted by anyone."""
    recorded = {key for live in case.observed.artifacts for key in live["spec"]["requestKeys"]}
    wanted = {build.facts.request_key for build in builds}
    latest: dict[str, int] = {}
    for live in case.observed.jobs:
        latest[_key(live)] = max(latest.get(_key(live), 0), _attempt(live))
    return [
        Ref(kind="Job", name=live["metadata"]["name"], uid=live["metadata"]["uid"])
        for live in case.observed.jobs
        if "deletionTimestamp" not in live["metadata"]
        and (
            (_finished(live, "Complete") and _key(live) in recorded)
            or _attempt(live) < latest[_key(live)]
            or (_key(live) not in wanted and _only_ours(case, live))
        )
    ]


def adoption(case: Case, live: Manifest) -> Adoption:
    """Become a co-owner of a Job that somebody else asked for."""
    return Adoption(
        kind="Job",
        name=live["metadata"]["name"],
        uid=live["metadata"]["uid"],
        owner_reference=case.identity.owner_reference(controller=False),
    )


def _build(case: Case, model: api.BertModel, version: api.ModelVersion) -> Build:
    key = _request_key(case, model, version)
    facts = checks.VersionFacts(model=model.name, version=version.version, request_key=key)
    found = _artifact(case, key)
    if found is not None:
        spec = BertArtifactSpec.model_validate(found["spec"])
        name = found["metadata"]["name"]
        answered = next((known for known in spec.request_keys if known == key), None) or next(
            known for known in spec.request_keys if same_wish(key, known)
        )
        older = answered != key
        return Build(
            facts=replace(facts, request_key=answered, artifact=spec, artifact_name=name, newer_toolchain=older)
        )
    attempts = [live for live in case.observed.jobs if _key(live) == key and _alive(live)]
    if not attempts:
        return _ask(case, model, version, facts, attempt=1)
    return _watch(case, model, version, facts, max(attempts, key=_attempt))


def _request_key(case: Case, model: api.BertModel, version: api.ModelVersion) -> str:
    claim = case.store_claim
    build = recipe(case, model)
    return request_key(
        case.spec,
        build,
        version,
        claim_uid=claim["metadata"]["uid"] if claim else "",
        refresh=case.refresh,
        image="+".join(dict.fromkeys(job.image(build, step, case.settings) for step in steps.EXPORT_STEPS)),
    )


def recipe(case: Case, model: api.BertModel) -> api.Build:
    """What is built, with the format that `auto` stands for."""
    if model.build.format is not api.Format.AUTO:
        return model.build
    formats = SERVERS[case.spec.server.type].formats(case.profile)
    return model.build.model_copy(update={"format": formats[0]})


def _artifact(case: Case, key: str) -> Manifest | None:
    """The record that answers this wish: of the same toolchain if there is one, else what already serves it."""
    claim_uid = (case.store_claim or {"metadata": {"uid": ""}})["metadata"]["uid"]
    answers = [live for live in case.observed.artifacts if live["spec"]["claimUid"] == claim_uid]
    exact = [live for live in answers if key in live["spec"]["requestKeys"]]
    alike = [live for live in answers if any(same_wish(key, known) for known in live["spec"]["requestKeys"])]
    return max(exact or alike, key=_age, default=None)


def _age(live: Manifest) -> tuple[str, str]:
    """Orders records by age, the newest last; the name decides between twins."""
    return str(live["metadata"].get("creationTimestamp", "")), str(live["metadata"]["name"])


def _ask(
    case: Case, model: api.BertModel, version: api.ModelVersion, facts: checks.VersionFacts, *, attempt: int
) -> Build:
    """Ask for a Job."""
    manifest = job.manifest(
        job.BuildJob(
            identity=case.identity,
            spec=case.spec,
            request=_request(case, model, version, facts.request_key),
            attempt=attempt,
            claim_name=case.store_claim_name,
            one_node_claims=case.one_node_claims(
                [case.store_claim_name, *([version.source.pvc.claim_name] if version.source.pvc else [])]
            ),
            settings=case.settings,
        )
    )
    return Build(facts=replace(facts, job=manifest["metadata"]["name"]), create=manifest)


def _request(case: Case, model: api.BertModel, version: api.ModelVersion, key: str) -> BuildRequest:
    hub = version.source.hugging_face
    if hub and (pinned := _recorded_revision(case, key)):
        hub = hub.model_copy(update={"revision": pinned})
    return BuildRequest(
        request_key=key,
        model=model.name,
        version=version.version,
        build=recipe(case, model),
        hugging_face=hub,
        pvc=version.source.pvc,
        owner=f"{case.identity.namespace}/{case.identity.name}",
    )


def _recorded_revision(case: Case, key: str) -> str:
    """The commit that this wish was resolved to before: losing a record must not move a branch."""
    for model in (case.observed.bert.get("status") or {}).get("models") or ():
        for version in model.get("versions") or ():
            if version.get("revision") and same_wish(key, version.get("requestKey", "")):
                return str(version["revision"])
    for live in case.observed.deployments:
        text = (live["metadata"].get("annotations") or {}).get(names.ARTIFACTS_ANNOTATION, "{}")
        for known, answer in json.loads(text).items():
            if same_wish(key, known):
                return str(answer["revision"])
    return ""


def _watch(
    case: Case, model: api.BertModel, version: api.ModelVersion, facts: checks.VersionFacts, live: Manifest
) -> Build:
    """Follow the latest attempt."""
    facts = replace(facts, job=live["metadata"]["name"])
    pod = _pod(case, live)
    if _finished(live, "Complete"):
        return _record(case, model, version, facts, live)
    if failed := _finished(live, "Failed"):
        return _after_failure(case, model, version, facts, live, failed)
    # What has failed is told once the Job has ended: until then the same status would come and go.
    problem = pod_state.held_up(pod) if pod else None
    facts = replace(facts, step=pod_state.stage(pod) if pod else "", problem=problem, retry_seconds=0.0)
    return Build(facts=facts, adopt=None if case.identity.owns(live) else live)


def _record(
    case: Case, model: api.BertModel, version: api.ModelVersion, facts: checks.VersionFacts, live: Manifest
) -> Build:
    """A finished Job: write down what it published, or run it again if its report is lost."""
    pod = _pod(case, live)
    report = pod_state.report(pod) if pod else None
    facts = replace(facts, step="publish")
    if report is not None and case.store_claim is not None:
        return Build(facts=facts, record=_record_manifest(case, report, facts.request_key))
    if _attempt(live) < MAX_ATTEMPTS_WITHOUT_REPORT:
        return _ask(case, model, version, facts, attempt=_attempt(live) + 1)
    message = f"Job {facts.job} finished without a readable report; next: set the annotation {names.REFRESH_ANNOTATION}"
    return Build(facts=replace(facts, problem=Problem(reason="NoReport", message=message, container="publish")))


def _record_manifest(case: Case, report: BuildReport, key: str) -> dict[str, Any]:
    claim = case.store_claim or {}
    fresh = artifact.manifest(report, claim, key, None)
    live = next(
        (known for known in case.observed.artifacts if known["metadata"]["name"] == fresh["metadata"]["name"]), None
    )
    return artifact.manifest(report, claim, key, live)


def _after_failure(
    case: Case,
    model: api.BertModel,
    version: api.ModelVersion,
    facts: checks.VersionFacts,
    live: Manifest,
    failed: Mapping[str, Any],
) -> Build:
    """A failed Job stays as evidence; passing faults are tried again, ever more slowly, then not at all."""
    problem = _failure(case, live, failed)
    facts = replace(facts, problem=problem, step=problem.container)
    attempt = _attempt(live)
    if not problem.passing or attempt > len(RETRY_DELAYS):
        return Build(facts=facts)
    due = datetime.fromisoformat(failed["lastTransitionTime"]) + RETRY_DELAYS[attempt - 1]
    if case.now >= due:
        return _ask(case, model, version, replace(facts, problem=None, step=""), attempt=attempt + 1)
    return Build(facts=replace(facts, retry_seconds=(due - case.now).total_seconds()))


def _failure(case: Case, live: Manifest, failed: Mapping[str, Any]) -> Problem:
    """Why a Job failed: what its pod says, else what the Job controller says."""
    if failed.get("reason") == "DeadlineExceeded":
        message = (
            f"the build took longer than {live['spec'].get('activeDeadlineSeconds')} s; "
            "next: raise spec.builds.activeDeadlineSeconds"
        )
        return Problem(reason="BuildDeadlineExceeded", message=message)
    pod = _pod(case, live)
    problem = pod_state.problem(pod) if pod else None
    if problem is not None:
        return problem
    # No pod is left to tell: somebody deleted it, or its node is gone. That passes.
    reason, message = failed.get("reason") or "BuildFailed", failed.get("message", "")
    return Problem(reason=reason, message=f"Job {live['metadata']['name']}: {message}", passing=True)


def _pod(case: Case, live: Manifest) -> Manifest | None:
    """The newest pod of a Job."""
    pods = [
        pod
        for pod in case.observed.job_pods
        if any(ref.get("uid") == live["metadata"]["uid"] for ref in pod["metadata"].get("ownerReferences", ()))
    ]
    return max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)


def _finished(live: Manifest, kind: str) -> Mapping[str, Any] | None:
    for condition in live.get("status", {}).get("conditions") or ():
        if condition["type"] == kind and condition["status"] == "True":
            found: Mapping[str, Any] = condition
            return found
    return None


def _alive(live: Manifest) -> bool:
    return "deletionTimestamp" not in live["metadata"]


def _key(live: Manifest) -> str:
    return str((live["metadata"].get("labels") or {}).get(names.REQUEST_LABEL, ""))


def _attempt(live: Manifest) -> int:
    text = str((live["metadata"].get("labels") or {}).get(names.ATTEMPT_LABEL, ""))
    return int(text) if text.isdecimal() else 1


def _only_ours(case: Case, live: Manifest) -> bool:
    owners = live["metadata"].get("ownerReferences") or ()
    return [ref.get("uid") for ref in owners] == [case.identity.uid]
