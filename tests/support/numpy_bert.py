"""BERT in numpy and float64: a judge that shares no code and no framework with what it judges.

Written from the model's definition (post-LayerNorm encoder, exact GELU, additive mask), for small models and few
tokens only. It also makes such models: random checkpoints with every tensor different from zero.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bert_build import bert_layout, config_checks, tasks
from bert_operator.api.spec import Task

Floats = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]

CONFIG: Final[dict[str, Any]] = {
    "model_type": "bert",
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-5,
    "id2label": {"0": "bad", "1": "so so", "2": "good"},
}
"""Small; its LayerNorm epsilon isn't the usual one, so that a fixed one shows."""


def random_weights(task: Task, seed: int = 7, **change: Any) -> dict[str, npt.NDArray[np.float32]]:
    """Every tensor of such a model, large enough for faults to show."""
    config = config_checks.Config.model_validate({**CONFIG, **change})
    generator = np.random.default_rng(seed)
    return {
        name: (generator.normal(scale=0.3, size=shape) + ("LayerNorm.weight" in name)).astype(np.float32)
        for name, shape in bert_layout.expected(config, task).items()
    }


def write_config(folder: Path, task: Task, **change: Any) -> None:
    """config.json and a small vocabulary."""
    kind = f"Bert{tasks.HEADS.get(task, 'Model')}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "architectures": [kind], **change}))


def save_checkpoint(folder: Path, task: Task, *, old_names: bool = False, prefix: str = "", **change: Any) -> Path:
    """A transformers checkpoint; `old_names` writes LayerNorm.gamma and beta, `prefix` goes before the encoder's."""
    from safetensors.numpy import save_file  # noqa: PLC0415 - not where only the reference is used

    def stored(name: str) -> str:
        if old_names:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        return name if name.startswith(("classifier", "qa_outputs")) else prefix + name

    write_config(folder, task, **change)
    weights = random_weights(task, **change)
    save_file({stored(name): values for name, values in weights.items()}, folder / "model.safetensors")
    return folder


class Reference:
    """One model; stands in the place of a source model in build tests, `load` of this module makes it."""

    side_by_side = True

    def __init__(self, config: config_checks.Config, task: Task, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self._config = config
        self._task = task
        self._weights = {name: values.astype(np.float64) for name, values in weights.items()}

    @property
    def parameters(self) -> int:
        """How many numbers its weights are."""
        return sum(values.size for values in self._weights.values())

    def answer(self, request: Arrays) -> Arrays:
        """Answer one request, [batch, length] each."""
        ids, mask, types = (request[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
        weights = self._weights
        hidden = weights["embeddings.word_embeddings.weight"][ids]
        hidden = hidden + weights["embeddings.token_type_embeddings.weight"][types]
        hidden = hidden + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        hidden = self._norm("embeddings.LayerNorm", hidden)
        for number in range(self._config.num_hidden_layers):
            hidden = self._layer(f"encoder.layer.{number}", hidden, mask)
        if self._task is Task.FEATURE_EXTRACTION:
            return {"last_hidden_state": hidden.astype(np.float32)}
        if self._task is Task.QUESTION_ANSWERING:
            start, end = np.moveaxis(self._linear("qa_outputs", hidden).astype(np.float32), -1, 0)
            return {"start_logits": start, "end_logits": end}
        pooled = np.tanh(self._linear("pooler.dense", hidden[:, 0]))
        return {"logits": self._linear("classifier", pooled).astype(np.float32)}

    def _layer(self, name: str, hidden: Floats, mask: npt.NDArray[Any]) -> Floats:
        mixed = self._linear(f"{name}.attention.output.dense", self._attention(f"{name}.attention.self", hidden, mask))
        hidden = self._norm(f"{name}.attention.output.LayerNorm", hidden + mixed)
        inner = self._linear(f"{name}.intermediate.dense", hidden)
        inner = _ACTIVATIONS[self._config.hidden_act](inner)
        return self._norm(f"{name}.output.LayerNorm", hidden + self._linear(f"{name}.output.dense", inner))

    def _attention(self, name: str, hidden: Floats, mask: npt.NDArray[Any]) -> Floats:
        heads = self._config.num_attention_heads
        batch, length, width = hidden.shape
        query, key, value = (
            self._linear(f"{name}.{part}", hidden).reshape(batch, length, heads, width // heads).swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(2, 3) / math.sqrt(width // heads)
        scores = np.where(mask[:, None, None, :] == 1, scores, -1e30)
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (shares / shares.sum(axis=-1, keepdims=True)) @ value
        return np.asarray(mixed.swapaxes(1, 2).reshape(batch, length, width))

    def _linear(self, name: str, values: Floats) -> Floats:
        return np.asarray(values @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"])

    def _norm(self, name: str, values: Floats) -> Floats:
        centred = values - values.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._config.layer_norm_eps)
        return np.asarray(scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"])


def load(folder: Path, task: Task) -> Reference:
    """The random model of `save_checkpoint` again, from its configuration."""
    text = json.loads((folder / "config.json").read_text())
    weights = random_weights(task, **{name: text[name] for name in CONFIG})
    return Reference(config_checks.Config.model_validate(text), task, weights)


def read(folder: Path, task: Task) -> Reference:
    """A checkpoint with safetensors, whatever its weights; the encoder's names may begin with `bert.`."""
    from safetensors.numpy import load_file  # noqa: PLC0415 - as above

    config = config_checks.Config.model_validate_json((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    return Reference(config, task, {name.removeprefix("bert."): values for name, values in weights.items()})


_ACTIVATIONS: Final = {
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}
