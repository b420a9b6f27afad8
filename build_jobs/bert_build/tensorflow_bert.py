"""BERT and near relatives in plain TensorFlow operations, as to_savedmodel saves them: no Keras. Knows no files.

What transformers computes, written down again: exact GELU, LayerNorm with the model's own epsilon, a mask that takes
padding out of the attention. The comparison with the source model decides whether it is right.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import tensorflow as tf

from bert_build import tasks
from bert_build.bert_layout import NAMES
from bert_build.config_checks import Config
from bert_build.sentence import Pooling
from bert_operator.api.spec import Task

INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
"""What a BERT takes; relatives may know no token_type_ids."""
SIGNATURE: Final = "serving_default"

Tensor = Any
"""A tf.Tensor; TensorFlow has no stubs where this is checked."""


def _exact_gelu(values: Tensor) -> Tensor:
    # tf.nn.gelu says the same by Erfc, which fewer runtimes and converters know.
    return 0.5 * values * (1.0 + tf.math.erf(values * (0.5**0.5)))


_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "gelu": _exact_gelu,
    "gelu_new": lambda values: tf.nn.gelu(values, approximate=True),
    "relu": tf.nn.relu,
}
_BETWEEN: Final = {"bert": tf.tanh, "roberta": tf.tanh, "electra": _exact_gelu, "distilbert": tf.nn.relu}
"""What stands between the two matrices of a sequence's head."""
_FILL_GELU: Final = ("roberta", "electra")
"""Whose head over the vocabulary takes the exact GELU, whatever the layers take."""
_FIXED_NORM: Final = {"distilbert": 1e-12}
"""Epsilon of those that don't read it from config.json."""
_NORM_FLOOR: Final = 1e-12
_COUNT_FLOOR: Final = 1e-9
"""What sentence-transformers divides by at least."""


