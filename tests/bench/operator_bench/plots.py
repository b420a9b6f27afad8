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
    for key, draw in _DRAWN.items():
        if key in details:
            figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
            draw(axes, details[key])
            axes.spines[["top", "right"]].set_visible(False)
            figure.savefig(file.with_name(f"bench-operator-{key.lower()}.png"), dpi=110)


def targets(axes: Any, rows: list[tuple[str, float, str, float]]) -> None:
    """Every figure as a share of its target: what ends left of the line is within it."""
    shares = [target / value if sign == "≥" else value / target for _, value, sign, target in rows if target and value]
    words = [text for text, value, _, target in rows if target and value]
    axes.barh(words[::-1], shares[::-1], color=[INK["operator"] if one <= 1 else INK["floor"] for one in shares[::-1]])
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xlabel="share of what is allowed", title="Every figure beside its target")
    axes.tick_params(axis="y", labelsize=7)


def bursts(axes: Any, runs: list[dict[str, Any]]) -> None:
    """Wall time of each run."""
    for name, ink in INK.items():
        seconds = [run["seconds"] for run in runs if run["program"] == name]
        at = [number + (0.2 if name == "floor" else -0.2) for number, _ in enumerate(seconds, 1)]
        axes.bar(at, seconds, 0.38, color=ink, label=name)
    axes.set(xlabel="run", ylabel="seconds", title=f"{runs[0]['n']} BertDeployments at once, until all are done")
    axes.legend(frameon=False)


def growth(axes: Any, told: dict[str, Any]) -> None:
    """Cost over N, both logarithmic."""
    labels = {"wall_seconds": "seconds until all are done", "operator_cpu_seconds": "the operator's CPU seconds"}
    for (key, label), ink in zip(labels.items(), INK.values(), strict=True):
        axes.loglog(*zip(*told[key], strict=True), "o-", color=ink, label=label)
    axes.set(xlabel="BertDeployments at once", ylabel="seconds", title="How the cost grows")
    axes.legend(frameon=False)


def latency(axes: Any, told: dict[str, Any]) -> None:
    """Share of the samples that took no longer."""
    taken = sorted(told["milliseconds"])
    axes.plot(taken, [100 * (number + 1) / len(taken) for number in range(len(taken))], color=INK["operator"])
    axes.set(xlabel="milliseconds from create to done", ylabel="percent", title="One at a time, system at rest")


def memory(axes: Any, told: dict[str, Any]) -> None:
    """Resident memory over the number of BertDeployments."""
    axes.plot(*zip(*told["rss_mb"], strict=True), "o-", color=INK["operator"])
    axes.set(xlabel="BertDeployments", ylabel="MB", ylim=(0, None), title="The operator's memory")


_DRAWN: dict[str, Callable[[Any, Any], None]] = {
    "targets": targets,
    "P1": bursts,
    "growth": growth,
    "P5": latency,
    "P7": memory,
}


if __name__ == "__main__":
    main()
