"""THE HEART, pure: what is there, settings and the clock in; everything to do out. `reconcile` calls it.

It reads no cluster, no clock and no file, and remembers nothing: the same input always gives the same plan, and
planning on the world that a plan asked for gives an empty plan.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from bert_operator import builds, checks, job_state, protection, scaling, serving, tuning
from bert_operator.api import spec as api
from bert_operator.api import steps
from bert_operator.api.actions import Departure, Note, Plan, Ref
from bert_operator.api.observed import Manifest, Observed
from bert_operator.api.report import BuildReport
from bert_operator.api.status import (
    BertDeploymentStatus,
    Condition,
    ConditionType,
    Endpoint,
    ModelStatus,
    Summary,
    TuningStatus,
    VersionStatus,
)
from bert_operator.case import Case, find
from bert_operator.objects import claim, drift, hpa, identity, network_policy, pdb
from bert_operator.pod_state import Problem
from bert_operator.settings import Settings

CONFLICT_GRACE_SECONDS: Final = 60
"""A predecessor's children may still be going away: look again soon, for this long after creation."""
CONFLICT_RECHECK_SECONDS: Final = (5.0, 60.0)
"""While it is young, and after: no watch shows that somebody else's object is gone."""
POD_SECONDS: Final = (5.0, 60.0)
"""A Job has its pod long before this; if not, something refuses it. The first Event may be late: looked at again."""
MAX_INVALID_FIELDS: Final = 5


def names_to_probe(observed: Observed) -> tuple[tuple[str, str], ...]:
    """(kind, name) of objects that only the API server can tell to be foreign: the index holds ours alone."""
    who = identity.Identity.of(observed.bert)
    probed = [] if any(who.owns(live) for live in observed.services) else [("Service", who.name)]
    # `kubectl autoscale` names its autoscaler like the Deployment, and so do we: that name can be somebody else's. Not
    # before we have said anything: then the Deployment is a moment old, and nobody can have named one like it.
    wished = (observed.bert.get("spec") or {}).get("autoscaling") and observed.bert.get("status")
    if observed.deployments and not observed.autoscalers and wished:
        probed.append((hpa.KIND, who.child_name))
    return tuple(probed)


def jobs_to_probe(observed: Observed, now: datetime) -> tuple[tuple[str, str], ...]:
    """(name, UID) of our Jobs that should have a pod by now: only Events say why they have none."""
    who = identity.Identity.of(observed.bert)
    return tuple(
        (live["metadata"]["name"], live["metadata"]["uid"])
        for live in observed.jobs
        if who.owns(live) and job_state.without_pod(live, observed.job_pods) and _age(live, now) >= POD_SECONDS[0]
    )


def _age(live: Manifest, now: datetime) -> float:
    """Since when a Job may run: one that waited in a queue starts when it is let go."""
    since = (live.get("status") or {}).get("startTime") or live["metadata"]["creationTimestamp"]
    return (now - datetime.fromisoformat(since)).total_seconds()


def _pod_recheck(case: Case) -> float | None:
    """When to see whether Jobs without a pod got one. Once it is known why not, its pod will be news enough.

    A Job may lose its pod at any time, so the last of the waits is repeated.
    """
    ages = [
        _age(live, case.now)
        for live in case.observed.jobs
        if job_state.without_pod(live, case.observed.job_pods)
        and live["metadata"]["uid"] not in case.observed.refused_pods
    ]
    waits = [next((look - age for look in POD_SECONDS if look > age), POD_SECONDS[-1]) for age in ages]
    return min(waits, default=None)


def make_plan(observed: Observed, settings: Settings, now: datetime) -> Plan:
    """Decide everything for one BertDeployment.

    Args:
        observed: the world as seen.
        settings: the installation's settings.
        now: timezone-aware time.
    """
    spec = _parse(observed.bert)
    if isinstance(spec, Problem):
        return _rejected(observed, None, (spec,), now)
    case = Case(observed=observed, spec=spec, settings=settings, now=now)
    rejections = _rejections(case)
    if rejections:
        return _rejected(observed, case, rejections, now)
    return _accepted(case)


