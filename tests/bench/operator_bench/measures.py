"""Every measure, and the figures it answers; docs/bench-operator.md says what each means."""

from collections.abc import Awaitable, Callable
from typing import Final

from bench.operator_bench import creation, operation, starts
from bench.operator_bench.bursts import Bench
from bench.operator_bench.results import Results, Sizes

Measure = Callable[[Bench, Sizes, Results], Awaitable[None]]


MEASURES: Final[dict[str, tuple[tuple[str, ...], Measure]]] = {
    "latency": (("P5",), creation.latency),
    "bursts": (("P1", "P3", "P11", "floor_ratio"), creation.bursts),
    "growth": (("P2", "exponent"), creation.growth),
    "steady": (("P4", "P6", "P9"), operation.steady),
    "restart": (("P8",), starts.restart),
    "exported": (("P12",), creation.exported),
    "cold": (("cold",), creation.cold),
    "soak": (("P10",), operation.soak),
    "memory": (("P7",), starts.memory),
}
"""What each measure answers, in the order in which they run: quiet things first, the largest last."""


def chosen(only: str) -> list[str]:
    """The measures that answer these ids; all for an empty text.

    Raises:
        ValueError: an id that nothing answers.
    """
    ids = [part.strip() for part in only.split(",") if part.strip()]
    known = {one for answered, _ in MEASURES.values() for one in answered}
    if unknown := set(ids) - known:
        raise ValueError(f"ONLY={only}: nothing measures {', '.join(sorted(unknown))}; write some of {sorted(known)}")
    return [name for name, (answered, _) in MEASURES.items() if not ids or set(ids) & set(answered)]
