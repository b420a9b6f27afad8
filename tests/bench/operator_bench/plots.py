"""Draws docs/bench-operator.json as pictures beside it. Runs in an environment of its own, with matplotlib alone."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

INK = {"operator": "#1f5fa8", "floor": "#b9821b"}


def main() -> None:
    """Draw whatever was measured."""
    file = Path(sys.argv[1])
    details = json.loads(file.read_text())["details"]
    for name, (draw, *keys) in PICTURES.items():
        if all(key in details for key in keys):
            figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
            draw(axes, *(details[key] for key in keys))
            axes.spines[["top", "right"]].set_visible(False)
            figure.savefig(file.with_name(f"bench-operator-{name.lower()}.png"), dpi=110)


def targets(axes: Any, rows: list[tuple[str, float, str, float]]) -> None:
    """Every figure as a share of its target: what ends left of the line is within it."""
    shares = [target / value if sign == "≥" else value / target for _, value, sign, target in rows if target and value]
    words = [text for text, value, _, target in rows if target and value]
    axes.barh(words[::-1], shares[::-1], color=[INK["operator"] if one <= 1 else INK["floor"] for one in shares[::-1]])
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xlabel="share of what is allowed", title="Every figure beside its target")
    axes.tick_params(axis="y", labelsize=7)


def runs_of(key: str, label: str) -> Callable[[Any, list[dict[str, Any]]], None]:
    """Something of each run of ours and of the floor's, side by side."""

    def draw(axes: Any, runs: list[dict[str, Any]]) -> None:
        for name, ink in INK.items():
            taken = [run[key] for run in runs if run["program"] == name]
            at = [number + (0.2 if name == "floor" else -0.2) for number, _ in enumerate(taken, 1)]
            axes.bar(at, taken, 0.38, color=ink, label=name)
        axes.set(xlabel="run", ylabel=label, title=f"{runs[0]['n']} BertDeployments at once")
        axes.legend(framealpha=0.9, edgecolor="none")

    return draw


def writes(axes: Any, runs: list[dict[str, Any]]) -> None:
    """Requests of one BertDeployment's creation, by kind."""
    for name, ink in INK.items():
        asked = next(run["requests_per_resource"] for run in runs if run["program"] == name)
        words = sorted(asked, reverse=True)
        shift = 0.2 if name == "operator" else -0.2
        kinds = sorted({kind for run in runs for kind in run["requests_per_resource"]}, reverse=True)
        axes.barh([kinds.index(word) + shift for word in words], [asked[word] for word in words], 0.38, color=ink)
        axes.set_yticks(range(len(kinds)), kinds, fontsize=7)
    axes.set(xlabel="requests per BertDeployment", title="What a creation asks of the API server")
    axes.legend(axes.containers, list(INK), framealpha=0.9, edgecolor="none")


def requests(axes: Any, update: dict[str, Any], noop: dict[str, Any]) -> None:
    """Requests of all BertDeployments together, updated or merely looked at again."""
    counts = {"a field of each changed": update["requests"], "each looked at, nothing to do": noop["requests"]}
    words = sorted({word for asked in counts.values() for word in asked}, reverse=True) or ["none"]
    for (label, asked), ink, shift in zip(counts.items(), INK.values(), (0.2, -0.2), strict=True):
        at = [number + shift for number, _ in enumerate(words)]
        axes.barh(at, [asked.get(word, 0) for word in words], 0.38, color=ink, label=label)
    axes.set_yticks(range(len(words)), words, fontsize=7)
    axes.set(xlabel="requests", title="Updates and looks without anything to do")
    axes.legend(framealpha=0.9, edgecolor="none")


def growth(axes: Any, told: dict[str, Any]) -> None:
    """Cost over N, both logarithmic."""
    labels = {"wall_seconds": "seconds until all are done", "operator_cpu_seconds": "the operator's CPU seconds"}
    for (key, label), ink in zip(labels.items(), INK.values(), strict=True):
        axes.loglog(*zip(*told[key], strict=True), "o-", color=ink, label=label)
    axes.set(xlabel="BertDeployments at once", ylabel="seconds", title="How the cost grows")
    axes.legend(framealpha=0.9, edgecolor="none")