def _parse(bert: Manifest) -> api.BertDeploymentSpec | Problem:
    """Read the spec again: a client may have sent it past an older CRD."""
    try:
        return api.BertDeploymentSpec.model_validate(bert.get("spec") or {})
    except ValidationError as error:
        lines = [f"spec.{_path(e['loc'])}: {e['msg']}" for e in error.errors()[:MAX_INVALID_FIELDS]]
        return Problem(reason="InvalidSpec", message="; ".join(lines))


def _path(location: Iterable[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _rejections(case: Case) -> tuple[Problem, ...]:
    """Everything in the spec that this installation can't do, and names that are taken."""
    unsupported = [
        *(_profile_fault(case) or builds.unsupported(case)),
        *serving.server(case).unsupported(case.spec, case.settings),
        *tuning.unsupported(case),
    ]
    return (*_conflicts(case), *(Problem(reason="Unsupported", message=message) for message in unsupported))


def _profile_fault(case: Case) -> list[str]:
    profile, known = case.spec.hardware.profile, sorted(case.settings.hardware_profiles)
    if profile in known:
        return []
    return [
        f"spec.hardware.profile: {profile!r} isn't among this installation's profiles; write one of {', '.join(known)}"
    ]


def _conflicts(case: Case) -> list[Problem]:
    taken = sorted(case.observed.foreign)
    store = case.store_claim
    if case.spec.storage.size and store is not None and not identity.is_ours(store, case.identity.name):
        taken.append(("PersistentVolumeClaim", case.store_claim_name))
    return [Problem(reason="NameConflict", message=_conflict(kind, name)) for kind, name in taken]


def _conflict(kind: str, name: str) -> str:
    instead = "remove spec.autoscaling" if kind == hpa.KIND else "rename the BertDeployment"
    return (
        f"a {kind} named {name!r} exists in this namespace and isn't ours; nothing was changed; "
        f"next: {instead} or remove that object"
    )


def _rejected(observed: Observed, case: Case | None, rejections: tuple[Problem, ...], now: datetime) -> Plan:
    """Say why; touch nothing. What serves already goes on serving."""
    facts = checks.Facts(
        generation=_generation(observed.bert),
        rejections=rejections,
        serving=serving.facts(case, ()) if case else None,
    )
    status, notes = _report(observed.bert, facts, case, now)
    return Plan(status=status, notes=notes, recheck_after_seconds=_conflict_recheck(observed.bert, rejections, now))


def _conflict_recheck(bert: Manifest, rejections: Iterable[Problem], now: datetime) -> float | None:
    if not any(problem.reason == "NameConflict" for problem in rejections):
        return None
    born = datetime.fromisoformat(bert["metadata"]["creationTimestamp"])
    soon, later = CONFLICT_RECHECK_SECONDS
    return soon if (now - born).total_seconds() < CONFLICT_GRACE_SECONDS else later


def _accepted(case: Case) -> Plan:
    built = builds.of_case(case)
    versions = tuple(build.facts for build in built)
    tuned = tuning.of_case(case, versions)
    case = replace(case, spec=tuning.applied(case.spec, tuned.plan), plan=tuned.plan)
    served = serving.desired(case, versions)
    desired = (*served, *scaling.desired(case, served), *protection.desired(case))
    wanted = [drift.stamped(manifest) for manifest in desired]
    facts = checks.Facts(
        generation=_generation(case.observed.bert),
        claim_problem=case.claim_problem(),
        versions=versions,
        verify=case.spec.rollout.verify,
        serving=serving.facts(case, wanted),
        server_problem=serving.problem(case, wanted),
        refused=_refused(case.observed),
        autoscaler_problem=scaling.problem(case),
        tuning=tuned.facts,
    )
    status, notes = _report(case.observed.bert, facts, case, case.now)
    ask = facts.claim_problem is None
    jobs: list[builds.Build | tuning.Tuned] = [*built, tuned]
    again = [*(version.retry_seconds for version in versions), tuned.facts.retry_seconds if tuned.facts else None]
    again += [scaling.recheck_seconds(case), serving.recheck_seconds(case, wanted), _pod_recheck(case)]
    going = (*builds.orphans(case, built), *tuning.orphans(case, tuned))
    return Plan(
        hold=scaling.hold(case, wanted),
        apply=(*_claim(case), *_records(built, tuned), *_changed(case, wanted)),
        create=_unique(job.create for job in jobs if job.create and ask),
        adopt=tuple(builds.adoption(case, live) for live in _unique(job.adopt for job in jobs if job.adopt)),
        leave=tuple(one for one in going if isinstance(one, Departure)),
        release=scaling.release(case),
        delete=(
            *(one for one in going if isinstance(one, Ref)),
            *serving.orphans(case, wanted),
            *scaling.orphans(case),
            *protection.orphans(case),
        ),
        status=status,
        notes=notes,
        recheck_after_seconds=min((seconds for seconds in again if seconds), default=None),
    )


def _refused(observed: Observed) -> tuple[Problem, ...]:
    return tuple(
        Problem(reason="ApiRefused", message=f"the API server refused to {refusal.what}: {refusal.message}")
        for refusal in observed.refused
    )


def _claim(case: Case) -> list[Manifest]:
    """The claim of `storage.size`, made once; afterwards only growth is asked for."""
    if not case.spec.storage.size:
        return []
    live = case.store_claim
    want = drift.stamped(claim.manifest(case.identity, case.spec.storage, live))
    if live is None:
        return [want]
    return [_updating(want, live)] if drift.differs(want, live) else []


def _records(built: Sequence[builds.Build], tuned: tuning.Tuned) -> list[Manifest]:
    """Of each artifact one record: a build's comes first, a measurement of the same artifact with the next look."""
    return list(
        _unique([*([tuned.record] if tuned.record else []), *(build.record for build in built if build.record)])
    )


def _changed(case: Case, wanted: Iterable[Manifest]) -> list[Manifest]:
    """Children that are missing or say something else than we want."""
    live_by_kind = {
        "ConfigMap": case.observed.config_maps,
        "Deployment": case.observed.deployments,
        hpa.KIND: case.observed.autoscalers,
        pdb.KIND: case.observed.budgets,
        network_policy.KIND: case.observed.network_policies,
        "Service": case.observed.services,
    }
    changed = []
    for want in wanted:
        live = find(live_by_kind[want["kind"]], want["metadata"]["name"])
        if live is None:
            changed.append(want)
        elif "deletionTimestamp" not in live["metadata"] and drift.differs(want, live):
            changed.append(_updating(want, live))
    return changed


def _updating(want: Manifest, live: Manifest) -> Manifest:
    """Name the very object we judged: never a same-named successor."""
    return {**want, "metadata": {**want["metadata"], "uid": live["metadata"]["uid"]}}


def _unique(manifests: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """One of each name: two versions may ask for the same build."""
    return tuple({manifest["metadata"]["name"]: manifest for manifest in manifests}.values())


def _generation(bert: Manifest) -> int:
    return int(bert["metadata"].get("generation") or 0)


def _report(
    bert: Manifest, facts: checks.Facts, case: Case | None, now: datetime
) -> tuple[dict[str, Any] | None, tuple[Note, ...]]:
    """The new status, or None if it says so already, and the events of what flipped."""
    old = bert.get("status") or {}
    before = _conditions(old)
    after = checks.conditions(facts, before, now.strftime("%Y-%m-%dT%H:%M:%SZ"))
    # The API server keeps no null, so none may be asked for: the comparison would never find it.
    status = _status(facts, case, after).model_dump(mode="json", by_alias=True, exclude_none=True)
    return (None if status == old else status), _notes(before, after)


def _conditions(status: Manifest) -> list[Condition]:
    """The conditions as they stand; none if another release wrote what this one can't read."""
    try:
        return [Condition.model_validate(condition) for condition in status.get("conditions") or ()]
    except ValidationError:
        return []


def _status(facts: checks.Facts, case: Case | None, conditions: list[Condition]) -> BertDeploymentStatus:
    live = facts.serving
    return BertDeploymentStatus(
        observed_generation=facts.generation,
        conditions=conditions,
        summary=_summary(facts),
        models=_models(facts),
        endpoint=serving.endpoint(case, facts.versions) if case else Endpoint(),
        tuning=_tuning(facts),
        replicas=live.replicas if live else 0,
        ready_replicas=live.ready if live else 0,
        selector=",".join(f"{key}={value}" for key, value in case.identity.selector().items()) if case else "",
    )


def _tuning(facts: checks.Facts) -> TuningStatus | None:
    if facts.tuning is None:
        return None
    return facts.tuning.status.model_copy(update={"served": facts.tuning.served})


def _summary(facts: checks.Facts) -> Summary:
    reports = [version.artifact.report for version in facts.versions if version.artifact]
    return Summary(
        stage=checks.stage(facts),
        precision=",".join(sorted({report.precision for report in reports})),
        fidelity=f"{min(report.fidelity.min_cosine for report in reports):.6f}" if reports else "",
        models=f"{len(reports)}/{len(facts.versions)}" if facts.versions else "",
    )


def _models(facts: checks.Facts) -> list[ModelStatus]:
    by_model: dict[str, list[VersionStatus]] = {}
    for version in facts.versions:
        by_model.setdefault(version.model, []).append(_version_status(version))
    return [ModelStatus(name=name, versions=versions) for name, versions in by_model.items()]


def _version_status(version: checks.VersionFacts) -> VersionStatus:
    if version.artifact is None:
        stage = "Failed" if version.problem else checks.STAGE_WORDS.get(steps.plain(version.step), "Queued")
        return VersionStatus(
            version=version.version, stage=stage, request_key=version.request_key, revision=version.revision
        )
    report = version.artifact.report
    return VersionStatus(
        version=version.version,
        stage="Built",
        request_key=version.request_key,
        artifact=version.artifact_name,
        revision=report.revision,
        precision=report.precision,
        precision_reason=_precision_reason(report),
        max_abs_difference=f"{report.fidelity.max_abs_difference:.1e}",
        min_cosine=f"{report.fidelity.min_cosine:.7f}",
    )


def _precision_reason(report: BuildReport) -> str:
    came = report.lowering
    return f"{came.asked} was asked for: {came.why}"[:256] if came and came.achieved != came.asked else ""


_TOLD: Final = (ConditionType.BUILT, ConditionType.VERIFIED, ConditionType.READY, ConditionType.TUNED)
"""Conditions whose turn to True is worth an event."""
_TROUBLE: Final = ((ConditionType.DEGRADED, "True"), (ConditionType.TUNED, "False"))
"""What is worth a warning."""


def _notes(before: Sequence[Condition], after: Sequence[Condition]) -> tuple[Note, ...]:
    """One event for each good turn, one for each new trouble, one when work starts.

    What is good at first sight is no turn: artifacts that were there before.
    """
    old = {condition.type: (condition.status, condition.reason) for condition in before}
    notes = []
    for condition in after:
        if old.get(condition.type) == (condition.status, condition.reason):
            continue
        told = condition.type in _TOLD and condition.status == "True" and bool(before)
        started = condition.type == ConditionType.PROGRESSING and condition.status == "True"
        started = started and condition.reason != checks.SCALING  # the autoscaler tells that itself
        if told or started:
            notes.append(Note(type="Normal", reason=condition.reason, message=condition.message))
        elif (condition.type, condition.status) in _TROUBLE:
            notes.append(Note(type="Warning", reason=condition.reason, message=condition.message))
    return tuple(notes)
