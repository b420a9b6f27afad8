"""Step `compare`: proves that the artifact answers like its source model, on real token ids of every length.

The source model runs first and leaves before the artifact is loaded: both at once would double the memory. Its answers
are also kept as golden requests: every server that ever loads the artifact must repeat them.
"""

import dataclasses
import gc
import importlib
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np

from bert_build import config_checks, figures, formats, progress, pvc, samples, selection
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.samples import Arrays, Sample
from bert_build.state import State
from bert_operator.api import names
from bert_operator.api.report import FidelityFigures, TensorSpec

GOLDEN_BYTES: Final = 2 << 20
"""What golden requests may take in all."""


_CHEAP: Final = 200
"""Tokens, of requests that are asked once more with a fault."""


class Session(Protocol):
    """An artifact that can be asked."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]

    def answer(self, request: Arrays, /) -> Arrays:
        """Answer one request."""


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What the source model answered."""

    sample: Sample
    answer: Arrays


def run(job: Job, state: State) -> State:
    """Compare, and record the golden requests."""
    supply, origin = _supply(job)
    progress.say("compare", f"token ids: {origin}")
    recorded, warnings = _record(job, supply)
    pvc.unchanged(state)
    # Returned memory counts: the artifact is about to need as much.
    gc.collect()
    module = importlib.import_module(formats.recipe(job.request.build.format).module)
    session: Session = module.open_session(job.artifact)
    found = _compare(job, recorded, session)
    for warning in warnings:
        progress.say("compare", f"warning: {warning}")
    return state.model_copy(
        update={"fidelity": found, "warnings": warnings, "inputs": session.inputs, "outputs": session.outputs}
    )


def _supply(job: Job) -> tuple[samples.Tokens, str]:
    config = config_checks.check((job.model / selection.CONFIG).read_bytes(), job.request.build)
    return samples.tokens(job.model, config)


def _record(job: Job, supply: samples.Tokens) -> tuple[list[Recorded], list[str]]:
    """Ask the source model everything; it is gone when this returns."""
    from bert_build import source_model  # noqa: PLC0415 - PyTorch takes seconds; a reused build never gets here

    build = job.request.build
    model = source_model.load(job.model, build.task)
    recorded: list[Recorded] = []
    wanted = list(samples.comparison(supply, build))
    for number, sample in enumerate(wanted, start=1):
        recorded.append(_asked(model.answer, sample))
        progress.say("compare", f"{50 * number // len(wanted)} % source model answered: {sample.name}")
    _write_golden(job, [_asked(model.answer, sample) for sample in samples.golden(supply, build)])
    limits = figures.limits(build.fidelity, build.precision, _rms(recorded))
    return recorded, _blind_spots(model.answer, recorded, limits, supply.types)


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


def _compare(job: Job, recorded: list[Recorded], session: Session) -> FidelityFigures:
    build = job.request.build
    limits = figures.limits(build.fidelity, build.precision, _rms(recorded))
    total = figures.Distance()
    for number, one in enumerate(recorded, start=1):
        answer = session.answer(one.sample.inputs)
        for name, reference in one.answer.items():
            _judge(one.sample, name, reference, answer.get(name), limits, total)
        progress.say(
            "compare", f"{50 + 50 * number // len(recorded)} % {one.sample.name}: max |Δ| so far {total.max_abs:.2e}"
        )
    return FidelityFigures(
        samples=len(recorded),
        max_abs_difference=total.max_abs,
        min_cosine=total.min_cosine,
        limit_max_abs_difference=limits.max_abs,
        limit_min_cosine=limits.min_cosine,
    )


def _judge(
    sample: Sample,
    name: str,
    reference: figures.Values,
    answer: figures.Values | None,
    limits: figures.Limits,
    total: figures.Distance,
) -> None:
    """Compare one output of one request.

    Raises:
        BuildError: it is too far from the source model's.
    """
    if answer is None or answer.shape != reference.shape:
        found = "isn't there" if answer is None else f"has shape {list(answer.shape)}"
        raise _exceeded(f"output {name} {found}, the source model's has {list(reference.shape)}", sample)
    real = figures.rows(answer, sample.real)
    if not np.isfinite(real).all():
        raise _exceeded(f"output {name} holds NaN or infinity", sample)
    here = figures.Distance()
    for distance in (here, total):
        distance.add(figures.rows(reference, sample.real), real)
    if not here.within(limits):
        raise _exceeded(
            f"output {name} differs by up to {here.max_abs:.3g} (limit {limits.max_abs:.3g}), "
            f"its smallest cosine is {here.min_cosine:.6f} (limit {limits.min_cosine:.6f})",
            sample,
        )


def _exceeded(found: str, sample: Sample) -> BuildError:
    return BuildError(
        "FidelityExceeded",
        f"The built model doesn't answer like its source: {found}, request: {sample.name}.",
        "Please report it with the model's name; if such a difference is fine for your use, set "
        "build.fidelity.maxAbsDifference and build.fidelity.minCosine.",
    )


def _rms(recorded: list[Recorded]) -> float:
    return figures.root_mean_square(
        [figures.rows(values, one.sample.real) for one in recorded for values in one.answer.values()]
    )


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


def _write_golden(job: Job, recorded: list[Recorded]) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for number, one in enumerate(recorded):
        entry = {f"{number}/in/{name}": values for name, values in one.sample.inputs.items()}
        entry |= {f"{number}/out/{name}": values for name, values in one.answer.items()}
        # The shortest always fits; of very wide models the longer ones are left out.
        if number and sum(values.nbytes for values in (*arrays.values(), *entry.values())) > GOLDEN_BYTES - (32 << 10):
            break
        arrays |= entry
    np.savez(job.artifact / names.GOLDEN_FILE, allow_pickle=False, **arrays)
