"""One self-contained HTML page of what was measured: the plot of throughput over latency, the plan, every point.

`bertctl tuning report` writes it. Pure: a BertArtifact and a status in, text out. It loads nothing from anywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Any, Final

from pydantic import ValidationError

from bert_operator import sizing
from bert_operator.api.measurement import MeasuredPoint, MeasuredVariant, Measurement
from bert_operator.api.observed import Manifest
from bert_operator.api.status import TunedPlan, TuningStatus

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 30, 58
COLOURS: Final = ("#1f77b4", "#d9730d", "#2a9d5c", "#b83280", "#6b5bd2", "#8a6d1f")
_TICKS: Final = 6
_CHOSEN_ROW: Final = ' class="chosen"'
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2430;background:#fff;max-width:920px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:1.8rem 0 .5rem}
p.facts{color:#556;margin:.1rem 0}
.plan{border-left:4px solid #2a9d5c;background:#f2faf5;padding:.7rem 1rem;margin:1rem 0}
.none{border-left:4px solid #b54708;background:#fff7ed;padding:.7rem 1rem;margin:1rem 0}
table{border-collapse:collapse;width:100%}th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #e3e7ee}
th:first-child,td:first-child{text-align:left}tr.chosen{background:#f2faf5;font-weight:600}
svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#445}svg .axis{font-size:13px;fill:#1c2430}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Axis:
    """Data values to pixels, from zero, with ticks at round numbers."""

    top: float
    step: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> "_Axis":
        highest = max([*values, 1e-9])
        rough = highest / _TICKS
        magnitude = 10 ** floor(log10(rough))
        step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
        return cls(top=step * ceil(highest * 1.04 / step), step=step, start=start, end=end)

    def at(self, value: float) -> float:
        return round(self.start + (self.end - self.start) * value / self.top, 1)

    def ticks(self) -> list[float]:
        return [index * self.step for index in range(round(self.top / self.step) + 1)]


def render(artifact: Manifest, tuning_status: Mapping[str, Any]) -> str:
    """The page of one measurement.

    Args:
        artifact: a BertArtifact, as JSON.
        tuning_status: `status.tuning` of a BertDeployment, as JSON; its key names the measurement.

    Raises:
        ValueError: the status or the record can't be read, or the record holds no such measurement; the text says what
            to do.
    """
    name = artifact["metadata"]["name"]
    try:
        status = TuningStatus.model_validate(tuning_status)
        known = [Measurement.model_validate(one) for one in artifact["spec"].get("measurements") or ()]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{name} or the status is of another release of bert-operator: {first['msg']}") from error
    found = next((one for one in known if one.key == status.key), None)
    if found is None:
        raise ValueError(
            f"BertArtifact {name} holds no measurement {status.key!r}: wait until the condition Tuned is no longer "
            "Measuring"
        )
    return _page(name, found, status)


def _page(artifact: str, measurement: Measurement, status: TuningStatus) -> str:
    title = f"{status.model}: measured on {measurement.profile}"
    lengths = ", ".join(map(str, measurement.lengths))
    facts = (
        f"Artifact {artifact} · server {measurement.image}",
        f"{measurement.measured_at} · {measurement.seconds} s · Model Analyzer {measurement.analyzer} · sequences of "
        f"{lengths} tokens · one sequence a request, the next sent when one is answered"
        + (f" · {measurement.skipped} variants left out" if measurement.skipped else ""),
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="facts">{escape(line)}</p>' for line in facts),
        _plan(status),
        f"<h2>Throughput over latency (p{status.percentile})</h2>",
        '<p class="facts">Beside each point: how many requests are in flight at once.</p>',
        _plot(measurement.variants, status),
        "<h2>Every point</h2>",
        _table(measurement.variants, status.plan),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _plan(status: TuningStatus) -> str:
    limit = status.max_latency_milliseconds
    goal = f"at most {limit} ms at p{status.percentile}" if limit else "any latency"
    if status.plan is None:
        return f'<div class="none">No measured configuration meets the objective ({escape(goal)}).</div>'
    plan = status.plan
    batching = (
        f"batches up to {plan.max_batch_size}, {plan.max_queue_delay_microseconds} µs to fill one"
        if plan.batching
        else "no batching"
    )
    parts = [f"{plan.instances} instance{'s' if plan.instances > 1 else ''}", batching]
    if plan.replicas is not None:
        parts.append(f"{plan.replicas} replica{'s' if plan.replicas != 1 else ''}")
    expected = f"{plan.requests_per_second} requests/s a pod at {plan.latency_milliseconds} ms"
    return (
        f'<div class="plan"><strong>Plan: {escape(", ".join(parts))}</strong><br>Expected: {escape(expected)} '
        f"(objective: {escape(goal)})<br>{escape(plan.why)}</div>"
    )


def _plot(variants: Sequence[MeasuredVariant], status: TuningStatus) -> str:
    series = [(variant, _points(variant, status.percentile)) for variant in variants]
    every = [point for _, points in series for point in points]
    x = _Axis.over([latency for latency, _ in every], LEFT, WIDTH - RIGHT)
    y = _Axis.over([point.throughput for _, point in every], HEIGHT - BOTTOM, TOP)
    legend = HEIGHT + 10
    rows = ceil(len(series) / 2)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {legend + 22 * rows}" role="img" aria-label="Throughput over latency">',
        *_grid(x, y, status.percentile),
        *_limit(x, status),
    ]
    for index, (variant, points) in enumerate(series):
        parts.extend(_line(variant, points, COLOURS[index % len(COLOURS)], x, y))
        parts.extend(
            _legend(variant, COLOURS[index % len(COLOURS)], 40 + 420 * (index % 2), legend + 22 * (index // 2))
        )
    parts.extend(_chosen(variants, status, x, y))
    return "\n".join([*parts, "</svg>"])


def _points(variant: MeasuredVariant, percentile: int) -> list[tuple[float, MeasuredPoint]]:
    found = [(point.latency(percentile), point) for point in variant.points]
    return [(latency, point) for latency, point in found if latency is not None]


def _grid(x: _Axis, y: _Axis, percentile: int) -> Iterator[str]:
    floor_, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in y.ticks():
        at = y.at(value)
        yield f'<line x1="{LEFT}" y1="{at}" x2="{right}" y2="{at}" stroke="#e3e7ee"/>'
        yield f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{value:g}</text>'
    for value in x.ticks():
        at = x.at(value)
        yield f'<line x1="{at}" y1="{floor_}" x2="{at}" y2="{floor_ + 5}" stroke="#889"/>'
        yield f'<text x="{at}" y="{floor_ + 20}" text-anchor="middle">{value:g}</text>'
    yield f'<line x1="{LEFT}" y1="{floor_}" x2="{right}" y2="{floor_}" stroke="#889"/>'
    middle = (LEFT + right) / 2
    yield f'<text class="axis" x="{middle}" y="{floor_ + 44}" text-anchor="middle">p{percentile} latency (ms)</text>'
    height = (TOP + floor_) / 2
    yield (
        f'<text class="axis" x="18" y="{height}" text-anchor="middle" transform="rotate(-90 18 {height})">'
        "throughput of one pod (requests/s)</text>"
    )


def _limit(x: _Axis, status: TuningStatus) -> Iterator[str]:
    limit = status.max_latency_milliseconds
    if limit is None:
        return
    if limit > x.top:
        yield f'<text x="{WIDTH - RIGHT}" y="{TOP - 12}" text-anchor="end">limit {limit} ms: further right</text>'
        return
    at = x.at(limit)
    yield (
        f'<line class="limit" x1="{at}" y1="{TOP}" x2="{at}" y2="{HEIGHT - BOTTOM}" stroke="#c0392b" '
        'stroke-dasharray="6 4"/>'
    )
    yield f'<text x="{at}" y="{TOP - 12}" text-anchor="middle" style="fill:#c0392b">limit {limit} ms</text>'


def _line(
    variant: MeasuredVariant, points: Sequence[tuple[float, MeasuredPoint]], colour: str, x: _Axis, y: _Axis
) -> Iterator[str]:
    """In the order of load: that is how a reader follows what more load does."""
    places = [(x.at(latency), y.at(point.throughput)) for latency, point in points]
    way = " ".join(f"{left},{top}" for left, top in places)
    yield f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.5" opacity="0.6"/>'
    for (left, top), (latency, point) in zip(places, points, strict=True):
        told = f"{sizing.words(variant)}; {point.concurrency} at once: {point.throughput:g} requests/s, {latency:g} ms"
        yield (
            f'<circle cx="{left}" cy="{top}" r="4.5" fill="{colour}"><title>{escape(told)}</title></circle>'
            f'<text x="{left + 7}" y="{top - 6}">{point.concurrency}</text>'
        )


def _legend(variant: MeasuredVariant, colour: str, left: float, top: float) -> Iterator[str]:
    yield f'<circle cx="{left}" cy="{top}" r="5" fill="{colour}"/>'
    yield f'<text x="{left + 12}" y="{top + 4}">{escape(sizing.words(variant))}</text>'


def _chosen(variants: Sequence[MeasuredVariant], status: TuningStatus, x: _Axis, y: _Axis) -> Iterator[str]:
    for variant in variants:
        for latency, point in _points(variant, status.percentile):
            if _is_chosen(variant, point, status.plan):
                left, top = x.at(latency), y.at(point.throughput)
                ring = 'fill="none" stroke="#1c2430" stroke-width="2"'
                yield f'<circle class="chosen" cx="{left}" cy="{top}" r="10" {ring}/>'
                yield f'<text x="{left}" y="{top + 26}" text-anchor="middle" style="font-weight:600">plan</text>'


def _is_chosen(variant: MeasuredVariant, point: MeasuredPoint, plan: TunedPlan | None) -> bool:
    return plan is not None and (
        (variant.instances, variant.max_batch_size, point.concurrency)
        == (plan.instances, plan.max_batch_size, plan.concurrency)
    )


def _table(variants: Sequence[MeasuredVariant], plan: TunedPlan | None) -> str:
    head = ("Configuration", "At once", "Requests/s", "p90 ms", "p95 ms", "p99 ms")
    rows = [
        f"<tr{_CHOSEN_ROW if _is_chosen(variant, point, plan) else ''}><td>{escape(sizing.words(variant))}</td>"
        + "".join(f"<td>{_figure(value)}</td>" for value in (point.concurrency, point.throughput))
        + "".join(f"<td>{_figure(value)}</td>" for value in (point.p90, point.p95, point.p99))
        + "</tr>"
        for variant in variants
        for point in variant.points
    ]
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>\n" + "\n".join(rows) + "</table>"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
