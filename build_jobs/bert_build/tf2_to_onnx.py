"""The format `onnx` of a TensorFlow 2 source. Called by convert through `formats`."""

from bert_build import onnx_file, progress, tensorflow_source, tf2_graph
from bert_build.job import Job
from bert_operator.api import names


def convert(job: Job) -> None:
    """Write model.onnx into the job's artifact folder.

    Raises:
        BuildError: the source can't be read, or its graph has an operation without an ONNX counterpart.
    """
    model = tensorflow_source.load(job.model, job.request.build.task)
    progress.say("convert", "source model loaded; converting its graph")
    graph, weights = tf2_graph.converted(model)
    progress.say("convert", f"{len(graph.graph.node)} operators; writing {len(weights)} tensors")
    onnx_file.write(job.artifact / names.ONNX_FILE, graph, weights)
