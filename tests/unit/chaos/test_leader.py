"""The judge of R10: which writes were somebody's who didn't lead."""

import pytest

from chaos.leader import Write, after_giving_back, unlawful


def lease(at: float, token: str, code: int = 200) -> Write:
    return Write(at=at, token=token, lease=True, what="patch leases/op", code=code)


def work(at: float, token: str) -> Write:
    return Write(at=at, token=token, lease=False, what="patch configmaps/c", code=200)


@pytest.mark.parametrize(
    ("writes", "wrong"),
    [
        pytest.param([lease(0, "a"), work(1, "a"), lease(2, "a"), work(11, "a")], [], id="the leader's"),
        pytest.param([lease(0, "a"), lease(20, "b"), work(21, "b")], [], id="the next leader's"),
        pytest.param([lease(0, "a"), work(1, "b")], ["b wrote patch configmaps/c"], id="a standby's"),
        pytest.param([lease(0, "a"), work(10.5, "a")], ["a wrote patch configmaps/c"], id="after the deadline"),
        pytest.param(
            [lease(0, "a"), lease(20, "b"), work(30, "a")], ["a wrote patch configmaps/c"], id="a woken one's"
        ),
        pytest.param(
            [lease(0, "a"), lease(1, "b", 409), work(2, "b")], ["b wrote"], id="one's who was refused the Lease"
        ),
        pytest.param([work(0, "a"), lease(1, "a")], [], id="from before we looked"),
    ],
)
def test_only_who_renewed_the_lease_last_and_lately_may_write(writes: list[Write], wrong: list[str]) -> None:
    found = unlawful(writes)
    assert len(found) == len(wrong)
    assert all(text.startswith(start) for text, start in zip(found, wrong, strict=True))


@pytest.mark.parametrize(
    ("writes", "wrong"),
    [
        pytest.param([lease(0, "a"), work(1, "a"), lease(2, "a"), lease(2.5, "b"), work(3, "b")], [], id="in order"),
        pytest.param(
            [lease(0, "a"), lease(10, "a"), work(10.3, "a"), lease(10.5, "b")],
            ["a wrote patch configmaps/c 0.30 s after"],
            id="between giving back and the next holder",
        ),
        pytest.param([work(1, "a"), lease(2, "b")], ["a wrote patch configmaps/c"], id="never given back"),
    ],
)
def test_one_that_was_told_to_end_writes_nothing_after_its_last_word_about_the_lease(
    writes: list[Write], wrong: list[str]
) -> None:
    found = after_giving_back(writes, "a")
    assert len(found) == len(wrong)
    assert all(text.startswith(start) for text, start in zip(found, wrong, strict=True))
