"""The families of encoders that are built, and how each differs from BERT. Pure data; a new one is one entry here.

What works for which task and format is measured, not told: docs/support-matrix.md.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from bert_operator.api.spec import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One value of `model_type` in config.json."""

    classes: str
    """How transformers' classes of it begin."""
    base: str
    """Prefix of the encoder's tensors in checkpoints with a head."""
    types_from: int | None
    """Smallest type_vocab_size with which the artifact has the input token_type_ids; None: it never has."""
    heads: Mapping[Task, tuple[str, ...]]
    """Tensors that a trained head can't be without."""
    mask_head: str
    """Module that turns hidden states into logits of the vocabulary; its first argument are hidden states."""
    layers: str = "encoder.layer."
    """What the tensors of layer N begin with, without N; empty if layers share them."""
    pooler: bool = False
    """Whether the encoder class has an optional pooler, which no output of ours needs."""
    offset: bool = False
    """Whether positions begin behind pad_token_id, so that so many fewer tokens fit."""
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Our name of a value in config.json -> its own."""
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What transformers assumes where config.json is silent, as far as that isn't BERT's."""
    savedmodel: bool = False
    """Whether tensorflow_bert can write it down."""


_CLASSIFIER: Final = ("classifier.weight",)
_DENSE_CLASSIFIER: Final = ("classifier.dense.weight", "classifier.out_proj.weight")
_SPANS: Final = ("qa_outputs.weight",)


def _heads(sequence: tuple[str, ...], fill: tuple[str, ...]) -> dict[Task, tuple[str, ...]]:
    return {
        Task.SEQUENCE_CLASSIFICATION: sequence,
        Task.TOKEN_CLASSIFICATION: _CLASSIFIER,
        Task.QUESTION_ANSWERING: _SPANS,
        Task.FILL_MASK: fill,
        Task.FEATURE_EXTRACTION: (),
    }


FAMILIES: Final = {
    "bert": Family(
        classes="Bert",
        base="bert.",
        types_from=0,
        heads=_heads(_CLASSIFIER, ("cls.predictions.transform.dense.weight",)),
        mask_head="cls",
        pooler=True,
        savedmodel=True,
    ),
    "roberta": Family(
        classes="Roberta",
        base="roberta.",
        # Published ones know one type and their tokenizers give none.
        types_from=2,
        heads=_heads(_DENSE_CLASSIFIER, ("lm_head.dense.weight",)),
        mask_head="lm_head",
        pooler=True,
        offset=True,
        defaults={"vocab_size": 50265, "pad_token_id": 1},
        savedmodel=True,
    ),
    "distilbert": Family(
        classes="DistilBert",
        base="distilbert.",
        types_from=None,
        heads=_heads(("pre_classifier.weight", *_CLASSIFIER), ("vocab_transform.weight",)),
        mask_head="vocab_transform",
        layers="transformer.layer.",
        renamed={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
        },
        defaults={"num_hidden_layers": 6},
        savedmodel=True,
    ),
    "albert": Family(
        classes="Albert",
        base="albert.",
        types_from=0,
        heads=_heads(_CLASSIFIER, ("predictions.dense.weight",)),
        mask_head="predictions",
        layers="",
        pooler=True,
        defaults={
            "vocab_size": 30000,
            "embedding_size": 128,
            "hidden_size": 4096,
            "num_attention_heads": 64,
            "intermediate_size": 16384,
            "hidden_act": "gelu_new",
        },
    ),
    "electra": Family(
        classes="Electra",
        base="electra.",
        types_from=0,
        heads=_heads(_DENSE_CLASSIFIER, ("generator_predictions.dense.weight",)),
        mask_head="generator_predictions",
        defaults={"embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
        savedmodel=True,
    ),
    "mpnet": Family(
        classes="MPNet",
        base="mpnet.",
        types_from=None,
        heads=_heads(_DENSE_CLASSIFIER, ("lm_head.dense.weight",)),
        mask_head="lm_head",
        pooler=True,
        offset=True,
        defaults={"vocab_size": 30527, "pad_token_id": 1},
    ),
    "deberta-v2": Family(
        classes="DebertaV2",
        base="deberta.",
        types_from=1,
        heads=_heads(("pooler.dense.weight", *_CLASSIFIER), ("cls.predictions.transform.dense.weight",)),
        mask_head="cls",
        defaults={
            "vocab_size": 128100,
            "hidden_size": 1536,
            "num_hidden_layers": 24,
            "num_attention_heads": 24,
            "intermediate_size": 6144,
            "type_vocab_size": 0,
            "layer_norm_eps": 1e-7,
        },
    ),
    "modernbert": Family(
        classes="ModernBert",
        base="model.",
        types_from=None,
        heads={
            Task.SEQUENCE_CLASSIFICATION: ("head.dense.weight", *_CLASSIFIER),
            Task.TOKEN_CLASSIFICATION: ("head.dense.weight", *_CLASSIFIER),
            Task.QUESTION_ANSWERING: ("head.dense.weight", *_CLASSIFIER),
            Task.FILL_MASK: ("head.dense.weight",),
            Task.FEATURE_EXTRACTION: (),
        },
        mask_head="head",
        layers="layers.",
        renamed={"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"},
        defaults={
            "vocab_size": 50368,
            "num_hidden_layers": 22,
            "intermediate_size": 1152,
            "max_position_embeddings": 8192,
            "pad_token_id": 50283,
            "layer_norm_eps": 1e-5,
        },
    ),
}
"""By `model_type`."""
