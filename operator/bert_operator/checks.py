"""Named checks: what was observed -> conditions. `plan` gathers the facts and calls `conditions`; nothing here acts.

Each check narrows its own input and answers with one verdict, and its message names the next step. A condition says
what is, never what was just asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from bert_operator import job_state
from bert_operator.api import steps
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.report import BuildReport
from bert_operator.api.status import Condition, ConditionType, TunedPlan, TuningStatus
from bert_operator.pod_state import Problem

WAITING_FOR_ACCELERATOR: Final = "WaitingForAccelerator"
"""Reason of a build that no node takes for want of a GPU."""
GUARDS: Final = ("preflight", "verify")
"""Containers of a serving pod that refuse an artifact."""
QUEUED: Final = "Queued"
"""Reason while Kueue holds a Job back."""
SCALING: Final = "Scaling"
"""Reason of Progressing while an autoscaler's pods come or go."""
STAGE_WORDS: Final = {
    "stage": "Staging",
    "compile": "Compiling",
    "fetch": "Fetching",
    "inspect": "Inspecting",
    "answer": "Answering",
    "convert": "Converting",
    "compare": "Comparing",
    "publish": "Publishing",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionFacts:
    """One version of one model."""

    model: str
    version: int
    request_key: str
    artifact_name: str = ""
    artifact: BertArtifactSpec | None = None
    revision: str = ""
    """What the source was resolved to, if that is known before the artifact is there."""
    newer_toolchain: bool = False
    """The artifact answers the same wish, asked of an older build image."""
    job: str = ""
    step: str = ""
    """Build step it is at, or empty."""
    progress: str = ""
    """That in words, with the time that is left if it is known."""
    queued: str = ""
    """What its suspended Job waits for, in words; empty if it may run."""
    problem: Problem | None = None
    retry_seconds: float | None = None
    """When to look again by itself, from now: a failed build is tried again then; None is never."""

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.model}/{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingFacts:
    """The live Deployment."""

    wished: int
    """Replicas of the spec, or what an autoscaler has set."""
    current: bool
    """It says what the spec asks for, and its controller has seen that."""
    replicas: int
    updated: int
    ready: int
    available: int
    stuck: str = ""
    """Why Kubernetes gave up on it or can't make its pods, in its own words."""
    floor: int | None = None
    """Fewest pods that are enough while an autoscaler sets their number; None: all that are wished."""
    counted_by: str = ""
    """Who sets their number if the spec doesn't, in words."""

    @property
    def complete(self) -> bool:
        """Every wished pod is new and available, and no old one is left."""
        return self.current and self.updated == self.available == self.replicas == self.wished

    @property
    def new_available(self) -> int:
        """Available pods that are surely new: were all old ones available, these would be left."""
        return max(0, self.available - (self.replicas - self.updated))

    @property
    def enough(self) -> bool:
        """Everything asked for answers, though an autoscaler may be adding pods or removing some."""
        if self.floor is None:
            return self.complete
        return self.current and self.updated == self.replicas and self.available >= self.floor

    def says(self, text: str) -> str:
        """A message, with who sets the number of pods."""
        return f"{text}; {self.counted_by}" if self.counted_by else text


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningFacts:
    """Where measuring stands, and what follows from it."""

    mode: str
    status: TuningStatus
    """What the status will say; its plan is that of the newest measurement."""
    served: TunedPlan | None = None
    """The plan that the live Deployment follows."""
    problem: Problem | None = None
    """Why there is no plan."""
    queued: str = ""
    """What its suspended Job waits for, in words; empty if it may run."""
    retry_seconds: float | None = None
    """As of a build."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Everything the checks judge."""

    generation: int
    rejections: tuple[Problem, ...] = ()
    """Why the spec can't be done as written."""
    claim_problem: Problem | None = None
    """A claim that the spec names and that isn't there."""
    versions: tuple[VersionFacts, ...] = ()
    verify: bool = True
    serving: ServingFacts | None = None
    server_problem: Problem | None = None
    refused: tuple[Problem, ...] = ()
    """Children that the API server didn't take, with its reason."""
    autoscaler_problem: Problem | None = None
    """Why the autoscaler doesn't scale."""
    tuning: TuningFacts | None = None
    """None while tuning is off."""

    @property
    def build_problem(self) -> tuple[VersionFacts, Problem] | None:
        """The first version whose build is in trouble."""
        return next(((v, v.problem) for v in self.versions if v.problem), None)

    @property
    def unbuilt(self) -> tuple[VersionFacts, ...]:
        """Versions without an artifact."""
        return tuple(v for v in self.versions if v.artifact is None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a check found."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


def accepted(facts: Facts) -> Verdict:
    """Can the spec be done as written?"""
    if facts.rejections:
        message = "; ".join(problem.message for problem in facts.rejections)
        return Verdict(status="False", reason=facts.rejections[0].reason, message=message)
    return Verdict(status="True", reason="Valid")


def source_resolved(facts: Facts) -> Verdict:
    """Is it known which weights each version has?"""
    if facts.rejections:
        return _not_accepted()
    if facts.claim_problem:
        return _bad(facts.claim_problem)
    failed = next((v for v in facts.unbuilt if v.problem and v.problem.container == "fetch"), None)
    if failed and failed.problem:
        return _bad(failed.problem, failed)
    open_ = [v.label for v in facts.unbuilt if v.step in ("", "fetch") and not v.revision]
    if open_:
        return Verdict(status="Unknown", reason="Resolving", message=f"resolving {', '.join(open_)}")
    known = [
        f"{v.label} is {v.artifact.report.revision if v.artifact else v.revision}"
        for v in facts.versions
        if v.artifact or v.revision
    ]
    return Verdict(status="True", reason="Resolved", message="; ".join(known))


def built(facts: Facts) -> Verdict:
    """Is there an artifact, equal to its source model, for each version?"""
    if facts.rejections:
        return _not_accepted()
    if facts.claim_problem:
        return _bad(facts.claim_problem)
    if facts.build_problem:
        version, problem = facts.build_problem
        return _bad(problem, version)
    if facts.unbuilt:
        message = "; ".join(map(_building, facts.unbuilt))
        return Verdict(status="Unknown", reason=_work(facts.unbuilt), message=message)
    return Verdict(status="True", reason="Built", message="; ".join(_fidelity(v) for v in facts.versions))


def verified(facts: Facts) -> Verdict:
    """Did serving pods answer the golden requests like the source model?"""
    problem = facts.server_problem
    if problem and problem.container in GUARDS and problem.told:
        return _bad(problem)
    if not facts.verify:
        return Verdict(status="Unknown", reason="Disabled", message="rollout.verify is false: answers aren't checked")
    if facts.serving and facts.serving.current and facts.serving.new_available:
        return Verdict(
            status="True", reason="GoldenRequestsMatched", message="every ready pod answers like the source model"
        )
    return Verdict(status="Unknown", reason="WaitingForPods", message="no new pod has been checked yet")


def progressing(facts: Facts) -> Verdict:
    """Is something under way that needs no help?"""
    if facts.rejections:
        return _not_accepted("False")
    if stuck := _stuck(facts):
        return Verdict(status="False", reason=stuck.reason, message=stuck.message)
    if facts.unbuilt:
        return Verdict(status="True", reason=_work(facts.unbuilt), message=built(facts).message)
    if facts.serving is None or not facts.serving.enough:
        return Verdict(status="True", reason="RollingOut", message=_rollout(facts))
    if not facts.serving.complete:
        return Verdict(status="True", reason=SCALING, message=_answering(facts.serving))
    return Verdict(status="False", reason="Complete")


def available(facts: Facts) -> Verdict:
    """Does any verified pod answer, be it of the previous revision?"""
    serving = facts.serving
    if serving and serving.available:
        return Verdict(status="True", reason="PodsAvailable", message=serving.says(_answering(serving)))
    if serving and serving.wished == 0 and not serving.counted_by:
        return Verdict(
            status="False", reason="ScaledToZero", message="spec.replicas is 0; next: kubectl scale bertd --replicas=1"
        )
    return Verdict(status="False", reason="NoPods", message="no pod answers yet")


def ready(facts: Facts) -> Verdict:
    """Does everything that the spec asks for answer?"""
    if facts.rejections:
        return _not_accepted("False")
    if facts.claim_problem:
        return _bad(facts.claim_problem)
    if facts.build_problem:
        version, problem = facts.build_problem
        return _bad(problem, version)
    if facts.unbuilt:
        return Verdict(status="False", reason=_work(facts.unbuilt), message=built(facts).message)
    trouble = _trouble(facts)
    if facts.serving is None or not facts.serving.enough:
        return _bad(trouble) if trouble else Verdict(status="False", reason="RollingOut", message=_rollout(facts))
    if facts.serving.wished == 0:
        return Verdict(status="False", reason="ScaledToZero", message="spec.replicas is 0")
    message = facts.serving.says(f"{facts.serving.available} verified pods answer")
    return Verdict(status="True", reason="Serving", message=message)


def up_to_date(facts: Facts) -> Verdict:
    """Does what serves match the spec and the newest toolchain?"""
    if facts.serving is None:
        return Verdict(status="Unknown", reason="NothingServed")
    if not facts.serving.current or facts.unbuilt or facts.rejections:
        return Verdict(status="False", reason="SpecNotServed", message="the previous revision is still serving")
    old = [v.label for v in facts.versions if v.newer_toolchain]
    if old:
        message = f"{', '.join(old)} was built by an older image; to rebuild, set the annotation bertops.dev/refresh"
        return Verdict(status="False", reason="NewerToolchain", message=message)
    return Verdict(status="True", reason="UpToDate")


def degraded(facts: Facts) -> Verdict:
    """Abnormal-true: does anything need a person?"""
    trouble = _stuck(facts) or _trouble(facts) or next(iter(facts.rejections), None) or facts.autoscaler_problem
    if trouble:
        return Verdict(status="True", reason=trouble.reason, message=trouble.message)
    return Verdict(status="False", reason="AsExpected")


def tuned(facts: Facts) -> Verdict | None:
    """Is there a measured plan, and is it followed? Nothing while tuning is off."""
    tuning = facts.tuning
    if tuning is None:
        return None
    plan, problem = tuning.status.plan, tuning.problem
    if problem:
        again = "; it is tried again by itself" if tuning.retry_seconds is not None else ""
        message = f"{problem.message}{again}; serving goes on as it is"
        return Verdict(status="False", reason=problem.reason, message=message)
    if plan is None:
        if not tuning.status.job:
            return Verdict(status="Unknown", reason="WaitingForArtifact", message="nothing to measure yet")
        if tuning.queued:
            return Verdict(status="Unknown", reason=QUEUED, message=f"{tuning.queued}; serving goes on meanwhile")
        message = f"Job {tuning.status.job} measures {tuning.status.model}; serving goes on meanwhile"
        return Verdict(status="Unknown", reason="Measuring", message=message)
    if tuning.mode == "Recommend":
        message = f"{_planned(plan)}; to serve by it, set tuning.mode to Apply"
        return Verdict(status="True", reason="Recommended", message=message)
    if plan != tuning.served or not (facts.serving and facts.serving.enough):
        return Verdict(status="Unknown", reason="Applying", message=f"rolling out {_planned(plan)}")
    return Verdict(status="True", reason="Applied", message=_planned(plan))


def _planned(plan: TunedPlan) -> str:
    """A plan in words."""
    parts = [f"{plan.instances} instance{'s' if plan.instances > 1 else ''}"]
    if plan.batching:
        parts.append(f"batches up to {plan.max_batch_size} within {plan.max_queue_delay_microseconds} µs")
    else:
        parts.append("no batching")
    if plan.replicas is not None:
        parts.append(f"{plan.replicas} replica{'s' if plan.replicas != 1 else ''}")
    return (
        f"{', '.join(parts)}: {plan.requests_per_second} requests/s a pod at {plan.latency_milliseconds} ms "
        f"p{plan.percentile}; {plan.why}"
    )


CHECKS: Final[tuple[tuple[ConditionType, Callable[[Facts], Verdict | None]], ...]] = (
    (ConditionType.ACCEPTED, accepted),
    (ConditionType.SOURCE_RESOLVED, source_resolved),
    (ConditionType.BUILT, built),
    (ConditionType.VERIFIED, verified),
    (ConditionType.PROGRESSING, progressing),
    (ConditionType.AVAILABLE, available),
    (ConditionType.READY, ready),
    (ConditionType.UP_TO_DATE, up_to_date),
    (ConditionType.TUNED, tuned),
    (ConditionType.DEGRADED, degraded),
)


def conditions(facts: Facts, before: Sequence[Condition], now: str) -> list[Condition]:
    """Judge everything.

    Args:
        facts: what was observed.
        before: the conditions as they stand; lastTransitionTime is kept where the status doesn't flip.
        now: RFC 3339 time for those that flip.
    """
    known = {condition.type: condition for condition in before}
    result = []
    for kind, check in CHECKS:
        verdict = check(facts)
        if verdict is None:
            continue
        old = known.get(kind)
        flipped = old is None or old.status != verdict.status
        result.append(
            Condition(
                type=kind,
                status=verdict.status,
                reason=verdict.reason,
                message=verdict.message[:4096],
                last_transition_time=now if flipped or old is None else old.last_transition_time,
                observed_generation=facts.generation,
            )
        )
    return result


def stage(facts: Facts) -> str:
    """One word for the printer column: where the whole stands."""
    if facts.rejections:
        return "Rejected"
    if facts.claim_problem:
        return "WaitingForClaim"
    if facts.build_problem:
        return _build_trouble(*facts.build_problem)
    if facts.unbuilt:
        return STAGE_WORDS.get(steps.plain(facts.unbuilt[0].step), "Queued")
    if facts.serving is None:
        return "Starting"
    if facts.serving.enough:
        return "Ready" if facts.serving.wished else "ScaledToZero"
    trouble = _trouble(facts)
    if trouble:
        return "VerifyFailed" if trouble.container in GUARDS and trouble.told else "ServerFailed"
    return "Starting" if facts.serving.available == 0 else "RollingOut"


def _build_trouble(version: VersionFacts, problem: Problem) -> str:
    if problem.reason == WAITING_FOR_ACCELERATOR:
        return "WaitingForGpu"
    if version.retry_seconds is not None:
        return "Retrying"
    # A published artifact that is named as the source is held against the spec without a Job.
    return "BuildFailed" if version.job else "SourceRefused"


def _trouble(facts: Facts) -> Problem | None:
    """Trouble on the serving side."""
    if facts.refused:
        return facts.refused[0]
    if facts.server_problem:
        return facts.server_problem
    if facts.serving and facts.serving.stuck:
        return Problem(reason="DeploymentStuck", message=facts.serving.stuck)
    return None


def _stuck(facts: Facts) -> Problem | None:
    """What won't get on without a person, be it a build that is tried again until somebody makes what it lacks."""
    if facts.claim_problem:
        return facts.claim_problem
    for version in facts.versions:
        if version.problem and (version.retry_seconds is None or version.problem.reason in job_state.AWAITED):
            return version.problem
    if facts.refused:
        return facts.refused[0]
    if facts.unbuilt or (facts.serving and facts.serving.complete):
        return None
    return _trouble(facts)


def _bad(problem: Problem, version: VersionFacts | None = None) -> Verdict:
    prefix = f"{version.label}: " if version else ""
    suffix = "; it is tried again by itself" if version and version.retry_seconds is not None else ""
    return Verdict(status="False", reason=problem.reason, message=f"{prefix}{problem.message}{suffix}")


def _not_accepted(status: Literal["False", "Unknown"] = "Unknown") -> Verdict:
    return Verdict(status=status, reason="NotAccepted", message="see the condition Accepted")


def _rollout(facts: Facts) -> str:
    if facts.serving is None:
        return "the server's Deployment is being made"
    s = facts.serving
    fewest = f", at least {s.floor} are asked for" if s.floor is not None else ""
    return f"{s.updated} of {s.wished} pods are new, {s.new_available} of these answer{fewest}"


def _answering(serving: ServingFacts) -> str:
    return f"{serving.available} of {serving.wished} pods answer"


def _work(unbuilt: Sequence[VersionFacts]) -> str:
    """Reason while artifacts are missing: queued only if nothing is being built."""
    return QUEUED if all(version.queued for version in unbuilt) else "Building"


def _building(version: VersionFacts) -> str:
    if not version.job:
        return f"{version.label}: waiting for the store's claim"
    if version.queued:
        return f"{version.label}: {version.queued}"
    return f"{version.label}: {version.progress or 'waiting for a node'} (Job {version.job})"


def _fidelity(version: VersionFacts) -> str:
    if version.artifact is None:
        return version.label
    report = version.artifact.report
    figures = report.fidelity
    return (
        f"{version.label}{_lowered(report)}: cosine ≥ {figures.min_cosine:.7f}, "
        f"max |Δ| {figures.max_abs_difference:.1e} to the source model over {figures.samples} samples"
    )


def _lowered(report: BuildReport) -> str:
    """What came of a wish for fewer bits; nothing where none was made."""
    came = report.lowering
    if came is None:
        return ""
    if came.achieved != came.asked:
        return f" in {came.achieved}, not {came.asked} ({came.why})"
    return f" in {came.method} {came.achieved}, {came.speed_ratio:g} times as fast as fp32"