def latency(axes: Any, told: dict[str, Any]) -> None:
    """Share of the samples that took no longer."""
    taken = sorted(told["milliseconds"])
    axes.plot(taken, [100 * (number + 1) / len(taken) for number in range(len(taken))], color=INK["operator"])
    axes.set(xlabel="milliseconds from create to done", ylabel="percent", title="One at a time, system at rest")


def memory(axes: Any, told: dict[str, Any]) -> None:
    """Resident memory over the number of BertDeployments."""
    axes.plot(*zip(*told["rss_mb"], strict=True), "o-", color=INK["operator"])
    axes.set(xlabel="BertDeployments", ylabel="MB", ylim=(0, None), title="The operator's memory")


def done(axes: Any, told: dict[str, Any]) -> None:
    """How many are done, over time."""
    axes.plot(told["done_after"], range(1, len(told["done_after"]) + 1), color=INK["operator"])
    axes.set(xlabel="seconds", ylabel="BertDeployments done", title=f"{told['n']:,} at once")


def idle(axes: Any, told: dict[str, float]) -> None:
    """Processor time at rest."""
    axes.bar([word.replace("_", " ") for word in told], list(told.values()), 0.5, color=INK["operator"])
    axes.axhline(0.2, color="black", linewidth=1)
    axes.set(ylabel="percent of a core", title="The operator at rest (line: what is allowed)")


def restarted(axes: Any, told: dict[str, Any]) -> None:
    """Looks since the process began."""
    axes.plot(*zip(*told["looked_at"], strict=True), color=INK["operator"])
    axes.axhline(told["resources"], color="black", linewidth=1)
    axes.set(xlabel="seconds from the start of the process", ylabel="BertDeployments looked at", title="A restart")


def storm(axes: Any, told: dict[str, Any]) -> None:
    """How much of the news becomes work."""
    words = ("events", "reconciles", "status_writes")
    axes.bar([word.replace("_", " ") for word in words], [told[word] for word in words], 0.5, color=INK["operator"])
    title = f"{told['events_per_second']:g} news of pods a second, of {told['resources']} BertDeployments"
    axes.set(ylabel="count", title=title)


def soaked(axes: Any, told: dict[str, Any]) -> None:
    """Memory over the number of events."""
    taken = [point["rss_mb"] for point in told["after_each_tenth"]]
    events = [told["events"] * (number + 1) / len(taken) for number in range(len(taken))]
    axes.plot(events, taken, "o-", color=INK["operator"])
    axes.set(
        xlabel="events", ylabel="MB", ylim=(0, 1.2 * max(taken)), title="The operator's memory while pods come and go"
    )


def lags(axes: Any, told: dict[str, Any]) -> None:
    """How late the event loop's ticks were."""
    bounds, held = zip(*told["event_loop_lag_s"], strict=True)
    each = [now - before for before, now in zip((0, *held), held, strict=False)]
    axes.bar([f"≤ {bound} s" for bound in bounds], each, color=INK["operator"])
    axes.tick_params(axis="x", labelsize=6, rotation=45)
    axes.set(ylabel="ticks", yscale="symlog", title="How late the event loop was during a burst")


SECONDS = runs_of("seconds", "seconds until all are done")
API_SERVER = runs_of("apiserver_cpu_ms_per_resource", "API server, CPU ms per BertDeployment")
PICTURES: dict[str, tuple[Any, ...]] = {
    "targets": (targets, "targets"),
    "P1": (SECONDS, "P1"),
    "P2": (done, "P2"),
    "P3": (writes, "P1"),
    "P4": (requests, "P4_update", "P4_noop"),
    "P5": (latency, "P5"),
    "P6": (idle, "P6"),
    "P7": (memory, "P7"),
    "P8": (restarted, "P8"),
    "P9": (storm, "P9"),
    "P10": (soaked, "P10"),
    "P11": (API_SERVER, "P1"),
    "P12": (lags, "P12"),
    "exponent": (growth, "growth"),
}
"""Picture -> who draws it, and from which of the details."""


if __name__ == "__main__":
    main()