class Bert(tf.Module):  # type: ignore[misc]  # no stubs
    """One encoder with its task's head; `serve` is its signature."""

    def __init__(
        self,
        config: Config,
        task: Task,
        weights: Iterable[tuple[str, "np.ndarray[Any, Any]"]],
        pooling: Pooling | None = None,
        mask_token: int | None = None,
    ) -> None:
        super().__init__("bert")
        self._config = config
        self._task = task
        self._pooling = pooling
        self._mask_token = mask_token
        self._epsilon = _FIXED_NORM.get(config.model_type, config.layer_norm_eps)
        self.weights = {name: tf.Variable(values, trainable=False, name=name) for name, values in weights}

    def signature(self) -> Any:  # noqa: ANN401 - a TensorFlow function
        """`serve` for int64 inputs of any batch size and length, traced once."""
        shapes = {name: tf.TensorSpec([None, None], tf.int64, name) for name in self._config.inputs}
        return tf.function(self.serve, autograph=False).get_concrete_function(**shapes)

    def serve(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Answer a batch.

        Args:
            input_ids: int64 [batch, length].
            attention_mask: int64 [batch, length], 0 at padding.
            token_type_ids: int64 [batch, length]; None where the model knows none.

        Returns:
            The task's outputs by name, float32 (see `tasks.OUTPUTS`).
        """
        others = () if token_type_ids is None else (token_type_ids,)
        mask = without_server_padding(input_ids, attention_mask, *others)
        shape = tf.shape(input_ids)
        hidden = self._embed(input_ids, token_type_ids, shape[1])
        barred = (1.0 - tf.cast(mask, tf.float32))[:, tf.newaxis, tf.newaxis, :] * tf.float32.min
        for number in range(self._config.num_hidden_layers):
            hidden = self._layer(f"encoder.layer.{number}", hidden, barred, shape)
        hidden = tf.reshape(hidden, [shape[0], shape[1], self._config.hidden_size])
        return self._head(hidden, input_ids, mask)

    def _head(self, hidden: Tensor, input_ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The outputs of hidden states [batch, length, hidden]."""
        if self._task is Task.FEATURE_EXTRACTION:
            more = {} if self._pooling is None else {tasks.EMBEDDING: _pooled(hidden, mask, self._pooling)}
            return {"last_hidden_state": hidden, **more}
        if self._task is Task.TOKEN_CLASSIFICATION:
            return {"logits": self._linear("classifier", hidden)}
        if self._task is Task.QUESTION_ANSWERING:
            spans = self._linear("qa_outputs", hidden)
            return {"start_logits": spans[:, :, 0], "end_logits": spans[:, :, 1]}
        if self._task is Task.FILL_MASK:
            return {"mask_logits": self._filled(hidden, input_ids, mask)}
        names = NAMES[self._config.model_type]
        between = _BETWEEN[self._config.model_type](self._linear(names.dense, hidden[:, 0]))
        return {"logits": self._linear(names.out, between)}

    def _filled(self, hidden: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Logits [batch, vocabulary] of each row's first mask token."""
        names = NAMES[self._config.model_type]
        masks = tf.cast(tf.equal(input_ids, self._mask_token), tf.float32) * tf.cast(mask, tf.float32)
        chosen = masks * tf.cast(tf.equal(tf.cumsum(masks, axis=1), 1.0), tf.float32)
        token = tf.matmul(chosen[:, tf.newaxis, :], hidden)[:, 0]
        exact = self._config.model_type in _FILL_GELU
        activation = _exact_gelu if exact else _ACTIVATIONS[self._config.hidden_act]
        inner = self._normalized(names.fill_norm, activation(self._linear(names.fill_dense, token)))
        words = self.weights["embeddings.word_embeddings.weight"]
        return tf.matmul(inner, words, transpose_b=True) + self.weights[names.fill_bias]

    def _embed(self, ids: Tensor, types: Tensor | None, length: Tensor) -> Tensor:
        """[batch * length, hidden]: matrices of two dimensions are multiplied fastest."""
        summed = tf.gather(self.weights["embeddings.word_embeddings.weight"], ids) + self._places(ids, length)
        kinds = self.weights.get("embeddings.token_type_embeddings.weight")
        if kinds is not None:
            # A model that has types and asks for none means the first.
            summed += kinds[0] if types is None else tf.gather(kinds, types)
        flat = self._normalized("embeddings.LayerNorm", tf.reshape(summed, [-1, self._config.embedded]))
        return flat if self._config.embedded == self._config.hidden_size else self._linear("embeddings_project", flat)

    def _places(self, ids: Tensor, length: Tensor) -> Tensor:
        """The embeddings of positions, [length, width] or [batch, length, width]."""
        places = self.weights["embeddings.position_embeddings.weight"]
        if not self._config.family.offset:
            # Beyond the last position there is nothing to add: a longer request fails with both shapes.
            return places[:length]
        pad = self._config.pad_token_id or 0
        used = tf.cast(tf.not_equal(ids, pad), tf.int64)
        return tf.gather(places, tf.cumsum(used, axis=1) * used + pad)

    def _layer(self, name: str, hidden: Tensor, barred: Tensor, shape: Tensor) -> Tensor:
        attended = self._attention(f"{name}.attention.self", hidden, barred, shape)
        attended = self._linear(f"{name}.attention.output.dense", attended)
        hidden = self._normalized(f"{name}.attention.output.LayerNorm", hidden + attended)
        inner = _ACTIVATIONS[self._config.hidden_act](self._linear(f"{name}.intermediate.dense", hidden))
        return self._normalized(f"{name}.output.LayerNorm", hidden + self._linear(f"{name}.output.dense", inner))

    def _attention(self, name: str, hidden: Tensor, barred: Tensor, shape: Tensor) -> Tensor:
        heads = self._config.num_attention_heads
        width = self._config.hidden_size // heads

        def split(part: str) -> Tensor:
            values = tf.reshape(self._linear(f"{name}.{part}", hidden), [shape[0], shape[1], heads, width])
            return tf.transpose(values, [0, 2, 1, 3])

        scores = tf.matmul(split("query"), split("key"), transpose_b=True) * (width**-0.5)
        mixed = tf.matmul(tf.nn.softmax(scores + barred), split("value"))
        return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, self._config.hidden_size])

    def _linear(self, name: str, values: Tensor) -> Tensor:
        product = tf.matmul(values, self.weights[f"{name}.weight"], transpose_b=True)
        return product + self.weights[f"{name}.bias"]

    def _normalized(self, name: str, values: Tensor) -> Tensor:
        centred = values - tf.reduce_mean(values, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        scaled = centred * tf.math.rsqrt(variance + self._epsilon)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def _pooled(hidden: Tensor, mask: Tensor, how: Pooling) -> Tensor:
    """One vector for each row, as sentence-transformers computes it: [batch, width]."""
    shown = tf.cast(mask, tf.float32)[:, :, tf.newaxis]
    count = tf.maximum(tf.reduce_sum(shown, axis=1), _COUNT_FLOOR)
    total = tf.reduce_sum(hidden * shown, axis=1)
    made = {
        "cls_token": hidden[:, 0],
        "max_tokens": tf.reduce_max(tf.where(shown > 0, hidden, -1e9), axis=1),
        "mean_tokens": total / count,
        "mean_sqrt_len_tokens": total / tf.sqrt(count),
    }
    vector = tf.concat([made[mode] for mode in how.modes], axis=1)
    if how.normalize:
        vector /= tf.maximum(tf.norm(vector, axis=1, keepdims=True), _NORM_FLOOR)
    return vector


def without_server_padding(input_ids: Tensor, attention_mask: Tensor, *others: Tensor) -> Tensor:
    """The mask without what TF Serving put at the ends of rows; int64 [batch, length].

    Its `pad_variable_length_inputs` fills each tensor with that row's own FIRST element: the mask with ones, the ids
    with [CLS]. Such an end (one run in which all of them repeat their first elements) is taken out of the attention;
    position 0 never is. Nothing else ends so: [CLS] opens a row and stands nowhere else. A row without [CLS] that ends
    in the very id and segment it begins with is taken for padded.
    """
    repeated = tf.ones_like(input_ids, tf.bool)
    for values in (input_ids, attention_mask, *others):
        repeated &= tf.equal(values, values[:, :1])
    own = tf.cast(tf.logical_not(repeated), tf.int64)
    # 1 up to the last position that is not a repetition, 0 behind it.
    kept = tf.cumsum(own, axis=1, reverse=True) > 0
    first = tf.range(tf.shape(input_ids)[1]) == 0
    return attention_mask * tf.cast(kept | first, tf.int64)
