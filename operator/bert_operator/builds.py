"""Which artifacts are there, which builds run, which are to be asked for. A pure part of `plan`.

A version has an artifact once a BertArtifact answers its wish on the store's claim. Until then a Job is asked for,
shared with whoever asks the same. What a Job reported is recorded before the Job may go.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from bert_operator import checks, job_state, pod_state, published
from bert_operator.api import names, steps
from bert_operator.api import spec as api
from bert_operator.api.actions import Adoption, Departure, Ref
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.observed import Manifest
from bert_operator.api.report import BuildReport, BuildRequest, OnnxArtifact
from bert_operator.case import Case
from bert_operator.objects import artifact, deployment, job, profile_job
from bert_operator.objects.pod import read_only
from bert_operator.pod_state import Problem
from bert_operator.request_key import request_key, same_wish
from bert_operator.servers import SERVERS


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    """One artifact that a version needs: the one that is served, or the ONNX artifact that it is compiled from."""

    model: api.BertModel
    version: api.ModelVersion
    build: api.Build
    """Its format is never `auto`."""
    hardware: api.Hardware
    key: str
    served_key: str
    """Request key of the artifact that is served in the end."""

    @property
    def facts(self) -> checks.VersionFacts:
        """What is known before anything was looked up."""
        return checks.VersionFacts(model=self.model.name, version=self.version.version, request_key=self.key)


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
        else:
            faults.extend(f"spec.models[{index}].{fault}" for fault in _recipe_faults(case, model, build))
    return faults


def _recipe_faults(case: Case, model: api.BertModel, build: api.Build) -> Iterator[str]:
    """What CEL can't see, because it depends on settings or on what `auto` stands for."""
    export = _exported(build) if build.format is api.Format.TENSORRT else build
    if job.trace_device(build, case.spec, case.settings) and not case.settings.images.build_gpu:
        yield (
            f"build.format is 'torchscript' and hardware profile {case.spec.hardware.profile!r} has "
            f"{case.profile.resource_name}, and this installation has no image that traces there, where it is served: "
            "set images.buildGpu in the operator's chart, write format: onnx, or name a profile without GPUs"
        )
    elif not all(job.image(export, step, case.spec, case.settings) for step in steps.EXPORT_STEPS):
        yield (
            f"build needs TensorFlow ({export.framework.value} to {export.format.value}), and "
            "this installation has no image with it: set images.tensorflow in the operator's chart"
        )
    if build.framework is api.Framework.TENSORFLOW and build.format is api.Format.MAR:
        yield (
            f"build.framework is 'tensorflow', and {case.spec.server.type.value} takes archives made from PyTorch "
            "checkpoints only: serve this source by triton or tfserving"
        )
    if build.format is api.Format.TENSORRT:
        yield from _engine_faults(case, model, build)
        return
    yield from _precision_faults(case, model, build)
    if build.max_batch_size is not None:
        yield (
            f"build.maxBatchSize is {build.max_batch_size}, and format auto is {build.format.value!r} on hardware "
            f"profile {case.spec.hardware.profile!r}, which has no such bound: remove it"
        )


def _precision_faults(case: Case, model: api.BertModel, build: api.Build) -> Iterator[str]:
    """A precision that the format has, and this hardware."""
    gpu, found = bool(case.profile.resource_name), build.precision
    able = {
        api.Precision.FP16: build.format in api.FORMATS_IN[api.Precision.FP16] and gpu,
        api.Precision.BF16: build.format in api.FORMATS_IN[api.Precision.BF16] and gpu,
        api.Precision.INT8: build.format is (api.Format.TENSORRT if gpu else api.Format.ONNX),
    }
    if able.get(found, True):
        return
    written = "format auto" if model.build.format is api.Format.AUTO else "format"
    other = {
        api.Precision.FP16: "name a profile with GPUs" if not gpu else "write format: tensorrt",
        api.Precision.BF16: "name a profile with GPUs" if not gpu else "write format: tensorrt",
        api.Precision.INT8: f"write format: {'tensorrt' if gpu else 'onnx'}, served by triton",
    }
    yield (
        f"build.precision is {found.value!r}, and {written} is {build.format.value!r} on hardware profile "
        f"{case.spec.hardware.profile!r}, where that isn't offered: write fp32, or {other[found]}"
    )


