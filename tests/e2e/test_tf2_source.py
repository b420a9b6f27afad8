"""The sample of a model trained in TensorFlow 2: SavedModel -> ONNX in the tensorflow image -> Triton."""

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_operator.api.spec import Task
from e2e import berts
from support import answers, numpy_bert
from support.installation import ROOT, wait_ready
from support.kube import Kube

SAMPLE = "sentiment-tf2-triton"
FOLDER = "sentiment-tf2"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SavedModel of a small BERT with real variables, made by TensorFlow in its image."""
    folder = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-m", "images", "run", "tensorflow", "--", "python", "-m", "support.tf2_bert"]
    done = subprocess.run(
        [*command, "sequence-classification", FOLDER], cwd=ROOT / "tests", stdout=subprocess.PIPE, check=True
    )
    archive = folder / "model.tar"
    archive.write_bytes(done.stdout)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    return folder


@pytest.fixture(scope="module")
def served(kube: Kube) -> dict[str, Any]:
    """The sample, Ready."""
    kube.apply(berts.sample(SAMPLE))
    return wait_ready(kube, "sentiment-tf2", seconds=300)


def rows() -> dict[str, np.ndarray[Any, Any]]:
    """Three padded rows with a second segment each, int64 [3, 20]."""
    generator = np.random.default_rng(1)
    ids, mask, types = (np.zeros((3, 20), dtype=np.int64) for _ in range(3))
    for row, length in enumerate((20, 7, 13)):
        ids[row, :length] = [2, *generator.integers(10, 400, size=length - 2), 3]
        mask[row, :length] = 1
        types[row, length // 2 : length] = 1
    return dict(zip(answers.INPUTS, (ids, mask, types), strict=True))


def test_it_answers_like_the_tensorflow_model(kube: Kube, served: dict[str, Any], models: Path) -> None:
    sample = answers.Sample.of(served)
    with kube.port_forward("service/sentiment-tf2", 8001) as address:
        answer = answers.endpoint("triton", address, sample.model, rows())["logits"]
    # The build asked TensorFlow itself; this judge shares no code with either.
    truth = numpy_bert.load(models / FOLDER, Task.SEQUENCE_CLASSIFICATION).answer(rows())["logits"]
    found = answers.match(answer, truth.astype(np.float32), rows()["attention_mask"])
    print(f"max |Δ| {found.max_abs_difference:.1e}, cosine {found.cosine:.7f}")
    assert found.good
    assert found.max_abs_difference < 1e-4


def test_its_record_names_the_tools_that_made_it(kube: Kube, served: dict[str, Any]) -> None:
    assert served
    (artifact,) = kube.list("bertartifacts")
    assert artifact["spec"]["report"]["format"] == "onnx"
    assert {"tensorflow-cpu", "tf2onnx"} <= set(artifact["spec"]["report"]["toolchain"])


def test_read_as_pytorch_the_mistake_is_named(kube: Kube, served: dict[str, Any]) -> None:
    assert served
    bert = berts.sample(SAMPLE)
    bert["metadata"]["name"] = "mistaken"
    bert["spec"]["models"][0]["build"]["framework"] = "pytorch"
    kube.apply(bert)
    resolved = berts.verdict(kube, "mistaken", "SourceResolved", "False", seconds=120)
    assert resolved["reason"] == "FrameworkMismatch"
    assert "Set build.framework: tensorflow" in resolved["message"]
