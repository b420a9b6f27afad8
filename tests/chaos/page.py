"""docs/campaign.*: what a full campaign found, for programs and for people. Pure but for reading and writing them."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from chaos import targets
from chaos.stories import Result

DOCS: Final = Path(__file__).parents[2] / "docs"
JSON_FILE: Final = DOCS / "campaign.json"
MARKDOWN_FILE: Final = DOCS / "campaign.md"
MEANINGS: Final = {
    "R1": "The operator is killed (SIGKILL) at every write of every workload: before its reply is delivered, or after, "
    "as soon as it acts upon it. The next one comes to the same end, and creates and deletes no object more often.",
    "R2": "Time travel: the operator starts on an API server that still shows the predecessor of a BertDeployment that "
    "was deleted and created again. Nothing it writes touches the new UID or what that owns.",
    "R3": "Unobserved states: watch events are held while the world changes, and changes back; they are shown late, "
    "only the last of each object, or never (410 Gone). All is as it should be within 30 s of that.",
    "R4": "Every property of the CRD's schema is changed on a resource that is served, one at a time: removed, "
    "emptied, at its bounds, toggled, pushed, popped. The end is that of a fresh creation of the same spec, and "
    "changing back leads to the first state. What is invalid is refused by a message that names the property. And "
    "something that the operator makes shows each property's change, but for those that `effects.NONE` names. "
    "To reach: 400 changes, 95 % of all properties that hold a value.",
    "R5": "Random faults by seed, while users change, delete and re-create: errors, lost, late and broken requests, "
    "outages of the API server, killed operators. Within 60 s of the calm all is as the last spec says, as if created "
    "afresh; then 20 s without a request.",
    "R6": "Rest: 200 BertDeployments that are ready, and 200 whose pods never are: writes in 5 minutes.",
    "R7": "Each kind of request meets each error once: 409, 422, 429 with Retry-After, 500, lost before it arrives, "
    "lost after it was carried out, never answered. Same end, nothing made twice, Retry-After kept. To reach: every "
    "right of the operator is used by a request that meets an error.",
    "R8": "Watches, or everything, go silent without the connection's end: the next change is noticed within 70 s, and "
    "`/readyz` says 503 within 120 s where nothing gets through.",
    "R9": "A partition of 80 s, changes meanwhile, etcd compacted, the API server's own memory overrun: 410 Gone is "
    "really answered, everything is listed anew, no change is lost.",
    "R10": "Two operators and one Lease, four pairs at once: the leader is killed 20 times, told to end 20 times, and "
    "stopped for 30 s 4 times, as a frozen machine stops it. The next one writes within 20 s, after an orderly end "
    "within 3 s, and whoever doesn't hold the Lease writes nothing: the API server's audit log is the witness.",
    "R11": "The operator is away while children are deleted and edited, Jobs end, and specs change. 30 s after it is "
    "back all is as it should be, and no serving pod was replaced that needn't be.",
    "R12": "The operator is upgraded under 50 BertDeployments that serve: no pod template changes, no pod is replaced.",
    "R13": "200 BertDeployments in any state are deleted at once, also with the operator dead: nothing but claims and "
    "records of artifacts is left after 60 s.",
    "R14": "Kubernetes' API conventions, on every BertDeployment of every workload: what its status says at rest, who "
    "owns its conditions, and in everything that its watch has shown: lastTransitionTime moves with the status, and "
    "only then. And the definitions: types, descriptions, columns.",
}
_SHOWN: Final[dict[str, tuple[str, Callable[[Iterable[Any]], float]]]] = {
    "writes": ("writes", sum),
    "reads": ("reads", sum),
    "against_the_new_uid": ("writes against the new UID", sum),
    "operations": ("changes, each there and back", sum),
    "misoperations": ("invalid ones refused", sum),
    "leaves": ("properties that hold a value changed", lambda found: len(set().union(*found))),
    "crd_leaves": ("properties that hold a value in the CRD", max),
    "kinds": ("kinds of requests answered with an error", lambda found: len(set().union(*found))),
    "errors": ("errors", lambda found: len(set().union(*found))),
    "objects": ("objects looked at", sum),
    "rules": ("sets of rules", max),
    "compared": ("conditions compared with the moment before", sum),
    "refused": ("valid alone, but refused by a CEL rule for the rest of the spec", lambda found: sum(map(len, found))),
    "converged_s": ("slowest to converge, s", max),
    "faults": ("faults met", sum),
    "healed_s": ("slowest to heal, s", max),
    "unready_s": ("until /readyz said so, s", max),
    "relisted_s": ("until listed anew, s", max),
    "gone_s": ("slowest until all were gone, s", max),
    "gone": ("watches told 410 Gone", sum),
    "rounds": ("rounds", sum),
    "killed_s": ("next write after a kill, s at most", max),
    "told_s": ("after an orderly end, s at most", max),
    "stopped_s": ("after a stop, s at most", max),
    "writes_by_non_holder": ("writes by one that didn't hold the Lease", sum),
    "resources": ("BertDeployments", max),
    "pod_template_changes": ("pod templates changed", sum),
    "pods_replaced": ("pods replaced", sum),
}


def family(plan: str) -> str:
    """The id that a plan counts for."""
    return plan.split("/", maxsplit=1)[0]


def figures(
    results: Iterable[Result], about: Mapping[str, Any], missed: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """What docs/campaign.json holds.

    Args:
        results: of all plans.
        about: when, where and how.
        missed: family -> what it didn't reach, of a whole campaign.
    """
    by_family: dict[str, list[Result]] = defaultdict(list)
    for one in results:
        by_family[family(one.plan)].append(one)
    found = {key: _figures(by_family[key]) for key in MEANINGS if key in by_family}
    for key, short in (missed or {}).items():
        found.setdefault(key, _figures([]))["missed"] = list(short)
    return {"about": dict(about)} | found


def _figures(results: Sequence[Result]) -> dict[str, Any]:
    reached = [one for one in results if not one.unreached]
    failed = [one.plan for one in results if one.problems]
    measured = {
        key: round(how(values), 1)
        for key, (_, how) in _SHOWN.items()
        if (values := [one.measured[key] for one in reached if key in one.measured])
    }
    spread = sorted(one.measured["converged_s"] for one in reached if "converged_s" in one.measured)
    if "crd_leaves" in measured:
        measured["leaves_share"] = targets.share(measured)
    if spread:
        measured["converged_p50_s"] = spread[len(spread) // 2]
        measured["converged_p95_s"] = spread[max(0, math.ceil(0.95 * len(spread)) - 1)]
    return {"plans": len(reached), "failed": len(failed), "measured": measured} | ({"which": failed} if failed else {})


def write(found: Mapping[str, Any]) -> None:
    """Write both files."""
    JSON_FILE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    MARKDOWN_FILE.write_text(markdown(found), encoding="utf-8")


def markdown(found: Mapping[str, Any]) -> str:
    """The page."""
    about = found["about"]
    ran = {key: one for key, one in found.items() if key != "about"}
    plans, failed = sum(one["plans"] for one in ran.values()), sum(one["failed"] for one in ran.values())
    rows = "\n".join(
        f"| {key} | {one['plans']} | {one['failed']} | {_words(one['measured'])} |" for key, one in ran.items()
    )
    meanings = "\n".join(f"- **{key}**: {text}" for key, text in MEANINGS.items())
    broken = [plan for one in ran.values() for plan in one.get("which", ())]
    again = "".join(f"\n- `make campaign ONLY={plan}`" for plan in broken)
    short = "".join(f"\n- {key}: {text}" for key, one in ran.items() for text in one.get("missed", ()))
    return _PAGE.format(
        plans=plans,
        failed=failed,
        rows=rows,
        meanings=meanings,
        broken=f"\nWhat failed, and how to repeat it:\n{again}\n" if broken else "",
        short=f"\nWhat was not reached:\n{short}\n" if short else "",
        missing=_missing(ran),
        **about,
    )


def _words(measured: Mapping[str, Any]) -> str:
    words = {key: text for key, (text, _) in _SHOWN.items()}
    words |= {"converged_p50_s": "half converged within, s", "converged_p95_s": "95 % within, s"}
    words["leaves_share"] = "share of them"
    return "; ".join(f"{words[key]}: {value}" for key, value in measured.items())


def _missing(ran: Mapping[str, Any]) -> str:
    absent = [key for key in MEANINGS if key not in ran]
    return f"Not run this time: {', '.join(absent)}.\n" if absent else ""


_PAGE: Final = """# The fault campaign
Written by `make campaign`; don't edit. The same for programs: [campaign.json](campaign.json).

