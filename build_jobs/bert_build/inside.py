"""What an ONNX graph computes on its way to an answer. Used by int8 and half_precision."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from bert_build.samples import Arrays

Values = np.ndarray[Any, Any]


def values(source: Path, names: Iterable[str], requests: Iterable[Arrays]) -> Iterator[dict[str, Values]]:
    """What each request makes of some tensors, one request after the other: all of them would fill the memory.

    Args:
        source: the graph; it is read, and written anew beside itself for as long as this takes.
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
    # Beside the graph, where its external data is.
    probed = source.with_name(f"probed-{source.name}")
    probed.write_bytes(model.SerializeToString())
    try:
        session = onnxruntime.InferenceSession(str(probed), providers=["CPUExecutionProvider"])
    finally:
        probed.unlink()
    inputs = [entry.name for entry in session.get_inputs()]
    for request in requests if wanted else ():
        yield dict(zip(wanted, session.run(wanted, {name: request[name] for name in inputs}), strict=True))
