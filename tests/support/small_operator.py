"""The real operator with a plan of thirty lines: tests of everything around the plan. Run as `kopf run -m …`.

Wants one Service under the plain name and one ConfigMap named after the spec's replicas; says in its status how many
ConfigMaps it saw.
"""

from datetime import datetime
from typing import Any

from bert_operator import handlers
from bert_operator.api import names
from bert_operator.api.actions import Note, Plan, Ref
from bert_operator.api.observed import Manifest, Observed
from bert_operator.settings import Settings


class SmallPlanner:
    """Plain functions of what was observed, like the real one."""

    @staticmethod
    def names_to_probe(observed: Observed) -> tuple[tuple[str, str], ...]:
        return () if observed.services else (("Service", observed.bert["metadata"]["name"]),)

    @staticmethod
    def jobs_to_probe(observed: Observed, now: datetime) -> tuple[tuple[str, str], ...]:  # noqa: ARG004 - as above
        return ()

    @staticmethod
    def make_plan(observed: Observed, settings: Settings, now: datetime) -> Plan:  # noqa: ARG004 - the real one's shape
        if observed.foreign:
            return Plan(status=_changed(observed, {"summary": {"stage": "NameConflict"}}))
        replicas = observed.bert["spec"]["replicas"]
        name = f"{observed.bert['metadata']['name']}-config-{replicas}-{_suffix(observed)}"
        wanted = [_child(observed, "ConfigMap", name, data={"replicas": str(replicas)})]
        wanted.append(
            _child(
                observed, "Service", observed.bert["metadata"]["name"], spec={"ports": [{"port": 80, "name": "http"}]}
            )
        )
        live = {obj["metadata"]["name"]: obj for obj in (*observed.config_maps, *observed.services)}
        old = (obj for obj in observed.config_maps if obj["metadata"]["name"] != name)
        status = {"observedGeneration": observed.bert["metadata"]["generation"], "replicas": len(observed.config_maps)}
        return Plan(
            apply=tuple(made for obj in wanted if (made := _needed(obj, live.get(obj["metadata"]["name"])))),
            delete=tuple(
                Ref(kind="ConfigMap", name=o["metadata"]["name"], uid=o["metadata"]["uid"]) for o in old if name in live
            ),
            status=_changed(observed, status),
            notes=_notes(observed),
        )


def _notes(observed: Observed) -> tuple[Note, ...]:
    refused = (
        Note(type="Warning", reason="ApiRefused", message=f"{one.what}: {one.message}") for one in observed.refused
    )
    hello = () if observed.bert.get("status") else (Note(type="Normal", reason="Seen", message="hello"),)
    return (*hello, *refused)


def _needed(obj: dict[str, Any], live: Manifest | None) -> dict[str, Any] | None:
    if live is None:
        return obj
    if live["metadata"].get("labels", {}).get(names.NAME_LABEL) == "bert":
        return None
    return {**obj, "metadata": {**obj["metadata"], "uid": live["metadata"]["uid"]}}


def _changed(observed: Observed, status: dict[str, Any]) -> dict[str, Any] | None:
    return None if observed.bert.get("status") == status else status


def _suffix(observed: Observed) -> str:
    return str(observed.bert["metadata"]["uid"]).replace("-", "")[:6]


def _child(observed: Observed, kind: str, name: str, **parts: Any) -> dict[str, Any]:
    metadata = observed.bert["metadata"]
    labels = {
        names.MANAGED_BY: names.MANAGER,
        names.NAME_LABEL: "bert",
        names.INSTANCE_LABEL: metadata["name"],
        names.OWNER_LABEL: _suffix(observed),
    }
    owner = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": metadata["name"], "uid": metadata["uid"]}
    owners = [owner | {"controller": True, "blockOwnerDeletion": False}]
    place = {"name": name, "namespace": metadata["namespace"], "labels": labels, "ownerReferences": owners}
    return {"apiVersion": "v1", "kind": kind, "metadata": place, **parts}


handlers.plan = SmallPlanner  # type: ignore[assignment, attr-defined]
