"""Which tensors a checkpoint must hold, so that nothing is initialised by chance. Called by inspect; pure.

Families that tensorflow_bert writes down are known tensor by tensor, by BERT's names for the encoder. Of the others the
head and the number of layers are looked at here; what else is missing shows when transformers loads them.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Final

from bert_build import tasks
from bert_build.config_checks import Config
from bert_build.failures import BuildError, listing
from bert_build.families import FAMILIES, Family
from bert_build.safetensors_header import Tensor
from bert_operator.api.spec import Task

FLOATS: Final = frozenset({"F32", "F16", "BF16", "F64"})
_OLD_NAMES: Final = {
    "LayerNorm.weight": "LayerNorm.gamma",
    "LayerNorm.bias": "LayerNorm.beta",
    "cls.predictions.bias": "cls.predictions.decoder.bias",
    "lm_head.bias": "lm_head.decoder.bias",
}
"""What checkpoints converted from TensorFlow say, and old ones; transformers reads them as well."""
_DISTILBERT: Final = {
    "encoder.layer.": "transformer.layer.",
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
"""BERT's names -> DistilBERT's, in the order in which they are looked for."""


@dataclasses.dataclass(frozen=True)
class Names:
    """How a family calls the parts of its heads."""

    dense: str
    """Between a sequence's first token and its labels."""
    out: str
    fill_dense: str
    fill_norm: str
    fill_bias: str


NAMES: Final = {
    "bert": Names(
        "pooler.dense",
        "classifier",
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
    ),
    "roberta": Names("classifier.dense", "classifier.out_proj", "lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    "electra": Names(
        "classifier.dense",
        "classifier.out_proj",
        "generator_predictions.dense",
        "generator_predictions.LayerNorm",
        "generator_lm_head.bias",
    ),
    "distilbert": Names("pre_classifier", "classifier", "vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
}
"""Of the families whose layout is known whole."""

Shape = tuple[int, ...]


def expected(config: Config, task: Task) -> dict[str, Shape]:
    """BERT's name (without the prefix) and shape of every tensor that is used, of a family of NAMES.

    The matrix that turns hidden states into logits of the vocabulary is that of the words' embeddings.
    """
    hidden, embedded = config.hidden_size, config.embedded
    shapes: dict[str, Shape] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, embedded),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, embedded),
        **_norm("embeddings.LayerNorm", embedded),
    }
    if config.family.types_from is not None:
        shapes["embeddings.token_type_embeddings.weight"] = (config.type_vocab_size, embedded)
    if embedded != hidden:
        shapes |= _linear("embeddings_project", hidden, embedded)
    for number in range(config.num_hidden_layers):
        shapes |= _layer(f"encoder.layer.{number}", config)
    return shapes | _head(config, task)


def _head(config: Config, task: Task) -> dict[str, Shape]:
    names, hidden, embedded = NAMES[config.model_type], config.hidden_size, config.embedded
    if task is Task.SEQUENCE_CLASSIFICATION:
        return {**_linear(names.dense, hidden, hidden), **_linear(names.out, config.labels, hidden)}
    if task is Task.TOKEN_CLASSIFICATION:
        return _linear("classifier", config.labels, hidden)
    if task is Task.QUESTION_ANSWERING:
        return _linear("qa_outputs", 2, hidden)
    if task is Task.FILL_MASK:
        fill = {**_linear(names.fill_dense, embedded, hidden), **_norm(names.fill_norm, embedded)}
        return {**fill, names.fill_bias: (config.vocab_size,)}
    return {}


def check(found: Mapping[str, Tensor], config: Config, task: Task) -> int:
    """Compare a checkpoint with what it must hold; returns the number of parameters that are used.

    Raises:
        BuildError: a tensor is missing, or has another shape or type than config.json tells.
    """
    if config.model_type not in NAMES:
        return _check_roughly(found, config, task)
    wanted = expected(config, task)
    present = {name: tensor for name in wanted if (tensor := _find(found, name, config.family)) is not None}
    _refuse_missing([name for name in wanted if name not in present], found, config, task)
    for name, tensor in present.items():
        if tensor.shape != wanted[name]:
            raise _mismatch(name, tensor, wanted[name])
        _refuse_type(name, tensor)
    _refuse_more_layers(found, config)
    return sum(tensor.elements for tensor in present.values())


def _check_roughly(found: Mapping[str, Tensor], config: Config, task: Task) -> int:
    """The same as far as it can be told without transformers' own code."""
    head = [name for name in config.family.heads[task] if _find(found, name, config.family) is None]
    if head:
        raise _head_missing(head, config, task)
    for name, tensor in found.items():
        _refuse_type(name, tensor)
    _refuse_more_layers(found, config)
    return sum(tensor.elements for tensor in found.values())


