"""R14: what live objects say keeps to Kubernetes' API conventions, in every workload.

`support.conventions` has the rules. lastTransitionTime is judged in everything that the watch has shown, not from the
beginning to the end: there and back is no flip, but it moves the time.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from chaos import oracles
from chaos.place import Lab, Place
from chaos.stories import Result, begin
from chaos.workloads import WORKLOADS
from support import conventions

RULES: Final = (conventions.of_object, conventions.of_ownership, conventions.of_change, conventions.of_crd)
DEFINITIONS: Final = "definitions"
_CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_NAMES: Final = ("bertdeployments.bertops.dev", "bertartifacts.bertops.dev")
CLOCKS: Final = timedelta(seconds=2)
"""Times are whole seconds, the operator's and the API server's: two flips so close together may have the same one."""
Object = Mapping[str, Any]


def plans() -> list[str]:
    """One for each workload, and one for the definitions."""
    return [f"R14/{name}" for name in (*WORKLOADS, DEFINITIONS)]


async def run(lab: Lab, plan: str, namespace: str, _: object = None) -> Result:
    """Carry one plan out."""
    name, result = plan.split("/")[1], Result(plan=plan)
    if name == DEFINITIONS:
        crds = [await lab.api.sure("GET", f"{_CRDS}/{one}") for one in _NAMES]
        result.problems = [f"{one['metadata']['name']}: {what}" for one in crds for what in conventions.of_crd(one)]
        result.measured = {"objects": len(crds), "rules": len(RULES)}
        return result
    workload = WORKLOADS[name]
    async with Place(lab=lab, namespace=namespace, settings=workload.settings(namespace)) as place:
        gate = place.proxy.gate("bertdeployments")
        gate.record = []
        await begin(place, workload)
        await workload.act(place)
        await place.settled(workload.serves or {"minilm": 2})
        berts = await place.items("BertDeployment")
        pairs = changes(gate.record)
        found = oracles.log_faults(place.operator.log, troubled=False)
    result.problems = [*at_rest(berts), *on_the_way(pairs), *found]
    result.problems += [] if pairs or not berts else ["the watch has shown no two states: nothing was compared"]
    compared = sum(len(before["status"]["conditions"]) for before, _ in pairs)
    result.measured = {"objects": len(berts), "rules": len(RULES), "compared": compared}
    return result


def at_rest(berts: Iterable[Object]) -> list[str]:
    """What is wrong with what they say once nothing happens any more."""
    return [
        f"{bert['metadata']['name']}: {what}"
        for bert in berts
        for what in conventions.of_object(bert) + conventions.of_ownership(bert)
    ]


def on_the_way(pairs: Iterable[tuple[Object, Object]]) -> list[str]:
    """What is wrong with two states of one object, one right after the other."""
    return [
        f"{after['metadata']['name']}: {what}"
        for before, after in pairs
        for what in conventions.of_change(before, after)
    ]


def changes(frames: Iterable[bytes]) -> list[tuple[Object, Object]]:
    """Each two states of one object that a watch showed one after the other; of the first, what can be compared."""
    shown: dict[str, dict[int, Object]] = defaultdict(dict)
    for frame in frames:
        event = json.loads(frame)
        if event["type"] in ("ADDED", "MODIFIED") and (event["object"].get("status") or {}).get("conditions"):
            metadata = event["object"]["metadata"]
            # A watch that begins anew shows what the one before has shown: versions are told from their numbers.
            shown[metadata["uid"]][int(metadata["resourceVersion"])] = event["object"]
    ordered = [[states[version] for version in sorted(states)] for states in shown.values()]
    return [(_comparable(before, after), after) for states in ordered for before, after in pairwise(states)]


def _comparable(before: Object, after: Object) -> Object:
    """Without conditions that flipped just before the next write: their time need not move again."""
    since = _written(after) - CLOCKS
    old = [one for one in before["status"]["conditions"] if datetime.fromisoformat(one["lastTransitionTime"]) < since]
    return {**before, "status": {**before["status"], "conditions": old}}


def _written(obj: Object) -> datetime:
    return max(datetime.fromisoformat(entry["time"]) for entry in obj["metadata"]["managedFields"])
