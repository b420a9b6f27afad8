"""Real TensorFlow, in its build image; elsewhere these tests are skipped."""

from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from bert_build import formats
from bert_operator.api.spec import Framework
from support.build_bench import Bench


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs TensorFlow."""
    for item in items:
        item.add_marker(pytest.mark.build)
        item.add_marker(pytest.mark.filterwarnings("ignore"))  # of TensorFlow and what it needs


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    found = Bench(tmp_path / "bench")
    monkeypatch.setenv("BERTOPS_TERMINATION_LOG", str(found.termination))
    return found


@pytest.fixture
def checkpoint_bench(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench whose PyTorch sources are answered by numpy: there is no PyTorch in this image."""
    sources = {**formats.SOURCES, Framework.PYTORCH: "support.numpy_bert"}
    monkeypatch.setattr(formats, "SOURCES", sources)
    return bench
