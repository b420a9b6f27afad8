"""The extension point of builds: a format's module and its line among the recipes are all it takes to be built."""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from bert_build import convert, fidelity, formats, golden_answers, publish, recorded, samples
from bert_build.failures import BuildError
from bert_build.formats import Recipe
from bert_build.job import Job
from bert_build.state import SourceFile, State
from bert_build.store import Store
from bert_operator.api import names
from bert_operator.api.report import BuildReport, ExitCode, TensorSpec
from bert_operator.api.spec import Format, Framework
from unit.bert_build import building

KEY = "cd" * 16


class Session:
    """Answers out of the artifact's only file."""

    def __init__(self, factor: float) -> None:
        self.inputs = [TensorSpec(name="input_ids", dtype="INT64", dims=[-1])]
        self.outputs = [TensorSpec(name="logits", dtype="FP32", dims=[1])]
        self.factor = factor

    def answer(self, request: samples.Arrays) -> samples.Arrays:
        return {"logits": self.factor * request["input_ids"].sum(axis=1, keepdims=True).astype(np.float32)}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A source model that doubles, and a format that writes the factor down."""
    module: Any = ModuleType("made_up_format")
    module.convert = lambda job: (job.artifact / "model.txt").write_text("2.0")
    module.open_session = lambda folder: Session(float((folder / "model.txt").read_text()))
    monkeypatch.setitem(sys.modules, "made_up_format", module)
    recipe = Recipe("parchment", "made_up_format", "1", ("quill",))
    monkeypatch.setitem(formats.RECIPES, (Framework.PYTORCH, Format.TENSORRT), recipe)
    monkeypatch.setenv("BERTOPS_TERMINATION_LOG", str(tmp_path / "report"))
    made = building.job(tmp_path, building.request(format="tensorrt", task="sequence-classification"))
    ids = np.array([[3, 4]], dtype=np.int64)
    asked = samples.Sample("three and four", {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    answers = [recorded.Recorded(asked, {"logits": np.array([[14.0]], dtype=np.float32)})]
    recorded.save(made.work / recorded.FILE, answers)
    np.savez(made.work / names.GOLDEN_FILE, allow_pickle=False, **recorded.entry(0, answers[0]))
    return made


def test_it_is_converted_compared_and_published(job: Job, tmp_path: Path) -> None:
    state = State(request_key="k1", artifact_key=KEY, architecture="Abacus")
    for step in (convert, fidelity, publish):
        state = step.run(job, state)

    report = BuildReport.model_validate_json((tmp_path / "report").read_text())

    assert (report.format, report.artifact_key, report.fidelity.max_abs_difference) == ("parchment", KEY, 0.0)
    folder = Store(job.store).path("parchment", KEY)
    assert sorted(path.name for path in folder.iterdir()) == ["golden.npz", "manifest.json", "model.txt"]
    assert len(golden_answers.read(folder / "golden.npz")) == 1


def test_no_store_is_needed_to_convert_and_compare(job: Job, tmp_path: Path) -> None:
    state = State(request_key="k1", artifact_key=KEY, architecture="Abacus")
    without = dataclasses.replace(job, store=tmp_path / "not-mounted")
    for step in (convert, fidelity):
        state = step.run(without, state)

    assert state.fidelity is not None
    assert not without.store.exists()


def test_weights_changed_after_they_were_asked_are_not_converted(job: Job) -> None:
    """`convert` reads a claim's weights again: what it read must be what `answer` asked."""
    weights = job.source / "model.safetensors"
    weights.write_bytes(b"asked")
    file = SourceFile(kind="weights", size=5, sha256=hashlib.sha256(b"asked").hexdigest(), outside=str(weights))
    state = State(request_key="k1", artifact_key=KEY, files={weights.name: file})
    assert convert.run(job, state) == state
    weights.write_bytes(b"other")
    with pytest.raises(BuildError) as caught:
        convert.run(job, state)
    assert (caught.value.reason, caught.value.code) == ("SourceChanged", ExitCode.PASSING)


def test_its_tools_name_the_artifact(job: Job) -> None:
    found = formats.toolchain(formats.recipe(job.request.build), {"quill": "7"}.__getitem__)
    assert found == {"quill": "7", "exporter": "parchment-1"}
    assert json.dumps(found)
