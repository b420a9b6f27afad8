"""R7: each kind of request meets each error once; the end is the same, nothing is made twice, Retry-After is kept."""

from chaos import faults, oracles
from chaos.faults import OnKind, error
from chaos.place import Lab, Place
from chaos.stories import Reference, Result, play
from chaos.workloads import WORKLOADS

UNFIT = frozenset(
    {("list", "409"), ("list", "422"), ("watch", "409"), ("watch", "422"), ("get", "409"), ("get", "422")}
)
"""What no API server answers a read with."""


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
        if (kind.split(" ")[0], word) not in UNFIT and " " in kind and "leases" not in kind
    ]


async def run(lab: Lab, plan: str, namespace: str, reference: Reference) -> Result:
    """Carry one plan out."""
    _, name, kind, word = plan.split("/")
    kind = kind.replace(".", " ", 1).replace(".", "/")
    rule, result = OnKind(kind=kind, fault=error(word)), Result(plan=plan)
    async with Place(lab=lab, namespace=namespace) as place:
        at_start = reference.kinds.get(kind) == "start" or kind.startswith(("list ", "watch "))
        result.problems = await play(place, WORKLOADS[name], reference, rule, at_start=at_start)
        trace = [(one.at, one.call, one.fault) for one in place.proxy.trace]
        result.problems += oracles.retry_after_faults(trace, faults.RETRY_AFTER)
        result.unreached = not rule.met
    return result
