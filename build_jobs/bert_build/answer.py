"""Step `answer`: asks the source model, on real token ids of every length; its answers judge the artifact later.

It runs in the source's own framework, a container of its own: both frameworks never meet, and the source model has left
the memory before the artifact is loaded. Some answers are kept as golden requests, which every server that ever loads
the artifact must repeat.
"""

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

import numpy as np

from bert_build import (
    arrangements,
    config_checks,
    figures,
    formats,
    golden_answers,
    probes,
    processors,
    progress,
    pvc,
    recorded,
    samples,
    selection,
    texts,
    user_texts,
)
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.recorded import Recorded
from bert_build.samples import Arrays, Sample
from bert_build.state import State
from bert_operator.api import names
from bert_operator.api.spec import Format, Precision

GOLDEN_BYTES: Final = 2 << 20
"""What golden requests may take in all."""
_CHEAP: Final = 64
"""Tokens, of requests that are asked once more with a fault."""
_SIDE_BY_SIDE: Final = 4
"""Most requests asked at once. Each takes memory of its own, and without a limit all of the node's processors count."""
_LONG: Final = 512
"""Tokens. What longer requests take grows with the square of their length: they are asked one at a time."""


class Source(Protocol):
    """A source model that can be asked."""

    side_by_side: bool
    """Whether threads may ask it at once."""

    def answer(self, request: Arrays, /) -> Arrays:
        """Answer one request."""


def run(job: Job, state: State) -> State:
    """Record the source model's answers and the golden requests."""
    supply, origin = _supply(job)
    progress.say("answer", f"token ids: {origin}")
    build = job.request.build
    recipe = formats.recipe(build)
    with pvc.watched(state):
        model: Source = importlib.import_module(formats.SOURCES[build.framework]).load(job.model, build.task)
    words = list(texts.samples(job.model, build)) if recipe.texts else []
    own = user_texts.load(job, user_texts.SAMPLES)
    wanted = [*probes.texts(job.model, supply, build, own), *words]
    calibration = _calibration(job, supply)
    answers: list[Recorded] = []
    for number, one in enumerate(_all_asked(model, wanted), start=1):
        answers.append(one)
        progress.say("answer", f"{100 * number // len(wanted)} % source model answered: {one.sample.name}")
    recorded.save(job.work / recorded.FILE, answers, supply.pad, calibration)
    judged = figures.unquantised(build)
    warnings = _blind_spots(model.answer, answers, figures.limits(judged.fidelity, judged.precision), supply)
    for warning in warnings:
        progress.say("answer", f"warning: {warning}")
    golden = _all_asked(model, list(samples.golden(supply, build)))
    _write_golden(job, [*golden, *answers[len(wanted) - len(words) :]])
    if recipe.prepare:
        importlib.import_module(recipe.prepare).prepare(job, model)
    return state.model_copy(update={"warnings": warnings})


def _calibration(job: Job, supply: samples.Tokens) -> list[Sample]:
    """For INT8 here, or in an engine that is compiled from this ONNX model: nothing else of the source gets there."""
    build = job.request.build
    if build.precision is not Precision.INT8 and build.format is not Format.ONNX:
        return []
    return probes.calibration(job.model, supply, build, user_texts.load(job, user_texts.CALIBRATION))


def _supply(job: Job) -> tuple[samples.Tokens, str]:
    config = config_checks.check((job.model / selection.CONFIG).read_bytes(), job.request.build)
    return samples.tokens(job.model, config)


def _all_asked(model: Source, wanted: Sequence[Sample]) -> Iterator[Recorded]:
    """Every answer, in the order of the requests; a few processors each answer another one."""
    pool = ThreadPoolExecutor(min(processors.count(), _SIDE_BY_SIDE) if model.side_by_side else 1)
    turn = threading.Lock()
    try:
        # The longest first, as the last ones would be waited for by all.
        order = sorted(range(len(wanted)), key=lambda number: -wanted[number].real.size)
        found = {number: pool.submit(_asked, model.answer, wanted[number], turn) for number in order}
        for number in range(len(wanted)):
            yield found[number].result()
    finally:
        pool.shutdown(cancel_futures=True)


def _asked(ask: Callable[[Arrays], Arrays], sample: Sample, turn: threading.Lock) -> Recorded:
    with turn if sample.real.size > _LONG else contextlib.nullcontext():
        answer = ask(sample.inputs)
    for name, values in answer.items():
        if not np.isfinite(values).all():
            raise BuildError(
                "NotFinite",
                f"The source model itself answers NaN or infinity in {name} ({sample.name}).",
                "The weights are damaged or overflow in fp32: check the source.",
            )
    return Recorded(sample, answer)


def _blind_spots(
    ask: Callable[[Arrays], Arrays], answers: list[Recorded], limits: figures.Limits, supply: samples.Tokens
) -> list[str]:
    """What the comparison couldn't notice: if the source doesn't react to a fault, equal answers prove nothing."""
    # Long ones would show no more and take minutes.
    cheap = [one for one in answers if one.sample.real.size <= _CHEAP] or answers[:1]
    full = max(cheap, key=lambda one: int(one.sample.real.sum()))
    short = min((one for one in cheap if one.sample.real.size > 1), key=lambda one: one.sample.real.size, default=full)
    inputs = full.sample.inputs
    length = 2 * short.sample.real.shape[1]
    padded = arrangements.padded(short.sample, length, supply.pad).inputs if length <= _CHEAP else {}
    faults = {
        "attention_mask": (short, {**padded, "attention_mask": np.ones((1, length), np.int64)} if padded else {}),
        "the order of input_ids": (full, {**inputs, "input_ids": inputs["input_ids"][:, ::-1].copy()}),
    }
    if supply.types > 1:
        faults["token_type_ids"] = (full, {**inputs, "token_type_ids": 1 - inputs["token_type_ids"]})
    return [
        f"the comparison is blind to {name}: changing it leaves the source model's answer within the limits"
        for name, (one, spoilt) in faults.items()
        if spoilt and _unmoved(one, ask(spoilt), limits)
    ]


def _unmoved(one: Recorded, spoilt: Arrays, limits: figures.Limits) -> bool:
    """Whether a fault leaves the answer within the limits."""
    for name, reference in one.answer.items():
        values = spoilt[name][0]
        if golden_answers.per_token(name, reference):
            values = values[: reference.shape[1]]
        if not figures.distance(name, reference[0], values, limits).within(limits, reference[0]):
            return False
    return True


def _write_golden(job: Job, golden: list[Recorded]) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for number, one in enumerate(golden):
        entry = recorded.entry(number, one)
        # The shortest always fits; of very wide models the longer ones are left out.
        if number and sum(values.nbytes for values in (*arrays.values(), *entry.values())) > GOLDEN_BYTES - (32 << 10):
            break
        arrays |= entry
    np.savez(job.work / names.GOLDEN_FILE, allow_pickle=False, **arrays)
