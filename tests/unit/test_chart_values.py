"""values.yaml against its schema and against the operator's settings, without helm."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bert_operator.settings import HardwareProfile, LeaderElection, Settings, TritonRelease

CHART = Path(__file__).parents[2] / "charts" / "bert-operator"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
SETTINGS = (
    "images",
    "triton",
    "tfserving",
    "torchserve",
    "hardwareProfiles",
    "build",
    "imagePullPolicy",
    "workers",
    "resyncSeconds",
    "store",
)


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
    return schema


def _pairs(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Each object of the values beside its schema."""
    schema = _resolved(schema)
    yield path, values, schema
    for name, child in schema.get("properties", {}).items():
        if isinstance(values.get(name), dict):
            yield from _pairs(values[name], child, f"{path}.{name}")


def test_schema_and_values_name_the_same() -> None:
    """A value that isn't in the schema couldn't be set; one that isn't in values.yaml isn't documented."""
    for path, values, schema in _pairs(VALUES, SCHEMA):
        if "properties" in schema and "resources" not in path:
            assert set(values) == set(schema["properties"]) - {"global"}, path or "top"


def test_every_object_of_the_schema_is_strict() -> None:
    """A misspelt value is refused instead of ignored."""

    def walk(schema: Any, path: str) -> Iterator[str]:
        if isinstance(schema, dict):
            if "properties" in schema and schema.get("additionalProperties") is not False and "type" in schema:
                yield path
            for name, child in schema.items():
                yield from walk(child, f"{path}/{name}")

    assert list(walk(SCHEMA, "")) == []


def test_the_schema_knows_what_the_settings_know() -> None:
    """A setting that the operator learns must be one that the chart lets through."""

    def aliases(model: Any) -> set[str]:
        return {field.alias for field in model.model_fields.values()}

    assert aliases(Settings) == {*SETTINGS, "leaderElection"}
    assert aliases(TritonRelease) == set(SCHEMA["$defs"]["tritonRelease"]["properties"])
    assert aliases(HardwareProfile) == set(SCHEMA["$defs"]["hardwareProfile"]["properties"])
    assert aliases(Settings.model_fields["build"].annotation) == set(SCHEMA["properties"]["build"]["properties"])


def test_the_election_is_on_by_default_with_the_times_of_the_settings() -> None:
    values = dict(VALUES["leaderElection"])
    assert values.pop("enabled") is True
    assert LeaderElection.model_validate(values | {"namespace": "n", "name": "o"}) == LeaderElection(
        namespace="n", name="o"
    )


def test_the_default_values_are_settings() -> None:
    settings = Settings.model_validate({name: VALUES[name] for name in SETTINGS})
    assert settings.triton.releases[settings.triton.default_release].image.startswith("nvcr.io/nvidia/tritonserver:")
