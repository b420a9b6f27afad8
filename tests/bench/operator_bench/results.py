"""How much of everything is measured, and what came of it. Every measure takes the one and fills the other."""

import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

from bench.operator_bench.bursts import Burst

BURST: Final = 200


@dataclass(kw_only=True)
class Sizes:
    """How much of everything: the issue's numbers, or smaller ones to try things out."""

    burst: int = BURST
    repeats: int = 5
    large: int = 1000
    growth: tuple[int, ...] = (100, 200, 400, 1000)
    latencies: int = 100
    idle_seconds: int = 60
    memory: tuple[int, ...] = (200, 1000, 5000)
    storm_seconds: int = 60
    soak_events: int = 50_000

    @classmethod
    def of(cls, n: int | None) -> "Sizes":
        """The issue's, or everything in proportion to a burst of n."""
        if n is None:
            return cls()
        return cls(
            burst=n,
            repeats=2,
            large=2 * n,
            growth=(n // 2, n, 2 * n),
            latencies=max(10, n // 4),
            idle_seconds=15,
            memory=(n, 2 * n),
            storm_seconds=10,
            soak_events=40 * n,
        )


@dataclass(kw_only=True)
class Results:
    """Figures by id, and how they came about."""

    figures: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    bursts: list[Burst] = field(default_factory=list)

    def of(self, program: str, count: int) -> list[Burst]:
        """Bursts of one program and size."""
        return [one for one in self.bursts if (one.program, one.count) == (program, count)]


def say(text: str) -> None:
    """Tell how far the bench is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def dumped(figures: dict[str, Any]) -> str:
    """One line of JSON, in the order of the ids."""
    order = [*(f"P{number}" for number in range(1, 13)), "floor_ratio", "exponent"]
    return json.dumps({key: figures[key] for key in order if key in figures})
