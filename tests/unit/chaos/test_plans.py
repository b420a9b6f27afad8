"""Ids of plans are what people repeat a failure by."""

import pytest

from chaos import families, programs, storm
from chaos.__main__ import SUBSET
from chaos.calls import Call
from chaos.place import orphaned
from chaos.proxy import Exchange
from chaos.stories import Reference
from chaos.workloads import WORKLOADS


@pytest.fixture
def every() -> list[str]:
    """The full campaign, if each workload took 20 writes of two kinds."""
    kinds = {"apply bertdeployments/status": "change", "create jobs": "change", "list jobs": "start"}
    kinds |= {f"apply {plural}": "change" for plural in ("deployments", "bertartifacts")}
    one = Reference(state={}, mask=frozenset(), counts={}, loose=frozenset(), writes=20, kinds=kinds)
    return [*families.others(), *families.stories_of(dict.fromkeys(WORKLOADS, one))]


def test_no_two_plans_have_the_same_id_and_every_family_has_some(every: list[str]) -> None:
    assert len(set(every)) == len(every)
    assert {plan.split("/")[0] for plan in every} == set(families.FAMILIES)


def test_each_choice_of_the_subset_names_plans(every: list[str]) -> None:
    assert [one for one in SUBSET if not any(f"{plan}/".startswith(f"{one}/") for plan in every)] == []


def test_a_read_never_meets_a_conflict(every: list[str]) -> None:
    errors = {plan.split("/")[-1] for plan in every if "/list.jobs/" in plan}
    assert errors == {"429", "500", "drop", "cut", "silent"}


def test_every_plan_knows_what_it_is_held_against(every: list[str]) -> None:
    names = {families.workload(plan) for plan in every} - {None}
    assert all(families.by_name(name) for name in names if name)
    assert families.workload("R6/served") is None
    assert len(storm.plans()) >= 200


@pytest.mark.parametrize(
    ("owners", "at", "lost"),
    [
        (("gone",), 5.0, True),
        (("gone",), 3.0, False),
        (("gone",), 40.0, False),
        (("gone", "alive"), 5.0, False),
        (("alive",), 5.0, False),
        ((), 5.0, False),
    ],
)
def test_what_was_made_for_a_deleted_owner_counts_as_nobodys(owners: tuple[str, ...], at: float, *, lost: bool) -> None:
    made = Exchange(
        call=Call(verb="apply", resource="services", name="first"), write=1, at=at, status=201, owners=owners
    )
    assert orphaned(made, {"gone": 4.0}) is lost


def test_what_a_program_of_its_own_found_is_the_plans_end() -> None:
    said = {"rounds": 44, "failed": 1, "problems": ["killed: late"], "killed_seconds": {"rounds": 20, "max": 25.5}}
    found = programs.result("R10/killed-told-stopped", said)
    assert (found.problems, found.measured) == (["killed: late"], {"killed_s": 25.5, "rounds": 44})
