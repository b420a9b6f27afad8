"""BERT in plain TensorFlow operations, as to_savedmodel saves it: no Keras, no custom operators. Knows no files.

What transformers computes, written down again: exact GELU, LayerNorm with the model's own epsilon, a mask that takes
padding out of the attention. The comparison with the source model decides whether it is right.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import tensorflow as tf

from bert_build.config_checks import Config
from bert_operator.api.spec import Task

INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS: Final = {Task.FEATURE_EXTRACTION: "last_hidden_state", Task.SEQUENCE_CLASSIFICATION: "logits"}
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


class Bert(tf.Module):  # type: ignore[misc]  # no stubs
    """One BERT with its task's head; `serve` is its signature."""

    def __init__(self, config: Config, task: Task, weights: Iterable[tuple[str, "np.ndarray[Any, Any]"]]) -> None:
        super().__init__("bert")
        self._config = config
        self._task = task
        self.weights = {name: tf.Variable(values, trainable=False, name=name) for name, values in weights}

    def signature(self) -> Any:  # noqa: ANN401 - a TensorFlow function
        """`serve` for int64 inputs of any batch size and length, traced once."""
        shapes = {name: tf.TensorSpec([None, None], tf.int64, name) for name in INPUTS}
        return tf.function(self.serve, autograph=False).get_concrete_function(**shapes)

    def serve(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        """Answer a batch.

        Args:
            input_ids: int64 [batch, length].
            attention_mask: int64 [batch, length], 0 at padding.
            token_type_ids: int64 [batch, length].

        Returns:
            `logits` float32 [batch, labels] or `last_hidden_state` float32 [batch, length, hidden].
        """
        mask = without_server_padding(input_ids, attention_mask, token_type_ids)
        shape = tf.shape(input_ids)
        hidden = self._embed(input_ids, token_type_ids, shape[1])
        barred = (1.0 - tf.cast(mask, tf.float32))[:, tf.newaxis, tf.newaxis, :] * tf.float32.min
        for number in range(self._config.num_hidden_layers):
            hidden = self._layer(f"encoder.layer.{number}", hidden, barred, shape)
        hidden = tf.reshape(hidden, [shape[0], shape[1], self._config.hidden_size])
        if self._task is Task.FEATURE_EXTRACTION:
            return {"last_hidden_state": hidden}
        pooled = tf.tanh(self._linear("pooler.dense", hidden[:, 0]))
        return {"logits": self._linear("classifier", pooled)}

    def _embed(self, ids: Tensor, types: Tensor, length: Tensor) -> Tensor:
        """[batch * length, hidden]: matrices of two dimensions are multiplied fastest."""
        words = tf.gather(self.weights["embeddings.word_embeddings.weight"], ids)
        kinds = tf.gather(self.weights["embeddings.token_type_embeddings.weight"], types)
        # Beyond the last position there is nothing to add: a longer request fails with both shapes.
        places = self.weights["embeddings.position_embeddings.weight"][:length]
        summed = tf.reshape(words + kinds + places, [-1, self._config.hidden_size])
        return self._normalized("embeddings.LayerNorm", summed)

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
        scaled = centred * tf.math.rsqrt(variance + self._config.layer_norm_eps)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def without_server_padding(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
    """The mask without what TF Serving put at the ends of rows; int64 [batch, length].

    Its `pad_variable_length_inputs` fills each tensor with that row's own FIRST element: the mask with ones, the ids
    with [CLS]. Such an end (one run in which all three repeat their first elements) is taken out of the attention;
    position 0 never is. Nothing else ends so: [CLS] opens a row and stands nowhere else. A row without [CLS] that ends
    in the very id and segment it begins with is taken for padded.
    """
    repeated = tf.ones_like(input_ids, tf.bool)
    for values in (input_ids, attention_mask, token_type_ids):
        repeated &= tf.equal(values, values[:, :1])
    own = tf.cast(tf.logical_not(repeated), tf.int64)
    # 1 up to the last position that is not a repetition, 0 behind it.
    kept = tf.cumsum(own, axis=1, reverse=True) > 0
    first = tf.range(tf.shape(input_ids)[1]) == 0
    return attention_mask * tf.cast(kept | first, tf.int64)