def _engine_faults(case: Case, model: api.BertModel, build: api.Build) -> Iterator[str]:
    yield from _precision_faults(case, model, build)
    known = case.profile.compute_capability
    if build.precision is api.Precision.BF16 and known and float(known) < steps.BF16_FROM:
        yield (
            f"build.precision is 'bf16', and GPUs of hardware profile {case.spec.hardware.profile!r} have compute "
            f"capability {known}: they know BF16 from {steps.BF16_FROM} on; write precision: fp16"
        )
    if model.serving.max_batch_size > build.engine_batch:
        found = "unset, which means" if build.max_batch_size is None else "only"
        yield (
            f"serving.maxBatchSize is {model.serving.max_batch_size}, but build.maxBatchSize is {found} "
            f"{build.engine_batch}, and the engine takes no more: write build.maxBatchSize: "
            f"{model.serving.max_batch_size} (a new engine), or a smaller serving.maxBatchSize"
        )
    release = case.spec.server.release or case.settings.triton.default_release
    if release in case.settings.triton.releases and not job.image(build, "compile", case.spec, case.settings):
        yield (
            f"build.format is 'tensorrt' ({model.build.format.value!r} is written), and release {release!r} names no "
            f"image that compiles engines for it: set triton.releases.{release}.tensorrtImage in the operator's chart, "
            "or write format: onnx"
        )


def orphans(case: Case, builds: Iterable[Build]) -> list[Ref | Departure]:
    """Jobs that have done their duty: recorded, superseded by a later attempt, or no longer wanted."""
    recorded = {key for live in case.observed.artifacts for key in live["spec"]["requestKeys"]}
    wanted = {build.facts.request_key for build in builds}
    jobs = [live for live in case.observed.jobs if job_state.component(live) != profile_job.COMPONENT]
    queue = case.spec.builds.queue_name
    return job_state.done_with(jobs, recorded=recorded, wanted=wanted, queue=queue, uid=case.identity.uid)


def adoption(case: Case, live: Manifest) -> Adoption:
    """Become a co-owner of a Job that somebody else asked for."""
    return Adoption(
        kind="Job",
        name=live["metadata"]["name"],
        uid=live["metadata"]["uid"],
        owner_reference=case.identity.owner_reference(controller=False),
    )


def _build(case: Case, model: api.BertModel, version: api.ModelVersion) -> Build:
    build, hardware = recipe(case, model), case.spec.hardware
    key = _request_key(case, build, version, hardware)
    wish = _Wish(model=model, version=version, build=build, hardware=hardware, key=key, served_key=key)
    return _under_way(case, wish) or _ask(case, wish, attempt=1)


def _under_way(case: Case, wish: _Wish) -> Build | None:
    """The artifact, or the Job that makes it; None if nobody has asked yet."""
    key = wish.key
    # An engine that is there is served on, even if the ONNX model that it was compiled from is gone.
    engine = wish.build.format is api.Format.TENSORRT
    looks = (_answered, _named) if engine else (_named, _answered)
    if found := next((build for look in looks if (build := look(case, wish))), None):
        return found
    attempts = [live for live in case.observed.jobs if job_state.key(live) == key and job_state.alive(live)]
    return _watch(case, wish, max(attempts, key=job_state.attempt)) if attempts else None


def _answered(case: Case, wish: _Wish) -> Build | None:
    """The artifact that was built for this wish; None if there is none."""
    found = _artifact(case, wish.key)
    if found is None:
        return None
    live, spec = found
    answered = next((known for known in spec.request_keys if known == wish.key), None) or next(
        known for known in spec.request_keys if same_wish(wish.key, known)
    )
    facts = replace(wish.facts, request_key=answered, artifact=spec, artifact_name=live["metadata"]["name"])
    return Build(facts=replace(facts, newer_toolchain=answered != wish.key))


