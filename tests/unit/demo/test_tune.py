"""The table at the end of the tuning demo says what was served before and what the plan made of it."""

from bert_operator.api.measurement import MeasuredPoint, MeasuredVariant
from bert_operator.api.status import TunedPlan, TuningStatus
from demo import tune


def variant(instances: int, batch: int, *points: tuple[int, float, float]) -> MeasuredVariant:
    return MeasuredVariant(
        instances=instances,
        max_batch_size=batch,
        max_queue_delay_microseconds=None if batch == 1 else 1000,
        points=[MeasuredPoint(concurrency=c, throughput=t, p95=latency) for c, t, latency in points],
    )


PLAN = TunedPlan(
    instances=2,
    max_batch_size=1,
    batching=False,
    concurrency=4,
    requests_per_second="20",
    latency_milliseconds="90",
    percentile=95,
    key="ab",
    why="2 instances answer most.",
)


def test_before_and_after_show_the_best_load_within_the_limit() -> None:
    variants = [variant(1, 4, (1, 9.0, 40.0), (16, 30.0, 400.0)), variant(2, 1, (4, 20.0, 90.0)), variant(2, 4)]
    status = TuningStatus(mode="Apply", key="ab", max_latency_milliseconds=100, percentile=95, plan=PLAN)

    lines = tune.table(variants, status, {"maxBatchSize": 4}).splitlines()

    assert "within 100 ms at p95" in lines[0]
    before, after, silent = lines[3:6]
    assert before.split()[0] == "before"
    assert "9.0" in before
    assert "30.0" not in before
    assert after.split()[0] == "after"
    assert "20.0" in after
    assert "none within the limit" in silent
    assert lines[-1] == PLAN.why
