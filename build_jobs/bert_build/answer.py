"""Step `answer`: asks the source model, on real token ids of every length; its answers judge the artifact later.

It runs in the source's own framework, a container of its own: both frameworks never meet, and the source model has left
the memory before the artifact is loaded. Some answers are kept as golden requests, which every server that ever loads
the artifact must repeat.
"""

import importlib
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np

from bert_build import config_checks, figures, formats, progress, pvc, recorded, samples, selection, texts
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.recorded import Recorded
from bert_build.samples import Arrays, Sample
from bert_build.state import State
from bert_operator.api import names

GOLDEN_BYTES: Final = 2 << 20
"""What golden requests may take in all."""
_CHEAP: Final = 200
"""Tokens, of requests that are asked once more with a fault."""


class Source(Protocol):
    """A source model that can be asked."""

    def answer(self, request: Arrays, /) -> Arrays:
        """Answer one request."""


def run(job: Job, state: State) -> State:
    """Record the source model's answers and the golden requests."""
    supply, origin = _supply(job)
    progress.say("answer", f"token ids: {origin}")
    build = job.request.build
    model: Source = importlib.import_module(formats.SOURCES[build.framework]).load(job.model, build.task)
    words = list(texts.samples(job.model, build)) if formats.recipe(build).texts else []
    wanted = [*samples.comparison(supply, build), *words]
    answers: list[Recorded] = []
    for number, sample in enumerate(wanted, start=1):
        answers.append(_asked(model.answer, sample))
        progress.say("answer", f"{100 * number // len(wanted)} % source model answered: {sample.name}")
    recorded.save(job.work / recorded.FILE, answers)
    warnings = _blind_spots(model.answer, answers, recorded.limits(build, answers), supply.types)
    for warning in warnings:
        progress.say("answer", f"warning: {warning}")
    golden = [_asked(model.answer, sample) for sample in (*samples.golden(supply, build), *words)]
    _write_golden(job, golden)
    pvc.unchanged(state)
    return state.model_copy(update={"warnings": warnings})


def _supply(job: Job) -> tuple[samples.Tokens, str]:
    config = config_checks.check((job.model / selection.CONFIG).read_bytes(), job.request.build)
    return samples.tokens(job.model, config)


def _asked(ask: Callable[[Arrays], Arrays], sample: Sample) -> Recorded:
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
    ask: Callable[[Arrays], Arrays], recorded: list[Recorded], limits: figures.Limits, types: int
) -> list[str]:
    """What the comparison couldn't notice: if the source doesn't react to a fault, equal answers prove nothing."""
    # Long ones would show no more and take minutes.
    cheap = [one for one in recorded if one.sample.real.size <= _CHEAP] or recorded[:1]
    padded = next((one for one in cheap if not one.sample.real.all()), None)
    full = max(cheap, key=lambda one: int(one.sample.real.sum()))
    faults: list[tuple[str, Recorded | None, Callable[[Arrays], Arrays]]] = [
        ("attention_mask", padded, lambda inputs: {**inputs, "attention_mask": np.ones_like(inputs["attention_mask"])}),
        ("the order of input_ids", full, lambda inputs: {**inputs, "input_ids": inputs["input_ids"][:, ::-1].copy()}),
    ]
    if types > 1:
        faults.append(
            ("token_type_ids", full, lambda inputs: {**inputs, "token_type_ids": 1 - inputs["token_type_ids"]})
        )
    return [
        f"the comparison is blind to {name}: changing it leaves the source model's answer within the limits"
        for name, one, spoil in faults
        if one is not None and _unmoved(ask, one, spoil, limits)
    ]


def _unmoved(
    ask: Callable[[Arrays], Arrays], one: Recorded, spoil: Callable[[Arrays], Arrays], limits: figures.Limits
) -> bool:
    spoilt = ask(spoil(one.sample.inputs))
    distance = figures.Distance()
    for name, values in one.answer.items():
        distance.add(figures.rows(values, one.sample.real), figures.rows(spoilt[name], one.sample.real))
    return distance.within(limits)


def _write_golden(job: Job, golden: list[Recorded]) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for number, one in enumerate(golden):
        entry = recorded.entry(number, one)
        # The shortest always fits; of very wide models the longer ones are left out.
        if number and sum(values.nbytes for values in (*arrays.values(), *entry.values())) > GOLDEN_BYTES - (32 << 10):
            break
        arrays |= entry
    np.savez(job.work / names.GOLDEN_FILE, allow_pickle=False, **arrays)