def _named(case: Case, wish: _Wish) -> Build | None:
    """The published artifact that is the source; None if the source is weights, or an ONNX model to be compiled."""
    source = wish.version.source.artifact
    if source is None or published.compiles(case, source, wish.build):
        return None
    batch = wish.model.serving.max_batch_size
    found = published.of_source(case, source, wish.build, batch=batch, compiled=wish.key != wish.served_key)
    if isinstance(found, Problem):
        return Build(facts=replace(wish.facts, problem=found))
    return Build(facts=replace(wish.facts, artifact=found, artifact_name=source.name))


def _request_key(case: Case, build: api.Build, version: api.ModelVersion, hardware: api.Hardware) -> str:
    claim = case.store_claim
    images = [job.image(build, step, case.spec, case.settings) for step in steps.job_steps(build)]
    engine = build.format is api.Format.TENSORRT
    return request_key(
        case.spec.model_copy(update={"hardware": hardware}),
        build,
        version,
        claim_uid=claim["metadata"]["uid"] if claim else "",
        refresh=case.refresh,
        image="+".join(dict.fromkeys(images)),
        engine_image=job.image(build, "compile", case.spec, case.settings) if engine else "",
        trace_device=job.trace_device(build, case.spec, case.settings),
    )


def recipe(case: Case, model: api.BertModel) -> api.Build:
    """What is built, with the format that `auto` stands for."""
    if model.build.format is not api.Format.AUTO:
        return model.build
    formats = SERVERS[case.spec.server.type].formats(case.profile)
    return model.build.model_copy(update={"format": formats[0]})


def _artifact(case: Case, key: str) -> tuple[Manifest, BertArtifactSpec] | None:
    """The record that answers this wish: of the same toolchain if there is one, else what already serves it.

    One that this release can't read counts as lost: the next Job finds the artifact and writes the record anew.
    """
    claim_uid = (case.store_claim or {"metadata": {"uid": ""}})["metadata"]["uid"]
    answers = [live for live in case.observed.artifacts if live["spec"]["claimUid"] == claim_uid]
    found = [live for live in answers if key in live["spec"]["requestKeys"]]
    if not found:  # looked for only then: a claim may hold a thousand
        found = [live for live in answers if any(same_wish(key, known) for known in live["spec"]["requestKeys"])]
    newest_first = sorted(found, key=_age, reverse=True)
    return next(((live, spec) for live in newest_first if (spec := artifact.read(live))), None)


def _age(live: Manifest) -> tuple[str, str]:
    """Orders records by age, the newest last; the name decides between twins."""
    return str(live["metadata"].get("creationTimestamp", "")), str(live["metadata"]["name"])


def _ask(case: Case, wish: _Wish, *, attempt: int) -> Build:
    """Ask for a Job. An engine is compiled from an ONNX artifact, which is asked for first unless it is there."""
    if wish.build.format is not api.Format.TENSORRT:
        return _job(case, wish, wish.facts, _request(case, wish), attempt)
    export = _export_wish(case, wish)
    exported = _under_way(case, export) or _ask(case, export, attempt=1)
    onnx = exported.facts.artifact
    if onnx is None:
        return exported
    facts = replace(wish.facts, revision=onnx.report.revision)
    return _job(case, wish, facts, _compile_request(case, wish, onnx), attempt)


def _job(case: Case, wish: _Wish, facts: checks.VersionFacts, request: BuildRequest, attempt: int) -> Build:
    claims = [case.store_claim_name, *([request.pvc.claim_name] if request.pvc else [])]
    if not request.onnx:
        claims += [texts.claim_name for texts in request.build.texts.values() if texts.claim_name]
    manifest = job.manifest(
        job.BuildJob(
            identity=case.identity,
            spec=case.spec,
            hardware=wish.hardware,
            request=request,
            attempt=attempt,
            claim_name=case.store_claim_name,
            one_node_claims=case.one_node_claims(claims),
            settings=case.settings,
        )
    )
    return Build(facts=replace(facts, job=manifest["metadata"]["name"]), create=manifest)


def _exported(build: api.Build) -> api.Build:
    """The ONNX build before a compilation, such that others who want the model as ONNX share it."""
    ours = {"format": api.Format.ONNX, "precision": api.Precision.FP32, "max_batch_size": None}
    if build.precision is api.Precision.FP32:
        return build.model_copy(update=ours)
    # Limits for an engine of fewer bits would let a bad export pass.
    wish = build.fidelity
    return build.model_copy(
        update=ours | {"fidelity": api.Fidelity(samples=wish.samples, samples_from=wish.samples_from)}
    )


