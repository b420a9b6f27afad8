"""What a whole campaign has to reach, beyond plans that pass. Pure; `page` writes it, `make campaign` fails on it."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from chaos import errors
from chaos.stories import Result
from support.operator_process import RULES

OPERATIONS: Final = 400
LEAVES: Final = 0.95
"""Share of the CRD's properties that are changed."""


def missed(results: Iterable[Result]) -> dict[str, list[str]]:
    """Family -> what a whole campaign didn't reach; nothing of those that did."""
    reached = [one for one in results if not one.unreached]
    found = {
        "R4": _properties([one.measured for one in reached if one.plan.startswith("R4/")]),
        "R7": _requests([one.measured for one in reached if one.plan.startswith("R7/")]),
    }
    return {family: short for family, short in found.items() if short}


def share(measured: Mapping[str, Any]) -> float:
    """Of the CRD's properties, those that were changed; down to a thousandth, so that all but one is not all."""
    return int(1000 * measured["leaves"] / measured["crd_leaves"]) / 1000


def _properties(plans: list[dict[str, Any]]) -> list[str]:
    operations = sum(one.get("operations", 0) for one in plans)
    leaves = {leaf for one in plans for leaf in one.get("leaves", ())}
    whole = max((one.get("crd_leaves", 0) for one in plans), default=0)
    short = [] if operations >= OPERATIONS else [f"{operations} changes were played, not {OPERATIONS}"]
    if len(leaves) < LEAVES * whole or not whole:
        short.append(f"{len(leaves)} of {whole} properties were changed, not {LEAVES:.0%}")
    return short


def _requests(plans: list[dict[str, Any]]) -> list[str]:
    kinds = {kind for one in plans for kind in one.get("kinds", ())}
    return [f"no error met: {right}" for right in errors.unmet(kinds, RULES)]
