"""TorchScript on the real node: the sample, from the trace to an answer equal to the source model's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_operator.api.spec import Task
from e2e import berts
from support import answers, numpy_bert
from support.installation import wait_ready
from support.kube import Kube

NAME = "minilm-torchscript"
"""The sample's, and its file's."""


@pytest.fixture(scope="module")
def served(kube: Kube) -> dict[str, Any]:
    """The sample, Ready."""
    kube.apply(berts.sample(NAME))
    return wait_ready(kube, NAME, seconds=400)


def test_it_answers_like_the_source_model(kube: Kube, models: Path, served: dict[str, Any]) -> None:
    sample = answers.Sample.of(served)
    ids = np.array([[101, 7592, 2088, 102], [101, 2204, 102, 0]])
    asked = dict(zip(answers.INPUTS, (ids, np.sign(ids), np.zeros_like(ids)), strict=True))
    with kube.port_forward(f"service/{NAME}", 8001) as address:
        answer = answers.endpoint("triton", address, sample.model, asked)["last_hidden_state"]
    truth = numpy_bert.read(models / sample.folder, Task.FEATURE_EXTRACTION).answer(asked)["last_hidden_state"]
    found = answers.match(answer, truth.astype(np.float32), asked["attention_mask"])
    assert found.good
    assert found.max_abs_difference < 1e-4


def test_its_record_says_what_it_is(kube: Kube, served: dict[str, Any]) -> None:
    assert served
    (artifact,) = kube.list("bertartifacts")
    report = artifact["spec"]["report"]
    assert (report["format"], report["precision"], "device" in report["toolchain"]) == ("torchscript", "fp32", False)
