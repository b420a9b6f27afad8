"""Versions of models: loaded from SavedModels one after the other, found by number, by label or as the highest."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_status_pb2, model_pb2, prediction_log_pb2

from .batching import Arrays, Batcher, Parameters
from .errors import Code, ServingError

DEFAULT_SIGNATURE: Final = "serving_default"
_WARMUP_FILE: Final = "assets.extra/tf_serving_warmup_requests"
State = get_model_status_pb2.ModelVersionStatus.State


@dataclass
class Servable:
    """One version of a model."""

    name: str
    version: int
    folder: Path
    state: int = State.START
    error: str = ""
    signatures: Mapping[str, Any] = field(default_factory=dict)
    """Signature definitions by name, as in the SavedModel."""
    _run: Any = None

    def load(self, batching: Parameters | None, *, warm_up: bool) -> None:
        """Read it, warm it up; afterwards it is AVAILABLE or at its END."""
        self.state = State.LOADING
        try:
            loaded = tf.saved_model.load(str(self.folder))
            functions = dict(loaded.signatures)
            self.signatures = _signatures(self.folder)
            run = _Runner(loaded, functions[DEFAULT_SIGNATURE])
            self._run = Batcher(run, batching) if batching else run
            if warm_up:
                self._warm_up()
        except Exception as error:  # noqa: BLE001 - a model that can't be loaded is told in its status
            self.state, self.error = State.END, str(error)
            return
        self.state = State.AVAILABLE

    def predict(self, inputs: Arrays, signature: str = "") -> Arrays:
        """Ask it; inputs are already of the signature's types."""
        wanted = signature or DEFAULT_SIGNATURE
        if wanted != DEFAULT_SIGNATURE:
            raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{wanted}" not found.')
        self._check(inputs)
        answers: Arrays = self._run(inputs)
        return answers

    def _check(self, inputs: Arrays) -> None:
        known = self.signatures[DEFAULT_SIGNATURE].inputs
        if set(inputs) != set(known):
            extra, missing = sorted(set(inputs) - set(known)), sorted(set(known) - set(inputs))
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"input size does not match signature: {len(inputs)}!={len(known)}. Sent extra: {{{','.join(extra)}}}. "
                f"Missing but required: {{{','.join(missing)}}}.",
            )
        for name, array in inputs.items():
            wanted = tf.as_dtype(known[name].dtype).as_numpy_dtype
            if array.dtype != wanted:
                raise ServingError(
                    Code.INVALID_ARGUMENT,
                    f"input {name} is of type {array.dtype}, but the signature says {np.dtype(wanted)}",
                )

    def _warm_up(self) -> None:
        file = self.folder / _WARMUP_FILE
        if not file.is_file():
            return
        for record in tf.data.TFRecordDataset(str(file)).take(1000).as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            self.predict({name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()})


@dataclass(frozen=True)
class _Runner:
    """A signature as a function of arrays."""

    loaded: Any
    """Keeps the variables: the function alone refers to them weakly."""
    function: Any

    def __call__(self, inputs: Arrays) -> Arrays:
        try:
            answers = self.function(**{name: tf.constant(array) for name, array in inputs.items()})
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise ServingError(Code.INVALID_ARGUMENT, str(error)) from error
        arrays: dict[str, npt.NDArray[Any]] = {name: tensor.numpy() for name, tensor in answers.items()}
        return arrays


def _signatures(folder: Path) -> Mapping[str, Any]:
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return next(dict(graph.signature_def) for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags)


@dataclass
class Counts:
    """What the metrics tell."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(model, status) -> requests."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, model: str, status: str, began: float) -> None:
        with self._lock:
            self.requests[model, status] += 1
            self.seconds[model] += time.monotonic() - began


class Servables:
    """Every version that models.config names."""

    def __init__(self, config: Any, batching: Parameters | None, *, warm_up: bool) -> None:
        self._batching, self._warm_up = batching, warm_up
        self._all: dict[str, dict[int, Servable]] = {}
        self._labels: dict[tuple[str, str], int] = {}
        self.counts = Counts()
        for model in config.model_config_list.config:
            self._all[model.name] = {number: _servable(model, number) for number in _versions(model)}
            self._labels |= {(model.name, label): number for label, number in model.version_labels.items()}

    def __iter__(self) -> Iterator[Servable]:
        return (one for versions in self._all.values() for one in versions.values())

    def check_labels(self) -> None:
        """Refuse labels as the real server does without --allow_version_labels_for_unavailable_models."""
        for (model, _), number in self._labels.items():
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f"Request to assign label to version {number} of model {model}, which is not currently available for "
                "inference",
            )

    def load(self) -> None:
        """Load all, one after the other."""
        for one in self:
            one.load(self._batching, warm_up=self._warm_up)

    def started(self) -> bool:
        """Whether the ports open: one version of each model is there, or none can be any more.

        Raises:
            ServingError: a model has no version left to hope for.
        """
        for versions in self._all.values():
            if all(one.state == State.END for one in versions.values()):
                worst = next(iter(versions.values()))
                raise ServingError(
                    Code.UNKNOWN,
                    "1 model(s) did not become available: "
                    f"{{{{name: {worst.name} version: {worst.version}}} due to error: {worst.error}}}",
                )
        return all(any(one.state == State.AVAILABLE for one in versions.values()) for versions in self._all.values())

    def statuses(self, spec: model_pb2.ModelSpec) -> list[Servable]:
        """Versions of a model, or the one asked for; a label is ignored here, as the real server does."""
        versions = self._all.get(spec.name, {})
        if spec.HasField("version"):
            number = spec.version.value
            if number not in versions:
                raise ServingError(Code.NOT_FOUND, f"Could not find version {number} of model {spec.name}")
            return [versions[number]]
        if not versions:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return list(versions.values())

    def find(self, spec: model_pb2.ModelSpec) -> Servable:
        """The version that a request goes to: by number, by label, or the highest that is there."""
        number = spec.version.value if spec.HasField("version") else None
        if spec.version_label:
            number = self._labels.get((spec.name, spec.version_label))
            if number is None:
                raise ServingError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {spec.version_label}")
        available = {n: one for n, one in self._all.get(spec.name, {}).items() if one.state == State.AVAILABLE}
        wanted = max(available, default=0) if number is None else number
        if wanted not in available:
            asked = "Latest" if number is None else f"Specific({spec.name}, {number})"
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {asked}({spec.name})")
        return available[wanted]


def _servable(model: Any, number: int) -> Servable:
    return Servable(model.name, number, Path(model.base_path) / str(number))


def _versions(model: Any) -> list[int]:
    """Only `specific` is imitated: it is what the operator writes."""
    if model.model_version_policy.WhichOneof("policy_choice") != "specific":
        raise ServingError(Code.UNIMPLEMENTED, f"model {model.name}: the stand-in knows only the policy `specific`")
    return sorted(model.model_version_policy.specific.versions)
