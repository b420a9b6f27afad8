from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_build import golden_answers
from bert_build.golden_answers import Closeness
from support import builders

LIMITS = builders.report().fidelity
TOKENS = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
MASK = np.array([[1, 1, 0], [1, 0, 0]], np.int64)


def save(path: Path, **arrays: np.ndarray) -> Path:
    file = path / "golden.npz"
    np.savez(file, **{key.replace("_in_", "/in/").replace("_out_", "/out/"): array for key, array in arrays.items()})  # type: ignore[arg-type]
    return file


def test_requests_come_back_in_their_order(tmp_path: Path) -> None:
    arrays = {f"{index}/{kind}/x/y": np.full((2, 3), index) for index in (10, 9, 0) for kind in ("in", "out")}
    file = tmp_path / "golden.npz"
    np.savez(file, **arrays)  # type: ignore[arg-type]

    requests = golden_answers.read(file)

    assert [request.inputs["x/y"][0, 0] for request in requests] == [0, 9, 10]


@pytest.mark.parametrize("arrays", [{}, {"0_in_x": np.ones(2)}, {"0_out_x": np.ones(2)}])
def test_a_file_without_a_whole_request_proves_nothing(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="holds no whole request"):
        golden_answers.read(save(tmp_path, **arrays))


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    arrays = {"0_in_x": np.array([{}], dtype=object), "0_out_x": np.ones(1)}

    with pytest.raises(ValueError, match="allow_pickle=False"):
        golden_answers.read(save(tmp_path, **arrays))


def test_a_request_is_split_to_what_the_server_takes_at_once() -> None:
    request = golden_answers.Request({"x": np.arange(5)}, {"y": np.arange(5) * 2})

    parts = request.split(2)

    assert [list(part.inputs["x"]) for part in parts] == [[0, 1], [2, 3], [4]]
    assert [list(part.outputs["y"]) for part in parts] == [[0, 2], [4, 6], [8]]


def test_padding_is_not_compared() -> None:
    answered = TOKENS.copy()
    answered[0, 2] = answered[1, 1:] = 1e9

    assert golden_answers.compare(TOKENS, answered, MASK) == Closeness(0.0, pytest.approx(1.0))


def test_what_the_mask_shows_is_compared() -> None:
    answered = TOKENS.copy()
    answered[0, 1] += 2

    found = golden_answers.compare(TOKENS, answered, MASK)

    assert found.max_abs_difference == 2
    assert found.min_cosine < 1


def test_outputs_of_whole_sentences_ignore_the_mask() -> None:
    logits = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)

    assert golden_answers.compare(logits, logits + 1, MASK[:, :2]).max_abs_difference == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_never_close(bad: float) -> None:
    expected = np.array([[1.0, 2.0]], np.float32)
    answered = np.array([[1.0, bad]], np.float32)

    with np.errstate(invalid="ignore"):
        found = golden_answers.compare(expected, answered, None)

    assert not golden_answers.within(found, LIMITS)
    assert not golden_answers.within(Closeness().worst(found), LIMITS)
    assert not golden_answers.within(found.worst(Closeness()), LIMITS)


def test_small_numbers_in_another_direction_are_not_close() -> None:
    found = golden_answers.compare(np.array([[1e-4, 0.0]]), np.array([[0.0, 1e-4]]), None)

    assert found.max_abs_difference < LIMITS.limit_max_abs_difference
    assert not golden_answers.within(found, LIMITS)


def test_zeros_are_like_zeros_and_unlike_anything_else() -> None:
    zeros, ones = np.zeros((1, 4)), np.ones((1, 4))

    assert golden_answers.compare(zeros, zeros, None).min_cosine == 1
    assert golden_answers.compare(zeros, ones, None).min_cosine == 0


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        (None, "is missing"),
        (np.ones((0, 2)), "is empty"),
        (np.ones((2, 0)), "is empty"),
        (np.ones((2, 3)), "has shape [2, 3], expected [2, 2]"),
        (np.ones((2, 2)), ""),
    ],
)
def test_answers_that_cannot_be_compared_are_faults(answered: np.ndarray | None, words: str) -> None:
    found = golden_answers.fault(np.ones((2, 2)), answered)

    assert words in found
    assert bool(found) is bool(words)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8), st.floats(0, 0.01))
def test_the_limits_decide(values: list[float], shift: float) -> None:
    expected = np.array([values])

    found = golden_answers.compare(expected, expected + shift, None)

    close = golden_answers.within(found, LIMITS)
    assert not (close and found.max_abs_difference > LIMITS.limit_max_abs_difference)
    assert golden_answers.within(golden_answers.compare(expected, expected, None), LIMITS)
