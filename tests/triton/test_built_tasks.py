"""Artifacts of other tasks and families, built by every step in the build image, served by the real tritonserver."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bert_build import clients, golden_answers
from bert_operator.api import spec
from bert_operator.api.report import ServedModel
from bert_operator.servers import SERVERS
from support import builders, real_triton
from support.built_artifacts import Built
from support.command_line import bertctl
from support.real_triton import Running

from .conftest import ONNX_MODELS as MODELS

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def built(all_built: dict[str, Built]) -> dict[str, Built]:
    return {name: all_built[wanted] for name, wanted in MODELS.items()}


@pytest.fixture(scope="module")
def server(triton_root: Path, built: dict[str, Built], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served")
    wish = spec.BertDeploymentSpec.model_validate(
        {
            "server": {"type": "triton", "triton": {"exitTimeoutSeconds": 5}},
            "storage": {"size": "1Gi"},
            "models": [
                {
                    "name": name,
                    "build": {"task": wanted.rpartition("/")[2], "maxSequenceLength": 24},
                    "serving": {"maxBatchSize": 4},
                    "versions": [{"version": 1, "source": {"pvc": {"claimName": "models"}}}],
                }
                for name, wanted in MODELS.items()
            ],
        }
    )
    parts = [(built[model.name].published.served_as(model, 1), built[model.name].published) for model in wish.models]
    served = [one for one, _ in parts]
    files = SERVERS[wish.server.type].container(served, wish, builders.settings()).files
    models = real_triton.repository(folder / "models", parts, {path: file.text for path, file in files.items()})
    with real_triton.running(triton_root, models, served, wish, builders.settings(), folder) as running:
        yield running


@pytest.mark.parametrize("name", MODELS)
def test_every_output_is_what_the_source_model_answered(server: Running, built: dict[str, Built], name: str) -> None:
    client = clients.connect("triton", server.grpc)
    served = ServedModel(name=name, version=1, path="", artifact="", manifest_sha256="", max_batch_size=4)
    requests = built[name].requests
    assert len(requests) > 1
    for request in requests:
        answer = client.infer(served, request.inputs)
        assert answer.keys() == request.outputs.keys()
        for output, wanted in request.outputs.items():
            mask = request.inputs[golden_answers.MASK]
            found = golden_answers.compare(wanted, answer[output], mask, name=output)
            assert (found.max_abs_difference < 1e-3, found.min_cosine > 0.9999) == (True, True)
    client.close()


def test_predict_names_tags_and_answers(server: Running, built: dict[str, Built]) -> None:
    where = ("--server", "triton", "--address", server.grpc, "-o", "json")
    tagger = built["tagger"].source
    ran = bertctl("predict", "tagger", *where, "--json", _asked(built["tagger"]), "--tokenizer", tagger)
    assert ran.code == 0, ran.err
    tags = json.loads(ran.out)["tags"][0]["tokens"]
    request = built["tagger"].requests[0]
    best = request.outputs["logits"][0].argmax(axis=-1)[request.inputs["attention_mask"][0] == 1]
    assert [one["label"] for one in tags] == [["O", "PER", "LOC"][index] for index in best]
    assert [one["token"] for one in tags][:: len(tags) - 1] == ["<s>", "</s>"]

    words = ("--text", "The committee will meet on", "--text-pair", "Thursday at room")
    ran = bertctl("predict", "reader", *where, *words, "--tokenizer", built["reader"].source)
    assert ran.code == 0, ran.err
    span = json.loads(ran.out)["spans"][0]
    assert span["answer"]
    # Behind the question and what closes it.
    assert 7 <= span["first_token"] <= span["last_token"] <= 10


def _asked(one: Built) -> Path:
    """The inputs of the first golden request as a file."""
    file = one.folder / "in.json"
    file.write_text(json.dumps({name: np.asarray(values).tolist() for name, values in one.requests[0].inputs.items()}))
    return file
