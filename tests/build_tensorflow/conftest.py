"""Real TensorFlow, in its build image; elsewhere these tests are skipped."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

from bert_build import formats
from bert_operator.api.report import BuildReport
from bert_operator.api.spec import Framework, Task
from support.build_bench import Bench


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs TensorFlow."""
    for item in items:
        item.add_marker(pytest.mark.build)
        item.add_marker(pytest.mark.filterwarnings("ignore"))  # of TensorFlow and what it needs


@dataclasses.dataclass(frozen=True)
class Built:
    """What one build left; shared by tests that only read it."""

    bench: Bench
    report: BuildReport
    folder: Path
    """The published artifact's."""


def make_bench(folder: Path, patch: pytest.MonkeyPatch) -> Bench:
    """A bench whose PyTorch sources are answered by numpy: there is no PyTorch in this image."""
    found = Bench(folder / "bench")
    patch.setenv("BERTOPS_TERMINATION_LOG", str(found.termination))
    patch.setattr(formats, "SOURCES", {**formats.SOURCES, Framework.PYTORCH: "support.numpy_bert"})
    return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(tmp_path, monkeypatch)


def built_once(
    factory: pytest.TempPathFactory, save: Callable[[Path, Task], object], **fields: str
) -> Callable[[Task], Built]:
    """Builds a task's source, as `save` writes it into a folder, once for all tests that ask for it."""

    @functools.cache
    def built(task: Task) -> Built:
        with pytest.MonkeyPatch.context() as patch:
            found = make_bench(factory.mktemp(task.value), patch)
            save(found.source, task)
            return Built(found, *found.build(task=task, **fields))

    return built
