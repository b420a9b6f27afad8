"""The generator of the CRDs: nothing of the models gets lost, everything is bounded."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import yaml
from pydantic import Field

from bert_operator.api import crd
from bert_operator.api.base import Model, Rule, unique

ROOT = Path(__file__).parents[3]
DEFINITIONS = {"bertdeployments": crd.bert_deployment(), "bertartifacts": crd.bert_artifact()}


def _schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _schemas(child, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield from _schemas(schema[name], f"{path}[]")


def _every_schema() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind, definition in DEFINITIONS.items():
        root = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for part in ("spec", "status"):
            if part in root["properties"]:
                yield from _schemas(root["properties"][part], f"{kind}.{part}")


def test_committed_files_are_current() -> None:
    assert crd.stale(ROOT) == "", "run `make crds`"


def test_chart_and_folder_hold_the_same() -> None:
    for path in (ROOT / "crds").glob("*.yaml"):
        assert path.read_text() == (ROOT / "charts/bert-operator/files/crds" / path.name).read_text()


def test_check_shows_what_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--root", str(tmp_path)]) == 0
    assert crd.main(["--root", str(tmp_path), "--check"]) == 0
    file = tmp_path / "crds/bertdeployments.yaml"
    file.write_text(file.read_text().replace("shortNames", "shortnames"))
    assert crd.main(["--root", str(tmp_path), "--check"]) == 1
    shown = capsys.readouterr()
    assert "-      shortnames" not in shown.out
    assert "-    shortnames:\n+    shortNames:\n" in shown.out
    assert "make crds" in shown.err


def test_two_runs_give_the_same_text() -> None:
    assert crd.render() == crd.render()


def test_every_list_string_and_map_is_bounded() -> None:
    unbounded = [
        path
        for path, schema in _every_schema()
        if (schema.get("type") == "string" and not {"maxLength", "enum"} & set(schema))
        or (schema.get("type") == "array" and "maxItems" not in schema)
        or ("additionalProperties" in schema and "maxProperties" not in schema)
    ]
    assert unbounded == []


def test_every_field_is_described() -> None:
    silent = [path for path, schema in _every_schema() if not path.endswith("[]") and not schema.get("description")]
    assert silent == []


def test_the_schema_is_structural() -> None:
    """No references, nulls or free-form objects: what is not named is refused."""
    for path, schema in _every_schema():
        assert not {"$ref", "$defs", "title", "nullable", "propertyNames", "patternProperties"} & set(schema), path
        assert "x-kubernetes-preserve-unknown-fields" not in schema, path
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
        if schema.get("type") == "object":
            assert ("properties" in schema) != ("additionalProperties" in schema), path


def test_no_field_names_a_namespace() -> None:
    """Everything a BertDeployment names lives beside it, so nobody reaches into other namespaces through it.

    A selector of who may send requests to its own pods reaches nothing.
    """
    named = [path for path, _ in _every_schema() if "namespace" in path.rsplit(".", 1)[-1].lower()]
    assert [path for path in named if "networkPolicy.allowFrom" not in path] == []


def test_keys_of_map_lists_are_required() -> None:
    for path, schema in _every_schema():
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys:
            assert schema["x-kubernetes-list-type"] == "map", path
            assert set(keys) <= set(schema["items"]["required"]), path


def test_a_status_has_no_defaults() -> None:
    assert [path for path, schema in _every_schema() if ".status" in path and "default" in schema] == []


def test_every_rule_says_what_is_wrong() -> None:
    rules = [rule for _, schema in _every_schema() for rule in schema.get("x-kubernetes-validations", [])]
    assert len(rules) >= 15
    assert all(20 <= len(rule["message"]) <= 400 for rule in rules)


class _Colour(StrEnum):
    RED = "red"


class _Leaf(Model):
    """A leaf."""

    depth: int = Field(3, ge=0)


class _Bare(Model):
    """Without defaults."""

    note: Annotated[str, Field(max_length=5)] | None = None


class _Tree(Model):
    """A tree."""

    cel: ClassVar[tuple[Rule, ...]] = (Rule(rule="true", message="never", field_path=".leaf"),)

    leaf: _Leaf = Field(default_factory=_Leaf, description="Grows.")
    bare_leaf: _Bare = Field(default_factory=_Bare)
    colour: _Colour = _Colour.RED
    leaves: Annotated[
        list[_Leaf], Field(max_length=3, json_schema_extra={"x-kubernetes-list-map-keys": ["depth"]}), unique("depth")
    ] = Field(default_factory=list)
    labels: Annotated[
        dict[Annotated[str, Field(max_length=4)], Annotated[str, Field(max_length=9)]], Field(max_length=2)
    ]


def test_one_of_each_construct() -> None:
    schema = crd.object_schema(_Tree)
    leaf = {
        "type": "object",
        "description": "A leaf.",
        "properties": {"depth": {"type": "integer", "minimum": 0, "format": "int64", "default": 3}},
    }
    assert schema == {
        "type": "object",
        "description": "A tree.",
        "required": ["labels"],
        "properties": {
            "leaf": leaf | {"description": "Grows.", "default": {}},
            "bareLeaf": {
                "type": "object",
                "description": "Without defaults.",
                "properties": {"note": {"type": "string", "maxLength": 5}},
            },
            "colour": {"type": "string", "enum": ["red"], "default": "red"},
            "leaves": {
                "type": "array",
                "maxItems": 3,
                "x-kubernetes-list-map-keys": ["depth"],
                "x-kubernetes-list-type": "map",
                "items": leaf,
            },
            "labels": {
                "type": "object",
                "maxProperties": 2,
                "additionalProperties": {"type": "string", "maxLength": 9},
                "x-kubernetes-validations": [
                    {"rule": "self.all(k, size(k) <= 4)", "message": "each key can have at most 4 characters"}
                ],
            },
        },
        "x-kubernetes-validations": [{"rule": "true", "message": "never", "fieldPath": ".leaf"}],
    }


class _Odd(Model):
    """Uses what the generator doesn't know."""

    number: int = Field(multiple_of=3)


def test_stops_at_what_it_cannot_translate() -> None:
    with pytest.raises(TypeError, match="multipleOf"):
        crd.object_schema(_Odd)


def test_files_are_yaml_that_says_where_it_comes_from() -> None:
    for file, text in crd.render().items():
        assert text.startswith("# Generated from bert_operator.api by `make crds`")
        assert yaml.safe_load(text)["metadata"]["name"] == f"{file.removesuffix('.yaml')}.bertops.dev"
        assert "&id" not in text
