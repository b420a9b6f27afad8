"""R4's operations: for every property of the CRD's schema, changes of exactly that one. Pure.

Values are made from the schema: its bounds, its words, its patterns. What a pattern can't tell (a release that the
settings know, a claim that is there) stands in `KNOWN`. Each operation has several values where one may meet a CEL
rule: the API server's dry run says which is the first that it takes.
"""

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Where = tuple[str | int, ...]
"""A place in one spec: names, positions in lists, keys of maps."""
LIST: Final = "[]"
MAP: Final = "{}"
GONE: Final = object()
"""The value of a property that is removed."""
KNOWN: Final[Mapping[str, tuple[Any, ...]]] = {
    "server.release": ("25.01",),
    "server.extraArgs[]": ("--log-info=1",),
    "hardware.profile": ("other",),
    "hardware.tolerations[].key": ("example.com/other", f"{'a' * 253}/{'a' * 63}"),
    "storage.claimName": ("other",),
    "models[].versions[].source.artifact.name": ("published-two",),
    "models[].versions[].source.s3.uri": ("s3://other-bucket/model",),
    "models[].versions[].source.pvc.claimName": ("other",),
    "models[].build.fidelity.samplesFrom.claimName": ("other",),
    "models[].build.calibration.texts.claimName": ("other",),
    "server.podTemplate.priorityClassName": ("chaos-other",),
    "builds.podTemplate.priorityClassName": ("chaos-other",),
}
"""Words that mean something here: they come first."""
CAPS: Final = {"replicas": 9, "autoscaling.minReplicas": 9}
"""Where the schema's upper bound is pods, which have to be made: no machine of ours has room for a thousand."""
_WORDS: Final = (
    *("changed", "2", "3Gi", "750m", "other.example/image:2", "0.75", "0.5e-2", "s3://other-bucket/model"),
    *("http://store.example:9000", "changed_1", "CHANGED", "a", "0", "s3://abc", "http://a", "--log-info=1"),
)
"""One of them fits every pattern of today's schema; a unit test says so."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One property of the schema, or the entries of one."""

    path: tuple[str, ...]
    """Names from `spec` on; `[]` is an entry of a list, `{}` a value of a map."""
    schema: Mapping[str, Any]
    required: bool

    @property
    def label(self) -> str:
        """As messages call it, from `spec` on."""
        return ".".join(self.path).replace(".[]", LIST).replace(".{}", MAP)

    @property
    def leaf(self) -> bool:
        """Whether it holds a value, not other properties."""
        return not (self.schema.get("properties") or "items" in self.schema or _values(self.schema))

    @property
    def group(self) -> str:
        """The part of the spec that it is played with, without brackets; empty for the spec's own properties."""
        own = self.path[:-1] if self.path[-1] in (LIST, MAP) else self.path
        whole = [part for part in own[:-1] if part not in (LIST, MAP)]
        return ".".join(whole[: 3 if self.path[0] == "models" else 2])


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One change of one property."""

    node: Node
    kind: str
    where: Where
    values: tuple[Any, ...]
    """The first that the API server takes is played; `GONE` removes."""
    wrong: bool = False
    """Whether the API server must refuse it."""


def nodes(schema: Mapping[str, Any], path: tuple[str, ...] = (), *, required: bool = True) -> Iterator[Node]:
    """Every property below a schema, in its order."""
    if path:
        yield Node(path=path, schema=schema, required=required)
    needed = schema.get("required", ())
    for name, part in (schema.get("properties") or {}).items():
        yield from nodes(part, (*path, name), required=name in needed)
    if "items" in schema:
        yield from nodes(schema["items"], (*path, LIST))
    if values := _values(schema):
        yield from nodes(values, (*path, MAP), required=False)


def _values(schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = schema.get("additionalProperties")
    return found if isinstance(found, Mapping) else None


def located(spec: Any, path: Sequence[str]) -> Where | None:
    """The first place in a spec where a property is written; None if it isn't."""
    if not path:
        return ()
    head, *rest = path
    if head == LIST:
        keys: Iterable[Any] = range(len(spec)) if isinstance(spec, list) else ()
    else:
        keys = [key for key in (spec if isinstance(spec, dict) else ()) if head in (MAP, key)]
    found = ((key, located(spec[key], rest)) for key in keys)
    return next(((key, *more) for key, more in found if more is not None), None)


def at(spec: Any, where: Where) -> Any:
    """The value in one place."""
    for key in where:
        spec = spec[key]
    return spec


def changed(spec: Mapping[str, Any], where: Where, value: Any) -> dict[str, Any]:
    """A spec with another value in one place."""
    made: dict[str, Any] = copy.deepcopy(dict(spec))
    holder = at(made, where[:-1])
    if value is GONE:
        del holder[where[-1]]
    else:
        holder[where[-1]] = copy.deepcopy(value)
    return made


def operations(node: Node, spec: Mapping[str, Any]) -> list[Operation]:
    """All operations on one property; none if the spec doesn't write it."""
    where = located(spec, node.path)
    if where is None or (node.path[-1] == LIST and not node.leaf):  # entries are pushed and popped by their list
        return []
    old = at(spec, where)
    right = {kind: tuple(one for one in values if one != old) for kind, values in _right(node, old).items()}
    if node.path[-1] != LIST:
        right = {"delete": (GONE,)} | right if not node.required else right
    wrong = {"delete": GONE} | _wrong(node, old) if node.required and node.path[-1] != LIST else _wrong(node, old)
    return [
        *(Operation(node=node, kind=kind, where=where, values=values) for kind, values in right.items() if values),
        *(Operation(node=node, kind=kind, where=where, values=(value,), wrong=True) for kind, value in wrong.items()),
    ]


