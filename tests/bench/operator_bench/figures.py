"""The arithmetic of the bench: percentiles, growth, what an audit log counts. Pure."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
READS = frozenset({"get", "list"})


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least this share of all doesn't exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one; of an even number, the mean of the two in the middle."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def exponent(points: Iterable[tuple[float, float]]) -> float:
    """b of cost = a * N**b, by least squares over the logarithms.

    Args:
        points: (N, cost) of at least two different N.
    """
    logs = [(math.log(n), math.log(cost)) for n, cost in points]
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


@dataclass
class Requests:
    """What one user asked of the API server: (verb, resource) -> how often; watches apart."""

    by: Counter[tuple[str, str]] = field(default_factory=Counter)

    def writes(self, *, without: Iterable[str] = ()) -> int:
        """Requests that change something, those about some resources left out."""
        left_out = set(without)
        return sum(n for (verb, resource), n in self.by.items() if verb in WRITES and resource not in left_out)

    def reads(self) -> int:
        """GETs and lists."""
        return sum(n for (verb, _), n in self.by.items() if verb in READS)

    def named(self) -> dict[str, int]:
        """As JSON says it, the most frequent first."""
        return {f"{verb} {resource}": count for (verb, resource), count in self.by.most_common()}


def counted(lines: Iterable[str], user: str) -> Requests:
    """Count a user's finished requests in the lines of an audit log (level Metadata)."""
    found = Requests()
    for line in lines:
        if user not in line:
            continue
        event = json.loads(line)
        if event["stage"] != "ResponseComplete" or event["user"]["username"] != user or event["verb"] == "watch":
            continue
        about = event.get("objectRef") or {}
        resource = "/".join(filter(None, [about.get("resource", event["requestURI"]), about.get("subresource")]))
        found.by[event["verb"], resource] += 1
    return found


def born(lines: Iterable[str], user: str) -> dict[str, dict[str, float]]:
    """When the API server had made what a user applied, by the lines of an audit log.

    Returns:
        First two parts of the object's name (`bert-00042`) -> resource -> seconds since the epoch.
    """
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for line in lines:
        if user not in line or '"code":201' not in line:
            continue
        event = json.loads(line)
        if event["stage"] == "ResponseComplete" and event["user"]["username"] == user and "name" in event["objectRef"]:
            name = "-".join(event["objectRef"]["name"].split("-")[:2])
            found[name][event["objectRef"]["resource"]] = datetime.fromisoformat(event["stageTimestamp"]).timestamp()
    return found


def metric(text: str, name: str, **labels: str) -> float:
    """Sum of a metric's samples with these labels, in Prometheus' text format; 0 if there is none."""
    total = 0.0
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
            total += float(match[2])
    return total


def buckets(text: str, name: str) -> list[tuple[str, float]]:
    """Bounds of a histogram's buckets, and how many samples each holds with all below it."""
    lines = [line for line in text.splitlines() if line.startswith(f"{name}_bucket")]
    return [(line.split('le="')[1].split('"')[0], float(line.rsplit(" ", 1)[1])) for line in lines]


def quantile(text: str, name: str, share: float) -> float:
    """The smallest bound of a histogram's buckets that holds at least this share of its samples."""
    total = metric(text, f"{name}_count")
    return next((float(bound) for bound, held in buckets(text, name) if held >= share * total), 0.0)
