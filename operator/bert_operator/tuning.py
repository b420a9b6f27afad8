"""Measured plans: what is measured already, which profile Job to ask for, what to serve by. A pure part of `plan`.

A measurement lives in its BertArtifact under a key of everything it depends on, and is found there again by whoever
asks the same. Until it is there one Job is asked for; what a Job reported is recorded before the Job may go. Nothing
here can stop a server: without a plan the spec's own values are served, and a plan stays until the next is measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from bert_operator import checks, job_state, measuring, pod_state, sizing
from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.actions import Departure, Ref
from bert_operator.api.measurement import MAX_MEASUREMENTS, Measurement, ProfileReport
from bert_operator.api.observed import Manifest
from bert_operator.api.status import TunedPlan, TuningStatus
from bert_operator.case import Case, find
from bert_operator.measuring import Target
from bert_operator.objects import artifact, profile_job
from bert_operator.pod_state import Problem

_NO_ANALYZER: Final = Problem(
    reason="NoAnalyzer",
    message="this installation has no image that measures; next: set images.analyzer in the operator's chart, or write "
    'tuning.mode: "Off"',
)
_OUT_OF_TIME: Final = Problem(
    reason="ProfileDeadlineExceeded",
    message="the profile run didn't end in its time; next: raise tuning.search.budgetMinutes",
)
_FULL_SECONDS: Final = 600.0
"""How soon to see again whether there is room for a measurement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """What is true of tuning, and what is to be done."""

    facts: checks.TuningFacts | None = None
    """None while tuning is off."""
    plan: TunedPlan | None = None
    """What to serve by; None: by the spec."""
    record: dict[str, Any] | None = None
    """BertArtifact to write, with the new measurement."""
    create: dict[str, Any] | None = None
    """Job to ask for."""
    adopt: Manifest | None = None
    """Live Job to co-own."""


def unsupported(case: Case) -> list[str]:
    """What can't be tuned here: field, what was found, what to write instead."""
    mode = case.spec.tuning.mode
    if mode is api.TuningMode.OFF or case.spec.server.type is api.ServerType.TRITON:
        return []
    server = case.spec.server.type.value
    return [f'spec.tuning.mode is {mode.value!r}, but only Triton can be measured, not {server}: write mode: "Off"']


def of_case(case: Case, versions: Sequence[checks.VersionFacts]) -> Tuned:
    """Look at what is measured; ask for a measurement if there is none."""
    mode = case.spec.tuning.mode
    if mode is api.TuningMode.OFF:
        return Tuned()
    served = _served(case) if mode is api.TuningMode.APPLY else None
    facts = checks.TuningFacts(mode=mode.value, status=_status(case), served=served)
    waiting = Tuned(facts=facts, plan=_within(served, versions))
    target = measuring.target(case, versions)
    if target is None:
        return waiting if case.settings.images.analyzer else _without(waiting, _NO_ANALYZER)
    status = facts.status.model_copy(update={"key": target.key, "artifact": target.facts.artifact_name})
    waiting = replace(waiting, facts=replace(facts, status=status))
    tuned = _measured(case, target, waiting) or _under_way(case, target, waiting)
    return tuned if mode is api.TuningMode.APPLY else replace(tuned, plan=None)


def applied(spec: api.BertDeploymentSpec, plan: TunedPlan | None) -> api.BertDeploymentSpec:
    """The spec as it is served: a plan's values instead of its own."""
    if plan is None:
        return spec
    model = spec.models[0]
    batching = model.serving.batching
    sizes = [size for size in batching.preferred_batch_sizes or () if size <= plan.max_batch_size]
    wished = {
        "enabled": plan.batching,
        "preferred_batch_sizes": sizes or None,
        "max_queue_delay_microseconds": plan.max_queue_delay_microseconds,
    }
    serving = model.serving.model_copy(
        update={
            "instances": plan.instances,
            "max_batch_size": plan.max_batch_size,
            "batching": batching.model_copy(update=wished),
        }
    )
    # Nobody asked for pods where the spec says 0, and an autoscaler sets their number itself.
    scaled = plan.replicas is not None and spec.replicas > 0 and spec.autoscaling is None
    return spec.model_copy(
        update={
            "models": [model.model_copy(update={"serving": serving})],
            # An older plan may be served for long: who asks for more pods meanwhile gets them.
            "replicas": max(plan.replicas or 0, spec.replicas) if scaled else spec.replicas,
        }
    )


def orphans(case: Case, tuned: Tuned) -> list[Ref | Departure]:
    """Profile Jobs that have done their duty: recorded, superseded, or no longer wanted."""
    recorded = {one["key"] for live in case.observed.artifacts for one in live["spec"].get("measurements") or ()}
    wanted = {tuned.facts.status.key} if tuned.facts else set()
    queue = case.spec.builds.queue_name
    return job_state.done_with(list(_jobs(case)), recorded=recorded, wanted=wanted, queue=queue, uid=case.identity.uid)


