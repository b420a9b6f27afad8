"""TorchScript artifacts, built by every step in the build image, served by the real tritonserver in its own image."""

from collections.abc import Iterator

import numpy as np
import pytest

from bert_build import clients, golden_answers
from bert_build.clients import RefusedError
from bert_operator.api import spec
from bert_operator.api.report import ServedModel
from bert_operator.servers import SERVERS
from support import builders, ports, real_triton, real_triton_torch
from support.built_artifacts import Built
from support.real_triton import Running

from .conftest import TORCHSCRIPT_MODELS as MODELS

pytestmark = pytest.mark.e2e
RELEASE = "24.10-cpu-torch"
TORCH = {"image": "triton-cpu-torch", "onnxBackend": "", "torchBackend": "pytorch_python"}
SETTINGS = builders.settings(triton={"defaultRelease": RELEASE, "releases": {RELEASE: TORCH}})
START_SECONDS = 120


@pytest.fixture(scope="module")
def built(all_built: dict[str, Built]) -> dict[str, Built]:
    return {name: all_built[wanted] for name, wanted in MODELS.items()}


@pytest.fixture(scope="module")
def server(built: dict[str, Built], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served")
    models = [
        {
            "name": name,
            "build": {"task": wanted.rpartition("/")[2], "format": "torchscript", "maxSequenceLength": 24},
            "serving": {"maxBatchSize": 4},
            "versions": [{"version": 1, "source": {"pvc": {"claimName": "models"}}}],
        }
        for name, wanted in MODELS.items()
    ]
    wish = spec.BertDeploymentSpec.model_validate(
        {"server": {"type": "triton"}, "storage": {"size": "1Gi"}, "models": models}
    )
    parts = [(built[model.name].published.served_as(model, 1), built[model.name].published) for model in wish.models]
    kind = SERVERS[wish.server.type]
    made = kind.container([one for one, _ in parts], wish, SETTINGS)
    repository = real_triton.repository(
        folder / "models", parts, {path: file.text for path, file in made.files.items()}
    )
    free = {name: ports.free() for name in kind.ports.by_name}
    moved = {str(number): free[name] for name, number in kind.ports.by_name.items()}
    log = folder / "triton.log"
    with real_triton_torch.running(repository, [*made.command, *made.args], made.env, moved, log) as process:
        found = Running(process=process, ports=free, log=log)
        real_triton.wait_until_ready(found, START_SECONDS)
        yield found


def served(name: str) -> ServedModel:
    return ServedModel(name=name, version=1, path="", artifact="", manifest_sha256="", max_batch_size=4)


@pytest.mark.parametrize("name", MODELS)
def test_every_output_is_what_the_source_model_answered(server: Running, built: dict[str, Built], name: str) -> None:
    client = clients.connect("triton", server.grpc)
    requests = built[name].requests
    assert len(requests) > 1
    for request in requests:
        answer = client.infer(served(name), request.inputs)
        assert answer.keys() == request.outputs.keys()
        for output, wanted in request.outputs.items():
            assert answer[output].dtype == np.float32
            found = golden_answers.compare(wanted, answer[output], request.inputs[golden_answers.MASK], name=output)
            assert (found.max_abs_difference < 1e-3, found.min_cosine > 0.9999) == (True, True)
    client.close()


def test_a_wrong_request_fails_alone_and_in_words(server: Running, built: dict[str, Built]) -> None:
    client = clients.connect("triton", server.grpc)
    good = built["reader"].requests[0].inputs
    beyond = {name: np.full_like(values, 10**6) if name == "input_ids" else values for name, values in good.items()}

    with pytest.raises(RefusedError) as caught:
        client.infer(served("reader"), beyond)

    assert "Traceback" not in str(caught.value)
    assert "index out of range" in str(caught.value)
    assert client.infer(served("reader"), good).keys() == {"start_logits", "end_logits"}
    client.close()
