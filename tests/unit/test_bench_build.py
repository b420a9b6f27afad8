"""What `make bench-build` makes of the costs that it measured."""

import sys

from bench import build, build_inside
from bench.build_inside import Cost
from bert_operator.api.steps import EXPORT_STEPS

MIB = 2**20


def run(seconds: float, rss: int) -> dict[str, Cost]:
    """A build each of whose steps takes so long; one of them holds more than the others."""
    costs = {step: Cost(seconds, seconds, 10 * MIB) for step in EXPORT_STEPS}
    return costs | {"answer": Cost(seconds, 2 * seconds, rss * MIB)}


def test_steps_add_up_in_time_and_the_largest_counts_in_memory() -> None:
    mine = [run(2.0, 700), run(1.0, 800), run(9.0, 900)]
    found = build_inside.figures(mine, [Cost(24.0, 30.0, 1600 * MIB)] * 3, [run(0.5, 50)] * 3)
    assert (found["time_ratio"], found["rss_ratio"], found["cached_seconds"]) == (0.5, 0.5, 3.0)
    assert found["steps"]["answer"] == {"seconds": 2.0, "cpu_seconds": 4.0, "rss_mib": 800}
    assert build.missed(found) == []
    page = build.markdown(found | {"processors": 2, "load_before": 0.1})
    assert "| **ratio** | **0.50** (at most 1.0) | | **0.50** (at most 0.8) |" in page
    slow = build_inside.figures(mine, [Cost(11.0, 30.0, 800 * MIB)], [run(1.0, 50)])
    assert build.missed(slow) == ["time_ratio", "rss_ratio", "cached_seconds"]


def test_a_command_is_charged_with_what_its_children_hold() -> None:
    child = "import time; block = b'x' * (80 << 20); time.sleep(0.3)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    cost = build_inside.measured([sys.executable, "-c", parent], {})
    assert cost.rss_bytes > 85 * MIB
    assert cost.seconds > 0.3
