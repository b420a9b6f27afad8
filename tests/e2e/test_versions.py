"""Two versions of a model in one Triton: the second one arrives while clients call the first."""

import copy
from typing import Any

import numpy as np
import pytest

from e2e import berts
from e2e.load import steady_load
from support import answers
from support.installation import Images, change_file, loader_pod, wait_ready
from support.kube import Kube, wait_for

OTHER = "all-MiniLM-L6-v2-other"
SPOIL = f"""
cp -r /data/all-MiniLM-L6-v2 /data/{OTHER}
python - <<'PYTHON'
import json, struct
path = "/data/{OTHER}/model.safetensors"
with open(path, "r+b") as file:
    (length,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(length))
    begin, end = next(v for k, v in header.items() if k.endswith("layer.5.output.LayerNorm.bias"))["data_offsets"]
    file.seek(8 + length + begin)
    file.write(struct.pack(f"<{{(end - begin) // 4}}f", *([0.5] * ((end - begin) // 4))))
PYTHON
"""


@pytest.fixture(scope="module")
def first(kube: Kube, images: Images) -> dict[str, Any]:
    """Version 1, Ready; the claim also has a model with other weights."""
    change_file(kube, images.operator, "models", SPOIL)
    kube.apply(berts.minilm())
    return wait_ready(kube, "minilm", seconds=300)


def _with_second(live: dict[str, Any]) -> dict[str, Any]:
    bert = berts.minilm()
    model = bert["spec"]["models"][0]
    second = copy.deepcopy(model["versions"][0])
    second["version"], second["source"]["pvc"]["path"] = 2, OTHER
    model["versions"].append(second)
    model["defaultVersion"] = 1
    assert live["spec"]["models"][0]["name"] == model["name"]
    return bert


def test_a_second_version_comes_without_a_failed_request(kube: Kube, first: dict[str, Any], images: Images) -> None:
    with steady_load(kube, images.operator, "minilm", "minilm") as load:
        kube.apply(_with_second(first))
        live = wait_ready(kube, "minilm", seconds=200)
        wait_for("one pod left", lambda: len(berts.serving_pods(kube, "minilm")) == 1, seconds=90)
    assert [version["stage"] for version in live["status"]["models"][0]["versions"]] == ["Built", "Built"]
    assert load.sent > 50
    assert load.failed == []


def test_each_version_answers_like_its_own_source(kube: Kube, images: Images, first: dict[str, Any]) -> None:
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
    with loader_pod(kube, images.pytorch, "models", "judge") as pod:
        for version, folder in ((1, sample.folder), (2, OTHER)):
            (truth,) = answers.source_model(kube, pod, f"/data/{folder}", sample.task, [ids])
            source = np.array(truth["last_hidden_state"], dtype=np.float32)
            assert answers.match(found[version], source, ids["attention_mask"]).good
    assert not answers.match(found[1], found[2], ids["attention_mask"]).good
