"""What Kubernetes' API conventions and the Operator SDK's scorecard ask of a live object and of its CRD (R14).

Each function names what is wrong; empty is good.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

Object = Mapping[str, Any]
CONDITION: Final = {"type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"}
REASON: Final = re.compile(r"^[A-Z][A-Za-z0-9]*$")
"""Stricter than metav1.Condition's own pattern: CamelCase."""
TYPE: Final = re.compile(r"^([a-z0-9.-]+/)?[A-Z][A-Za-z0-9]*$")


def of_object(obj: Object) -> list[str]:
    """A live object with a spec, a status and conditions."""
    status, generation = obj.get("status") or {}, obj["metadata"]["generation"]
    wrong = [f"has no {block} block" for block in ("spec", "status") if not obj.get(block)]
    if status.get("observedGeneration") != generation:
        wrong.append(f"observedGeneration is {status.get('observedGeneration')}, the generation {generation}")
    conditions = status.get("conditions") or []
    types = [condition.get("type") for condition in conditions]
    if len(types) != len(set(types)):
        wrong.append(f"has a condition twice: {types}")
    if "Ready" not in types:
        wrong.append("has no summary condition Ready")
    for condition in conditions:
        wrong += [f"condition {condition.get('type')} {what}" for what in _of_condition(condition, generation)]
    return wrong


def _of_condition(condition: Object, generation: int) -> Iterator[str]:
    if missing := CONDITION - set(condition):
        yield f"lacks {sorted(missing)}"
        return
    if extra := set(condition) - CONDITION:
        yield f"has {sorted(extra)} beyond metav1.Condition"
    if not TYPE.match(condition["type"]):
        yield "has a type that isn't CamelCase"
    if condition["status"] not in ("True", "False", "Unknown"):
        yield f"has status {condition['status']!r}"
    if not REASON.match(condition["reason"]):
        yield f"has reason {condition['reason']!r}, which isn't CamelCase"
    if not 0 < condition["observedGeneration"] <= generation:
        yield f"was judged for generation {condition['observedGeneration']} of {generation}"
    if datetime.fromisoformat(condition["lastTransitionTime"]).utcoffset() is None:
        yield "has a lastTransitionTime without a time zone"


def of_change(before: Object, after: Object) -> list[str]:
    """Two states of one object: lastTransitionTime moves when status does, and only then."""
    old = {condition["type"]: condition for condition in before["status"]["conditions"]}
    wrong = []
    for new in after["status"]["conditions"]:
        was = old.get(new["type"])
        if was is None:
            continue
        flipped = was["status"] != new["status"]
        moved = was["lastTransitionTime"] != new["lastTransitionTime"]
        if flipped != moved:
            wrong.append(f"{new['type']}: {was['status']} -> {new['status']}, lastTransitionTime moved: {moved}")
    return wrong


def of_ownership(obj: Object) -> list[str]:
    """Conditions are owned one by one: another controller can add its own and keep it."""
    owned = [
        entry["fieldsV1"].get("f:status", {}).get("f:conditions", {})
        for entry in obj["metadata"].get("managedFields", ())
        if entry.get("subresource") == "status"
    ]
    keys = [key for entry in owned for key in entry if key != "."]
    if not keys:
        return ["no manager owns conditions through the status subresource"]
    return [f"conditions are owned as {key}" for key in keys if not key.startswith('k:{"type":')]


def of_crd(crd: Object) -> list[str]:
    """The definition: validated, described, with a status apart from the spec."""
    wrong = []
    for version in crd["spec"]["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        wrong += [f"{version['name']}: {what}" for what in _of_schema(schema, "")]
        if not version.get("additionalPrinterColumns"):
            wrong.append(f"{version['name']}: `kubectl get` shows nothing but names")
        conditions = schema["properties"].get("status", {}).get("properties", {}).get("conditions")
        if conditions and conditions.get("x-kubernetes-list-map-keys") != ["type"]:
            wrong.append(f"{version['name']}: conditions aren't a map by type")
        if conditions and "status" not in version.get("subresources", {}):
            wrong.append(f"{version['name']}: has no status subresource")
    return wrong


def _of_schema(schema: Object, path: str) -> Iterator[str]:
    if "type" not in schema and not schema.get("x-kubernetes-int-or-string"):
        yield f"{path or '.'} has no type"
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        yield f"{path or '.'} takes unknown fields"
    for name, child in (schema.get("properties") or {}).items():
        here = f"{path}.{name}"
        if here not in (".apiVersion", ".kind", ".metadata") and not child.get("description"):
            yield f"{here} has no description"
        yield from _of_schema(child, here)
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from _of_schema(schema[part], f"{path}[]")