def _jobs(case: Case) -> Iterator[Manifest]:
    return (live for live in case.observed.jobs if job_state.component(live) == profile_job.COMPONENT)


def _status(case: Case) -> TuningStatus:
    model = case.spec.models[0]
    return TuningStatus(
        mode=case.spec.tuning.mode.value,
        model=model.name,
        max_latency_milliseconds=model.objective.max_latency_milliseconds,
        percentile=model.objective.percentile,
    )


def _served(case: Case) -> TunedPlan | None:
    """The plan that the live Deployment follows."""
    live = find(case.observed.deployments, case.identity.child_name)
    text = ((live or {}).get("metadata", {}).get("annotations") or {}).get(names.TUNING_ANNOTATION)
    try:
        return TunedPlan.model_validate_json(text) if text else None
    except ValidationError:  # of a later release, or edited: the next measurement writes a new one
        return None


def _within(plan: TunedPlan | None, versions: Sequence[checks.VersionFacts]) -> TunedPlan | None:
    """A plan measured before with the batches that today's engines take: no server loads a model for more."""
    limits = [shape.max[0] for one in versions if one.artifact for shape in one.artifact.report.profiles]
    if plan is None or plan.max_batch_size <= min(limits, default=plan.max_batch_size):
        return plan
    return plan.model_copy(update={"max_batch_size": min(limits)})


def _without(waiting: Tuned, problem: Problem, retry_seconds: float | None = None) -> Tuned:
    """No plan, and why; what is served by stays."""
    facts = waiting.facts or checks.TuningFacts(mode="", status=TuningStatus(mode=""))
    return replace(waiting, facts=replace(facts, problem=problem, retry_seconds=retry_seconds))


def _measured(case: Case, target: Target, waiting: Tuned) -> Tuned | None:
    """What follows from a measurement that is there."""
    found = next((one for one in target.artifact.measurements if one.key == target.key), None)
    if found is None or waiting.facts is None:
        return None
    points = sum(len(variant.points) for variant in found.variants)
    status = waiting.facts.status.model_copy(update={"measured_at": found.measured_at, "points": points})
    chosen = sizing.choose(found.variants, _goal(case))
    if isinstance(chosen, sizing.Refusal):
        problem = Problem(reason=chosen.reason, message=chosen.message)
        return replace(waiting, facts=replace(waiting.facts, status=status, problem=problem))
    plan = _plan(chosen, found, case.spec.models[0].objective.percentile)
    status = status.model_copy(update={"plan": plan})
    return Tuned(facts=replace(waiting.facts, status=status), plan=plan)


def _goal(case: Case) -> sizing.Goal:
    objective, tuning = case.spec.models[0].objective, case.spec.tuning
    return sizing.Goal(
        max_latency_milliseconds=objective.max_latency_milliseconds,
        percentile=objective.percentile,
        target_requests_per_second=objective.target_requests_per_second,
        headroom_percent=tuning.headroom_percent,
        min_replicas=max(1, case.spec.replicas),
        max_replicas=tuning.max_replicas,
    )


def _plan(chosen: sizing.Choice, found: Measurement, percentile: int) -> TunedPlan:
    delay = chosen.variant.max_queue_delay_microseconds
    left_out = f"; {found.skipped} configurations were left out" if found.skipped else ""
    return TunedPlan(
        instances=chosen.variant.instances,
        max_batch_size=chosen.variant.max_batch_size,
        batching=delay is not None,
        max_queue_delay_microseconds=delay or 0,
        replicas=chosen.replicas,
        concurrency=chosen.point.concurrency,
        requests_per_second=f"{chosen.point.throughput:.1f}",
        latency_milliseconds=f"{chosen.latency:.1f}",
        percentile=percentile,
        key=found.key,
        why=f"{chosen.why}{left_out}",
    )


def _under_way(case: Case, target: Target, waiting: Tuned) -> Tuned:
    """Nothing is measured yet: follow the latest Job, or ask for one."""
    jobs = [live for live in _jobs(case) if job_state.alive(live)]
    attempts = [live for live in jobs if job_state.key(live) == target.key]
    if attempts:
        return _watch(case, target, waiting, max(attempts, key=job_state.attempt))
    if any(case.identity.owns(live) and not job_state.over(live) for live in jobs):
        return waiting  # the one that measured for an earlier spec goes first: two at once would measure each other
    return _ask(case, target, waiting, attempt=1)


def _ask(case: Case, target: Target, tuned: Tuned, *, attempt: int) -> Tuned:
    if not case.settings.images.analyzer:
        return _without(tuned, _NO_ANALYZER)
    if not artifact.room(_record_of(case, target), case.observed.asked):
        return _without(tuned, _full(target), _FULL_SECONDS)
    manifest = measuring.job(case, target, attempt)
    return replace(tuned, facts=_with_job(tuned, manifest), create=manifest)


