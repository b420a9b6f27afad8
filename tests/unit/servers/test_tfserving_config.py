import os
import subprocess
import sys
from typing import Any

import jinja2
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from bert_operator.servers import tfserving_config
from bert_operator.servers.tfserving_config import ServedModel

versions = st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=8, unique=True)
served = st.builds(
    ServedModel,
    name=st.text(max_size=40),
    base_path=st.text(max_size=80),
    versions=versions,
    labels=st.lists(st.tuples(st.text(max_size=63), st.integers(1, 9)), max_size=8, unique_by=lambda pair: pair[0]),
)


@given(st.lists(served, min_size=1, max_size=4))
def test_any_name_stays_a_name(wanted: list[ServedModel]) -> None:
    config: Any = tfserving_config.parse(tfserving_config.models(wanted), "ModelServerConfig")

    found = config.model_config_list.config
    assert [(one.name, one.base_path) for one in found] == [(one.name, one.base_path) for one in wanted]
    assert [list(one.model_version_policy.specific.versions) for one in found] == [list(w.versions) for w in wanted]
    assert [dict(one.version_labels) for one in found] == [dict(one.labels) for one in wanted]
    assert {one.model_platform for one in found} == {"tensorflow"}


@pytest.mark.parametrize("name", ['x" } } model_config_list { config { name: "y', "a\nb", "{{ 7 * 7 }}", "ü", "\\"])
def test_a_hostile_name_opens_nothing(name: str) -> None:
    text = tfserving_config.models([ServedModel(name=name, base_path="/models/a", versions=[1], labels=[(name, 1)])])

    config: Any = tfserving_config.parse(text, "ModelServerConfig")

    (one,) = config.model_config_list.config
    assert one.name == name
    assert dict(one.version_labels) == {name: 1}


@given(st.text(min_size=1, max_size=60))
def test_a_metrics_path_stays_a_path(path: str) -> None:
    config: Any = tfserving_config.parse(tfserving_config.monitoring(path), "MonitoringConfig")

    assert config.prometheus_config.enable is True
    assert config.prometheus_config.path == path


def test_batches_are_padded_and_bounded() -> None:
    text = tfserving_config.batching(max_batch_size=16, timeout_microseconds=0, threads=3)

    config: Any = tfserving_config.parse(text, "BatchingParameters")

    assert config.max_batch_size.value == 16
    assert config.HasField("batch_timeout_micros")  # 0 is a wish, not the default
    assert config.batch_timeout_micros.value == 0
    assert config.num_batch_threads.value == 3
    assert config.max_enqueued_batches.value >= 1
    assert config.pad_variable_length_inputs is True


def test_a_template_that_forgets_to_quote_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfserving_config._templates(), "loader", jinja2.DictLoader({"x.j2": "path: {{ path }}"}))

    with pytest.raises(TypeError, match="without the filter `text`"):
        tfserving_config._templates().get_template("x.j2").render(path='"} enable: true')


def test_a_template_that_says_something_else_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"monitoring.config.j2": "prometheus_config { enable: true path: {{ (path ~ '/x') | text }} }"}
    monkeypatch.setattr(tfserving_config._templates(), "loader", jinja2.DictLoader(other))

    with pytest.raises(ValueError, match="doesn't read back as written"):
        tfserving_config.monitoring("/metrics")


def test_unknown_fields_are_errors() -> None:
    with pytest.raises(text_format.ParseError, match='no field named "colour"'):
        tfserving_config.parse('colour: "red"', "MonitoringConfig")


def test_the_operator_needs_no_tensorflow() -> None:
    program = (
        "import sys; from bert_operator.servers import tfserving_config as c; c.monitoring('/m'); "
        "print([name for name in sys.modules if name.startswith('tensorflow')])"
    )
    command, path = [sys.executable, "-c", program], {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=path, capture_output=True, text=True, check=True, timeout=240)

    assert done.stdout.strip() == "[]"
