"""What guards the serving pods: their PodDisruptionBudget and their NetworkPolicy. A pure part of `plan`.

Both are made at once, before there is any pod, and follow the spec alone.
"""

from typing import Any

from bert_operator.api.actions import Ref
from bert_operator.case import Case
from bert_operator.objects import network_policy, pdb


def desired(case: Case) -> list[dict[str, Any]]:
    """Those of the two that the spec asks for."""
    budget, network = case.spec.pod_disruption_budget, case.spec.network_policy
    return [
        *([pdb.manifest(case.identity, budget.max_unavailable)] if budget.enabled else []),
        *([network_policy.manifest(case.identity, network.allow_from)] if network.enabled else []),
    ]


def orphans(case: Case) -> list[Ref]:
    """Live ones of ours that the spec doesn't ask for any more."""
    kept = {(made["kind"], made["metadata"]["name"]) for made in desired(case)}
    live = [
        *((pdb.KIND, each) for each in case.observed.budgets),
        *((network_policy.KIND, each) for each in case.observed.network_policies),
    ]
    return [
        Ref(kind=kind, name=each["metadata"]["name"], uid=each["metadata"]["uid"])
        for kind, each in live
        if (kind, each["metadata"]["name"]) not in kept and "deletionTimestamp" not in each["metadata"]
    ]
