"""Two versions of a model in one Triton: the second one arrives while clients call the first."""

import copy
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_operator.api.spec import Task
from e2e import berts
from e2e.load import steady_load
from support import answers, numpy_bert
from support.installation import Images, wait_ready
from support.kube import Kube, wait_for

OTHER = "all-MiniLM-L6-v2-other"
SPOILED = "layer.5.output.LayerNorm.bias"


@pytest.fixture(scope="module")
def models(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model, and one with other weights."""
    folder = tmp_path_factory.mktemp("models")
    for name in (model.name, OTHER):
        shutil.copytree(model, folder / name)
    _spoil(folder / OTHER / "model.safetensors")
    return folder


def _spoil(weights: Path) -> None:
    """Set one bias to 0.5."""
    with weights.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        begin, end = next(entry for name, entry in header.items() if name.endswith(SPOILED))["data_offsets"]
        file.seek(8 + length + begin)
        file.write(np.full((end - begin) // 4, 0.5, dtype="<f4").tobytes())


@pytest.fixture(scope="module")
def first(kube: Kube, store: str) -> dict[str, Any]:
    """Version 1, Ready."""
    kube.apply(berts.minilm(storage={"claimName": store}))
    return wait_ready(kube, "minilm", seconds=300)


def _with_second(live: dict[str, Any]) -> dict[str, Any]:
    bert = berts.minilm(storage=live["spec"]["storage"])
    model = bert["spec"]["models"][0]
    second = copy.deepcopy(model["versions"][0])
    second["version"], second["source"]["pvc"]["path"] = 2, OTHER
    model["versions"].append(second)
    model["defaultVersion"] = 1
    return bert


def test_a_second_version_comes_without_a_failed_request(kube: Kube, first: dict[str, Any], images: Images) -> None:
    with steady_load(kube, images.operator, "minilm", "minilm") as load:
        kube.apply(_with_second(first))
        live = wait_ready(kube, "minilm", seconds=200)
        wait_for("one pod left", lambda: len(berts.serving_pods(kube, "minilm")) == 1, seconds=90)
    assert [version["stage"] for version in live["status"]["models"][0]["versions"]] == ["Built", "Built"]
    assert load.sent > 50
    assert load.failed == []


def test_each_version_answers_like_its_own_source(kube: Kube, models: Path, first: dict[str, Any]) -> None:
    sample = answers.Sample.of(first)
    ids = {
        "input_ids": np.array([[101, 7592, 2088, 102]]),
        "attention_mask": np.ones((1, 4), np.int64),
        "token_type_ids": np.zeros((1, 4), np.int64),
    }
    found = {}
    with kube.port_forward("service/minilm", 8001) as address:
        for name, version in (("minilm", 1), ("minilm-v2", 2)):
            found[version] = answers.endpoint("triton", address, name, ids, version=version)["last_hidden_state"]
    for version, folder in ((1, sample.folder), (2, OTHER)):
        truth = numpy_bert.read(models / folder, Task.FEATURE_EXTRACTION).answer(ids)["last_hidden_state"]
        assert answers.match(found[version], truth.astype(np.float32), ids["attention_mask"]).good
    assert not answers.match(found[1], found[2], ids["attention_mask"]).good
