"""What inspect refuses, and in which words; what it lets through."""

import json
from pathlib import Path
from typing import Any

import pytest

from bert_build import bert_layout, config_checks, inspect_model, memory
from bert_build.failures import BuildError
from bert_build.safetensors_header import Tensor
from bert_build.state import SourceFile, State
from bert_operator.api.spec import Task
from unit.bert_build import building

CLASSIFIER = {
    **building.CONFIG,
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "no", "1": "yes"},
}


def check(config: Any, **build: Any) -> config_checks.Config:
    return config_checks.check(json.dumps(config).encode(), building.build(**build))


@pytest.mark.parametrize(
    ("change", "reason", "says", "build"),
    [
        ({"model_type": "gpt2"}, "UnsupportedModel", "'gpt2'; supported: bert", {}),
        ({"model_type": None}, "UnsupportedModel", "supported: bert", {}),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "RemoteCodeRefused", "evil.Model", {}),
        ({"is_decoder": True}, "UnsupportedModel", "decoder", {}),
        ({"quantization_config": {"bits": 8}}, "UnsupportedModel", "quantized", {}),
        ({"position_embedding_type": "relative_key"}, "UnsupportedModel", "'relative_key'; supported: absolute", {}),
        ({"vocab_size": "many"}, "SourceCorrupt", "vocab_size is 'many'", {}),
        ({"num_attention_heads": 3}, "SourceCorrupt", "3 heads", {}),
        ({}, "SequenceTooLong", "is 64, the model knows only 32", {"maxSequenceLength": 64}),
        ({}, "HeadMissing", "names the architecture BertModel", {"task": "sequence-classification"}),
        (
            {"architectures": ["BertForTokenClassification"]},
            "HeadMissing",
            "BertForTokenClassification",
            {"task": "sequence-classification"},
        ),
    ],
)
def test_configuration_that_cannot_be_built_is_refused(
    change: dict[str, Any], reason: str, says: str, build: dict[str, Any]
) -> None:
    with pytest.raises(BuildError, match=r"config\.json|maxSequenceLength") as caught:
        check({**building.CONFIG, **change}, **build)
    assert caught.value.reason == reason
    assert says in caught.value.message
    assert caught.value.next_step


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", building.NESTED])
def test_configuration_that_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(BuildError, match=r"config\.json is no JSON"):
        config_checks.check(text, building.build())


def test_longest_sequence_may_equal_the_models_positions() -> None:
    assert check(building.CONFIG, maxSequenceLength=32).architecture == "BertModel"


def tensors(config: dict[str, Any], task: Task, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: Tensor("F32", shape) for name, shape in building.shapes(config, task).items()}


def layout(found: dict[str, Tensor], config: dict[str, Any], task: Task) -> int:
    return bert_layout.check(found, config_checks.Config.model_validate(config), task)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_complete_checkpoint_is_counted_with_and_without_prefix(prefix: str) -> None:
    found = tensors(building.CONFIG, Task.FEATURE_EXTRACTION, prefix)
    parameters = sum(tensor.elements for tensor in found.values())
    found["cls.predictions.bias"] = Tensor("F32", (40,))
    assert layout(found, building.CONFIG, Task.FEATURE_EXTRACTION) == parameters


def test_names_of_old_checkpoints_are_understood() -> None:
    found = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors(building.CONFIG, Task.FEATURE_EXTRACTION).items()
    }
    assert layout(found, building.CONFIG, Task.FEATURE_EXTRACTION) > 0


