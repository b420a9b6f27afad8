"""Counters, gauges and histograms in Prometheus' text format, named like controller-runtime's and client-go's.

`work_queue` and `cluster` count, `health` renders. A dozen families do not earn a dependency; a test reads the output
back by the format's rules. Everything else is named `bertops_...`; docs/operations.md lists them.
"""

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)
QUEUE: Final = {"name": "bertdeployment", "controller": "bertdeployment"}
CONTROLLER: Final = {"controller": "bertdeployment"}
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

LAG: Final = "bertops_event_loop_tick_lag_seconds"

Labels = tuple[tuple[str, str], ...]


class ScheduleState(Protocol):
    """What the gauges read of the work queue."""

    @property
    def depth(self) -> int:
        """Waiting keys."""

    @property
    def running(self) -> int:
        """Keys being worked on."""

    def oldest_waiting(self, now: float) -> float:
        """Seconds the longest waiting key has waited."""

    def longest_running(self, now: float) -> float:
        """Seconds the longest work has taken."""

    def unfinished(self, now: float) -> float:
        """Seconds that all work in progress has taken, together."""


@dataclass(kw_only=True)
class _Family:
    kind: str
    help: str
    values: dict[Labels, float] = field(default_factory=dict)
    read: Callable[[], Mapping[Labels, float]] | None = None


@dataclass(kw_only=True)
class _Histogram:
    help: str
    labels: Mapping[str, str]
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0


class Metrics:
    """All metrics of this process."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}
        self._histograms = {
            "workqueue_queue_duration_seconds": _Histogram(help="Wait before work began.", labels=QUEUE),
            "workqueue_work_duration_seconds": _Histogram(help="Duration of one piece of work.", labels=QUEUE),
            "controller_runtime_reconcile_time_seconds": _Histogram(help="Duration of reconciles.", labels=CONTROLLER),
            LAG: _Histogram(help="How late the event loop was, tick by tick.", labels={}),
        }
        for name, text, labels in (
            ("workqueue_adds_total", "Keys added.", QUEUE),
            ("workqueue_retries_total", "Keys added again after a failure.", QUEUE),
            ("controller_runtime_reconcile_errors_total", "Reconciles that failed.", CONTROLLER),
        ):
            self.count(name, text, labels, by=0)
        for result in ("success", "error", "requeue_after"):
            self.count("controller_runtime_reconcile_total", "Reconciles.", {**CONTROLLER, "result": result}, by=0)

    def count(self, name: str, text: str, labels: Mapping[str, str], by: float = 1) -> None:
        """Add to a counter, making it first if need be."""
        family = self._families.setdefault(name, _Family(kind="counter", help=text))
        key = tuple(labels.items())
        family.values[key] = family.values.get(key, 0.0) + by

    def gauge(self, name: str, text: str, read: Callable[[], Mapping[Labels, float]], *, kind: str = "gauge") -> None:
        """Add a gauge, or another kind of metric, that is read whenever it is rendered."""
        self._families[name] = _Family(kind=kind, help=text, read=read)

    def added(self) -> None:
        """A key was added to the work queue."""
        self.count("workqueue_adds_total", "", QUEUE)

    def retried(self) -> None:
        """A key will be tried again after a failure."""
        self.count("workqueue_retries_total", "", QUEUE)

    def took(self, waited: float) -> None:
        """Work on a key began."""
        self._observe("workqueue_queue_duration_seconds", waited)

    def late(self, seconds: float) -> None:
        """The event loop came that much later to a tick than it should have."""
        self._observe(LAG, seconds)

    def ended(self, result: str, seconds: float) -> None:
        """Work on a key ended."""
        self.count("controller_runtime_reconcile_total", "", {**CONTROLLER, "result": result})
        if result == "error":
            self.count("controller_runtime_reconcile_errors_total", "", CONTROLLER)
        self._observe("workqueue_work_duration_seconds", seconds)
        self._observe("controller_runtime_reconcile_time_seconds", seconds)

    def queue_gauges(self, schedule: ScheduleState, clock: Callable[[], float], workers: int) -> None:
        """Show the state of the work queue."""
        queue, controller = tuple(QUEUE.items()), tuple(CONTROLLER.items())
        for name, text, labels, read in (
            ("workqueue_depth", "Keys that wait.", queue, lambda: schedule.depth),
            ("workqueue_oldest_waiting_seconds", "Longest wait.", queue, lambda: schedule.oldest_waiting(clock())),
            (
                "workqueue_longest_running_processor_seconds",
                "Longest work in progress.",
                queue,
                lambda: schedule.longest_running(clock()),
            ),
            (
                "workqueue_unfinished_work_seconds",
                "All work in progress together.",
                queue,
                lambda: schedule.unfinished(clock()),
            ),
            ("controller_runtime_active_workers", "Workers at work.", controller, lambda: schedule.running),
            ("controller_runtime_max_concurrent_reconciles", "Workers.", controller, lambda: workers),
        ):
            self.gauge(name, text, _single(labels, read))

    def process_gauges(self, proc: Path = Path("/proc/self")) -> None:
        """Show what this process takes, under the names that every Prometheus client uses, where there is a /proc."""
        if not (proc / "stat").exists():
            return
        for name, text, kind, read in (
            ("process_cpu_seconds_total", "User and system CPU time.", "counter", time.process_time),
            ("process_resident_memory_bytes", "Resident memory.", "gauge", lambda: _resident(proc)),
            ("process_open_fds", "Open file descriptors.", "gauge", lambda: len(list((proc / "fd").iterdir()))),
        ):
            self.gauge(name, text, _single((), read), kind=kind)

    def render(self) -> str:
        """Everything in Prometheus' text format."""
        return "\n".join([*self._plain_lines(), *self._histogram_lines(), ""])

    def _observe(self, name: str, seconds: float) -> None:
        histogram = self._histograms[name]
        histogram.counts[bisect_left(BUCKETS, seconds)] += 1
        histogram.total += seconds

    def _plain_lines(self) -> Iterator[str]:
        for name, family in sorted(self._families.items()):
            yield f"# HELP {name} {family.help}"
            yield f"# TYPE {name} {family.kind}"
            values = family.read() if family.read is not None else family.values
            yield from (_line(name, labels, value) for labels, value in sorted(values.items()))

    def _histogram_lines(self) -> Iterator[str]:
        for name, histogram in sorted(self._histograms.items()):
            yield f"# HELP {name} {histogram.help}"
            yield f"# TYPE {name} histogram"
            labels, running = tuple(histogram.labels.items()), 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
                running += count
                yield _line(f"{name}_bucket", (*labels, ("le", bound)), running)
            yield _line(f"{name}_sum", labels, histogram.total)
            yield _line(f"{name}_count", labels, running)


def _resident(proc: Path) -> int:
    return int((proc / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _single(labels: Labels, read: Callable[[], float]) -> Callable[[], Mapping[Labels, float]]:
    return lambda: {labels: read()}


def _line(name: str, labels: Labels, value: float) -> str:
    text = ",".join(f'{key}="{_escape(content)}"' for key, content in labels)
    return f"{name}{{{text}}} {value:.12g}" if text else f"{name} {value:.12g}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
