"""A settled world costs no request: what the API server rewrites isn't drift, what people change is."""

import copy
from typing import Any

import pytest

from bert_operator.objects import drift

WANT: dict[str, Any] = {
    "kind": "Deployment",
    "metadata": {"name": "x", "labels": {"a": "1"}},
    "spec": {
        "replicas": 1,
        "template": {"containers": [{"name": "server", "resources": {"limits": {"cpu": "1000m", "memory": "1Gi"}}}]},
        "volumes": [],
    },
}


def live(**changes: Any) -> dict[str, Any]:
    stamped = drift.stamped(WANT)
    return stamped | {"spec": stamped["spec"] | changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"template": {"containers": [{"name": "server", "resources": {"limits": {"cpu": "1", "memory": "1024Mi"}}}]}},
        {"template": {"containers": [{"name": "injected"}, WANT["spec"]["template"]["containers"][0]]}},
        {"paused": False, "minReadySeconds": 0},
    ],
    ids=["quantities rewritten", "a sidecar injected", "fields of others"],
)
def test_what_others_add_or_rewrite_is_no_drift(changes: dict[str, Any]) -> None:
    assert not drift.differs(drift.stamped(WANT), live(**changes))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("2048Ti", "2Pi"), ("20000000000000000000", "20E"), ("0.0001", "100u"), ("0.00000000011", "1n")],
)
def test_a_quantity_that_the_api_server_writes_in_another_unit_is_no_drift(ours: str, theirs: str) -> None:
    want, found = ({"kind": "Deployment", "metadata": {}, "spec": {"memory": text}} for text in (ours, theirs))
    stamped = drift.stamped(want)
    assert not drift.differs(stamped, stamped | {"spec": found["spec"]})


def test_a_text_of_many_digits_is_no_quantity() -> None:
    assert not drift.covers("9" * 1000, "8" * 1000)


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": 2},
        {"template": {"containers": [{"name": "server", "resources": {"limits": {"cpu": "2", "memory": "1Gi"}}}]}},
        {"template": {"containers": []}},
    ],
    ids=["replicas", "a quantity", "a container gone"],
)
def test_a_changed_field_of_ours_is_drift(changes: dict[str, Any]) -> None:
    assert drift.differs(drift.stamped(WANT), live(**changes))


def test_a_field_we_stop_asking_for_is_drift() -> None:
    less = {**WANT, "metadata": {"name": "x"}}
    assert drift.differs(drift.stamped(less), drift.stamped(WANT))


def test_an_empty_value_that_the_api_server_drops_is_no_drift() -> None:
    without = copy.deepcopy(drift.stamped(WANT))
    del without["spec"]["volumes"]
    assert not drift.differs(drift.stamped(WANT), without)
