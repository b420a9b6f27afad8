"""The figures that docs/campaign.* tell."""

from chaos import page
from chaos.stories import Result

ABOUT = {"date": "2026-01-01", "minutes": 1, "at_once": 2, "cores": 2, "code": "c", "load": "0.1", "patience": 1.0}
RESULTS = [
    Result(plan="R5/1", measured={"converged_s": 2.0}),
    Result(plan="R5/2", measured={"converged_s": 8.0}, problems=["no"]),
    Result(plan="R1/create/9/after", unreached=True),
]


def test_a_fault_that_never_came_counts_for_nothing() -> None:
    assert page.figures(RESULTS, ABOUT)["R1"] == {"plans": 0, "failed": 0, "measured": {}}


def test_what_failed_is_told_with_how_to_repeat_it() -> None:
    found = page.figures(RESULTS, ABOUT)
    assert (found["R5"]["plans"], found["R5"]["failed"], found["R5"]["which"]) == (2, 1, ["R5/2"])
    assert found["R5"]["measured"]["converged_s"] == 8.0
    text = page.markdown(found)
    assert "make campaign ONLY=R5/2" in text
    assert "**2 plans, 1 failed**" in text


def test_what_a_whole_campaign_did_not_reach_is_told() -> None:
    walked = {"operations": 3, "leaves": ["a", "b", "c"], "crd_leaves": 4}
    found = page.figures([Result(plan="R4/one", measured=walked)], ABOUT, {"R4": ["3 changes were played"]})
    assert found["R4"]["missed"] == ["3 changes were played"]
    measured = found["R4"]["measured"]
    assert (measured["leaves"], measured["crd_leaves"], measured["leaves_share"]) == (3, 4, 0.75)
    assert "- R4: 3 changes were played" in page.markdown(found)


def test_nothing_is_missed_where_all_was_reached() -> None:
    found = page.figures(RESULTS, ABOUT, {})
    assert "not reached" not in page.markdown(found)
