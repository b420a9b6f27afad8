"""The format `savedmodel` of a TensorFlow 2 source. Called by convert and fidelity through `formats`.

The source's graph and variables are saved again under our names: int64 inputs, one fp32 output, and a mask that TF
Serving's own padding doesn't fool. Requests are then the same whatever the source asked for.
"""

from typing import Any

import tensorflow as tf

from bert_build import progress, recorded, tensorflow_bert, tensorflow_source
from bert_build.job import Job
from bert_build.to_savedmodel import open_session, write_warmup

__all__ = ["convert", "open_session"]


class _Served(tf.Module):  # type: ignore[misc]  # no stubs
    """Keeps the source's variables with the signature that uses them."""

    def __init__(self, model: tensorflow_source.TensorFlowModel) -> None:
        super().__init__("served")
        self.source = model.loaded
        self.output = model.output

        def serve(input_ids: Any, attention_mask: Any, token_type_ids: Any) -> dict[str, Any]:  # noqa: ANN401
            mask = tensorflow_bert.without_server_padding(input_ids, attention_mask, token_type_ids)
            found = model.call(input_ids=input_ids, attention_mask=mask, token_type_ids=token_type_ids)
            return {model.output: found}

        shapes = {name: tf.TensorSpec([None, None], tf.int64, name) for name in tensorflow_bert.INPUTS}
        self.serve = tf.function(serve, autograph=False).get_concrete_function(**shapes)


def convert(job: Job) -> None:
    """Write the SavedModel and its warm-up requests into the job's artifact folder."""
    served = _Served(tensorflow_source.load(job.model, job.request.build.task))
    progress.say("convert", "source model loaded; saving it under our signature")
    tf.saved_model.save(served, str(job.artifact), signatures={tensorflow_bert.SIGNATURE: served.serve})
    requests = [one.sample.inputs for one in recorded.load(job.work / recorded.FILE).texts]
    write_warmup(job.artifact, job.request.model, requests)
    progress.say("convert", f"SavedModel written, {len(requests)} warm-up requests")
