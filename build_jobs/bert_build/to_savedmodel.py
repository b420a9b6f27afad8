"""The format `savedmodel`: a PyTorch checkpoint for TF Serving. Called by convert and fidelity through `formats`.

saved_model.pb, fingerprint.pb, variables/      as tf.saved_model.save writes them; no PyTorch anywhere
assets.extra/tf_serving_warmup_requests         what TF Serving runs before it says that the version is available
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

# Read when TensorFlow is imported: its notes on the processor help nobody here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from bert_build import bert_layout, checkpoint, config_checks, progress, recorded, samples, sentence, tensorflow_bert
from bert_build.job import Job
from bert_build.samples import Arrays
from bert_operator.api.report import TensorSpec
from bert_operator.api.spec import Task

WARMUP_FILE: Final = "assets.extra/tf_serving_warmup_requests"
_TYPES: Final = {tf.int64: "INT64", tf.int32: "INT32", tf.float32: "FP32"}


def convert(job: Job) -> None:
    """Write the SavedModel and its warm-up requests into the job's artifact folder."""
    build = job.request.build
    config = config_checks.read(job.model, build)
    wanted = list(bert_layout.expected(config, build.task))
    weights = checkpoint.weights(job.model, wanted, config.family)
    pooling = sentence.pooling(job.model)[0] if build.task is Task.FEATURE_EXTRACTION else None
    mask = samples.mask_token(job.model, config) if build.task is Task.FILL_MASK else None
    model = tensorflow_bert.Bert(config, build.task, weights, pooling, mask)
    progress.say("convert", f"{len(model.weights)} tensors loaded; tracing")
    signatures = {tensorflow_bert.SIGNATURE: model.signature()}
    tf.saved_model.save(model, str(job.artifact), signatures=signatures)
    requests = [one.sample.inputs for one in recorded.load(job.work / recorded.FILE).texts]
    write_warmup(job.artifact, job.request.model, requests)
    progress.say("convert", f"SavedModel written, {len(requests)} warm-up requests")


def write_warmup(folder: Path, name: str, requests: Iterable[Arrays]) -> None:
    """Put requests into a SavedModel's folder, which TF Serving sends to the model before it serves it."""
    file = folder / WARMUP_FILE
    file.parent.mkdir(parents=True)
    spec = model_pb2.ModelSpec(name=name, signature_name=tensorflow_bert.SIGNATURE)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for request in requests:
            inputs = {key: tf.make_tensor_proto(values) for key, values in request.items()}
            predict = prediction_log_pb2.PredictLog(request=predict_pb2.PredictRequest(model_spec=spec, inputs=inputs))
            writer.write(prediction_log_pb2.PredictionLog(predict_log=predict).SerializeToString())


class Session:
    """A SavedModel, run by TensorFlow through its signature, as TF Serving runs it."""

    def __init__(self, folder: Path) -> None:
        self._loaded = tf.saved_model.load(str(folder))  # the variables live as long as this does
        self._signature = self._loaded.signatures[tensorflow_bert.SIGNATURE]
        inputs = self._signature.structured_input_signature[1]
        self.inputs = [_spec(name, inputs[name]) for name in tensorflow_bert.INPUTS if name in inputs]
        self.outputs = [_spec(name, spec) for name, spec in self._signature.structured_outputs.items()]

    def answer(self, request: Arrays) -> Arrays:
        """Answer one request."""
        wanted = {entry.name: tf.constant(request[entry.name]) for entry in self.inputs}
        return {name: np.asarray(values) for name, values in self._signature(**wanted).items()}


def open_session(folder: Path) -> Session:
    """Load the artifact of a folder as a server would."""
    return Session(folder)


def _spec(name: str, spec: Any) -> TensorSpec:  # noqa: ANN401 - a tf.TensorSpec
    dims = [-1 if size is None else size for size in spec.shape.as_list()[1:]]
    return TensorSpec(name=name, dtype=_TYPES[spec.dtype], dims=dims)
