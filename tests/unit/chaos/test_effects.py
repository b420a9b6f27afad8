"""R4's consistency oracle: what may be changed has to matter."""

import pytest

from chaos import effects, seeds


@pytest.mark.parametrize(
    ("walk", "shown", "wrong"),
    [
        ("server/server.image", {"delete": False, "change": True}, False),
        ("server/server.image", {"delete": False, "change": False}, True),
        ("tuned/tuning.maxReplicas", {"delete": False, "change": False}, False),
        ("tuned/tuning.maxReplicas", {"delete": False, "change": True}, True),
    ],
)
def test_a_property_shows_unless_the_table_says_that_it_can_not(
    walk: str, shown: dict[str, bool], *, wrong: bool
) -> None:
    assert bool(effects.faults(walk, shown)) is wrong


def test_what_no_operation_was_played_on_is_not_judged() -> None:
    assert effects.faults("server/server.image", {}) == []


def test_the_table_names_only_what_is_walked() -> None:
    walked = {f"{name}/{node.label}" for name, seed in seeds.SEEDS.items() for node in seed.nodes()}
    assert set(effects.NONE) - walked == set()
