"""The CustomResourceDefinitions, made from the pydantic models: `python -m bert_operator.api.crd [--check]`.

`make crds` runs it and a test checks that the committed files are current. The API server enforces at admission what
the models say: bounds, patterns, enums, defaults, list types and CEL rules. It never talks to a cluster.
"""

import argparse
import ast
import difflib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bert_operator.api import names
from bert_operator.api.artifact import BertArtifactSpec
from bert_operator.api.base import Model, Rule
from bert_operator.api.spec import BertDeploymentSpec
from bert_operator.api.status import BertDeploymentStatus

Schema = dict[str, Any]

HEADER: Final = "# Generated from bert_operator.api by `make crds`: edit the models, not this file.\n"
FOLDERS: Final = ("crds", "charts/bert-operator/files/crds")
"""Where the files go: for `kubectl apply -f crds/`, and for the chart, which can only read its own folder."""

_KEPT: Final = (
    "type",
    "description",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-int-or-string",
)
"""What is taken over as it stands. Anything not named in this module stops the generator (see _reject_unknown)."""
_TRANSLATED: Final = frozenset(
    {"$ref", "anyOf", "const", "default", "title", "items", "properties", "required", "additionalProperties"}
) | {"patternProperties", "propertyNames"}
_INT32_MAX: Final = 2**31 - 1

NAME_RULES: Final = (
    Rule(
        rule="self.metadata.name.size() <= 40",
        message="metadata.name can have at most 40 characters, because pods, Jobs and a Service are named after it: "
        "choose a shorter name",
        holds=lambda name: len(name) <= 40,  # noqa: PLR2004 - the rule beside it says it too
    ),
    Rule(
        rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        message="metadata.name becomes the name of a Service: start with a letter, end with a letter or digit and use "
        "only a-z, 0-9 and '-', e.g. `minilm`",
        holds=lambda name: re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) is not None,
    ),
)
"""Of the whole resource; `holds` gets its name. For who checks a file before any API server sees it."""


def bert_deployment() -> Schema:
    """CRD of BertDeployment."""
    ready = '.status.conditions[?(@.type=="Ready")]'
    return _definition(
        kind=names.KIND,
        plural=names.PLURAL,
        short="bertd",
        categories=["all", "bertops"],
        schema={
            "description": "BERT models behind one inference server: built from their sources, verified, served.",
            "spec": object_schema(BertDeploymentSpec),
            "status": object_schema(BertDeploymentStatus, defaults=False),
            "rules": NAME_RULES,
        },
        subresources={
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        columns=[
            _column("Ready", f"{ready}.status", "Whether every model answers as its source does."),
            _column("Stage", ".status.summary.stage", "Where the whole stands."),
            _column("Server", ".spec.server.type", "The inference server."),
            _column("Precision", ".status.summary.precision", "Achieved precision."),
            _column("Fidelity", ".status.summary.fidelity", "Smallest cosine similarity to the source models."),
            _column("Models", ".status.summary.models", "Built versions of all versions."),
            _column("Replicas", ".status.replicas", "Serving pods.", type_="integer"),
            _column("Age", ".metadata.creationTimestamp", "Time since creation.", type_="date"),
            _column("Endpoint", ".status.endpoint.http", "Base URL inside the cluster.", wide=True),
            _column("Reason", f"{ready}.reason", "Why it is or isn't ready.", wide=True),
            _column("Message", f"{ready}.message", "What was found and what to do next.", wide=True),
        ],
    )


def bert_artifact() -> Schema:
    """CRD of BertArtifact."""
    return _definition(
        kind=names.ARTIFACT_KIND,
        plural=names.ARTIFACT_PLURAL,
        short="berta",
        categories=["bertops"],
        schema={
            "description": "The operator's record of one artifact on a claim. Read it, don't edit it.",
            "spec": object_schema(BertArtifactSpec),
        },
        subresources={},
        columns=[
            _column("Format", ".spec.report.format", "What was built."),
            _column("Task", ".spec.report.task", "What the model does."),
            _column("Size", ".spec.report.sizeBytes", "Size in bytes.", type_="integer"),
            _column("Claim", ".spec.claimName", "Claim that holds it."),
            _column("Cosine", ".spec.report.fidelity.minCosine", "Smallest cosine similarity.", type_="number"),
            _column("Age", ".metadata.creationTimestamp", "Time since creation.", type_="date"),
        ],
    )


def _column(name: str, path: str, description: str, *, type_: str = "string", wide: bool = False) -> Schema:
    column: Schema = {"name": name, "type": type_, "description": description, "jsonPath": path}
    return column | ({"priority": 1} if wide else {})


def _definition(  # noqa: PLR0913 - one argument per part of a CRD; callers name them
    *,
    kind: str,
    plural: str,
    short: str,
    categories: list[str],
    schema: Mapping[str, Any],
    subresources: Schema,
    columns: list[Schema],
) -> Schema:
    version: Schema = {"name": names.VERSION, "served": True, "storage": True}
    if subresources:
        version["subresources"] = subresources
    version["additionalPrinterColumns"] = columns
    version["schema"] = {"openAPIV3Schema": _root(schema)}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}", "labels": {names.NAME_LABEL: names.MANAGER}},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": categories,
            },
            "versions": [version],
        },
    }


