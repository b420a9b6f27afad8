"""Joins requests into batches as TF Serving's batching session does, its padding included.

With pad_variable_length_inputs each request's tensor is filled up to the longest of the batch with ITS OWN FIRST
ELEMENT: an attention mask with ones, token ids with [CLS]. Answers are cut by rows only. That trap is why this file
exists: our SavedModels must answer right in it, and a test shows that others don't.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import Code, ServingError

Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Parameters:
    """What batching.config says."""

    max_batch_size: int
    timeout_seconds: float
    max_enqueued_batches: int
    threads: int
    pad: bool

    @classmethod
    def of(cls, message: Any) -> "Parameters":
        """Defaults are TF Serving's."""

        def number(name: str, default: int) -> int:
            return int(getattr(message, name).value) if message.HasField(name) else default

        return cls(
            max_batch_size=number("max_batch_size", 1000),
            timeout_seconds=number("batch_timeout_micros", 0) / 1e6,
            max_enqueued_batches=number("max_enqueued_batches", 10),
            threads=number("num_batch_threads", 2),
            pad=bool(message.pad_variable_length_inputs),
        )


@dataclass
class _Task:
    inputs: Arrays
    answer: "Future[Arrays]" = field(default_factory=Future)

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


class Batcher:
    """One queue and its threads, for one version of a model."""

    def __init__(self, run: Run, parameters: Parameters) -> None:
        self._run = run
        self._how = parameters
        self._tasks: queue.Queue[_Task] = queue.Queue(parameters.max_enqueued_batches * parameters.max_batch_size)
        self._held: list[_Task] = []
        """A task that didn't fit the last batch opens the next one."""
        self._collecting = threading.Lock()
        for _ in range(parameters.threads):
            threading.Thread(target=self._work, daemon=True).start()

    def __call__(self, inputs: Arrays) -> Arrays:
        """Answer one request, perhaps with others."""
        task = _Task(inputs)
        if task.rows > self._how.max_batch_size:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Task size {task.rows} is larger than maximum input batch size {self._how.max_batch_size}",
            )
        try:
            self._tasks.put_nowait(task)
        except queue.Full:
            raise ServingError(Code.UNAVAILABLE, "The batch scheduling queue is full") from None
        return task.answer.result()

    def _work(self) -> None:
        while True:
            with self._collecting:
                batch = self._collect()
            try:
                for task, answer in zip(batch, self._answer(batch), strict=True):
                    task.answer.set_result(answer)
            except Exception as error:  # noqa: BLE001 - every task of the batch is told
                for task in batch:
                    task.answer.set_exception(error)

    def _collect(self) -> list[_Task]:
        batch = self._held or [self._tasks.get()]
        self._held = []
        deadline = time.monotonic() + self._how.timeout_seconds
        while (rows := sum(task.rows for task in batch)) < self._how.max_batch_size:
            try:
                task = self._tasks.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if rows + task.rows > self._how.max_batch_size:
                self._held = [task]
                break
            batch.append(task)
        return batch

    def _answer(self, batch: Sequence[_Task]) -> list[Arrays]:
        joined = self._run({name: self._join(name, [task.inputs[name] for task in batch]) for name in batch[0].inputs})
        ends = np.cumsum([task.rows for task in batch])[:-1]
        parts = {name: np.split(array, ends) for name, array in joined.items()}
        return [{name: parts[name][index] for name in parts} for index in range(len(batch))]

    def _join(self, name: str, arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1 and not self._how.pad:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off. "
                "Set pad_variable_length_inputs to true, or ensure that all tensors with the same name have equal "
                "dimensions starting with the first dim.",
            )
        largest = tuple(np.max(list(shapes), axis=0))
        return np.concatenate([_padded(array, largest) for array in arrays])


def _padded(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Fill up every axis but the first with the tensor's own first element."""
    if array.shape[1:] == shape:
        return array
    after = [(0, 0), *((0, wanted - have) for wanted, have in zip(shape, array.shape[1:], strict=True))]
    return np.pad(array, after, constant_values=array.flat[0])
