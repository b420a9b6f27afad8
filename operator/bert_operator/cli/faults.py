"""What is wrong with a written BertDeployment, in words: pure. The rules are the operator's own models, nothing else.

Stricter than those models in three ways, because the API server is: a field has one spelling, text is no number, and
`null` means unset.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bert_operator.api import names
from bert_operator.api.base import Model
from bert_operator.api.crd import NAME_RULES
from bert_operator.api.spec import BertDeploymentSpec
from bert_operator.cli import documents

_TOP_FIELDS: Final = ("apiVersion", "kind", "metadata", "spec", "status")
_SHOWN: Final = 60
"""Characters of a found value that are shown."""
_ALIKE: Final = 0.65
"""How alike (0 to 1) a written and a known word must be to be taken for the same."""
_COUNTED: Final = {"too_short": "write {min_length} or more", "too_long": "write at most {max_length}"}
_WORDS: Final = {
    "greater_than_equal": "write {ge} or more",
    "less_than_equal": "write {le} or less",
    "string_too_short": "write text of {min_length} or more characters",
    "string_too_long": "write text of at most {max_length} characters",
    "int_type": "write a whole number, without quotes",
    "int_from_float": "write a whole number",
    "bool_type": "write true or false, without quotes",
    "string_type": "write text, in quotes if it looks like a number",
    "list_type": "write a list: entries that start with `- `",
    "dict_type": "write fields, each as `name: value`",
    "model_type": "write fields, each as `name: value`",
    "model_attributes_type": "write fields, each as `name: value`",
}


def of_resource(resource: object) -> list[str]:
    """Every fault of a BertDeployment: `field: what was found, what to write instead`. Empty if the API takes it."""
    if not isinstance(resource, dict):
        return [f"found {_shown(resource)}: a BertDeployment has the fields apiVersion, kind, metadata and spec"]
    return [*_kind(resource), *_unknown_top(resource), *_name(resource), *_spec(resource)]


def _kind(resource: Mapping[str, Any]) -> Iterator[str]:
    wanted = {"apiVersion": names.API_VERSION, "kind": names.KIND}
    for field, value in wanted.items():
        if resource.get(field) != value:
            yield f"{field}: found {_shown(resource.get(field))}; write {value}"


def _unknown_top(resource: Mapping[str, Any]) -> Iterator[str]:
    for field in resource:
        if field not in _TOP_FIELDS:
            yield f"{field}: unknown field{_meant(str(field), _TOP_FIELDS)}; fields here: {', '.join(_TOP_FIELDS)}"


def _name(resource: Mapping[str, Any]) -> Iterator[str]:
    metadata = resource.get("metadata")
    if not isinstance(metadata, dict) or not (metadata.get("name") or metadata.get("generateName")):
        yield "metadata.name: is missing; every BertDeployment needs a name, e.g. `metadata: {name: minilm}`"
    elif "name" in metadata:
        for rule in NAME_RULES:
            if rule.holds is not None and not rule.holds(str(metadata["name"])):
                yield f"metadata.name: found {_shown(metadata['name'])}; {rule.message}"


def _spec(resource: Mapping[str, Any]) -> list[str]:
    spec = resource.get("spec")
    if not isinstance(spec, dict):
        return ["spec: is missing; it holds server, storage and models"]
    try:
        text = json.dumps(documents.as_stored(spec))
        BertDeploymentSpec.model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        found = error.errors(include_url=False)
        # A value that none of a union's members takes is told once.
        return list(dict.fromkeys(f"{_path(each['loc'])}: {_advice(each)}" for each in found))
    return []


def _path(location: Sequence[int | str]) -> str:
    """`spec.models[0].name`; pydantic marks a map's refused key with a last part `[key]`."""
    parts = location[:-1] if location and location[-1] == "[key]" else location
    return "spec" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _advice(error: ErrorDetails) -> str:
    kind, context, location = error["type"], error.get("ctx") or {}, error["loc"]
    if kind == "extra_forbidden":
        return _unknown(str(location[-1]), location[:-1])
    if kind == "missing":
        return f"is missing; {_about(location)}"
    if kind == "value_error":
        return str(context["error"])
    found = f"found {_shown(error['input'])}"
    if kind in {"enum", "literal_error"}:
        expected = str(context["expected"])
        return f"{found}; write {expected}{_meant(str(error['input']), expected.split(chr(39))[1::2])}"
    if kind == "string_pattern_mismatch":
        return f"{found}; write text that matches {context['pattern']} ({_about(location)})"
    if kind in _COUNTED:
        return f"found {len(error['input'])} entries; {_COUNTED[kind].format(**context)}"
    return f"{found}; {_WORDS[kind].format(**context) if kind in _WORDS else error['msg']}"


def _unknown(name: str, parent: Sequence[int | str]) -> str:
    """An unknown field: the one that was meant, or the place where one of this name belongs."""
    model = _model_at(parent)
    known = list(_fields(model)) if model else []
    hint = _meant(name, known)
    if not hint and (places := [path for path in _all_paths(BertDeploymentSpec, "spec") if path.endswith(f".{name}")]):
        hint = f"; it belongs at {' or '.join(places)}"
    return f"unknown field{hint}; fields here: {', '.join(known)}"


def _meant(written: str, known: Sequence[str]) -> str:
    """`; did you mean ...?`, or nothing."""
    by_shape = {each.lower().replace("-", ""): each for each in known}
    plain = written.lower().replace("_", "").replace("-", "")
    close = difflib.get_close_matches(plain, by_shape, n=1, cutoff=_ALIKE)
    return f"; did you mean {by_shape[close[0]]!r}?" if close else ""


def _about(location: Sequence[int | str]) -> str:
    """The description of a field."""
    model = _model_at(location[:-1])
    field = _fields(model).get(str(location[-1])) if model else None
    return (field[0].rstrip(".") if field else "") or "see docs/reference.md"


def _model_at(location: Sequence[int | str]) -> type[Model] | None:
    """The model that holds the fields at a location; None inside a map of texts."""
    here: type[Model] | None = BertDeploymentSpec
    for part in location:
        if isinstance(part, str):
            here = _fields(here).get(part, ("", None))[1] if here else None
    return here


def _fields(model: type[Model]) -> dict[str, tuple[str, type[Model] | None]]:
    """Name as written in YAML -> description, and the model of its value or of its entries."""
    return {
        field.alias or name: (field.description or "", _inner(field.annotation))
        for name, field in model.model_fields.items()
    }


def _inner(annotation: object) -> type[Model] | None:
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    return next((found for part in get_args(annotation) if (found := _inner(part))), None)


def _all_paths(model: type[Model], prefix: str) -> Iterator[str]:
    """Every field there is, as a path; list entries are written like fields."""
    for name, (_, inner) in _fields(model).items():
        yield f"{prefix}.{name}"
        if inner is not None:
            yield from _all_paths(inner, f"{prefix}.{name}")


def _shown(value: object) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