def _export_wish(case: Case, wish: _Wish) -> _Wish:
    """The ONNX artifact; where the profile names another one for exports, that one's nodes make it."""
    build, profile = _exported(wish.build), case.settings.hardware_profiles[wish.hardware.profile]
    hardware = api.Hardware(profile=profile.export_profile) if profile.export_profile else wish.hardware
    return replace(wish, build=build, hardware=hardware, key=_request_key(case, build, wish.version, hardware))


def _request(case: Case, wish: _Wish) -> BuildRequest:
    hub = wish.version.source.hugging_face
    if hub and (pinned := _recorded_revision(case, wish)):
        hub = hub.model_copy(update={"revision": pinned})
    return BuildRequest(
        request_key=wish.key,
        model=wish.model.name,
        version=wish.version.version,
        build=wish.build,
        hugging_face=hub,
        pvc=wish.version.source.pvc,
        s3=wish.version.source.s3,
        trace_device=job.trace_device(wish.build, case.spec, case.settings),
        images=_images(case, wish),
        store_read_only=read_only(case.store_claim),
        owner=f"{case.identity.namespace}/{case.identity.name}",
    )


def _compile_request(case: Case, wish: _Wish, onnx: BertArtifactSpec) -> BuildRequest:
    release = case.settings.triton.releases[case.spec.server.release or case.settings.triton.default_release]
    return BuildRequest(
        request_key=wish.key,
        model=wish.model.name,
        version=wish.version.version,
        build=wish.build,
        onnx=OnnxArtifact(
            artifact_key=onnx.report.artifact_key,
            manifest_sha256=onnx.report.manifest_sha256,
            revision=onnx.report.revision,
            profile=wish.hardware.profile,
            compute_capability=case.profile.compute_capability,
            tensorrt_version=release.tensorrt_version,
        ),
        images=_images(case, wish),
        store_read_only=read_only(case.store_claim),
        owner=f"{case.identity.namespace}/{case.identity.name}",
    )


def _images(case: Case, wish: _Wish) -> list[str]:
    """What the Job's containers run in, each image once."""
    images = [job.image(wish.build, step, case.spec, case.settings) for step in steps.job_steps(wish.build)]
    return list(dict.fromkeys(images))


def _recorded_revision(case: Case, wish: _Wish) -> str:
    """The commit that this wish was resolved to before: losing a record must not move a branch."""
    keys = (wish.key, wish.served_key)
    for model in (case.observed.bert.get("status") or {}).get("models") or ():
        for version in model.get("versions") or ():
            if version.get("revision") and any(same_wish(key, version.get("requestKey", "")) for key in keys):
                return str(version["revision"])
    for live in case.observed.deployments:
        for known, answer in deployment.answers(live).items():
            if any(same_wish(key, known) for key in keys):
                return answer["revision"]
    return ""


def _watch(case: Case, wish: _Wish, live: Manifest) -> Build:
    """Follow the latest attempt."""
    facts = replace(wish.facts, job=live["metadata"]["name"], revision=_compiled_revision(case, wish))
    pod = job_state.newest_pod(live, case.observed.job_pods)
    if ended := job_state.ended(live, "Complete"):
        return _record(case, wish, facts, live, ended)
    if failed := job_state.ended(live, "Failed"):
        return _after_failure(case, wish, facts, live, failed)
    # What has failed is told once the Job has ended: until then the same status would come and go.
    problem = job_state.held_up(live, case.observed.job_pods, case.observed.refused_pods)
    if problem and problem.reason == "Unschedulable":
        problem = _waiting_for_room(case, wish, facts, problem)
    step = pod_state.stage(pod) if pod else ""
    facts = replace(facts, step=step, progress=_progress(case, wish, step), queued=job_state.queued(live))
    facts = replace(facts, problem=problem, retry_seconds=0.0)
    return Build(facts=facts, adopt=live if case.joins(live) else None)