def _record_of(case: Case, target: Target) -> Manifest:
    """The live record of the artifact that is measured."""
    return next(one for one in case.observed.artifacts if one["metadata"]["name"] == target.facts.artifact_name)


def _full(target: Target) -> Problem:
    message = (
        f"artifact {target.facts.artifact_name} keeps {MAX_MEASUREMENTS} measurements, and BertDeployments ask for "
        "each of them; next: give those that share it the same tuning, hardware, server.resources and "
        'serving.maxBatchSize, or write tuning.mode: "Off" in one'
    )
    return Problem(reason="TooManyMeasurements", message=message)


def _with_job(tuned: Tuned, live: Manifest, **more: Any) -> checks.TuningFacts:  # noqa: ANN401 - fields of TuningFacts
    facts = tuned.facts or checks.TuningFacts(mode="", status=TuningStatus(mode=""))
    status = facts.status.model_copy(update={"job": live["metadata"]["name"]})
    return replace(facts, status=status, **more)


def _watch(case: Case, target: Target, tuned: Tuned, live: Manifest) -> Tuned:
    """Follow the latest attempt."""
    if ended := job_state.ended(live, "Complete"):
        return _record(case, target, tuned, live, ended)
    if failed := job_state.ended(live, "Failed"):
        return _after_failure(case, target, tuned, live, failed)
    held = job_state.held_up(live, case.observed.job_pods, case.observed.refused_pods)
    problem = _explained(case, held) if held else None
    facts = _with_job(tuned, live, problem=problem, queued=job_state.queued(live))
    return replace(tuned, facts=facts, adopt=live if case.joins(live) else None)


def _explained(case: Case, held: Problem) -> Problem:
    """A small cluster may have no room beside what serves."""
    if held.reason != "Unschedulable":
        return held
    beside = "the profile pod asks for as much as a serving pod, and a little more, beside it"
    return replace(held, message=f"{held.message}: {beside}; next: {case.more_room(held, 'server')}")


def _record(case: Case, target: Target, tuned: Tuned, live: Manifest, ended: Mapping[str, Any]) -> Tuned:
    """A finished Job: write down what it measured, or run it again if its report is lost."""
    pod = job_state.newest_pod(live, case.observed.job_pods)
    report = _report(pod) if pod else None
    if report is not None and report.key == target.key:
        kept = _measurement(case, target, report, str(ended.get("lastTransitionTime", "")))
        known, asked = _record_of(case, target), case.observed.asked
        tuned = replace(tuned, facts=_with_job(tuned, live))
        if not artifact.room(known, asked):
            return _without(tuned, _full(target), _FULL_SECONDS)
        return replace(tuned, record=artifact.measured(known, kept, asked))
    awaited = job_state.awaited_seconds(pod, ended, case.now)
    if awaited is not None:
        return replace(tuned, facts=_with_job(tuned, live, retry_seconds=awaited))
    if job_state.attempt(live) < job_state.MAX_ATTEMPTS_WITHOUT_REPORT:
        return _ask(case, target, tuned, attempt=job_state.attempt(live) + 1)
    name = live["metadata"]["name"]
    message = f"Job {name} finished without a readable report; next: see its pod's log, then delete the Job"
    return replace(tuned, facts=_with_job(tuned, live, problem=Problem(reason="NoReport", message=message)))


def _report(pod: Manifest) -> ProfileReport | None:
    try:
        return ProfileReport.model_validate_json(pod_state.last_words(pod))
    except ValidationError:
        return None


def _measurement(case: Case, target: Target, report: ProfileReport, at: str) -> Measurement:
    return Measurement(
        key=target.key,
        measured_at=at,
        image=target.image,
        profile=case.spec.hardware.profile,
        lengths=target.lengths,
        seconds=report.seconds,
        skipped=report.skipped,
        analyzer=report.analyzer,
        variants=report.variants,
    )


def _after_failure(case: Case, target: Target, tuned: Tuned, live: Manifest, failed: Mapping[str, Any]) -> Tuned:
    """A failed Job stays as evidence; passing faults are tried again, ever more slowly, then not at all."""
    problem = job_state.failure(live, case.observed.job_pods, failed, _OUT_OF_TIME)
    seconds = job_state.seconds_to_retry(live, failed, case.observed.job_pods, problem, case.now)
    if seconds is None:
        told = f"{problem.message.rstrip('.')}; to measure again, delete the Job {live['metadata']['name']}"
        return replace(tuned, facts=_with_job(tuned, live, problem=replace(problem, message=told)))
    if seconds <= 0:
        return _ask(case, target, tuned, attempt=job_state.attempt(live) + 1)
    return replace(tuned, facts=_with_job(tuned, live, problem=problem, retry_seconds=seconds))
