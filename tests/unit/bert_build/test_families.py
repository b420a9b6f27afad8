"""What each family and task asks of config.json, weights and requests, before anything runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from bert_build import bert_layout, checkpoint, config_checks, samples, selection
from bert_build.failures import BuildError
from bert_build.families import FAMILIES
from bert_build.safetensors_header import Tensor
from bert_operator.api.spec import Task
from unit.bert_build import building

SIZES = {name: building.CONFIG[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")}

ONE_TYPE = {"type_vocab_size": 1}


def config(family: str, task: str = "feature-extraction", *, change: Any = None, **build: Any) -> config_checks.Config:
    text = json.dumps({"model_type": family, "num_attention_heads": 2, **SIZES, **(change or {})})
    return config_checks.check(text.encode(), building.build(task=task, **build))


@pytest.mark.parametrize(
    ("family", "change", "typed"),
    [
        ("bert", {"type_vocab_size": 1}, True),
        ("roberta", {"type_vocab_size": 1}, False),
        ("roberta", {"type_vocab_size": 2}, True),
        ("deberta-v2", {}, False),
        ("deberta-v2", {"type_vocab_size": 2}, True),
        ("distilbert", {}, False),
        ("modernbert", {}, False),
        ("electra", {}, True),
    ],
)
def test_only_what_the_model_knows_is_an_input(family: str, change: dict[str, Any], *, typed: bool) -> None:
    assert ("token_type_ids" in config(family, change=change).inputs) == typed


def test_values_are_read_by_each_familys_own_names() -> None:
    text = json.dumps({"model_type": "distilbert", "dim": 24, "n_layers": 3, "n_heads": 2, "activation": "relu"})
    found = config_checks.check(text.encode(), building.build())
    assert (found.hidden_size, found.num_hidden_layers, found.hidden_act) == (24, 3, "relu")
    with pytest.raises(BuildError, match="dim is 'wide'"):
        config_checks.check(b'{"model_type": "distilbert", "dim": "wide"}', building.build())
    assert config("albert", change={"num_attention_heads": 2}).embedded == 128


def test_positions_of_the_padding_hold_no_tokens() -> None:
    change = {"max_position_embeddings": 34}
    assert config("roberta", change=change, maxSequenceLength=32).longest == 32
    with pytest.raises(BuildError, match="knows only 32 positions"):
        config("roberta", change=change, maxSequenceLength=33)


@pytest.mark.parametrize("task", ["token-classification", "question-answering", "fill-mask"])
def test_a_checkpoint_of_another_task_is_refused_by_name(task: str) -> None:
    with pytest.raises(BuildError, match="architecture RobertaForSequenceClassification") as caught:
        config("roberta", task, change={"architectures": ["RobertaForSequenceClassification"]})
    assert "RobertaFor" in caught.value.next_step


def test_a_pretrained_model_fills_masks() -> None:
    assert config("bert", "fill-mask", change={"architectures": ["BertForPreTraining"]})


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if not family.savedmodel])
def test_what_tensorflow_does_not_know_is_refused_before_weights_are_read(family: str) -> None:
    with pytest.raises(BuildError, match="format savedmodel knows bert, roberta, distilbert, electra"):
        config(family, format="savedmodel")


def test_a_tensorflow_source_is_a_bert() -> None:
    with pytest.raises(BuildError, match="framework tensorflow reads bert only"):
        config("roberta", framework="tensorflow", format="savedmodel")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", [task for task in Task if task is not Task.FEATURE_EXTRACTION])
def test_a_checkpoint_without_the_tasks_head_is_refused(family: str, task: Task) -> None:
    known = config(family, task.value)
    encoder = {"embeddings.word_embeddings.weight": Tensor("F32", (40, 8))}
    if family in bert_layout.NAMES:
        wanted = bert_layout.expected(known, Task.FEATURE_EXTRACTION)
        encoder = {name: Tensor("F32", shape) for name, shape in wanted.items()}
    with pytest.raises(BuildError, match=rf"build\.task is {task}, but the checkpoint holds no") as caught:
        bert_layout.check(_as_stored(encoder, family), known, task)
    assert caught.value.reason == "HeadMissing"


def _as_stored(tensors: dict[str, Tensor], family: str) -> dict[str, Tensor]:
    """As a checkpoint of the family calls them."""
    return {bert_layout._distilbert(name) if family == "distilbert" else name: one for name, one in tensors.items()}


def test_more_layers_than_config_json_tells_are_refused_in_every_family() -> None:
    found = {"model.layers.2.mlp.Wi.weight": Tensor("F32", (4, 4))}
    with pytest.raises(BuildError, match=r"also holds model\.layers\.2\."):
        bert_layout.check(found, config("modernbert"), Task.FEATURE_EXTRACTION)


def test_distilberts_weights_are_found_by_their_own_names(tmp_path: Path) -> None:
    known = config("distilbert")
    wanted = bert_layout.expected(known, Task.FEATURE_EXTRACTION)
    stored = {f"distilbert.{bert_layout._distilbert(name)}": shape for name, shape in wanted.items()}
    assert "distilbert.transformer.layer.1.attention.q_lin.weight" in stored
    assert "distilbert.transformer.layer.1.sa_layer_norm.bias" in stored
    assert "distilbert.transformer.layer.1.output_layer_norm.bias" in stored
    (tmp_path / selection.SAFETENSORS).write_bytes(building.safetensors(stored))
    assert {name for name, _ in checkpoint.weights(tmp_path, list(wanted), known.family)} == set(wanted)


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    made = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}, unk_token="<unk>"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_every_request_to_fill_a_mask_has_one(masked: Path) -> None:
    supply, _ = samples.tokens(masked, config("roberta", "fill-mask", change=ONE_TYPE))
    ids, mask = np.array([[0, 9, 8, 2, 1], [0, 4, 8, 7, 2]]), np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    asked = supply.request(ids, mask, np.zeros_like(ids))
    assert asked.keys() == {"input_ids", "attention_mask"}
    assert asked["input_ids"].tolist() == [[0, 9, 4, 2, 1], [0, 4, 8, 7, 2]]
    assert ids[0, 2] == 8
    plain, _ = samples.tokens(masked, config("roberta", change=ONE_TYPE))
    assert plain.request(ids, mask, np.zeros_like(ids))["input_ids"] is ids
    assert plain.take(4)[0::3] == [0, 2]


def test_a_mask_that_nobody_names_is_refused(masked: Path) -> None:
    known = config("roberta", "fill-mask")
    assert samples.mask_token(masked, known) == 4
    (masked / "tokenizer_config.json").write_text('{"mask_token": {"content": "<unk>"}}')
    assert samples.mask_token(masked, known) == 3
    (masked / "tokenizer.json").unlink()
    with pytest.raises(BuildError, match="no tokenizer that names its mask token"):
        samples.mask_token(masked, known)