def _refuse_type(name: str, tensor: Tensor) -> None:
    # Old checkpoints keep the numbers of positions as a tensor.
    if tensor.dtype not in FLOATS and not name.endswith("position_ids"):
        raise BuildError(
            "UnsupportedModel",
            f"Tensor {name} has type {tensor.dtype}; supported: {', '.join(sorted(FLOATS))}.",
            "Use the original, unquantized weights.",
        )


def stored_name(found: Collection[str], name: str, family: Family) -> str | None:
    """How a checkpoint that holds the names `found` calls a tensor of `expected`; None if it lacks it."""
    own = _distilbert(name) if family is FAMILIES["distilbert"] else name
    candidates = [own]
    for new, old in _OLD_NAMES.items():
        if own.endswith(new):
            candidates.append(own.removesuffix(new) + old)
    for candidate in candidates:
        for full in (family.base + candidate, candidate):
            if full in found:
                return full
    return None


def _distilbert(name: str) -> str:
    if not name.startswith("encoder.layer."):
        return name
    for theirs, ours in _DISTILBERT.items():
        if theirs in name:
            name = name.replace(theirs, ours)
            if theirs != "encoder.layer.":
                break
    return name


def _layer(prefix: str, config: Config) -> dict[str, Shape]:
    hidden, inner = config.hidden_size, config.intermediate_size
    return {
        **_linear(f"{prefix}.attention.self.query", hidden, hidden),
        **_linear(f"{prefix}.attention.self.key", hidden, hidden),
        **_linear(f"{prefix}.attention.self.value", hidden, hidden),
        **_linear(f"{prefix}.attention.output.dense", hidden, hidden),
        **_norm(f"{prefix}.attention.output.LayerNorm", hidden),
        **_linear(f"{prefix}.intermediate.dense", inner, hidden),
        **_linear(f"{prefix}.output.dense", hidden, inner),
        **_norm(f"{prefix}.output.LayerNorm", hidden),
    }


def _linear(prefix: str, out: int, into: int) -> dict[str, Shape]:
    return {f"{prefix}.weight": (out, into), f"{prefix}.bias": (out,)}


def _norm(prefix: str, width: int) -> dict[str, Shape]:
    return {f"{prefix}.weight": (width,), f"{prefix}.bias": (width,)}


def _find(found: Mapping[str, Tensor], name: str, family: Family) -> Tensor | None:
    known = stored_name(found, name, family)
    return found[known] if known is not None else None


def _refuse_missing(missing: list[str], found: Mapping[str, Tensor], config: Config, task: Task) -> None:
    if not missing:
        return
    head = [name for name in missing if name in _head(config, task)]
    if len(head) == len(missing):
        raise _head_missing(head, config, task)
    raise BuildError(
        "SourceCorrupt",
        f"The checkpoint lacks {len(missing)} tensors that config.json asks for: {listing(missing, 3)}; "
        f"it holds {listing(list(found), 3)}.",
        "Copy the complete model; config.json and weights must be of the same model.",
    )


def _head_missing(head: list[str], config: Config, task: Task) -> BuildError:
    what = "classifier" if task in tasks.LABELLED else "head"
    return BuildError(
        "HeadMissing",
        f"build.task is {task}, but the checkpoint holds no {listing(head)}: it has no trained {what}, and a random "
        "one would answer nonsense.",
        f"Use a {config.family.classes}{tasks.HEADS[task]} checkpoint, or set build.task: feature-extraction.",
    )


def _mismatch(name: str, tensor: Tensor, wanted: Shape) -> BuildError:
    return BuildError(
        "SourceCorrupt",
        f"Tensor {name} has shape {list(tensor.shape)}, config.json asks for {list(wanted)}.",
        "config.json and weights must be of the same model: copy both again.",
    )


def _refuse_more_layers(found: Mapping[str, Tensor], config: Config) -> None:
    """A checkpoint with more layers than config.json tells would be cut silently."""
    extra = f"{config.family.layers}{config.num_hidden_layers}."
    names = [name for name in found if config.family.layers and name.removeprefix(config.family.base).startswith(extra)]
    if names:
        raise BuildError(
            "SourceCorrupt",
            f"config.json has num_hidden_layers {config.num_hidden_layers}, but the checkpoint also holds {names[0]}.",
            "config.json and weights must be of the same model: copy both again.",
        )
