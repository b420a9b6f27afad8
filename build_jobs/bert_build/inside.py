"""What an ONNX graph computes on its way to an answer. Used by int8 and half_precision."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from bert_build import onnx_session
from bert_build.samples import Arrays

Values = np.ndarray[Any, Any]

_DATA_FOLDER: Final = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's option."""


def values(source: Path, names: Iterable[str], requests: Iterable[Arrays]) -> Iterator[dict[str, Values]]:
    """What each request makes of some tensors, one request after the other: all of them would fill the memory.

    Args:
        source: the graph; it is only read: it may be a published artifact's.
        names: tensors; weights are left out.
        requests: what it is asked.

    Yields:
        The tensors of one request by name.
    """
    model = onnx.load(source, load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    wanted = [name for name in dict.fromkeys(names) if name and name not in weights]
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted if name not in known)
    options = onnx_session.options()
    # Of a graph in memory nothing else says where its external data is.
    options.add_session_config_entry(_DATA_FOLDER, str(source.parent))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    del model
    inputs = [entry.name for entry in session.get_inputs()]
    for request in requests if wanted else ():
        yield dict(zip(wanted, session.run(wanted, {name: request[name] for name in inputs}), strict=True))
