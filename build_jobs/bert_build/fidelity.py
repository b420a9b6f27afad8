"""Step `compare`: proves that the artifact answers like its source model did, in the runtime that it was made for."""

import importlib
import shutil
from typing import Protocol

import numpy as np

from bert_build import figures, formats, progress, recorded
from bert_build.failures import BuildError
from bert_build.job import Job
from bert_build.recorded import Recorded
from bert_build.samples import Arrays, Sample
from bert_build.state import State
from bert_operator.api import names
from bert_operator.api.report import FidelityFigures, TensorSpec
from bert_operator.api.spec import Build


class Session(Protocol):
    """An artifact that can be asked."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]

    def answer(self, request: Arrays, /) -> Arrays:
        """Answer one request."""


def run(job: Job, state: State) -> State:
    """Compare, and put the golden requests beside the artifact."""
    recipe = formats.recipe(job.request.build)
    module = importlib.import_module(recipe.session or recipe.module)
    session: Session = module.open_session(job.artifact)
    found = compare(job.request.build, recorded.load(job.work / recorded.FILE), session)
    shutil.copyfile(job.work / names.GOLDEN_FILE, job.artifact / names.GOLDEN_FILE)
    return state.model_copy(update={"fidelity": found, "inputs": session.inputs, "outputs": session.outputs})


def compare(build: Build, answers: list[Recorded], session: Session, step: str = "compare") -> FidelityFigures:
    """Ask an artifact what its source was asked.

    Raises:
        BuildError: an answer is too far from the recorded one.
    """
    limits = recorded.limits(build, answers)
    total = figures.Distance()
    for number, one in enumerate(answers, start=1):
        answer = session.answer(one.sample.inputs)
        for name, reference in one.answer.items():
            _judge(one.sample, name, reference, answer.get(name), limits, total)
        progress.say(step, f"{100 * number // len(answers)} % {one.sample.name}: max |Δ| so far {total.max_abs:.2e}")
    return FidelityFigures(
        samples=len(answers),
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
