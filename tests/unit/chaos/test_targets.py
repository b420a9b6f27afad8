"""What a whole campaign has to reach."""

from typing import Any

import pytest

from chaos import targets
from chaos.stories import Result
from support.operator_process import RULES

MEANT = {"create": "apply", "patch": "apply"}
KINDS = [
    f"{MEANT.get(verb, verb)} {resource}" for _, resources, verbs in RULES for resource in resources for verb in verbs
]
WALKED: dict[str, Any] = {"operations": 400, "leaves": [f"leaf{number}" for number in range(95)], "crd_leaves": 100}


def results(walked: dict[str, Any], kinds: list[str]) -> list[Result]:
    return [
        Result(plan="R4/one", measured=walked),
        *(Result(plan="R7/one", measured={"kinds": [kind]}) for kind in kinds),
    ]


def test_a_campaign_that_reached_everything_missed_nothing() -> None:
    assert targets.missed(results(WALKED, KINDS)) == {}


@pytest.mark.parametrize("less", [{"operations": 399}, {"leaves": WALKED["leaves"][1:]}, {"crd_leaves": 0}])
def test_too_few_changes_or_properties_are_told(less: dict[str, Any]) -> None:
    assert list(targets.missed(results(WALKED | less, KINDS))) == ["R4"]


def test_a_right_that_no_request_with_an_error_used_is_told() -> None:
    fewer = [kind for kind in KINDS if kind != "list events"]
    assert targets.missed(results(WALKED, fewer)) == {"R7": ["no error met: list events"]}


def test_a_request_that_was_never_made_counts_for_nothing() -> None:
    found = [Result(plan=one.plan, measured=one.measured, unreached=True) for one in results(WALKED, KINDS)]
    assert set(targets.missed(found)) == {"R4", "R7"}


def test_a_share_is_never_rounded_up() -> None:
    assert targets.share({"leaves": 1999, "crd_leaves": 2000}) == 0.999
