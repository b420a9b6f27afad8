"""A few rounds of the data-safety campaign, and that its checker sees a store that breaks its promises."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bert_build import files
from bert_build.store import Store
from chaos import store_rounds
from chaos.store_rounds import Round

SEEDS = range(1, 13)
"""`make data-safety` plays hundreds."""


def played(seeds: range, enough: Callable[[list[Round]], bool] = lambda _: False) -> list[Round]:
    done: list[Round] = []
    for seed in seeds:
        done.append(store_rounds.run(seed))
        if enough(done):
            break
    return done


def broken(done: list[Round]) -> str:
    return "; ".join(f"seed {one.seed}: {found}" for one in done for found in one.violations)


def test_whatever_dies_nothing_half_written_is_served_and_nothing_finished_is_lost() -> None:
    done = played(SEEDS)
    assert broken(done) == "", "again: make data-safety SEED=<seed> ROUNDS=1"
    figures = store_rounds.summed(done, seconds=0, mounts=False)
    assert figures["rounds_with_a_fault"] >= len(SEEDS) / 2
    assert figures["outcomes"]["build: died"]
    assert figures["outcomes"]["build: reported"]


def in_place(_store: Store, staged: Path, manifest: Any, target: Path, *_: object) -> None:
    """Publish without a rename, the manifest first."""
    target.mkdir(exist_ok=True)
    files.write(target / "manifest.json", manifest.model_dump_json(by_alias=True, indent=1))
    for name in manifest.files:
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).unlink(missing_ok=True)
        files.copy(staged / name, target / name)


@pytest.mark.parametrize(
    ("name", "instead", "word"),
    [
        ("_publish", in_place, "served half"),
        ("_refuse_wanted", lambda *_: None, "lost"),
        ("in_place", lambda *_: True, "served from nothing"),
    ],
)
def test_the_checker_sees_a_store_that_is_not_safe(
    monkeypatch: pytest.MonkeyPatch, name: str, instead: Callable[..., None], word: str
) -> None:
    monkeypatch.setattr(Store, name, instead)
    done = played(range(1, 60), enough=lambda rounds: word in broken(rounds))
    assert word in broken(done)