@pytest.mark.parametrize(
    ("drop", "reason", "says"),
    [
        ("classifier.", "HeadMissing", "no trained classifier"),
        ("pooler.", "HeadMissing", "pooler.dense.weight"),
        ("encoder.layer.1.", "SourceCorrupt", "lacks 16 tensors"),
        ("embeddings.word_embeddings", "SourceCorrupt", "embeddings.word_embeddings.weight"),
    ],
)
def test_missing_tensors_are_named_and_never_initialised(drop: str, reason: str, says: str) -> None:
    found = tensors(CLASSIFIER, Task.SEQUENCE_CLASSIFICATION)
    found = {name: tensor for name, tensor in found.items() if not name.startswith(drop)}
    with pytest.raises(BuildError) as caught:
        layout(found, CLASSIFIER, Task.SEQUENCE_CLASSIFICATION)
    assert (caught.value.reason, says in caught.value.message) == (reason, True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vocab_size": 41}, "[40, 8], config.json asks for [41, 8]"),
        ({"num_hidden_layers": 1}, "also holds encoder.layer.1."),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "[2, 8], config.json asks for [3, 8]"),
    ],
)
def test_configuration_and_weights_must_be_of_one_model(change: dict[str, Any], says: str) -> None:
    found = tensors(CLASSIFIER, Task.SEQUENCE_CLASSIFICATION)
    with pytest.raises(BuildError) as caught:
        layout(found, {**CLASSIFIER, **change}, Task.SEQUENCE_CLASSIFICATION)
    assert says in caught.value.message


def test_quantized_weights_are_refused() -> None:
    found = tensors(building.CONFIG, Task.FEATURE_EXTRACTION)
    found["embeddings.word_embeddings.weight"] = Tensor("I8", (40, 8))
    with pytest.raises(BuildError, match="type I8"):
        layout(found, building.CONFIG, Task.FEATURE_EXTRACTION)


def test_inspect_reads_no_weights_of_a_model_it_refuses(tmp_path: Path) -> None:
    job = building.job(tmp_path, building.request())
    job.model.mkdir()
    (job.model / "config.json").write_text(json.dumps({**building.CONFIG, "model_type": "llama"}))
    listed = {"model.safetensors": SourceFile(kind="weights", size=1, sha256="0")}
    # The weights aren't even there.
    with pytest.raises(BuildError, match="'llama'"):
        inspect_model.run(job, State(request_key="k1", files=listed))


def test_inspect_tells_architecture_and_parameters(tmp_path: Path) -> None:
    job = building.job(tmp_path, building.request())
    building.model_folder(job.model)
    listed = {"model.safetensors": SourceFile(kind="weights", size=1, sha256="0")}
    state = inspect_model.run(job, State(request_key="k1", files=listed))
    assert (state.architecture, state.parameters) == ("BertModel", 1808)


def test_too_little_memory_is_refused_with_figures_and_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = building.job(tmp_path, building.request())
    building.model_folder(job.model)
    monkeypatch.setattr(memory, "limit", lambda: 300 << 20)
    listed = {"model.safetensors": SourceFile(kind="weights", size=1, sha256="0")}
    with pytest.raises(BuildError, match=r"may use 300\.0 MiB") as caught:
        inspect_model.run(job, State(request_key="k1", files=listed))
    assert "builds.resources.limits.memory to at least 512Mi" in caught.value.next_step


@pytest.mark.parametrize(
    ("files", "membership", "limit"),
    [
        ({"memory.max": "1073741824"}, "0::/", 1 << 30),
        ({"memory.max": "max"}, "0::/", None),
        ({"memory.max": "max", "pod/memory.max": "5000"}, "0::/pod", 5000),
        ({"memory.max": "4000", "pod/memory.max": "5000"}, "0::/pod", 4000),
        ({"memory/memory.limit_in_bytes": "7000"}, "4:memory:/\n0::/", 7000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, "4:memory:/", None),
        ({"memory/memory.limit_in_bytes": "7000"}, "4:memory:/not/visible/here", 7000),
        ({}, "", None),
    ],
)
def test_memory_limit_is_read_from_both_versions_of_cgroups(
    tmp_path: Path, files: dict[str, str], membership: str, limit: int | None
) -> None:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "self").write_text(membership)
    assert memory.limit(tmp_path / "cgroup", tmp_path / "self") == limit


def test_peak_memory_counts_this_process() -> None:
    assert memory.peak() > 10 << 20
