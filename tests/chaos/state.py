"""The state of a namespace in a form in which two runs can be compared, and what differs. Pure.

UIDs, random names and times differ in any two runs. They are replaced by words here; whatever else differs between two
runs without faults is masked.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bert_operator.api import names
from bert_operator.objects.identity import artifact_name

State = dict[str, Any]
"""`Kind/name/path` -> value."""
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME: Final = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
_DROPPED: Final = frozenset(
    {"resourceVersion", "creationTimestamp", "managedFields", "uid", "namespace", "lastUpdateTime"}
)
_HASHES: Final = frozenset({names.DESIRED_HASH_ANNOTATION})
"""Annotations that hold a hash of what holds UIDs."""
_OTHERS_WORK: Final = re.compile(r"^(HorizontalPodAutoscaler|PodDisruptionBudget)/[^/]*\.status")
"""What controllers say in their own time, and no operator of ours can help."""
_NOT_OURS: Final = frozenset({("ConfigMap", "kube-root-ca.crt")})


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not as in the reference run."""

    path: str
    want: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.path}: found {_short(self.found)}, a run without faults has {_short(self.want)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def canonical(objects: Iterable[Mapping[str, Any]], namespace: str) -> State:
    """Everything in a namespace, flat."""
    present = [obj for obj in objects if (obj["kind"], obj["metadata"]["name"]) not in _NOT_OURS]
    words = _Words(present, namespace)
    named: dict[str, list[State]] = defaultdict(list)
    for obj in present:
        fields = dict(_flat(words.of({key: value for key, value in obj.items() if key != "kind"}), ""))
        named[f"{obj['kind']}/{words.name(obj)}"].append(fields)
    state: State = {}
    for name, twins in named.items():
        for index, fields in enumerate(sorted(twins, key=lambda one: sorted(map(str, one.items())))):
            place = name if len(twins) == 1 else f"{name}#{index}"
            state[place] = "is there"
            state |= {f"{place}{path}": value for path, value in fields.items()}
    return {path: value for path, value in state.items() if not _OTHERS_WORK.match(path)}


def masked(*runs: State) -> frozenset[str]:
    """What differs between runs without faults."""
    first, *others = runs
    return frozenset(
        path for other in others for path in first.keys() | other.keys() if _at(first, path) != _at(other, path)
    )


def differences(found: State, want: State, mask: frozenset[str]) -> list[Difference]:
    """What is not as it should be; of an object that is missing or too many, only that."""
    wrong = [
        path for path in sorted(found.keys() | want.keys()) if path not in mask and _at(found, path) != _at(want, path)
    ]
    whole = {path for path in wrong if "is there" in (_at(found, path), _at(want, path))}
    return [
        Difference(path=path, want=_at(want, path), found=_at(found, path))
        for path in wrong
        if path in whole or not any(path.startswith((f"{one}/", f"{one}.")) for one in whole)
    ]


def counted(writes: Iterable[tuple[str, str, str]]) -> Counter[str]:
    """How often each object was created and deleted, from (verb, resource, canonical name)."""
    return Counter(f"{verb} {resource} {name}" for verb, resource, name in writes)


def _at(state: State, path: str) -> object:
    return state.get(path, "nothing")


class _Words:
    """What replaces what differs in any two runs."""

    def __init__(self, objects: Iterable[Mapping[str, Any]], namespace: str) -> None:
        objects = list(objects)
        self._namespace = namespace
        self._tokens: dict[str, str] = {}
        for obj in objects:
            self._learn(obj)
        for obj in objects:
            labels = obj["metadata"].get("labels") or {}
            if "pod-template-hash" in labels:
                self._tokens.setdefault(labels["pod-template-hash"], "<template>")
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def _learn(self, obj: Mapping[str, Any]) -> None:
        kind, metadata = obj["kind"], obj["metadata"]
        if kind == names.KIND:
            self._tokens[metadata["uid"].replace("-", "")[:6]] = "<own>"
            self._keys(obj)
        if owner := (metadata.get("labels") or {}).get(names.OWNER_LABEL):
            self._tokens.setdefault(owner, "<own>" if kind != "PersistentVolumeClaim" else "<owner>")
        if request := (metadata.get("labels") or {}).get(names.REQUEST_LABEL):
            self._tokens.setdefault(request, "<request>")
        if kind == "PersistentVolumeClaim":
            self._tokens[artifact_name("", "", metadata["uid"])[2:]] = f"<claim {metadata['name']}>"
        for key in (obj.get("spec") or {}).get("requestKeys") or () if kind == names.ARTIFACT_KIND else ():
            self._tokens.setdefault(key, "<request>")

    def _keys(self, bert: Mapping[str, Any]) -> None:
        status = bert.get("status") or {}
        for model in status.get("models") or ():
            for version in model.get("versions") or ():
                if key := version.get("requestKey"):
                    self._tokens[key] = f"<request {model['name']}/{version['version']}>"

    def name(self, obj: Mapping[str, Any]) -> str:
        """A name without what is random in it."""
        if obj["kind"] == "Pod":
            owner = next(iter(obj["metadata"].get("ownerReferences") or ()), {"name": "alone"})
            return f"of {self._text(owner['name'])}"
        return self._text(str(obj["metadata"]["name"]))

    def of(self, value: Any) -> Any:
        """A value without what is random in it."""
        if isinstance(value, Mapping):
            found: dict[str, list[Any]] = defaultdict(list)
            for key, one in value.items():
                if key not in _DROPPED and key not in _HASHES:
                    found[self._text(str(key))].append(self.of(one))
            # Keys that differed only in what is random: which one came first is random too.
            return {key: ones[0] if len(ones) == 1 else sorted(ones, key=str) for key, ones in found.items()}
        if isinstance(value, list):
            return [self.of(one) for one in value]
        return self._document(value) if isinstance(value, str) else value

    def _document(self, text: str) -> Any:
        """A text; what is JSON in a text is ordered by keys that are random."""
        if text.startswith("{"):
            try:
                return self.of(json.loads(text))
            except ValueError:
                pass
        return self._text(text)

    def _text(self, text: str) -> str:
        if _TIME.match(text):
            return "<time>"
        text = _UUID.sub("<uid>", text.replace(self._namespace, "<namespace>"))
        return self._pattern.sub(lambda found: self._tokens[found[0]], text)


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Leaves by path; a list's members by their name or type where they have one."""
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _flat(one, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for index, one in enumerate(value):
            yield from _flat(one, f"{path}[{_label(one, index)}]")
    else:
        yield path, value


def _label(one: Any, index: int) -> str:
    if isinstance(one, Mapping):
        for key in ("type", "name", "mountPath"):
            if isinstance(one.get(key), str):
                return str(one[key])
    return str(index)


def replaced(text: str, owners: Iterable[str]) -> str:
    """A name in the trace of an operator: what ends in an owner's digits, whoever that is."""
    for owner in owners:
        text = text.replace(owner.replace("-", "")[:6], "<own>")
    return re.sub(r"[0-9a-f]{32}|(?<=-)[0-9a-f]{8}$|(?<=-)[0-9a-f]{16,31}(?=-|$)", "<hash>", text)
