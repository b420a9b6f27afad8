"""Measured plans: what is measured already, which profile Job to ask for, what to serve by. A pure part of `plan`.

A measurement lives in its BertArtifact under a key of everything it depends on, and is found there again by whoever
asks the same. Until it is there one Job is asked for; what a Job reported is recorded before the Job may go. Nothing
here can stop a server: without a plan the spec's own values are served, and a plan stays until the next is measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from bert_operator import checks, job_state, pod_state, sizing
from bert_operator.api import measurement as api_measurement
from bert_operator.api import names
from bert_operator.api import spec as api
from bert_operator.api.actions import Ref
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.digests import digest
from bert_operator.api.measurement import AskedVariant, Measurement, ProfileReport, ProfileRequest
from bert_operator.api.observed import Manifest
from bert_operator.api.status import TunedPlan, TuningStatus
from bert_operator.case import Case, find
from bert_operator.objects import artifact, deployment, profile_job
from bert_operator.pod_state import Problem
from bert_operator.servers import SERVERS
from bert_operator.servers.base import ServedVersion, ServerContainer

KEY_DIGITS: Final = 32
_STEP: Final = 4
"""Batch sizes and concurrencies are tried in powers of this; instances in powers of two."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Target:
    """What is measured: the default version of the one model."""

    facts: checks.VersionFacts
    artifact: BertArtifactSpec
    container: ServerContainer
    """Serves the largest variant."""
    image: str
    lengths: list[int]
    key: str
    """What the measurement depends on."""


def unsupported(case: Case) -> list[str]:
    """What can't be tuned here: field, what was found, what to write instead."""
    mode = case.spec.tuning.mode
    if mode is api.TuningMode.OFF:
        return []
    faults = []
    if case.spec.server.type is not api.ServerType.TRITON:
        faults.append(
            f"spec.tuning.mode is {mode.value!r}, but only Triton can be measured, not {case.spec.server.type.value}: "
            'write mode: "Off"'
        )
    if not case.settings.images.analyzer:
        faults.append(
            f"spec.tuning.mode is {mode.value!r}, and this installation has no image that measures: "
            'set images.analyzer in the operator\'s chart, or write mode: "Off"'
        )
    return faults


def of_case(case: Case, versions: Sequence[checks.VersionFacts]) -> Tuned:
    """Look at what is measured; ask for a measurement if there is none."""
    mode = case.spec.tuning.mode
    if mode is api.TuningMode.OFF:
        return Tuned()
    served = _served(case) if mode is api.TuningMode.APPLY else None
    facts = checks.TuningFacts(mode=mode.value, status=_status(case), served=served)
    target = _target(case, versions)
    if target is None:
        return Tuned(facts=facts, plan=served)
    status = facts.status.model_copy(update={"key": target.key, "artifact": target.facts.artifact_name})
    tuned = _measured(case, target, replace(facts, status=status)) or _under_way(
        case, target, replace(facts, status=status)
    )
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


def orphans(case: Case, tuned: Tuned) -> list[Ref]:
    """Profile Jobs that have done their duty: recorded, superseded, or no longer wanted by anyone."""
    jobs = list(_jobs(case))
    recorded = {one["key"] for live in case.observed.artifacts for one in live["spec"].get("measurements") or ()}
    wanted = tuned.facts.status.key if tuned.facts else ""
    latest: dict[str, int] = {}
    for live in jobs:
        latest[job_state.key(live)] = max(latest.get(job_state.key(live), 0), job_state.attempt(live))
    return [
        Ref(kind="Job", name=live["metadata"]["name"], uid=live["metadata"]["uid"])
        for live in jobs
        if job_state.alive(live)
        and (
            (job_state.ended(live, "Complete") and job_state.key(live) in recorded)
            or job_state.attempt(live) < latest[job_state.key(live)]
            or (job_state.key(live) != wanted and job_state.owned_by_alone(live, case.identity.uid))
        )
    ]


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


