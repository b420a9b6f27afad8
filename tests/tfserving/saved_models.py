"""Small SavedModels with the signature of ours: mean of word vectors under the mask, times a matrix."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LABELS = 3
CLS = 2
_WORDS, _WIDTH = 100, 16


class Model(tf.Module):  # type: ignore[misc]
    """Seeded; `repairing` takes ends that repeat the first token out of the mask."""

    def __init__(self, seed: int, *, repairing: bool) -> None:
        super().__init__()
        random = np.random.default_rng(seed)
        self.words = tf.Variable(random.normal(size=(_WORDS, _WIDTH)).astype(np.float32))
        self.matrix = tf.Variable(random.normal(size=(_WIDTH, LABELS)).astype(np.float32))
        self.repairing = repairing

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64, name=name) for name in INPUTS])
    def serve(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        mask = attention_mask
        if self.repairing:
            end = tf.math.cumprod(tf.cast(input_ids == input_ids[:, :1], tf.int64), axis=1, reverse=True)
            mask *= 1 - end * tf.cast(tf.range(tf.shape(end)[1]) > 0, tf.int64)
        weights = tf.cast(mask, tf.float32)[..., tf.newaxis]
        words = tf.gather(self.words, input_ids) + tf.cast(token_type_ids, tf.float32)[..., tf.newaxis]
        mean = tf.reduce_sum(words * weights, 1) / tf.reduce_sum(weights, 1)
        return {"logits": tf.matmul(mean, self.matrix)}


def save(folder: Path, *, seed: int, repairing: bool) -> None:
    model = Model(seed, repairing=repairing)
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.serve})


def tokens(rows: int, length: int, seed: int = 0) -> dict[str, npt.NDArray[np.int64]]:
    """Rows that start with [CLS] and hold no other one, none of it padding."""
    ids = np.random.default_rng(seed).integers(CLS + 1, _WORDS, (rows, length), np.int64)
    ids[:, 0] = CLS
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


@functools.cache
def _model(seed: int) -> Model:
    return Model(seed, repairing=False)


def answer(seed: int, inputs: dict[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
    """What the model itself answers, alone."""
    logits: npt.NDArray[np.float32] = _model(seed).serve(**inputs)["logits"].numpy()
    return logits
