"""The arithmetic of `make bench-operator`, and the floor's manifests: the same children as ours."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.operator_bench import __main__ as program
from bench.operator_bench import figures, measures, report
from bench.operator_bench.bursts import templates
from bench.operator_bench.results import Results, Sizes
from bench.operator_bench.world import CHILDREN


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [figures.percentile(values, p) for p in (50, 95, 99)] == [50.0, 95.0, 99.0]
    assert figures.percentile([7.0], 99) == 7.0


def test_a_cost_that_doubles_with_n_has_exponent_one_and_a_quadratic_one_two() -> None:
    assert figures.exponent([(n, 0.05 * n) for n in (100, 200, 1000)]) == pytest.approx(1)
    assert figures.exponent([(n, 3e-5 * n**2) for n in (100, 200, 1000)]) == pytest.approx(2)


def an_event(verb: str, resource: str, user: str = "ours", stage: str = "ResponseComplete", sub: str = "") -> str:
    about = {"resource": resource} | ({"subresource": sub} if sub else {})
    told: dict[str, Any] = {"stage": stage, "verb": verb, "user": {"username": user}, "objectRef": about}
    return json.dumps(told | {"requestURI": "/"})


def test_the_audit_log_is_counted_by_user_each_request_once_and_watches_never() -> None:
    lines = [
        an_event("patch", "services"),
        an_event("patch", "bertdeployments", sub="status"),
        an_event("create", "events"),
        an_event("get", "services"),
        an_event("watch", "pods"),
        an_event("patch", "services", stage="ResponseStarted"),
        an_event("patch", "services", user="ours-too"),
    ]
    found = figures.counted(lines, "ours")
    assert (found.writes(), found.reads()) == (3, 1)
    assert found.by["patch", "bertdeployments/status"] == 1


def test_the_audit_log_says_when_the_children_of_each_were_there() -> None:
    def made(name: str, resource: str, at: str, code: int = 201, user: str = "ours") -> str:
        event = json.loads(an_event("patch", resource, user))
        event["objectRef"]["name"] = name
        return json.dumps(event | {"stageTimestamp": at, "responseStatus": {"code": code}}, separators=(",", ":"))

    found = figures.born(
        [
            made("bert-00001", "services", "1970-01-01T00:00:01.500000Z"),
            made("bert-00001-0b5f3c", "deployments", "1970-01-01T00:00:02Z"),
            made("bert-00001-0b5f3c", "deployments", "1970-01-01T00:00:09Z", code=200),
            made("bert-00002-0b5f3c", "deployments", "1970-01-01T00:00:03Z", user="theirs"),
        ],
        "ours",
    )
    assert found == {"bert-00001": {"services": 1.5, "deployments": 2.0}}


METRICS = """# TYPE workqueue_depth gauge
workqueue_depth{name="a",controller="a"} 3
reconcile_total{result="error"} 1
reconcile_total{result="success"} 41
lag_bucket{le="0.1"} 98
lag_bucket{le="0.5"} 99
lag_bucket{le="+Inf"} 100
lag_count 100
"""


def test_metrics_are_summed_over_labels_and_quantiles_are_upper_bounds() -> None:
    assert figures.metric(METRICS, "reconcile_total") == 42
    assert figures.metric(METRICS, "reconcile_total", result="error") == 1
    assert figures.metric(METRICS, "absent") == 0
    assert figures.quantile(METRICS, "lag", 0.99) == 0.5


def test_the_floor_applies_exactly_our_children_with_places_for_names() -> None:
    made = [json.loads(text) for text in templates()]
    assert sorted(child["kind"] for child in made) == sorted(CHILDREN.values())
    for child in made:
        metadata = child["metadata"]
        assert metadata["namespace"] == "@NAMESPACE@"
        assert metadata["ownerReferences"][0]["uid"] == "@UID@"
        assert metadata["name"].startswith("@NAME@")
        assert "uid" not in metadata
    assert not [text for text in templates() if "thename" in text or "f100ff" in text]


def test_every_figure_of_the_issue_has_a_measure_and_a_target_and_unknown_ids_are_refused() -> None:
    answered = {one for ids, _ in measures.MEASURES.values() for one in ids}
    assert answered == {*(f"P{number}" for number in range(1, 13)), "floor_ratio", "exponent", "cold"}
    assert {key for key, *_ in report.TARGETS} == answered - {"cold"}
    assert measures.chosen("P3, P9") == ["bursts", "steady"]
    with pytest.raises(ValueError, match="P99"):
        measures.chosen("P99")


def test_the_page_says_which_targets_were_missed() -> None:
    found = list(report.rows({"P1": {"resources_per_s": 12.0, "child_objects_per_s": 74.0}, "exponent": 1.0}))
    assert [row.met for row in found] == [True, False, True]
    assert "74.0 | ≥ 75 | **missed**" in str(found[1])


async def test_a_measure_that_fails_is_told_and_takes_no_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("3 of 200 BertDeployments weren't done")

    async def works(_bench: object, _sizes: object, results: Results) -> None:
        results.figures["P5"] = {"p50_ms": 1.0}

    monkeypatch.setattr(program, "MEASURES", {"bursts": (("P1",), fails), "latency": (("P5",), works)})
    results = Results(details={"machine": {"cores": 2, "load_at_start": 0.1, "at": "today"}})
    for name in ("bursts", "latency"):
        await program._measured(name, None, Sizes(), results)
    assert [row.met for row in report.rows(results.figures)] == [True]
    assert 'Not measured: bursts (RuntimeError("3 of 200' in report.page(results)


async def test_a_later_run_adds_what_is_missing_and_keeps_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def works(_bench: object, _sizes: object, results: Results) -> None:
        results.figures["P7"] = {"base_mb": 80.0}

    monkeypatch.setattr(program, "MEASURES", {"memory": (("P7",), works)})
    monkeypatch.setattr(report, "DOCS", tmp_path)
    details = {"machine": {}, "not_yet": ["memory"], "failed": {"memory": "RuntimeError()", "soak": "OSError()"}}
    (tmp_path / "bench-operator.json").write_text(json.dumps({"figures": {"exponent": 1.0}, "details": details}))
    results = report.written()
    await program._measured("memory", None, Sizes(), results)
    assert results.figures == {"exponent": 1.0, "P7": {"base_mb": 80.0}}
    assert results.details["failed"] == {"soak": "OSError()"}


def test_the_page_says_how_fast_the_machine_was() -> None:
    details = {"machine": {"cores": 2, "load_at_start": 0.1, "at": "today"}, "pace": {"soak": 20.5, "memory": 41.0}}
    assert "20.5 to 41 million turns a second" in report.page(Results(details=details))
    assert program.pace() > 0


def test_a_run_that_was_stopped_says_what_it_has_not_measured() -> None:
    details = {"machine": {"cores": 2, "load_at_start": 0.1, "at": "today"}, "not_yet": ["soak", "memory"]}
    results = Results(details=details)
    assert "stopped before it measured: soak, memory" in report.page(results)
    results.details["not_yet"] = []
    assert "stopped" not in report.page(results)
