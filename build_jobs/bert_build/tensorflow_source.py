"""A source model that is a TensorFlow 2 SavedModel: what its signature offers, and its answers.

Called by inspect (`check`), answer (`load`) and tf2_to_onnx. Inputs and outputs are found by name, as the usual exports
name them; a signature that can't be served as a BERT is refused with what it offers.
"""

import dataclasses
import math
import os
import tempfile
from pathlib import Path
from typing import Any, Final

# Read when TensorFlow is imported: its notes on the processor help nobody here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from bert_build import selection, tensorflow_operations
from bert_build.failures import BuildError, listing
from bert_build.samples import Arrays
from bert_operator.api.spec import Task

SIGNATURE: Final = "serving_default"
INPUTS: Final = {
    "input_ids": ("input_ids", "input_word_ids"),
    "attention_mask": ("attention_mask", "input_mask"),
    "token_type_ids": ("token_type_ids", "input_type_ids", "segment_ids"),
}
"""Our name -> names that exports use: transformers' first, then those of TensorFlow's model garden."""
OUTPUTS: Final = {
    Task.FEATURE_EXTRACTION: ("last_hidden_state", "sequence_output"),
    Task.SEQUENCE_CLASSIFICATION: ("logits",),
}
"""Task -> names that exports use for its output; the first is ours."""
_RANKS: Final = {Task.FEATURE_EXTRACTION: 3, Task.SEQUENCE_CLASSIFICATION: 2}
_AXES: Final = 2
"""Of every input: batch and length."""
_NO_WEIGHTS: Final = ("save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH", "OPTIMIZER_SLOT", "optimizer/")


@dataclasses.dataclass(frozen=True)
class Names:
    """How a signature calls what we need."""

    inputs: dict[str, str]
    """Our name -> the signature's."""
    output: str


class TensorFlowModel:
    """A SavedModel with our names, int64 inputs and one fp32 output."""

    side_by_side = False  # TensorFlow uses all processors for one request

    def __init__(self, loaded: Any, signature: Any, found: Names, output: str, home: Any) -> None:  # noqa: ANN401 - no stubs
        self.home = home  # the folder it was loaded from goes with it
        self.loaded = loaded  # the variables live as long as this does
        self._signature = signature
        self._found = found
        self._types = {name: spec.dtype for name, spec in signature.structured_input_signature[1].items()}
        self.output = output

    def call(self, **inputs: Any) -> Any:  # noqa: ANN401 - tensors
        """Answer int64 tensors [batch, length] by our names, with the one output as fp32."""
        theirs = {self._found.inputs[ours]: values for ours, values in inputs.items()}
        cast = {name: tf.cast(values, self._types[name]) for name, values in theirs.items()}
        return tf.cast(self._signature(**cast)[self._found.output], tf.float32)

    def answer(self, request: Arrays) -> Arrays:
        """Answer one request given as arrays."""
        return {self.output: self.call(**{name: tf.constant(request[name]) for name in INPUTS}).numpy()}


def load(folder: Path, task: Task) -> TensorFlowModel:
    """Load the SavedModel of a folder for a task.

    Raises:
        BuildError: it can't be read, could do more than calculate, or its signature is no BERT's of this task.
    """
    home = tempfile.TemporaryDirectory(prefix="savedmodel-")
    _judged(folder, Path(home.name))
    try:
        loaded = tf.saved_model.load(home.name)
    except Exception as error:
        # TensorFlow raises a dozen types here, all of which mean the same to the user.
        raise _unreadable(error) from error
    signature = loaded.signatures.get(SIGNATURE)
    if signature is None:
        raise _no_signature(list(loaded.signatures))
    inputs = {name: _shape(spec.shape) for name, spec in signature.structured_input_signature[1].items()}
    outputs = {name: _shape(spec.shape) for name, spec in signature.structured_outputs.items()}
    return TensorFlowModel(loaded, signature, _names(inputs, outputs, task), OUTPUTS[task][0], home)


def check(folder: Path, task: Task) -> int:
    """Refuse what `load` would refuse, without loading weights; returns the number of parameters.

    Raises:
        BuildError: the SavedModel can't be read, could do more than calculate, or its signature is no BERT's of this
            task.
    """
    signatures = _signatures(_judged(folder))
    try:
        shapes = dict(tf.train.list_variables(str(folder / "variables" / "variables")))
    except Exception as error:
        raise _unreadable(error) from error
    if SIGNATURE not in signatures:
        raise _no_signature(list(signatures))
    found = signatures[SIGNATURE]
    inputs, outputs = (
        {name: _proto_shape(info) for name, info in kind.items()} for kind in (found.inputs, found.outputs)
    )
    _names(inputs, outputs, task)
    return sum(math.prod(shape) for name, shape in shapes.items() if not any(word in name for word in _NO_WEIGHTS))


