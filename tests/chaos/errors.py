"""R7: each kind of request meets each error once; the end is the same, nothing is made twice, Retry-After is kept.

The kinds are those of the requests that the workloads' operators really made. Whether these are all is judged by the
operator's rights: what it may do and never did was never met by an error.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from chaos import faults, oracles
from chaos.faults import OnKind, error
from chaos.place import Lab, Place
from chaos.stories import Reference, Result, play
from chaos.workloads import WORKLOADS

UNFIT = frozenset(
    {("list", "409"), ("list", "422"), ("watch", "409"), ("watch", "422"), ("get", "409"), ("get", "422")}
)
"""What no API server answers a read with."""

_MEANT: Final = {"create": ("create", "apply"), "patch": ("patch", "apply")}
"""A right -> requests that need it, where they aren't called the same."""
Rules = Sequence[tuple[str, Sequence[str], Sequence[str]]]


def unmet(kinds: Iterable[str], rules: Rules) -> list[str]:
    """Rights of the operator that no request has used, among these kinds.

    Args:
        kinds: of the requests that met an error.
        rules: group, resources and verbs, as in RBAC.
    """
    known = set(kinds)
    rights = [(verb, resource) for _, resources, verbs in rules for resource in resources for verb in verbs]
    return sorted(
        f"{verb} {resource}"
        for verb, resource in rights
        if not known & {f"{meant} {resource}" for meant in _MEANT.get(verb, (verb,))}
    )


def plans(references: dict[str, Reference]) -> list[str]:
    """Each kind of request, in the first workload that has it, with each error."""
    first: dict[str, str] = {}
    for name, reference in references.items():
        for kind in reference.kinds:
            first.setdefault(kind, name)
    return [
        f"R7/{workload}/{kind.replace(' ', '.').replace('/', '.')}/{word}"
        for kind, workload in sorted(first.items())
        for word in faults.ERRORS
        if (kind.split(" ")[0], word) not in UNFIT and " " in kind
    ]


async def run(lab: Lab, plan: str, namespace: str, reference: Reference) -> Result:
    """Carry one plan out."""
    _, name, kind, word = plan.split("/")
    kind = kind.replace(".", " ", 1).replace(".", "/")
    rule, result = OnKind(kind=kind, fault=error(word)), Result(plan=plan)
    workload = WORKLOADS[name]
    async with Place(lab=lab, namespace=namespace, settings=workload.settings(namespace)) as place:
        at_start = reference.kinds.get(kind) == "start" or kind.startswith(("list ", "watch "))
        result.problems = await play(place, workload, reference, rule, at_start=at_start)
        trace = [(one.at, one.call, one.fault) for one in place.proxy.trace]
        result.problems += oracles.retry_after_faults(trace, faults.RETRY_AFTER)
        result.unreached = not rule.met
        result.measured = {"kinds": [kind], "errors": [word], "faults": rule.met}
    return result