def _root(parts: Mapping[str, Any]) -> Schema:
    root: Schema = {
        "type": "object",
        "description": parts["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": parts["spec"],
        },
    }
    if "status" in parts:
        root["properties"]["status"] = parts["status"]
    if parts.get("rules"):
        root["x-kubernetes-validations"] = [_rule(rule) for rule in parts["rules"]]
    return root


def object_schema(model: type[Model], *, defaults: bool = True) -> Schema:
    """Structural schema of a model.

    Args:
        model: any model of the vocabulary.
        defaults: whether the API server fills defaults in. Not in a status: there it would report what nobody saw.
    """
    return _Converter(model, defaults=defaults).convert()


class _Converter:
    """Turns pydantic's JSON schema of one model into a structural one: no $ref, no null, no title."""

    def __init__(self, model: type[Model], *, defaults: bool) -> None:
        self._defaults = defaults
        self._root = model.model_json_schema(by_alias=True)
        self._shared = self._root.pop("$defs", {})
        self._models = {found.__name__: found for found in _models_in(model)}

    def convert(self) -> Schema:
        return self._convert(self._root)

    def _convert(self, source: Schema) -> Schema:
        source, name = self._resolve(source)
        _reject_unknown(source)
        result: Schema = {key: source[key] for key in _KEPT if key in source}
        if "const" in source:
            result["enum"] = [source["const"]]
        if "x-kubernetes-list-map-keys" in result:
            result["x-kubernetes-list-type"] = "map"
        _type_of_number(result)
        if "items" in source:
            result["items"] = self._convert(source["items"])
        if "properties" in source:
            self._add_properties(result, source, self._models[name])
        elif source.get("type") == "object":
            self._add_map(result, source)
        return result

    def _resolve(self, source: Schema) -> tuple[Schema, str]:
        """Inline a reference and unwrap `X | None`; what stands beside them (a description) wins."""
        source = dict(source)
        name = str(source.get("title", ""))
        while "$ref" in source or "anyOf" in source:
            if "$ref" in source:
                name = source.pop("$ref").rsplit("/", 1)[-1]
                source = {**self._shared[name], **source}
            else:
                (inner,) = [option for option in source.pop("anyOf") if option.get("type") != "null"]
                source = {**inner, **source}
        return source, name

    def _add_properties(self, result: Schema, source: Schema, model: type[Model]) -> None:
        if required := source.get("required"):
            result["required"] = required
        result["properties"] = {}
        fields = {str(field.alias): (name, field) for name, field in model.model_fields.items()}
        docstrings = _docstrings(model)
        for key, value in source["properties"].items():
            name, field = fields[key]
            converted = self._convert(value | ({"description": docstrings[name]} if name in docstrings else {}))
            if self._defaults:
                converted |= _default(field, converted)
            result["properties"][key] = converted
        if model.cel:
            result["x-kubernetes-validations"] = [_rule(rule) for rule in model.cel]

    def _add_map(self, result: Schema, source: Schema) -> None:
        (pattern, value), *_ = source.get("patternProperties", {None: source.get("additionalProperties")}).items()
        result["additionalProperties"] = self._convert(value)
        if longest := source.get("propertyNames", {}).get("maxLength"):
            result["x-kubernetes-validations"] = [_rule(_key_rule(longest, pattern))]