def _judged(folder: Path, copy: Path | None = None) -> Any:  # noqa: ANN401 - a protobuf message
    """The SavedModel's message, once it is known that it can do nothing but calculate.

    Args:
        folder: of the source; it may lie on a claim that others write to.
        copy: an empty folder to load it from: what was judged and nothing else.

    Raises:
        BuildError: it can't be read or must not be loaded.
    """
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415 - only builds need it

    try:
        content = (folder / selection.SAVED_MODEL).read_bytes()
        model = saved_model_pb2.SavedModel.FromString(content)
    except Exception as error:
        raise _unreadable(error) from error
    tensorflow_operations.check(model)
    if copy is not None:
        (copy / selection.SAVED_MODEL).write_bytes(content)
        for name in selection.SAVED_MODEL_FOLDERS:
            if (folder / name).is_dir():
                (copy / name).symlink_to((folder / name).resolve())
    return model


def _signatures(model: Any) -> dict[str, Any]:  # noqa: ANN401 - a protobuf message
    """The signatures of the one graph."""
    graph = model.meta_graphs[0]
    if "serve" not in graph.meta_info_def.tags:
        raise _unreadable(ValueError("it has no graph with the tag 'serve'"))
    return dict(graph.signature_def)


Shape = list[int | None] | None


def _names(inputs: dict[str, Shape], outputs: dict[str, Shape], task: Task) -> Names:
    """Find our tensors among the signature's."""
    found: dict[str, str] = {}
    for ours, theirs in INPUTS.items():
        name = next((name for name in theirs if name in inputs), None)
        if name is None:
            raise BuildError(
                "UnsupportedModel",
                f"The SavedModel's signature {SIGNATURE} has no input {ours} (or {listing(list(theirs[1:]))}); it has "
                f"{listing(list(inputs))}.",
                f"Export it with the inputs {', '.join(INPUTS)}.",
            )
        found[ours] = name
    _refuse_shapes(found, inputs)
    extra = sorted(set(inputs) - set(found.values()))
    if extra:
        raise BuildError(
            "UnsupportedModel",
            f"The SavedModel's signature {SIGNATURE} also asks for {listing(extra)}.",
            f"Export it with the inputs {', '.join(INPUTS)} and no others.",
        )
    return Names(found, _output(outputs, task))


def _refuse_shapes(found: dict[str, str], inputs: dict[str, Shape]) -> None:
    for name in found.values():
        shape = inputs[name]
        if shape is not None and (len(shape) != _AXES or any(shape)):
            raise BuildError(
                "UnsupportedModel",
                f"Input {name} of the SavedModel's signature has shape {shape}: batch and length must both be free.",
                "Export it with the shape [None, None] for every input.",
            )


def _output(outputs: dict[str, Shape], task: Task) -> str:
    known = next((name for name in OUTPUTS[task] if name in outputs), None)
    of_rank = [name for name, shape in outputs.items() if shape is not None and len(shape) == _RANKS[task]]
    if known is None and len(outputs) == 1 and of_rank:
        return of_rank[0]
    if known is None:
        raise BuildError(
            "HeadMissing" if task is Task.SEQUENCE_CLASSIFICATION else "UnsupportedModel",
            f"build.task is {task.value}, but the SavedModel's signature {SIGNATURE} has no output "
            f"{' or '.join(OUTPUTS[task])}; it has {listing(list(outputs))}.",
            f"Export it with the output {OUTPUTS[task][0]}, or set the build.task that the model was trained for.",
        )
    return known


def _shape(shape: Any) -> Shape:  # noqa: ANN401 - a tf.TensorShape
    return None if shape.rank is None else list(shape.as_list())


def _proto_shape(info: Any) -> Shape:  # noqa: ANN401 - a protobuf message
    shape = info.tensor_shape
    return None if shape.unknown_rank else [None if axis.size < 0 else axis.size for axis in shape.dim]


def _no_signature(present: list[str]) -> BuildError:
    return BuildError(
        "UnsupportedModel",
        f"The SavedModel has no signature {SIGNATURE}; it has {listing(present)}.",
        f"Save it with `tf.saved_model.save(model, folder, signatures={{'{SIGNATURE}': ...}})`.",
    )


def _unreadable(error: Exception) -> BuildError:
    first = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return BuildError(
        "SourceCorrupt",
        f"TensorFlow can't read the SavedModel: {first[0][:300]}",
        "Copy the complete folder again: saved_model.pb and variables/.",
    )
