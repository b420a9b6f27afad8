"""R4 walks every property of the CRD's schema, with values made from it."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from bert_operator.api.observed import Observed
from bert_operator.plan import make_plan
from bert_operator.settings import Settings
from chaos import properties, seeds
from chaos.operations import GONE, Node, Operation, changed, located, mentions, nodes, operations
from support import builders

SETTINGS = Settings.model_validate(seeds.SETTINGS)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["mode"],
    "properties": {
        "mode": {"type": "string", "enum": ["On", "Off"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
        "text": {"type": "string", "pattern": "^[a-z]+$", "minLength": 1, "maxLength": 5},
        "labels": {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "string", "maxLength": 4}},
        "entries": {
            "type": "array",
            "maxItems": 3,
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string", "pattern": "^[a-z0-9]+$", "maxLength": 4}},
            },
        },
    },
}
SPEC = {
    "mode": "On",
    "count": 3,
    "text": "old",
    "labels": {"a": "x", "b": "y"},
    "entries": [{"name": "p"}, {"name": "q"}],
}


@pytest.fixture
def walked() -> list[Operation]:
    """All operations on the small schema."""
    return [one for node in nodes(SCHEMA) for one in operations(node, SPEC)]


def values(walked: list[Operation], label: str) -> dict[str, Any]:
    return {one.kind: one.values[0] for one in walked if one.node.label == label}


def test_a_number_goes_to_its_bounds_and_beyond(walked: list[Operation]) -> None:
    found = values(walked, "count")
    assert (found["low"], found["high"], found["too low"], found["too high"]) == (1, 9, 0, 10)
    assert found["change"] not in (3, None)
    assert found["delete"] is GONE


def test_what_is_required_must_not_go(walked: list[Operation]) -> None:
    assert {one.kind for one in walked if one.node.label == "mode" and one.wrong} >= {"delete", "no such word"}
    assert values(walked, "mode")["toggle to Off"] == "Off"


def test_texts_are_as_long_and_as_short_as_they_may_be(walked: list[Operation]) -> None:
    found = values(walked, "text")
    assert (len(found["long"]), len(found["short"]), len(found["too long"])) == (5, 1, 6)


def test_lists_are_pushed_with_new_keys_filled_popped_turned_and_emptied(walked: list[Operation]) -> None:
    found = values(walked, "entries")
    assert [one["name"] for one in found["push"]] == ["p", "q", "p0"]
    assert len(found["fill"]) == 3
    assert len(found["too many"]) == 4
    assert (found["pop"], found["empty"], found["turn"]) == ([{"name": "p"}], [], SPEC["entries"][::-1])


def test_maps_are_walked_as_a_whole_and_by_value(walked: list[Operation]) -> None:
    assert set(values(walked, "labels")) >= {"delete", "empty", "push", "pop", "fill", "bad key", "too many"}
    assert set(values(walked, "labels{}")) >= {"delete", "change", "long", "too long"}


def test_a_change_is_one_change() -> None:
    where = located(SPEC, ("entries", "[]", "name"))
    assert where == ("entries", 0, "name")
    assert changed(SPEC, where, "z") == {**SPEC, "entries": [{"name": "z"}, {"name": "q"}]}
    assert changed(SPEC, ("count",), GONE) == {key: value for key, value in SPEC.items() if key != "count"}


def test_a_refusal_names_the_property_or_the_object_that_it_is_in() -> None:
    assert mentions("spec.models[0].build.precision: Invalid value", ("models", 0, "build", "precision"))
    assert not mentions("spec.storage: Invalid value", ("models", 0, "build", "precision"))


def test_every_leaf_of_the_crd_is_walked() -> None:
    walked = {node.label for seed in seeds.SEEDS.values() for node in seed.nodes()}
    assert seeds.leaves() - walked == set()


def test_every_leaf_is_changed_and_misused_in_several_ways() -> None:
    every = [one for group in seeds.groups() for walk in _of(group) for one in walk]
    right = Counter(one.node.label for one in every if not one.wrong)
    assert sum(right.values()) >= 400
    # A word of one choice can't be another, and no claim is bound where no volumes are.
    assert {label for label in seeds.leaves() if not right[label]} == {"autoscaling.metrics[].type", "storage.size"}
    assert {
        label for label in seeds.leaves() if not any(one.wrong for one in every if one.node.label == label)
    } == set()


def _of(group: str) -> list[list[Operation]]:
    seed, part = group.split("/")
    return seeds.SEEDS[seed].operations("" if part == "spec" else part)


@pytest.mark.parametrize("name", seeds.SEEDS)
def test_every_seed_is_what_this_installation_can_do(name: str) -> None:
    nothing = dict.fromkeys(set(Observed.__dataclass_fields__) - {"bert"}, ())
    bert = builders.bert(spec=None) | {"spec": dict(seeds.SEEDS[name].spec)}
    status = make_plan(Observed(bert=bert, **nothing), SETTINGS, datetime(2026, 1, 1, tzinfo=UTC)).status
    accepted = next(one for one in (status or {})["conditions"] if one["type"] == "Accepted")
    assert accepted["status"] == "True", accepted["message"]


def world(name: str, uid: str, image: str = "one") -> list[dict[str, Any]]:
    labels = {"app.kubernetes.io/instance": name, "bertops.dev/config": uid[:4] * 4}
    bert = {
        "kind": "BertDeployment",
        "metadata": {"name": name, "uid": uid, "generation": 1},
        "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "observedGeneration": 1}]},
    }
    config = {"kind": "ConfigMap", "metadata": {"name": f"{name}-config-{uid[:4] * 4}", "labels": labels}}
    old = {"kind": "ConfigMap", "metadata": {"name": f"{name}-config-old", "labels": labels}}
    deployment = {
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {"image": image, "config": f"{name}-config-{uid[:4] * 4}"},
    }
    return [bert, config, old, deployment]


def test_two_resources_of_the_same_spec_are_equal_and_the_past_is_left_out() -> None:
    one, two = world("walk-0001", "abcd0000"), world("walk-0002", "ef120000")
    objects = [*one, *two]
    assert properties.own(objects, "walk-0001", "space") == properties.own(objects, "walk-0002", "space")
    assert not [path for path in properties.own(objects, "walk-0001", "space") if "old" in path]


def test_a_difference_between_two_resources_is_found() -> None:
    objects = [*world("walk-0001", "abcd0000"), *world("walk-0002", "ef120000", image="other")]
    one, two = (properties.own(objects, name, "space") for name in ("walk-0001", "walk-0002"))
    assert {path for path in one if one[path] != two[path]} == {"Deployment/<bert>.spec.image"}


def test_a_node_that_a_spec_does_not_write_has_no_operations() -> None:
    (node,) = [one for one in nodes(SCHEMA) if one.label == "count"]
    assert isinstance(node, Node)
    assert operations(node, {"mode": "On"}) == []


def test_only_what_the_server_took_counts_as_played() -> None:
    (node,) = [one for one in nodes(SCHEMA) if one.label == "count"]
    walks = []
    for played in (True, False):
        one = operations(node, SPEC)
        step = properties.Step(operation=one[0], value=4, spec={}, twin="walk-0001", played=played)
        walks.append(properties.Walk(name="walk-0000", operations=one, steps=[step]))
    assert properties.played(walks[:1]) == {"count"}
    assert properties.played(walks[1:]) == set()