def _progress(case: Case, wish: _Wish, step: str) -> str:
    """Which step it is at, and about how long the rest took for others: the same all through the step."""
    order = steps.job_steps(wish.build)
    if step not in order:
        return ""
    place = order.index(step)
    # Steps of precisions that it may fall back to are passed over at once, unless it comes to that.
    always = [one for one in order if one == steps.plain(one)]
    at = f"step {step}, {always.index(step) + 1} of {len(always)}" if step in always else f"step {step}"
    reports = [live["spec"]["report"] for live in case.observed.artifacts]
    known = [
        report.get("durationsSeconds") or {}
        for report in reports
        if report.get("format") == wish.build.format.value and not report.get("reused")
    ]
    left = sum(_usual(known, later) for later in order[place:])
    return f"{at}, about {_rounded(left)} left" if left else at


def _usual(known: Sequence[Mapping[str, float]], step: str) -> float:
    """Median of what a step took, in seconds; 0 if nobody knows."""
    return median([durations[step] for durations in known if step in durations] or [0.0])


def _rounded(seconds: float) -> str:
    """A time as people say it."""
    if seconds > 90:  # noqa: PLR2004 - a minute and a half
        return f"{seconds / 60:.0f} min"
    return f"{max(5, 5 * round(seconds / 5))} s"


def _compiled_revision(case: Case, wish: _Wish) -> str:
    """What the source of an engine was resolved to, known from the ONNX artifact before there is an engine."""
    if wish.build.format is not api.Format.TENSORRT:
        return ""
    onnx = _artifact(case, _export_wish(case, wish).key)
    return onnx[1].report.revision if onnx else ""


def _waiting_for_room(case: Case, wish: _Wish, facts: checks.VersionFacts, problem: Problem) -> Problem:
    """Say what a pod that no node takes is waiting for."""
    engine = wish.build.format is api.Format.TENSORRT
    if not engine and not job.trace_device(wish.build, case.spec, case.settings):
        return replace(problem, message=f"{problem.message}; next: {case.more_room(problem, 'builds')}")
    message = (
        f"{'compile' if engine else 'build'} Job {facts.job} waits for a node with {case.profile.resource_name} "
        f"(profile {case.spec.hardware.profile!r}): {problem.message}; next: add such a node, or write build.format: "
        f"onnx and a hardware.profile without GPUs ({case.plain_profiles})"
    )
    return replace(problem, reason=checks.WAITING_FOR_ACCELERATOR, message=message)


def _record(case: Case, wish: _Wish, facts: checks.VersionFacts, live: Manifest, ended: Mapping[str, Any]) -> Build:
    """A finished Job: write down what it published, or run it again if its report is lost."""
    pod = job_state.newest_pod(live, case.observed.job_pods)
    report = pod_state.report(pod) if pod else None
    facts = replace(facts, step="publish")
    if report is not None and case.store_claim is not None:
        return Build(facts=facts, record=_record_manifest(case, report, facts.request_key))
    awaited = job_state.awaited_seconds(pod, ended, case.now)
    if awaited is not None:
        return Build(facts=replace(facts, progress="finished, its report is still to be seen", retry_seconds=awaited))
    if job_state.attempt(live) < job_state.MAX_ATTEMPTS_WITHOUT_REPORT:
        return _ask(case, wish, attempt=job_state.attempt(live) + 1)
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
    case: Case, wish: _Wish, facts: checks.VersionFacts, live: Manifest, failed: Mapping[str, Any]
) -> Build:
    """A failed Job stays as evidence; passing faults are tried again, ever more slowly, then not at all."""
    late = Problem(
        reason="BuildDeadlineExceeded",
        message=f"the build took longer than {case.spec.builds.active_deadline_seconds} s; "
        "next: raise spec.builds.activeDeadlineSeconds",
    )
    problem = job_state.failure(live, case.observed.job_pods, failed, late)
    facts = replace(facts, problem=problem, step=problem.container)
    seconds = job_state.seconds_to_retry(live, failed, case.observed.job_pods, problem, case.now)
    if seconds is None:
        return Build(facts=facts)
    if seconds <= 0:
        return _ask(case, wish, attempt=job_state.attempt(live) + 1)
    return Build(facts=replace(facts, retry_seconds=seconds))