def _target(case: Case, versions: Sequence[checks.VersionFacts]) -> _Target | None:
    """What is to be measured, once its artifact is there."""
    model = case.spec.models[0]
    found = next((one for one in versions if one.version == model.default), None)
    if found is None or found.artifact is None:
        return None
    shapes = variants(case.spec, found.artifact)
    largest = max(shapes, key=lambda shape: (shape.instances, shape.max_batch_size))
    container = _container(case, found, found.artifact, largest)
    image, lengths = _image(case, container), _lengths(case.spec, found.artifact)
    return _Target(
        facts=found,
        artifact=found.artifact,
        container=container,
        image=image,
        lengths=lengths,
        key=_key(case, found, image, lengths),
    )


def variants(spec: api.BertDeploymentSpec, built: BertArtifactSpec) -> tuple[api_measurement.VariantConfig, ...]:
    """The few ways of serving that are measured, within the limits of the search."""
    serving, search = spec.models[0].serving, spec.tuning.search
    largest = search.max_batch_size or serving.max_batch_size
    largest = min([largest, *(profile.max[0] for profile in built.report.profiles)])
    instances = _spread(search.max_instances, base=2, count=3)
    batches = _spread(largest, base=_STEP, count=min(3, api_measurement.MAX_VARIANTS // len(instances)))
    delay = serving.batching.max_queue_delay_microseconds
    return tuple(
        api_measurement.VariantConfig(
            instances=count,
            max_batch_size=batch,
            max_queue_delay_microseconds=delay if batch > 1 else None,
        )
        for count in instances
        for batch in batches
    )


def _spread(limit: int, *, base: int, count: int) -> list[int]:
    """At most `count` of 1, base, base², ... up to and with `limit`, the ends always among them."""
    steps = [1]
    while steps[-1] * base < limit:
        steps.append(steps[-1] * base)
    steps = [*steps, limit] if limit > 1 else steps
    if len(steps) <= count:
        return steps
    last = len(steps) - 1
    return sorted({steps[round(index * last / (count - 1))] for index in range(count)})


def _container(
    case: Case,
    found: checks.VersionFacts,
    built: BertArtifactSpec,
    shape: api_measurement.VariantConfig,
    name: str = "",
) -> ServerContainer:
    """The serving container of one variant, made by what makes the served one."""
    model = case.spec.models[0]
    batching = model.serving.batching.model_copy(
        update={
            "enabled": shape.max_queue_delay_microseconds is not None,
            "max_queue_delay_microseconds": shape.max_queue_delay_microseconds or 0,
            "preferred_batch_sizes": None,
        }
    )
    serving = model.serving.model_copy(
        update={
            "instances": shape.instances,
            "max_batch_size": shape.max_batch_size,
            "batching": batching,
        }
    )
    varied = model.model_copy(update={"serving": serving, "name": name or model.name})
    one = ServedVersion(model=varied, version=found.version, artifact_name=found.artifact_name, artifact=built)
    wish = case.spec.model_copy(update={"models": [varied]})
    return SERVERS[case.spec.server.type].container([one], wish, case.settings)


def _image(case: Case, container: ServerContainer) -> str:
    """The server's image that is measured: what serves now, as long as new default images don't restart it."""
    live = find(case.observed.deployments, case.identity.child_name)
    if live is None or not (live.get("status") or {}).get("availableReplicas"):
        return container.image
    told = (live["metadata"].get("annotations") or {}).get(names.IMAGES_ANNOTATION, "")
    if told != deployment.images_wish(case.spec):
        return container.image
    running = live["spec"]["template"]["spec"]["containers"]
    return next((str(one["image"]) for one in running if one["name"] == "server"), container.image)


def _request(case: Case, target: _Target) -> ProfileRequest:
    """What a Job is told. Every variant's configuration is rendered for it, so only who asks for a Job calls this."""
    found, built = target.facts, target.artifact
    asked = [_asked(case, found, built, shape) for shape in variants(case.spec, built)]
    search, model = case.spec.tuning.search, case.spec.models[0]
    concurrency = _spread(search.max_concurrency, base=_STEP, count=api_measurement.MAX_POINTS_OF_VARIANT)
    return ProfileRequest(
        key=target.key,
        model=model.name,
        version=found.version,
        artifact=found.artifact_name,
        manifest_sha256=built.report.manifest_sha256,
        variants=asked,
        concurrency=concurrency,
        lengths=target.lengths,
        percentile=model.objective.percentile,
        budget_seconds=search.budget_minutes * 60,
        model_file=names.ENGINE_FILE if built.report.format == api.Format.TENSORRT else names.ONNX_FILE,
        owner=f"{case.identity.namespace}/{case.identity.name}",
    )


def _asked(
    case: Case, found: checks.VersionFacts, built: BertArtifactSpec, shape: api_measurement.VariantConfig
) -> AskedVariant:
    name = f"i{shape.instances}-b{shape.max_batch_size}"
    files = _container(case, found, built, shape, name).files
    return AskedVariant(**shape.model_dump(), name=name, config=next(iter(files.values())).text)


def _lengths(spec: api.BertDeploymentSpec, built: BertArtifactSpec) -> list[int]:
    longest = built.report.max_sequence_length
    wished = spec.tuning.lengths or spec.models[0].build.sequence_buckets or ()
    return sorted(length for length in wished if length <= longest) or [longest]


def _key(case: Case, found: checks.VersionFacts, image: str, lengths: list[int]) -> str:
    """Everything that a measurement depends on: when any of it differs, another one is asked for."""
    spec, batching = case.spec, case.spec.models[0].serving
    bound = {
        "artifact": found.artifact_name,
        "image": image,
        "hardware": spec.hardware.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "server": spec.server.model_dump(
            mode="json", by_alias=True, exclude_defaults=True, include={"resources", "env", "extra_args", "release"}
        ),
        "search": spec.tuning.search.model_dump(mode="json", by_alias=True),
        "served": [batching.max_batch_size, batching.batching.max_queue_delay_microseconds],
        "lengths": lengths,
    }
    return digest(bound)[:KEY_DIGITS]


def _measured(case: Case, target: _Target, facts: checks.TuningFacts) -> Tuned | None:
    """What follows from a measurement that is there."""
    found = next((one for one in target.artifact.measurements if one.key == target.key), None)
    if found is None:
        return None
    points = sum(len(variant.points) for variant in found.variants)
    status = facts.status.model_copy(update={"measured_at": found.measured_at, "points": points})
    chosen = sizing.choose(found.variants, _goal(case))
    if isinstance(chosen, sizing.Refusal):
        problem = Problem(reason=chosen.reason, message=chosen.message)
        return Tuned(facts=replace(facts, status=status, problem=problem), plan=facts.served)
    plan = _plan(chosen, found, case.spec.models[0].objective.percentile)
    status = status.model_copy(update={"plan": plan})
    return Tuned(facts=replace(facts, status=status), plan=plan)


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


def _under_way(case: Case, target: _Target, facts: checks.TuningFacts) -> Tuned:
    """Nothing is measured yet: follow the latest Job, or ask for one."""
    waiting = Tuned(facts=facts, plan=facts.served)
    jobs = [live for live in _jobs(case) if job_state.alive(live)]
    attempts = [live for live in jobs if job_state.key(live) == target.key]
    if attempts:
        return _watch(case, target, waiting, max(attempts, key=job_state.attempt))
    if any(case.identity.owns(live) and not _over(live) for live in jobs):
        return waiting  # the one that measured for an earlier spec goes first: two at once would measure each other
    return _ask(case, target, waiting, attempt=1)


def _over(live: Manifest) -> bool:
    return bool(job_state.ended(live, "Complete") or job_state.ended(live, "Failed"))


def _ask(case: Case, target: _Target, tuned: Tuned, *, attempt: int) -> Tuned:
    # Of the environment only a bound on threads depends on the variant; each config.pbtxt says its own number.
    smallest = _container(case, target.facts, target.artifact, variants(case.spec, target.artifact)[0])
    manifest = profile_job.manifest(
        profile_job.ProfileJob(
            identity=case.identity,
            spec=case.spec,
            request=_request(case, target),
            attempt=attempt,
            container=replace(target.container, env=smallest.env),
            image=target.image,
            artifact_path=target.artifact.path,
            claim_name=case.store_claim_name,
            one_node_claims=case.one_node_claims([case.store_claim_name]),
            settings=case.settings,
        )
    )
    return replace(tuned, facts=_with_job(tuned, manifest), create=manifest)


def _with_job(tuned: Tuned, live: Manifest, **more: Any) -> checks.TuningFacts:  # noqa: ANN401 - fields of TuningFacts
    facts = tuned.facts or checks.TuningFacts(mode="", status=TuningStatus(mode=""))
    status = facts.status.model_copy(update={"job": live["metadata"]["name"]})
    return replace(facts, status=status, **more)


def _watch(case: Case, target: _Target, tuned: Tuned, live: Manifest) -> Tuned:
    """Follow the latest attempt."""
    pod = job_state.newest_pod(live, case.observed.job_pods)
    if ended := job_state.ended(live, "Complete"):
        return _record(case, target, tuned, live, ended)
    if failed := job_state.ended(live, "Failed"):
        return _after_failure(case, target, tuned, live, failed)
    held = pod_state.held_up(pod) if pod else None
    facts = _with_job(tuned, live, problem=_explained(held) if held else None)
    return replace(tuned, facts=facts, adopt=None if case.identity.owns(live) else live)


def _explained(held: Problem) -> Problem:
    """A small cluster may have no room beside what serves."""
    if held.reason not in ("Unschedulable", "SchedulingGated"):
        return held
    return replace(
        held,
        message=f"{held.message}: the profile pod asks for as much as a serving pod, and a little more, beside it; "
        "next: free CPU or memory, lower server.resources.requests, or add a node",
    )


def _record(case: Case, target: _Target, tuned: Tuned, live: Manifest, ended: Mapping[str, Any]) -> Tuned:
    """A finished Job: write down what it measured, or run it again if its report is lost."""
    pod = job_state.newest_pod(live, case.observed.job_pods)
    report = _report(pod) if pod else None
    if report is not None and report.key == target.key:
        kept = _measurement(case, target, report, str(ended.get("lastTransitionTime", "")))
        known = next(one for one in case.observed.artifacts if one["metadata"]["name"] == target.facts.artifact_name)
        return replace(tuned, facts=_with_job(tuned, live), record=artifact.measured(known, kept))
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


def _measurement(case: Case, target: _Target, report: ProfileReport, at: str) -> Measurement:
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


def _after_failure(case: Case, target: _Target, tuned: Tuned, live: Manifest, failed: Mapping[str, Any]) -> Tuned:
    """A failed Job stays as evidence; passing faults are tried again, ever more slowly, then not at all."""
    problem = _failure(case, live, failed)
    seconds = job_state.seconds_to_retry(live, failed, case.now) if problem.passing else None
    if seconds is None:
        told = f"{problem.message.rstrip('.')}; to measure again, delete the Job {live['metadata']['name']}"
        return replace(tuned, facts=_with_job(tuned, live, problem=replace(problem, message=told)))
    if seconds <= 0:
        return _ask(case, target, tuned, attempt=job_state.attempt(live) + 1)
    return replace(tuned, facts=_with_job(tuned, live, problem=problem, retry_seconds=seconds))


def _own_words(pod: Manifest) -> Problem | None:
    """What the analyzer said, if it did: the server beside it is stopped with it, and may end in any way."""
    status = {**pod.get("status", {}), "initContainerStatuses": []}
    problem = pod_state.problem({**pod, "status": status})
    return problem if problem and problem.told else None


def _failure(case: Case, live: Manifest, failed: Mapping[str, Any]) -> Problem:
    """Why a Job failed: what its pod says, else what the Job controller says."""
    pod = job_state.newest_pod(live, case.observed.job_pods)
    if pod is not None and (pod.get("status") or {}).get("reason") == "DeadlineExceeded":
        message = "the profile run didn't end in its time; next: raise tuning.search.budgetMinutes"
        return Problem(reason="ProfileDeadlineExceeded", message=message)
    problem = _own_words(pod) or pod_state.problem(pod) if pod else None
    if problem is not None:
        return problem
    # No pod is left to tell: somebody deleted it, or its node is gone. That passes.
    reason, message = failed.get("reason") or "ProfileFailed", failed.get("message", "")
    return Problem(reason=reason, message=f"Job {live['metadata']['name']}: {message}", passing=True)
