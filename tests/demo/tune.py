"""The demo's last step with TUNE=1: a plan is measured and served by; a table says what it was chosen from."""

from collections.abc import Mapping, Sequence
from typing import Any

from bert_operator import sizing
from bert_operator.api.measurement import MeasuredPoint, MeasuredVariant, Measurement
from bert_operator.api.status import TunedPlan, TuningStatus
from demo import follow
from support.kube import Kube


def until_applied(kube: Kube, name: str) -> str:
    """Wait until a plan is measured and served; the table of before and after.

    Raises:
        TooLate: it isn't in time, or the measurement failed; the text says why.
    """
    live = follow.until_condition(kube, name, "Tuned", seconds=1200)
    status = TuningStatus.model_validate(live["status"]["tuning"])
    record = kube.get("bertartifact", status.artifact) or {"spec": {"measurements": []}}
    measurement = next(
        Measurement.model_validate(one) for one in record["spec"]["measurements"] if one["key"] == status.key
    )
    return table(measurement.variants, status, live["spec"]["models"][0].get("serving") or {})


def table(variants: Sequence[MeasuredVariant], status: TuningStatus, written: Mapping[str, Any]) -> str:
    """What each measured way of serving reaches within the objective; before is what the spec says, after the plan."""
    plan = status.plan
    limit = f"{status.max_latency_milliseconds} ms at p{status.percentile}"
    rows = [f"{'':<8}{'way of serving':<48}{'requests/s':>11}{f'p{status.percentile}':>11}  in flight"]
    for variant in variants:
        marks = ["before"] if _is_before(variant, written) else []
        marks += ["after"] if plan and _is_plan(variant, plan) else []
        best = _best(variant, status)
        figures = "       none within the limit"
        if best is not None:
            latency = best.latency(status.percentile) or 0.0
            figures = f"{best.throughput:>11.1f}{latency:>8.0f} ms  {best.concurrency}"
        rows.append(f"{'+'.join(marks):<8}{sizing.words(variant):<48}{figures}")
    why = f"\n{plan.why}" if plan else ""
    return f"Measured on this machine; the most requests per second within {limit}:\n\n" + "\n".join(rows) + why


def _best(variant: MeasuredVariant, status: TuningStatus) -> MeasuredPoint | None:
    within = [
        point
        for point in variant.points
        if (latency := point.latency(status.percentile)) is not None
        and (status.max_latency_milliseconds is None or latency <= status.max_latency_milliseconds)
    ]
    return max(within, key=lambda point: point.throughput, default=None)


def _is_before(variant: MeasuredVariant, written: Mapping[str, Any]) -> bool:
    return (variant.instances, variant.max_batch_size) == (
        written.get("instances", 1),
        written.get("maxBatchSize", 8),
    )


def _is_plan(variant: MeasuredVariant, plan: TunedPlan) -> bool:
    return (variant.instances, variant.max_batch_size) == (plan.instances, plan.max_batch_size)
