"""What all modules share; they run inside the build image."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.build_bench import Bench
from support.prepared import Prepared


@pytest.fixture(scope="session", autouse=True)
def prepared() -> Iterator[Prepared]:
    """Starts steps; made before any test lets PyTorch compute, of what the test modules have imported."""
    gc.freeze()  # what imports leave is no garbage, and would be looked through again and again
    with Prepared() as found:
        yield found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    found = Bench(tmp_path / "bench")
    monkeypatch.setenv("BERTOPS_TERMINATION_LOG", str(found.termination))
    return found
