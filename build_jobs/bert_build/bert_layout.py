"""Which tensors a BERT checkpoint must hold, so that nothing is initialised by chance. Called by inspect; pure."""

from collections.abc import Collection, Mapping
from typing import Final

from bert_build.config_checks import CLASSIFIER, Config
from bert_build.failures import BuildError, listing
from bert_build.safetensors_header import Tensor
from bert_operator.api.spec import Task

FLOATS: Final = frozenset({"F32", "F16", "BF16", "F64"})
_BASE: Final = "bert."
"""Prefix of the encoder's tensors in checkpoints that carry a head."""
_OLD_NAMES: Final = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
"""What checkpoints converted from TensorFlow say; transformers reads them as well."""

Shape = tuple[int, ...]


def expected(config: Config, task: Task) -> dict[str, Shape]:
    """Name (without the prefix) and shape of every tensor that is used."""
    hidden = config.hidden_size
    shapes: dict[str, Shape] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, hidden),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, hidden),
        **_norm("embeddings.LayerNorm", hidden),
    }
    for number in range(config.num_hidden_layers):
        shapes |= _layer(f"encoder.layer.{number}", config)
    if task is Task.SEQUENCE_CLASSIFICATION:
        shapes |= _linear("pooler.dense", hidden, hidden)
        shapes |= _linear("classifier", config.labels, hidden)
    return shapes


def check(found: Mapping[str, Tensor], config: Config, task: Task) -> int:
    """Compare a checkpoint with what it must hold; returns the number of parameters that are used.

    Raises:
        BuildError: a tensor is missing, or has another shape or type than config.json tells.
    """
    wanted = expected(config, task)
    present = {name: tensor for name in wanted if (tensor := _find(found, name)) is not None}
    _refuse_missing([name for name in wanted if name not in present], found, task)
    for name, tensor in present.items():
        if tensor.shape != wanted[name]:
            raise _mismatch(name, tensor, wanted[name])
        if tensor.dtype not in FLOATS:
            raise BuildError(
                "UnsupportedModel",
                f"Tensor {name} has type {tensor.dtype}; supported: {', '.join(sorted(FLOATS))}.",
                "Use the original, unquantized weights.",
            )
    _refuse_more_layers(found, config)
    return sum(tensor.elements for tensor in present.values())


def stored_name(found: Collection[str], name: str) -> str | None:
    """How a checkpoint that holds the names `found` calls a tensor of `expected`; None if it lacks it."""
    candidates = [name]
    for new, old in _OLD_NAMES.items():
        if name.endswith(new):
            candidates.append(name.removesuffix(new) + old)
    for candidate in candidates:
        for full in (_BASE + candidate, candidate):
            if full in found:
                return full
    return None


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


def _find(found: Mapping[str, Tensor], name: str) -> Tensor | None:
    known = stored_name(found, name)
    return found[known] if known is not None else None


def _refuse_missing(missing: list[str], found: Mapping[str, Tensor], task: Task) -> None:
    if not missing:
        return
    head = [name for name in missing if name.startswith(("classifier", "pooler"))]
    if task is Task.SEQUENCE_CLASSIFICATION and len(head) == len(missing):
        raise BuildError(
            "HeadMissing",
            f"build.task is sequence-classification, but the checkpoint holds no {listing(head)}: it has no trained "
            "classifier, and a random one would answer nonsense.",
            f"Use a fine-tuned {CLASSIFIER} checkpoint, or set build.task: feature-extraction.",
        )
    raise BuildError(
        "SourceCorrupt",
        f"The checkpoint lacks {len(missing)} tensors that config.json asks for: {listing(missing, 3)}; "
        f"it holds {listing(list(found), 3)}.",
        "Copy the complete model; config.json and weights must be of the same model.",
    )


def _mismatch(name: str, tensor: Tensor, wanted: Shape) -> BuildError:
    return BuildError(
        "SourceCorrupt",
        f"Tensor {name} has shape {list(tensor.shape)}, config.json asks for {list(wanted)}.",
        "config.json and weights must be of the same model: copy both again.",
    )


def _refuse_more_layers(found: Mapping[str, Tensor], config: Config) -> None:
    """A checkpoint with more layers than config.json tells would be cut silently."""
    extra = f"encoder.layer.{config.num_hidden_layers}."
    names = [name for name in found if name.removeprefix(_BASE).startswith(extra)]
    if names:
        raise BuildError(
            "SourceCorrupt",
            f"config.json has num_hidden_layers {config.num_hidden_layers}, but the checkpoint also holds {names[0]}.",
            "config.json and weights must be of the same model: copy both again.",
        )
