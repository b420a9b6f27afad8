"""The format `onnx`: a traced PyTorch model and its weights as one ONNX model. Called by convert through `formats`.

`answer` has traced it, as it had the source model in memory; here is neither PyTorch nor more than two tensors at once.
"""

from functools import partial
from pathlib import Path

import numpy as np
import onnx

from bert_build import onnx_file, progress, safetensors_header, traced
from bert_build.job import Job
from bert_operator.api import names


def convert(job: Job) -> None:
    """Write model.onnx into the job's artifact folder."""
    folder = job.work / traced.FOLDER
    plan = traced.load(folder)
    graph = onnx.load(folder / traced.GRAPH_FILE)
    onnx.checker.check_model(graph, full_check=True)
    weights = onnx_file.take_out(graph, _Weights(job.model, folder, plan).known(), plan.inputs)
    progress.say("convert", f"{len(graph.graph.node)} operators; writing {len(weights)} tensors")
    # As their files have them: one tensor may be several weights, and is read once.
    onnx_file.write(job.artifact / names.ONNX_FILE, graph, sorted(weights, key=lambda weight: weight.order))


class _Weights:
    """The weights of a plan, read when they are asked for."""

    def __init__(self, model: Path, folder: Path, plan: traced.Plan) -> None:
        self._model = model
        self._folder = folder
        self._plan = plan
        listed = {place.file for place in plan.weights.values() if place.tensor}
        self._tensors = {file: safetensors_header.read(model / file, file) for file in listed}
        self._last: tuple[traced.Place, traced.Values] | None = None

    def known(self) -> dict[str, onnx_file.Weight]:
        """Every weight by its name in the graph."""
        return {
            name: onnx_file.Weight(name, place.shape, partial(self._values, place), self._order(place))
            for name, place in self._plan.weights.items()
        }

    def _order(self, place: traced.Place) -> tuple[str, int]:
        return (place.file, self._tensors[place.file][place.tensor].begin if place.tensor else 0)

    def _values(self, place: traced.Place) -> traced.Values:
        if self._last is None or self._last[0] != place:
            self._last = None
            self._last = (place, self._read(place))
        return self._last[1]

    def _read(self, place: traced.Place) -> traced.Values:
        if place.tensor:
            return traced.values(self._model / place.file, self._tensors[place.file][place.tensor])
        return np.asarray(np.load(self._folder / place.file, allow_pickle=False))