def _right(node: Node, old: Any) -> dict[str, tuple[Any, ...]]:
    """Kind -> values that the schema takes."""
    schema = node.schema
    if "enum" in schema:
        return {f"toggle to {value}": (value,) for value in schema["enum"]}
    if isinstance(old, bool):
        return {"toggle": (not old,)}
    if isinstance(old, int) and schema.get("type") == "integer":
        low, high = schema["minimum"], min(schema["maximum"], CAPS.get(node.label, schema["maximum"]))
        near = tuple(value for value in (old + 1, old - 1, 2 * old) if low <= value <= high)
        return {"change": near, "low": (low, *near), "high": (high, *near)}
    if isinstance(old, str | int):
        return _texts(node, str(old))
    if isinstance(old, list):
        return _lists(schema, old)
    return _objects(schema, old)


def _texts(node: Node, old: str) -> dict[str, tuple[Any, ...]]:
    fitting = [word for word in _fitting(node) if word != old]
    empty = {"empty": ("",)} if fits(node.schema, "") else {}
    short = sorted(fitting, key=len)
    return {"change": tuple(fitting), "short": tuple(short), "long": longest(node.schema, fitting)} | empty


def fits(schema: Mapping[str, Any], text: str) -> bool:
    """Whether a text keeps to length and pattern."""
    length = schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", len(text))
    return length and re.search(schema.get("pattern", ""), text) is not None


def longest(schema: Mapping[str, Any], words: Iterable[str]) -> tuple[str, ...]:
    """Texts as long as they may be."""
    room = schema["maxLength"]
    tails = [f"{word}{link}{letter * room}"[:room] for word in words for link in ("", "/") for letter in "a0"]
    return tuple(dict.fromkeys(text for text in tails if fits(schema, text)))


def _lists(schema: Mapping[str, Any], old: list[Any]) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    if not schema.get("minItems"):
        found["empty"] = ([],)
    more = list(itertools.islice(entries(schema, old), schema["maxItems"] - len(old)))
    if more:
        found["push"] = ([*old, more[0]],)
        found["fill"] = ([*old, *more],)
    if len(old) > 1:
        found["pop"] = tuple([one for one in old if one is not gone] for gone in reversed(old))
        found["turn"] = (old[::-1],)
    return found


def entries(schema: Mapping[str, Any], old: Sequence[Any]) -> Iterator[Any]:
    """New entries of a list, alike but for what must be unique."""
    part, keys = schema["items"], schema.get("x-kubernetes-list-map-keys")
    if keys:
        taken = [one[keys[0]] for one in old]
        for value in _others(part["properties"][keys[0]], taken):
            yield {**old[0], keys[0]: value}
    elif "properties" in part:
        yield from itertools.repeat(old[0])
    else:
        yield from _others(part, old)


def _others(schema: Mapping[str, Any], taken: Sequence[Any]) -> Iterator[Any]:
    """Values that are not taken yet."""
    if "enum" in schema:
        values: Iterable[Any] = schema["enum"]
    elif schema["type"] == "integer":
        values = range(schema["minimum"], schema["maximum"] + 1)
    else:
        values = (text for number in range(99) if fits(schema, text := f"{taken[0]}{number}"))
    return (value for value in values if value not in taken)


def _objects(schema: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {} if schema.get("required") else {"empty": ({},)}
    if _values(schema):
        value = next(iter(old.values()))
        more = {f"key{number}": value for number in range(schema["maxProperties"] - len(old))}
        found["push"] = ({**old, "example.com/pushed": value},)
        found["fill"] = ({**old, **more},)
        if len(old) > 1:
            found["pop"] = (dict(list(old.items())[:-1]),)
    return found


def _wrong(node: Node, old: Any) -> dict[str, Any]:
    """Kind -> values that the schema refuses."""
    schema = node.schema
    if "enum" in schema:
        return {"no such word": "None-Such", "wrong type": {}}
    if isinstance(old, bool):
        return {"wrong type": "perhaps"}
    if isinstance(old, int) and schema.get("type") == "integer":
        return {"too low": schema["minimum"] - 1, "too high": schema["maximum"] + 1, "wrong type": "many"}
    if isinstance(old, str | int):
        too_long = {"too long": f"{longest(schema, _fitting(node))[0]}a"}
        broken = {"no such pattern": "\n!"} if schema.get("pattern") else {}
        return too_long | broken | {"wrong type": {}} | ({} if fits(schema, "") else {"empty": ""})
    if isinstance(old, list):
        empty: dict[str, Any] = {"empty": []} if schema.get("minItems") else {}
        return {"too many": [old[0]] * (schema["maxItems"] + 1), "wrong type": "none"} | empty
    if _values(schema):
        value = next(iter(old.values()))
        many = {f"key{number}": value for number in range(schema["maxProperties"] + 1)}
        return {"too many": many, "bad key": {"no key!": value}, "wrong type": "none"}
    return {"wrong type": "none"} | ({"empty": {}} if schema.get("required") else {})


def _fitting(node: Node) -> list[str]:
    return [word for word in (*KNOWN.get(node.label, ()), *_WORDS) if fits(node.schema, word)]


def mentions(message: str, where: Where) -> bool:
    """Whether a refusal says which property it is about, or which object it is in."""
    whole = [str(part) for part in where if isinstance(part, str)]
    return any(part in message for part in whole[-2:])
