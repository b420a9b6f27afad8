"""config.properties reads back as what was meant, whatever stands in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_operator.servers import torchserve_config
from bert_operator.servers.torchserve_config import ServedModel, Server

SERVER = Server(
    http=8080, grpc=7070, metrics=8082, netty_threads=2, queue=100, max_request=1 << 20, max_response=2 << 20
)
MODEL = ServedModel(
    defaultVersion=True,
    marName="sentiment-1",
    minWorkers=1,
    maxWorkers=1,
    batchSize=8,
    maxBatchDelay=1,
    responseTimeout=120,
    startupTimeout=120,
)


def test_every_line_is_a_setting_or_a_comment() -> None:
    values = torchserve_config.parse(torchserve_config.render(SERVER, {"sentiment": {1: MODEL}}))
    assert values["inference_address"] == "http://0.0.0.0:8080"
    assert values["metrics_mode"] == "prometheus"
    assert '"marName": "sentiment-1"' in values["model_snapshot"]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])).filter(lambda text: "${" not in text))
def test_any_text_reads_back_from_one_line(text: str) -> None:
    line = f"model_snapshot={torchserve_config.escaped(text)}"
    assert len(line.splitlines()) == 1
    assert line.isascii()
    assert torchserve_config.parse(line) == {"model_snapshot": text}


def test_a_line_break_smuggles_no_setting_in() -> None:
    line = "model_snapshot=" + torchserve_config.escaped("x\nenable_model_api=true")
    assert list(torchserve_config.parse(line)) == ["model_snapshot"]


def test_an_environment_variable_is_not_put_in_by_the_server() -> None:
    with pytest.raises(ValueError, match="environment variable"):
        torchserve_config.escaped("${HOME}")


def test_a_setting_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="no setting of its own"):
        torchserve_config.parse("enable_model_api=false\nenable_model_api=true\n")


def test_a_template_that_forgets_the_filter_fails() -> None:
    template = torchserve_config._templates().from_string("x={{ value }}")
    with pytest.raises(TypeError, match="without the filter"):
        template.render(value="anything")