The real operator (`kopf run`, one process for each plan) works against a real control plane (etcd, API server,
controller manager) through a proxy that counts every request and makes trouble. No node runs: a stand-in of kubelet and
scheduler says of each pod what a node would say; Jobs, Deployments and garbage collection are the real controllers'.
Operators are forked from one Python that has imported everything, which saves most of each start.

A plan's end is compared with runs without faults, field by field; what differs between two of those is masked. So are
counts of created and deleted objects. An error or a traceback in the operator's log fails a plan, and so does an
operator that ends by itself. R10 and R12 are programs of their own, with clusters of their own: no proxy, no stand-in,
no reference, and always the same limits.

**{plans} plans, {failed} failed** on {date}, in {minutes} minutes, {at_once} at once on {cores} cores; code `{code}`;
load before: {load}; limits times {patience}.

| id | plans | failed | measured |
|---|---|---|---|
{rows}
{broken}{short}
{missing}
## What each means
{meanings}

## How to repeat it
`make campaign` runs everything in up to 90 minutes; `RESUME=1` leaves out what passed for this very code;
`ONLY=R1/create` takes every plan whose id begins so. Plan ids and seeds always mean the same faults; only the
timing differs. Crash points are numbered by write: where parallel writes overtake each other, a number can be another
object's. `make test` runs a fixed choice of plans.
"""
