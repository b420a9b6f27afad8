"""Makes a TensorFlow 2 SavedModel of a small random BERT, as somebody's training job would leave it on a claim.

Runs in the tensorflow image: `python -m support.tf2_bert TASK NAME` writes it to standard output as a tar archive with
the folder NAME. The variables are real, the weights are those of
numpy_bert. Unlike what our own builds write, its inputs are int32, it has a second output, its GELU is TensorFlow's own
and the mask is taken as it comes.
"""

import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import tensorflow as tf

from bert_build import config_checks, tensorflow_bert
from bert_operator.api.spec import Task
from support import numpy_bert


class Trained(tf.Module):  # type: ignore[misc]  # no stubs
    """What is saved."""

    def __init__(self, bert: tensorflow_bert.Bert, rename: dict[str, str], dtype: Any) -> None:
        super().__init__("trained")
        self.bert = bert
        specs = {rename.get(name, name): tf.TensorSpec([None, None], dtype) for name in tensorflow_bert.INPUTS}
        ours = {rename.get(name, name): name for name in tensorflow_bert.INPUTS}

        def serve(**inputs: Any) -> dict[str, Any]:
            answer = bert.serve(**{ours[name]: tf.cast(values, tf.int64) for name, values in inputs.items()})
            return {**answer, "checksum": tf.reduce_sum(next(iter(answer.values())))}

        self.serve = tf.function(serve, autograph=False).get_concrete_function(**specs)


def save(
    folder: Path, task: Task, *, rename: dict[str, str] | None = None, dtype: Any = tf.int32, **change: Any
) -> Path:
    """Write saved_model.pb, variables/ and config.json; `rename` gives inputs other names, `change` other settings."""
    numpy_bert.write_config(folder, task, **change)
    config = config_checks.Config.model_validate({**numpy_bert.CONFIG, **change})
    bert = tensorflow_bert.Bert(config, task, numpy_bert.random_weights(task, **change).items())
    own_gelu = {"gelu": lambda values: tf.nn.gelu(values, approximate=False)}
    with (
        mock.patch.object(tensorflow_bert, "_ACTIVATIONS", own_gelu),
        mock.patch.object(tensorflow_bert, "without_server_padding", lambda _ids, mask, _types: mask),
    ):
        trained = Trained(bert, rename or {}, dtype)
    tf.saved_model.save(trained, str(folder), signatures={"serving_default": trained.serve})
    return folder


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        archive.add(save(Path(scratch, "model"), Task(sys.argv[1])), arcname=sys.argv[2])