def _reject_unknown(source: Schema) -> None:
    """A keyword that is silently lost would be a check that nobody does."""
    if unknown := set(source) - set(_KEPT) - _TRANSLATED:
        raise TypeError(f"crd.py doesn't know how to translate {sorted(unknown)} in {source}")


def _type_of_number(schema: Schema) -> None:
    if schema.get("x-kubernetes-int-or-string"):
        del schema["type"]
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    elif schema.get("type") == "integer":
        schema["format"] = "int32" if schema.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"
    elif schema.get("type") == "number":
        schema["format"] = "double"


def _default(field: FieldInfo, converted: Schema) -> Schema:
    """The default as the API server fills it in; empty lists and maps are left out, they'd only be noise.

    An object's default is `{}`, so that its own fields' defaults are filled in, and only if it has any.
    """
    if field.is_required():
        return {}
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return {"default": {}} if any("default" in child for child in converted["properties"].values()) else {}
    return {} if value is None or value in ([], {}) else {"default": value}


def _key_rule(longest: int, pattern: str | None) -> Rule:
    """Structural schemas can't bound a map's keys, so CEL does."""
    return Rule(
        rule=f"self.all(k, size(k) <= {longest}" + (f" && k.matches(r'{pattern}')" if pattern else "") + ")",
        message=f"each key can have at most {longest} characters" + (f" and must match {pattern}" if pattern else ""),
    )


def _rule(rule: Rule) -> Schema:
    fields = {
        "rule": rule.rule,
        "message": rule.message,
        "messageExpression": rule.message_expression,
        "fieldPath": rule.field_path,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _docstrings(model: type[Model]) -> dict[str, str]:
    """The string below each field, its own and those that it inherits."""
    found: dict[str, str] = {}
    for owner in reversed(model.mro()):
        found |= _documented(owner.__module__).get(owner.__name__, {}) if issubclass(owner, Model) else {}
    return found


@cache
def _documented(module: str) -> dict[str, dict[str, str]]:
    """By class and field. Pydantic would read the sources for them wherever a model is imported, not only here."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            for field, below in pairwise(node.body):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        found.setdefault(node.name, {})[name] = inspect.cleandoc(text)
    return found


def _models_in(model: type[Model]) -> Iterator[type[Model]]:
    """The model and all models that its fields hold."""
    yield model
    for field in model.model_fields.values():
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, Model):
                yield from _models_in(part)


def _parts(annotation: object) -> Iterator[object]:
    yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _parts(argument)


class _Dumper(yaml.SafeDumper):
    """YAML without anchors (`&id001`), which kubectl reads but people don't."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


_Dumper.add_multi_representer(str, lambda dumper, value: dumper.represent_str(str(value)))


def render() -> dict[str, str]:
    """Text of each file, by its name."""
    definitions = {f"{names.PLURAL}.yaml": bert_deployment(), f"{names.ARTIFACT_PLURAL}.yaml": bert_artifact()}
    return {
        file: HEADER + yaml.dump(definition, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
        for file, definition in definitions.items()
    }


def stale(root: Path) -> str:
    """What the committed files lack, as a unified diff; empty if they are current."""
    diffs: list[str] = []
    for path, text in _files(root).items():
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        diffs += difflib.unified_diff(
            old.splitlines(keepends=True), text.splitlines(keepends=True), str(path), "generated from the models"
        )
    return "".join(diffs)


def _files(root: Path) -> dict[Path, str]:
    return {root / folder / file: text for folder in FOLDERS for file, text in render().items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files below the current folder, or with --check say whether they are current."""
    parser = argparse.ArgumentParser(prog="python -m bert_operator.api.crd", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 with a diff if a file is stale")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository (default: this folder)")
    options = parser.parse_args(arguments)
    if options.check:
        diff = stale(options.root)
        sys.stdout.write(diff)
        if diff:
            sys.stderr.write("the CRDs are stale: run `make crds`\n")
        return 1 if diff else 0
    for path, text in _files(options.root).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
