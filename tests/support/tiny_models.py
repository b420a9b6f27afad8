"""Tiny random checkpoints of every family and task, with a tokenizer. Needs PyTorch: for tests inside the build image.

Weights are drawn so wide that faults show: with transformers' usual range a BERT without any mask still answers with a
cosine of 0.999998.
"""

import json
from pathlib import Path
from typing import Any, Final

import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers, processors

from bert_build import config_checks, samples, tasks
from bert_build.families import FAMILIES
from bert_operator.api.spec import Build, Task

VOCABULARY: Final = 400
LABELS: Final = {"0": "O", "1": "PER", "2": "LOC"}
_SIZES: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "type_vocab_size": 2,
    "initializer_range": 0.5,
}
_OWN: Final[dict[str, dict[str, Any]]] = {
    "roberta": {"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "distilbert": {"activation": "gelu"},
    # Its layers are one, as in every published ALBERT.
    "albert": {"embedding_size": 16, "num_hidden_groups": 1},
    "electra": {"embedding_size": 16},
    "mpnet": {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_buckets": 8,
        "position_biased_input": False,
    },
    # The first layer lacks a norm that the others have: two more to swap.
    "modernbert": {"num_hidden_layers": 3, "global_attn_every_n_layers": 2, "local_attention": 8, "pad_token_id": 0},
}
_SPECIAL: Final = {
    False: {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    True: {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"},
}
"""In the order of their ids; by whether positions begin behind the padding's."""


def save(folder: Path, family: str, task: Task, **change: Any) -> Path:
    """A complete source model, always the same."""
    torch.manual_seed(7)
    config = transformers.AutoConfig.for_model(family, **_settings(family, **change))
    config.id2label = {int(number): name for number, name in LABELS.items()}
    if task is Task.QUESTION_ANSWERING:
        config.num_labels = 2
    model = getattr(transformers, FAMILIES[family].classes + tasks.HEADS.get(task, "Model"))(config).eval()
    with torch.no_grad():
        # Fresh biases are all zero, and equal tensors are merged by the exporter: real ones differ.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    _save_tokenizer(folder, config_checks.read(folder, Build(task=task, max_sequence_length=8)))
    return folder


def pooled(folder: Path, modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"), **modes: bool) -> None:
    """Make a source one of sentence-transformers; by default with the mean of all tokens."""
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    listed = [
        {"idx": number, "name": str(number), "path": paths.get(kind, f"{number}_{kind}"), "type": f"x.models.{kind}"}
        for number, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    asked = {f"pooling_mode_{name}": value for name, value in (modes or {"mean_tokens": True}).items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **asked}))


def _settings(family: str, **change: Any) -> dict[str, Any]:
    own = {**_SIZES, **_OWN.get(family, {}), **change}
    return {FAMILIES[family].renamed.get(name, name): value for name, value in own.items()}


def _save_tokenizer(folder: Path, config: config_checks.Config) -> None:
    special = _SPECIAL[config.family.offset]
    words = sorted({word for text in samples.SENTENCES for word in pre_tokenizers.Whitespace().pre_tokenize_str(text)})
    listed = [*special.values(), *(word for word, _ in words)]
    known = {word: number for number, word in enumerate(dict.fromkeys(listed))}
    backend = tokenizers.Tokenizer(models.WordLevel(dict(list(known.items())[:VOCABULARY]), unk_token=special["unk"]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(list(special.values()))
    first, last = special["cls"], special["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(first, known[first]), (last, known[last])],
    )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=list(config.inputs),
        **{f"{kind}_token": name for kind, name in special.items()},
    )
    wrapped.save_pretrained(folder)
