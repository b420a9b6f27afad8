"""The page of one measurement, as a reader and a browser see it."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from bert_operator.cli import tuning_report

KEY = "ab" * 16


def artifact(**changes: Any) -> dict[str, Any]:
    points = [
        {"concurrency": 1, "throughput": 51.2, "p90": 18.0, "p95": 20.5, "p99": 33.0},
        {"concurrency": 16, "throughput": 88.0, "p90": 180.0, "p95": 190.0, "p99": 240.0},
    ]
    measurement = {
        "key": KEY,
        "measuredAt": "2026-11-22T12:00:00Z",
        "image": "registry.example/triton:1",
        "profile": "cpu",
        "lengths": [32, 128],
        "seconds": 140,
        "analyzer": "1.58.0",
        "variants": [
            {"instances": 1, "maxBatchSize": 1, "points": points},
            {"instances": 2, "maxBatchSize": 8, "maxQueueDelayMicroseconds": 1000, "points": points},
        ],
    }
    return {"metadata": {"name": "onnx-1-2"}, "spec": {"measurements": [measurement | changes]}}


def status(**changes: Any) -> dict[str, Any]:
    plan = {
        "instances": 2,
        "maxBatchSize": 8,
        "batching": True,
        "maxQueueDelayMicroseconds": 1000,
        "replicas": 3,
        "concurrency": 1,
        "requestsPerSecond": "51.2",
        "latencyMilliseconds": "20.5",
        "percentile": 95,
        "key": KEY,
        "why": "most throughput within 100 ms",
    }
    known = {
        "mode": "Recommend",
        "model": "minilm",
        "key": KEY,
        "artifact": "onnx-1-2",
        "maxLatencyMilliseconds": 100,
        "percentile": 95,
        "plan": plan,
    }
    return {name: value for name, value in (known | changes).items() if value is not None}


def drawing(page: str) -> ET.Element:
    svg = page[page.index("<svg") : page.index("</svg>") + len("</svg>")]
    return ET.fromstring(svg)  # noqa: S314 - our own


def test_it_loads_nothing_from_anywhere() -> None:
    page = tuning_report.render(artifact(), status())
    assert not re.search(r"(src|href)\s*=|url\(|@import|<script", page)


def test_axes_have_names_units_and_numbers_up_to_the_largest_value() -> None:
    texts = [one.text for one in drawing(tuning_report.render(artifact(), status())).iter("text")]
    assert "p95 latency (ms)" in texts
    assert "throughput of one pod (requests/s)" in texts
    numbers = [float(text) for text in texts if text and re.fullmatch(r"[0-9.]+", text)]
    assert max(numbers) >= 190


def test_points_lie_where_their_figures_say() -> None:
    places = {
        (float(one.get("cx", 0)), float(one.get("cy", 0)))
        for one in drawing(tuning_report.render(artifact(), status())).iter("circle")
        if one.find("title") is not None
    }
    assert len(places) == 2  # both configurations measured the same
    (low, slow), (high, fast) = sorted(places)
    assert (low, slow) < (high, slow)
    assert fast < slow  # up is more
    for left, top in places:
        assert tuning_report.LEFT <= left <= tuning_report.WIDTH - tuning_report.RIGHT
        assert tuning_report.TOP <= top <= tuning_report.HEIGHT - tuning_report.BOTTOM


def test_the_chosen_point_is_marked_in_plot_and_table() -> None:
    page = tuning_report.render(artifact(), status())
    assert [one.get("class") for one in drawing(page).iter("circle")].count("chosen") == 1
    (row,) = re.findall(r'<tr class="chosen">(.*?)</tr>', page)
    assert "2 instances, batches up to 8" in row
    assert "51.2" in row
    assert "3 replicas" in page


def test_the_limit_is_a_line_at_its_latency() -> None:
    (line,) = [one for one in drawing(tuning_report.render(artifact(), status())).iter("line") if one.get("class")]
    assert line.get("x1") == line.get("x2")
    page = tuning_report.render(artifact(), status(maxLatencyMilliseconds=60_000))
    assert "limit 60000 ms: further right" in page
    assert not any(one.get("class") for one in drawing(page).iter("line"))
    assert "limit" not in "".join(
        drawing(tuning_report.render(artifact(), status(maxLatencyMilliseconds=None))).itertext()
    )


def test_without_a_plan_it_says_that_nothing_meets_the_objective() -> None:
    page = tuning_report.render(artifact(), status(plan=None))
    assert "No measured configuration meets the objective (at most 100 ms at p95)" in page
    assert 'class="chosen"' not in page


def test_latencies_that_were_not_reported_leave_a_gap_and_no_point() -> None:
    bare = {"instances": 1, "maxBatchSize": 1, "points": [{"concurrency": 1, "throughput": 5.0}]}
    page = tuning_report.render(artifact(variants=[bare]), status(plan=None))
    assert not [one for one in drawing(page).iter("circle") if one.find("title") is not None]
    assert "<td></td>" in page


def test_names_can_smuggle_in_no_markup() -> None:
    page = tuning_report.render(artifact(image="<img/src=x onerror=1>"), status(model='<b>"x"</b>'))
    assert "<img" not in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("record", "told", "says"),
    [
        (artifact(), status(key="cd"), "holds no measurement 'cd'"),
        (artifact(variants="odd"), status(), "is of another release"),
        (artifact(), {"mode": 1}, "is of another release"),
    ],
)
def test_what_cant_be_shown_is_said(record: dict[str, Any], told: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tuning_report.render(record, told)
